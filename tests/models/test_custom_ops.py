"""Operators from libraries, and plugins: native code that is declared once and travels with the model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime_extensions
import pytest
from onnx import helper

from tests import onnx_models as models
from tests.backends.trt.rtx import needs_rtx
from tests.helpers import as_input, run_stage
from trtpipe.data import tensors
from trtpipe.errors import StageFailed
from trtpipe.models import ort_cpu
from trtpipe.pipeline import loading


@pytest.fixture(autouse=True)
def none_afterwards():
    """Stages run in this process here, and leave their libraries to the next one."""
    yield
    ort_cpu.use_custom_ops([])


def library(tmp_path):
    shutil.copy(onnxruntime_extensions.get_library_path(), tmp_path / "ops.so")
    return {"custom_ops": ["ops.so"]}


def artifact(folder, kind):
    """Give a stage's result as the next stage gets it: native code is taken from artifacts alone."""
    return replace(as_input(kind, folder), kind=kind)


def engine(tmp_path, model, parse):
    network = artifact(run_stage("parse", parse, {"model": model}, tmp_path), "network")
    config = artifact(run_stage("configure", {}, {"network": network}, tmp_path), "config")
    return artifact(run_stage("build", {}, {"config": config}, tmp_path), "engine")


def infer(tmp_path, built, x, notes):
    np.save(tmp_path / "x.npy", x)
    buffers = run_stage("allocate", {}, {"engine": built}, tmp_path)
    inputs = {"engine": built, "buffers": buffers, "data": tmp_path / "x.npy"}
    return run_stage("infer", {}, inputs, tmp_path, notes=notes)


def test_a_library_that_is_named_once_serves_every_stage(tmp_path):
    path = models.save(models.custom(), tmp_path / "m.onnx")
    built = engine(tmp_path, path, library(tmp_path))
    manifest = json.loads((built.folder / "manifest.json").read_text())
    assert manifest["custom_ops"] == ["ops/00-ops.so"]
    assert manifest["plan_bytes"] == (built.folder / manifest["plan"]).stat().st_size
    ort_cpu.use_custom_ops([])  # infer finds it by itself
    x, notes = np.diag([1, 2, 4]).astype(np.float32), []
    made = tensors.open_input(as_input("made", infer(tmp_path, built, x[None], notes)))["y"].read()
    np.testing.assert_allclose(made[0], 2 * np.linalg.inv(x))
    assert notes == ["unchecked: ONNX Runtime has no operator ai.onnx.contrib:Inverse"]


def test_the_content_of_a_library_is_in_the_key(tmp_path):
    models.save(models.custom(), tmp_path / "m.onnx")
    (tmp_path / "ops.so").write_bytes(b"one")
    (tmp_path / "p.yaml").write_text(
        "name: p\nbackend: onnxruntime\nstages:\n"
        "  network: {type: parse, inputs: {model: {file: m.onnx}}, params: {custom_ops: [ops.so]}}\n"
    )
    pipeline = loading.load(str(tmp_path / "p.yaml"), (), None)
    assert pipeline.stages["network"].sources == ("ops.so",)


def test_stages_before_parse_run_and_carry_the_library_too(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
        helper.make_node("Inverse", ["p"], ["y"], name="inverse", domain="ai.onnx.contrib"),
    ]
    weights = {"w": np.diag([1, -2, 3]).astype(np.float32)}
    ends = [models.value("x", [3, 3])], [models.value("y", [3, 3])]
    path = models.save(models.model(nodes, *ends, weights, domains=("ai.onnx.contrib",)), tmp_path / "m.onnx")
    ops = library(tmp_path)
    x = (np.eye(3) * 2 + np.random.default_rng(1).uniform(-0.3, 0.3, (16, 3, 3))).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    cleaned = artifact(run_stage("optimize", ops, {"model": path}, tmp_path), "model")
    inputs = {"model": cleaned, "calibration": tmp_path / "x.npz"}
    quantised = artifact(run_stage("quantize", {}, inputs, tmp_path), "model")
    assert "ops/00-ops.so" in quantised.files
    built = engine(tmp_path, quantised, {})
    assert json.loads((built.folder / "manifest.json").read_text())["custom_ops"] == ["ops/00-ops.so"]
    found = infer(tmp_path, built, x, [])
    for given, params in ((cleaned, {}), (path, ops)):
        ort_cpu.use_custom_ops([])
        inputs = {"candidate": found, "model": given, "data": tmp_path / "x.npz"}
        run_stage("compare", {**params, "require": {"relative_l2": "<= 0.2"}}, inputs, tmp_path)
    with pytest.raises(
        StageFailed, match=r"cannot load the reference model.*Inverse.*custom_ops: \[lib\.so\]"
    ):  # a user's own folder brings no native code
        run_stage("compare", {}, {**inputs, "model": quantised.folder}, tmp_path)


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
