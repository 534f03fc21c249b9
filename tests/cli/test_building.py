"""`trtpipe build`: from a model's file to a checked engine in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import re

import numpy as np
import pytest

from tests import onnx_models
from tests.helpers import PROJECT, events, trtpipe, within
from tests.test_readme import commands
from tests.test_startup import HEAVY, imported_by
from trtpipe import environment
from trtpipe.cli import main

ORT = ("--backend", "onnxruntime")
GIVEN = (
    "build",
    "image net.onnx",
    "--fp16",
    "--check",
    "--shapes",
    "image=1..2..4x3x8x8",
    "--emit-yaml",
    "p.yaml",
    *ORT,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build an engine in one line; give the folder and what the command printed."""
    folder = tmp_path_factory.mktemp("built")
    onnx_models.save(onnx_models.conv(), folder / "image net.onnx")
    (folder / "out").mkdir()
    return folder, trtpipe(*GIVEN, "-o", "out/engine.onnx", cwd=folder)


def test_one_line_builds_a_checked_engine_and_says_what_came_of_it(built):
    folder, result = built
    assert result.returncode == 0, result.stderr
    text = result.stdout
    assert "error against float32: logits 0.0" in text
    assert "of the fp16 model, on onnxruntime on the CPU, seeded random inputs" in text
    assert "stayed float32: no node" in text
    assert "\nengine  artifacts/view/image-net/engine/engine.onnx  " in text
    assert text.count("view/image-net/engine/engine.onnx") == 1
    assert "engine: checked against ONNX Runtime: relative L2 of 2 samples: logits " in text
    assert "copied to out/engine.onnx" in text
    engine = folder / "artifacts/view/image-net/engine/engine.onnx"
    assert (folder / "out/engine.onnx").read_bytes() == engine.read_bytes()


def test_the_pipeline_that_it_ran_is_written_and_every_stage_of_it_is_a_hit(built):
    folder, _ = built
    assert (folder / "p.yaml").read_text().startswith("# Written by `trtpipe build`; run it: trtpipe run p.yaml\n")
    result = within("status", "p.yaml", cwd=folder)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("\nhit") == 3


def test_a_second_build_is_all_hits_and_imports_nothing_heavy(built):
    folder, _ = built
    result = within(*GIVEN, "--json", cwd=folder)
    assert [e["event"] for e in events(result)] == [
        "PipelineStarted",
        *["StageCached"] * 3,
        "PipelineFinished",
        "Built",
    ]
    names = imported_by(folder, *GIVEN)
    assert "trtpipe.cli.drafted" in names
    # The documents with the figures are read, and msgspec does that.
    assert not names & set(HEAVY) - {"msgspec"}


def test_programs_get_the_figures_as_a_last_line_of_json(built):
    folder, _ = built
    answer = events(within(*GIVEN, "--json", cwd=folder))[-1]
    assert answer["plan"].endswith("view/image-net/engine/engine.onnx")
    assert os.path.getsize(answer["plan"]) == answer["bytes"]
    (check,) = answer["error"]
    assert 0 < check["outputs"]["logits"]["relative_l2"] < 0.05
    assert answer["float32"] == []
    assert answer["seconds"] > 0
    assert answer["document"] == "p.yaml"


def test_quiet_prints_nothing(built):
    folder, _ = built
    result = within(*GIVEN, "-q", cwd=folder)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_shapes_that_are_left_out_are_guessed_and_told(built):
    folder, _ = built
    result = within("build", "image net.onnx", "--emit-yaml", "guess.yaml", *ORT, cwd=folder)
    assert result.stdout.startswith("image axis 0 (batch) is taken for a batch of 1..8..16; --shapes says otherwise\n")
    assert "error against float32: not measured, because precision model leaves the types" in result.stdout
    assert "opt: [8, 3, 8, 8]" in (folder / "guess.yaml").read_text()


def test_int8_on_samples_is_quantised_and_the_engine_is_compared_where_it_runs(built):
    folder, _ = built
    samples = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "samples.npz", image=samples)
    result = within(
        "build", "image net.onnx", "--int8", "samples.npz", "--data", "samples.npz", "--json", *ORT, cwd=folder
    )
    assert result.returncode == 0, result.stdout + result.stderr
    checks = {one["of"]: one for one in events(result)[-1]["error"]}
    assert list(checks) == ["the int8 model", "the engine"]
    assert 0 < checks["the engine"]["outputs"]["logits"]["relative_l2"] < 0.5


def test_nodes_that_stay_float32_are_named(tmp_path):
    onnx_models.save(onnx_models.overflowing(), tmp_path / "m.onnx")
    result = within("build", "m.onnx", "--fp16", *ORT, cwd=tmp_path)
    assert "stayed float32: " in result.stdout
    assert "config.json" in result.stdout


def test_a_check_that_fails_stands_in_the_table_of_figures_with_its_rule_and_a_cross(built):
    folder, _ = built
    text = (folder / "p.yaml").read_text().replace("precision: fp16", "precision: fp16, tolerance: 1.0e-9")
    (folder / "strict.yaml").write_text(text)
    result = within("run", "strict.yaml", cwd=folder)
    assert result.returncode == 5
    assert re.search(r"^config +logits: relative L2 +0\.000\d+  <= 1e-09  ✗$", result.stdout, re.MULTILINE)


# --- bad input


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRTPIPE_ARTIFACTS", raising=False)
    onnx_models.save(onnx_models.conv(), tmp_path / "m.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    return tmp_path


@pytest.mark.parametrize(
    ("args", "code", "problem"),
    [
        (["n.onnx"], 2, 'n.onnx: there is no such file, did you mean "m.onnx"?'),
        (["text.onnx"], 2, "text.onnx is no ONNX model"),
        (["."], 2, ".: found a folder, expected an ONNX file"),
        (["m.onnx", "--shapes", "image=1x3x9x8"], 2, "image: axis 2: found 9; the model fixes it at 8"),
        (["m.onnx", "--shapes", "x=1"], 2, "the model has no input x; there is image"),
        (["m.onnx", "--shapes", "image"], 2, "expected an input and its shape"),
        (["m.onnx", "--int8", "none.npz"], 2, "--int8: none.npz: there is no such file"),
        (["m.onnx", "--data", "none"], 2, "--data: none: there is no such file"),
        (["m.onnx", "--fp16", "--bf16"], 2, "not allowed with"),
        (["m.onnx", "--fp16", "--precision", "fp32"], 2, "found --precision fp32 and --fp16, expected one of them"),
        (["m.onnx", "--precision", "int8"], 2, "--int8 DATA"),
        (["m.onnx", "-o", "no/a.onnx"], 2, "found a file in a folder that is not there"),
        (["m.onnx", "-o", "."], 2, "found a folder, expected a file's name"),
        (["m.onnx", "-o", "a.plan"], 3, "--backend tensorrt_rtx, or --output a.onnx"),
        (["m.onnx", "--emit-yaml", "a.txt"], 2, "expected a name that ends in .yaml"),
        (["m.onnx", "--emit-yaml", "no/a.yaml"], 4, "no/a.yaml cannot be written: there is no folder no"),
        (["m.onnx", "--bf16"], 1, "precision bf16: its CPU kernels compute in no such format"),
    ],
)
def test_bad_input_is_refused_with_what_would_be_right(folder, capsys, args, code, problem):
    assert main.main(["build", *args, *ORT]) == code
    text = capsys.readouterr().err
    assert problem in text
    assert "Traceback" not in text


def test_an_onnx_file_is_no_name_for_a_plan(folder):
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT-RTX is not installed: pip install 'trtpipe[rtx]'")
    result = within("build", "m.onnx", "-o", "a.onnx", "--backend", "tensorrt_rtx", cwd=folder)
    assert result.returncode == 2
    assert "tensorrt_rtx makes a plan, expected a name such as a.plan" in result.stderr


def test_an_engine_is_not_run_where_it_cannot_be(folder, capsys):
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None or environment.gpus():
        pytest.skip("this needs TensorRT-RTX, and a machine without a GPU")
    assert main.main(["build", "m.onnx", "--check", "--backend", "tensorrt_rtx"]) == 3
    assert "--check runs the engine, and tensorrt_rtx runs no engine on this machine" in capsys.readouterr().err


def test_errors_are_json_for_programs(folder):
    result = within("build", "n.onnx", "--json", cwd=folder)
    assert json.loads(result.stdout)["error"] == "PipelineInvalid"


def test_a_model_outside_the_project_is_built_and_the_document_says_what_it_needs(folder, built):
    (folder / "elsewhere").mkdir()
    store = ("--artifacts", str(built[0] / "artifacts"))  # what was built there of the same content is not built again
    result = within("build", "../m.onnx", "--emit-yaml", "p.yaml", *ORT, *store, cwd=folder / "elsewhere")
    assert result.returncode == 0, result.stderr
    assert "run p.yaml with --allow-outside" in result.stdout
    assert within("status", "p.yaml", "--allow-outside", *store, cwd=folder / "elsewhere").returncode == 0


@pytest.mark.slow
def test_a_line_for_trtexec_builds_what_it_asks_for_and_tells_the_rest(folder):
    line = "trtexec --onnx=m.onnx --fp16 --shapes=image:2x3x8x8 --verbose --iterations=20 --noDataTransfers"
    result = within("build", "--from", line, "--emit-yaml", "p.yaml", *ORT, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("--fp16: TensorRT 11 dropped it; here it is configure: precision: fp16\n")
    assert "--verbose: a stage's whole log is kept" in result.stdout
    assert "trtpipe bench p.yaml --iterations 20 --no-transfers" in result.stdout
    assert "{min: [2, 3, 8, 8], opt: [2, 3, 8, 8], max: [2, 3, 8, 8]}" in (folder / "p.yaml").read_text()
    bench = within("bench", "p.yaml", "--iterations", "20", "--no-transfers", "--duration", "0", *ORT, cwd=folder)
    assert bench.returncode == 0, bench.stderr


def test_the_store_is_that_of_the_models_project_whatever_the_shells_folder(folder, capsys):
    (folder / "project" / "deep").mkdir(parents=True)
    (folder / "project" / "trtpipe.toml").write_text('backend = "onnxruntime"\n')
    (folder / "m.onnx").rename(folder / "project" / "deep" / "m.onnx")
    assert main.main(["build", "project/deep/m.onnx", "--shapes", "image=1x3x8x8"]) == 0
    assert "onnxruntime" in capsys.readouterr().out
    assert (folder / "project" / "artifacts" / "view" / "m").is_dir()
    assert not (folder / "artifacts").exists()


def test_options_beside_a_line_come_first(folder, capsys):
    assert main.main(["build", "--from", "trtexec --onnx=none.onnx --fp16", "text.onnx", *ORT]) == 2
    assert "text.onnx is no ONNX model" in capsys.readouterr().err
    assert main.main(["build", "--from", "trtexec --fp16", *ORT]) == 2
    assert "found no model, expected an ONNX file: --onnx=model.onnx" in capsys.readouterr().err
    assert main.main(["build", *ORT]) == 2
    assert "found no model, expected an ONNX file: trtpipe build model.onnx" in capsys.readouterr().err


@pytest.mark.slow
def test_the_lines_of_the_pages_run(tmp_path):
    model = onnx_models.conv(side=64)
    model.graph.node[0].input[0] = model.graph.input[0].name = "images"
    onnx_models.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "samples.npz", images=np.random.default_rng(0).random((16, 3, 64, 64), np.float32))
    (tmp_path / "build.sh").write_text("M=model.onnx\ntrtexec --onnx=$M --fp16 --shapes=images:1x3x64x64\n")
    pages = [PROJECT / "docs" / "build.md", PROJECT / "docs" / "trtexec.md"]
    lines = [line for page in pages for line in commands(page) if line[0] == "build"]
    assert len(lines) > 5
    for line in lines:
        if "--bf16" in line and importlib.util.find_spec("tensorrt_rtx_bindings") is None:
            continue  # ONNX Runtime has no bfloat16
        if any(w in ("--output", "--from") for w in line) and importlib.util.find_spec("tensorrt_rtx_bindings") is None:
            continue  # ONNX Runtime makes no plan
        result = within(*line, cwd=tmp_path)
        assert result.returncode == 0, f"trtpipe {line}\n{result.stdout}{result.stderr}"
        if "--output" in line:  # where there is no GPU, TensorRT-RTX builds it
            assert (tmp_path / "model.engine").read_bytes()[:4] in (b"vtrt", b"ftrt")
