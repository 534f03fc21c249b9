"""Operators from libraries, and plugins: native code that is declared once and travels with the model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime_extensions
import pytest
from onnx import helper

from tests import onnx_models as models
from tests.backends.trt.rtx import needs_rtx
from tests.helpers import as_input, run_stage, trtpipe
from trtpipe.data import tensors
from trtpipe.errors import StageFailed
from trtpipe.models import ort_cpu

DOCUMENT = """
name: p
backend: onnxruntime
stages:
  network: {type: parse, inputs: {model: {file: m.onnx}}, params: {custom_ops: [ops.so]}}
  config: {type: configure, inputs: {network: network}}
  engine: {type: build, inputs: {config: config}}
  buffers: {type: allocate, inputs: {engine: engine}}
  scores: {type: infer, inputs: {engine: engine, buffers: buffers, data: {file: x.npy}}}
"""


@pytest.fixture(autouse=True)
def none_afterwards():
    """Stages run in this process here, and leave their libraries to the next one."""
    yield
    ort_cpu.use_custom_ops([])


def test_a_library_that_is_named_once_serves_every_stage(tmp_path):
    models.save(models.custom(), tmp_path / "m.onnx")
    shutil.copy(onnxruntime_extensions.get_library_path(), tmp_path / "ops.so")
    x = np.diag([1, 2, 4]).astype(np.float32)
    np.save(tmp_path / "x.npy", x[None])
    (tmp_path / "p.yaml").write_text(DOCUMENT)
    done = trtpipe("run", "p.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "unchecked: ONNX Runtime has no operator ai.onnx.contrib:Inverse" in done.stdout
    view = tmp_path / "artifacts" / "view" / "p"
    assert json.loads((view / "engine" / "manifest.json").read_text())["custom_ops"] == ["ops/00-ops.so"]
    made = tensors.open_input(as_input("made", view / "scores"))["y"].read()
    np.testing.assert_allclose(made[0], 2 * np.linalg.inv(x))
    with (tmp_path / "ops.so").open("ab") as stream:
        stream.write(b"changed")
    assert "ops.so" in trtpipe("explain", "p.yaml", "network", cwd=tmp_path).stdout


def test_an_operator_that_nobody_has_is_named_with_the_line_to_write(tmp_path):
    path = models.save(models.custom(), tmp_path / "m.onnx")
    with pytest.raises(StageFailed, match=r"no operator Inverse in domain ai\.onnx.*{custom_ops: \[lib\.so\]}"):
        run_stage("parse", {}, {"model": path}, tmp_path)


def test_what_is_no_library_is_named(tmp_path):
    path = models.save(models.custom(), tmp_path / "m.onnx")
    (tmp_path / "ops.so").write_text("no library")
    with pytest.raises(StageFailed, match=r"custom_ops: onnxruntime cannot load 00-ops\.so: "):
        run_stage("parse", {"custom_ops": ["ops.so"]}, {"model": path}, tmp_path)


@needs_rtx
def test_a_plugin_that_is_missing_or_cannot_be_loaded_is_named(tmp_path):
    proto = models.model(
        [helper.make_node("NobodysPlugin", ["x"], ["y"], name="own", domain="trt.plugins")],
        [models.value("x", [3])], [models.value("y", [3])], domains=("trt.plugins",),
    )  # fmt: skip
    path = models.save(proto, tmp_path / "m.onnx")
    with pytest.raises(StageFailed, match=r"(?s)own \[NobodysPlugin\].*plugins: \[libname\.so\]"):
        run_stage("parse", {}, {"model": path}, tmp_path, backend="tensorrt_rtx")
    (tmp_path / "libown.so").write_text("no library")
    with pytest.raises(StageFailed, match=r"plugins: TensorRT-RTX [\d.]+ cannot load 00-libown\.so: "):
        run_stage("parse", {"plugins": ["libown.so"]}, {"model": path}, tmp_path, backend="tensorrt_rtx")
