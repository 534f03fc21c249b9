"""`trtpipe init`: the first document of a project, which runs at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests import onnx_models
from tests.helpers import PROJECT, within
from tests.test_readme import commands
from trtpipe.cli import main
from trtpipe.pipeline import scaffold

ORT = ("--backend", "onnxruntime")


def heads():
    """x [batch, 6] -> logits [batch, 5], scores [batch, 6, 3], boxes [batch, 6, 4], masks [batch, 3, 4, 4]."""
    random = np.random.default_rng(0)
    sizes = {"logits": (5,), "scores": (6, 3), "boxes": (6, 4), "masks": (3, 4, 4)}
    nodes, weights, outputs = [], {}, []
    for name, size in sizes.items():
        weights[f"w_{name}"] = random.standard_normal((6, int(np.prod(size)))).astype(np.float32)
        weights[f"s_{name}"] = np.array([-1, *size], np.int64)
        nodes.append(helper.make_node("MatMul", ["x", f"w_{name}"], [f"m_{name}"], name=f"product_{name}"))
        nodes.append(helper.make_node("Reshape", [f"m_{name}", f"s_{name}"], [name], name=f"shape_{name}"))
        outputs.append(onnx_models.value(name, ["batch", *size]))
    return onnx_models.model(nodes, [onnx_models.value("x", ["batch", 6])], outputs, weights)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Give a project with a model of many outputs, on which every task runs; what two tasks share is made once."""
    folder = tmp_path_factory.mktemp("project")
    (folder / ".git").mkdir()
    onnx_models.save(heads(), folder / "heads.onnx")
    return folder


@pytest.mark.parametrize(
    ("task", "stage", "shows"),
    [("classify", "labels", "top_k"), ("detect", "boxes", "nms"), ("segment", "masks", "argmax"),
     ("embed", "embeddings", "embedding"), ("asr", "texts", "text"), ("none", "closeness", "cosine")],
)  # fmt: skip
def test_what_init_writes_is_valid_and_runs_at_once(shared, task, stage, shows):
    document = f"{task}.yaml"
    made = within("init", "heads.onnx", "--task", task, "--output", document, cwd=shared)
    assert made.returncode == 0, made.stderr
    assert within("validate", document, cwd=shared).returncode == 0
    result = within("run", document, *ORT, cwd=shared)
    assert result.returncode == 0, result.stdout + result.stderr
    folder = within("show", document, stage, *ORT, cwd=shared).stdout.strip()
    assert shows in "".join(sorted(path.read_text() for path in Path(folder).glob("*.json*")))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRTPIPE_ARTIFACTS", raising=False)
    (tmp_path / ".git").mkdir()
    return tmp_path


def init(capsys, *args):
    code = main.main(["init", *args, "--json"])
    text = capsys.readouterr().out
    return code, json.loads(text) if text else {}


def test_a_document_is_commented_and_has_schema_profile_samples_and_gate(here, capsys):
    onnx_models.save(heads(), here / "heads.onnx")
    assert init(capsys, "--output", "none.yaml")[0] == 0
    text = (here / "none.yaml").read_text()
    schema, title, *_ = text.splitlines()
    assert schema == "# yaml-language-server: $schema=.trtpipe/pipeline.schema.json"
    assert json.loads((here / ".trtpipe/pipeline.schema.json").read_text())["title"]
    assert title == "# none: from a model to a checked engine. Run it:  trtpipe run none.yaml"
    assert "# x axis 0 (batch) is taken for a batch of 1..8..16; --shapes says otherwise." in text
    assert "profiles: [{x: {min: [1, 6], opt: [8, 6], max: [16, 6]}}]" in text
    assert 'require: {cosine: ">= 0.9999"}' in text
    with np.load(here / "heads-samples.npz") as samples:
        assert {name: (a.shape, a.dtype.name) for name, a in samples.items()} == {"x": ((8, 6), "float32")}


def test_a_language_model_gets_tokens_that_it_knows_and_a_mask_of_ones(here, capsys):
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["e"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "axes"], ["u"]),
        helper.make_node("Mul", ["e", "u"], ["hidden"]),
    ]
    sides = [
        onnx_models.value(name, ["batch", "sequence"], TensorProto.INT64) for name in ("input_ids", "attention_mask")
    ]
    weights = {"table": np.ones((30, 4), np.float32), "axes": np.array([2])}
    onnx_models.save(
        onnx_models.model(nodes, sides, [onnx_models.value("hidden", ["batch", "sequence", 4])], weights),
        here / "m.onnx",
    )
    code, told = init(capsys, "--task", "embed")
    assert code == 0
    assert told["document"] == "m.yaml"
    text = (here / "m.yaml").read_text()
    assert "mask: attention_mask}, {op: l2_normalize, tensor: embedding, output: embedding}]" in text
    assert "inputs: {tensors: outputs, data: {file: m-samples.npz}}" in text
    with np.load(here / "m-samples.npz") as samples:
        assert samples["attention_mask"].min() == 1
        assert 2 < samples["input_ids"].max() < 30
        assert samples["input_ids"].shape == (8, 128)


def test_large_samples_are_few(here, capsys):
    onnx_models.save(onnx_models.doubling(["batch", 3, 1024, 1024]), here / "m.onnx")
    assert init(capsys)[0] == 0
    with np.load(here / "m-samples.npz") as samples:
        assert samples["x"].shape == (1, 3, 1024, 1024)
    assert "shapes: {x: [1, 3, 1024, 1024]}" in (here / "m.yaml").read_text()


def test_names_that_python_and_yaml_have_for_themselves_are_kept(here, capsys):
    onnx_models.save(onnx_models.doubling(["batch", 2]), here / "m.onnx")
    import onnx

    model = onnx.load(here / "m.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = model.graph.node[0].input[1] = "file"
    onnx_models.save(model, here / "no.onnx")
    assert init(capsys, "no.onnx")[0] == 0
    with np.load(here / "no-samples.npz") as samples:
        assert samples.files == ["file"]
    assert main.main(["validate", "no.yaml"]) == 0


def test_a_line_for_trtexec_becomes_a_document_that_measures(here, capsys):
    onnx_models.save(onnx_models.conv(), here / "m.onnx")
    line = "trtexec --onnx=m.onnx --fp16 --shapes=image:2x3x8x8 --iterations=20 --workspace=64 --directIO"
    code, told = init(capsys, "--from", line)
    assert code == 0
    assert any(one.startswith("--directIO: ") for one in told["told"])
    text = (here / "m.yaml").read_text()
    assert "precision: fp16" in text
    assert 'workspace: "64MiB"' in text
    assert "type: benchmark" in text
    assert "iterations: 20" in text
    assert main.main(["validate", "m.yaml"]) == 0


def test_every_profile_of_a_line_for_trtexec_is_written_and_the_one_that_it_runs_is_used(here, capsys):
    onnx_models.save(onnx_models.conv(), here / "m.onnx")
    line = (
        "trtexec --onnx=m.onnx --profile=0 --optShapes=image:1x3x8x8 --profile=1 --minShapes=image:2x3x8x8 "
        "--maxShapes=image:4x3x8x8 --useProfile=1"
    )
    assert init(capsys, "--from", line)[0] == 0
    text = (here / "m.yaml").read_text()
    assert "[{image: {min: [1, 3, 8, 8], opt: [1, 3, 8, 8], max: [1, 3, 8, 8]}}, {image: {min: [2, 3, 8, 8]" in text
    assert "shapes: {image: [4, 3, 8, 8]}\n      profile: 1\n" in text
    assert main.main(["validate", "m.yaml"]) == 0


def test_a_callable_is_exported_first(here, capsys):
    (here / "net.py").write_text("import torch\n\ndef load():\n    return torch.nn.Linear(4, 2)\n")
    code, _ = init(capsys, "net.py:load", "--shapes", "x=1..8x4", "--outputs", "y", "--task", "classify")
    assert code == 0
    text = (here / "net.yaml").read_text()
    assert 'entrypoint: "net.py:load"' in text
    assert "inputs: {x: {shape: [batch, 4], dtype: float32}}" in text
    assert main.main(["validate", "net.yaml"]) == 0


@pytest.mark.slow
def test_a_callable_runs_at_once(here):
    pytest.importorskip("torch")
    (here / "net.py").write_text("import torch\n\ndef load():\n    return torch.nn.Linear(4, 2)\n")
    assert within("init", "net.py:load", "--shapes", "x=1..8x4", cwd=here).returncode == 0
    result = within("run", "net.yaml", *ORT, cwd=here)
    assert result.returncode == 0, result.stderr


def test_git_ignores_the_store_once_and_a_workflow_is_written_on_request(here, capsys):
    onnx_models.save(onnx_models.conv(), here / "m.onnx")
    (here / ".gitignore").write_text("*.pyc")
    assert init(capsys, "--ci", "github")[0] == 0
    assert (here / ".gitignore").read_text() == "*.pyc\n# what trtpipe makes\nartifacts/\n"
    workflow = (here / ".github/workflows/trtpipe.yaml").read_text()
    assert "trtpipe run m.yaml" in workflow
    assert "pip install 'trtpipe[cpu]'" in workflow
    assert init(capsys, "-o", "other.yaml")[0] == 0
    assert (here / ".gitignore").read_text().count("artifacts/") == 1


def test_nothing_is_written_over_a_file_that_is_there(here, capsys):
    onnx_models.save(onnx_models.conv(), here / "m.onnx")
    (here / "m.yaml").write_text("mine")
    before = sorted(os.listdir())
    code, told = init(capsys)
    assert code == 2
    assert (
        "m.yaml: it is there already, so nothing was written; name another: --output FILE.yaml" in told["problems"][0]
    )
    assert (here / "m.yaml").read_text() == "mine"
    assert sorted(os.listdir()) == before


def test_samples_that_are_there_are_kept(here, capsys):
    onnx_models.save(onnx_models.conv(), here / "m.onnx")
    (here / "m-samples.npz").write_bytes(b"mine")
    code, told = init(capsys)
    assert code == 0
    assert "m-samples.npz was there already, and is kept" in told["told"]
    assert (here / "m-samples.npz").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["none.onnx"], "none.onnx: there is no such file, did you mean"),
        (["text.onnx"], "text.onnx is no ONNX model"),
        ([], "found 2 ONNX files here (m.onnx, text.onnx), expected one model: trtpipe init m.onnx"),
        (
            ["m.onnx", "--task", "segment"],
            "--task segment: found the outputs logits [batch, 5], expected scores [samples",
        ),
        (["m.onnx", "--task", "detect"], "expected boxes [samples, n, 4] with scores"),
        (["m.onnx", "--shapes", "image=1x3x9x9"], "the model fixes it at 8"),
        (["m.onnx", "--outputs", "y"], "found --outputs, expected it with a callable only"),
        (["none.py:load"], "none.py: there is no such file"),
        (["net.py:load"], "found no shapes, expected those of the module's inputs"),
        (["net.py:load", "--shapes", "x=1x4", "--dtype", "y=int64"], "--dtype y=int64: found no shape for y"),
        (["net.py:load", "--shapes", "x=1x4", "--dtype", "x=int65"], "found int65, expected one of bool"),
        (["--from", "trtexec --onnx=m.onnx --fp17"], "found --fp17, which no trtexec"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(here, capsys, args, problem):
    onnx_models.save(onnx_models.conv(), here / "m.onnx")
    (here / "text.onnx").write_text("no model")
    (here / "net.py").write_text("def load(): ...\n")
    assert main.main(["init", *args]) == 2
    assert problem in capsys.readouterr().err
    assert sorted(os.listdir()) == [".git", "m.onnx", "net.py", "text.onnx"]


def test_a_folder_that_cannot_be_written_is_said(here, capsys):
    onnx_models.save(onnx_models.conv(), here / "m.onnx")
    assert main.main(["init", "m.onnx", "-o", "m.onnx/deep.yaml"]) == 4
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(("layout", "shape"), [("columns", (2, 7, 10)), ("rows", (2, 10, 8))])
def test_yolos_output_is_decoded_into_boxes_and_scores(layout, shape):
    space = {}
    exec(scaffold.YOLO, space)
    raw = np.random.default_rng(0).random(shape, np.float32)
    made = space["decode"]({"o": raw}, None, "o", layout)
    assert made["boxes"].shape == (2, 10, 4)
    assert made["scores"].shape == (2, 10, 3)
    row = raw[0, :, 1] if layout == "columns" else raw[0, 1]
    assert made["boxes"][0, 1].tolist() == row[:4].tolist()
    wanted = row[4:] if layout == "columns" else row[4] * row[5:]
    assert made["scores"][0, 1].tolist() == wanted.tolist()


def test_the_lines_of_the_page_write_valid_documents(here, capsys):
    onnx_models.save(onnx_models.conv(), here / "model.onnx")
    for name in ("net", "encoder"):
        (here / f"{name}.py").write_text("def load(): ...\n")
    lines = [line for line in commands(PROJECT / "docs" / "init.md") if line[0] == "init"]
    assert len(lines) == 4
    for line in lines:
        assert main.main(line) == 0, line
    for document in ("model.yaml", "net.yaml", "encoder.yaml", "measured.yaml"):
        assert main.main(["validate", document]) == 0, capsys.readouterr()
