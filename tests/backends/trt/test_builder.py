"""Builds with the real TensorRT-RTX, which needs no GPU for them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests import made
from tests import onnx_models as models
from tests.backends.trt.rtx import build, config_for, needs_no_gpu, needs_rtx
from tests.helpers import PROJECT
from trtpipe import backends
from trtpipe.backends import plan_header
from trtpipe.documents.manifest import Target
from trtpipe.errors import StageFailed

PATHS = {"PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]), "PATH": ""}
IMAGE = {"image": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}}


@needs_rtx
def test_external_data_is_found_beside_the_model(rtx, tmp_path):
    path = models.with_external(tmp_path / "a" / "m.onnx", models.conv(2))
    assert rtx.parse(path).layers["CONVOLUTION"] == 1
    plan, _ = build(rtx, path, tmp_path)
    inline, _ = build(rtx, models.save(models.conv(2), tmp_path / "m.onnx"), tmp_path, name="inline.plan")
    assert plan.read_bytes() == inline.read_bytes()


@needs_rtx
@needs_no_gpu
@pytest.mark.parametrize(("version", "said"), [("1.6.1.120", True), ("1.7.1.116", False)])
def test_a_failed_build_of_int8_says_which_tensorrt_rtx_has_none(rtx, monkeypatch, tmp_path, version, said):
    scales = {"s": np.asarray(0.1, np.float32), "z": np.asarray(0, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    proto = models.model(nodes, [models.value("x", [2, 3])], [models.value("y", [2, 3])], scales)
    monkeypatch.setattr(rtx.library, "version", version)
    # What fails here is something else: an older one cannot be had beside this one.
    with pytest.raises(StageFailed) as told:
        build(rtx, models.save(proto, tmp_path / "m.onnx"), tmp_path, refit=True)
    assert ("before 1.7 has no int8 convolution" in str(told.value)) is said


@needs_rtx
def test_a_real_plan_is_built_and_its_header_read(rtx, tmp_path):
    plan, built = build(rtx, models.save(models.conv(), tmp_path / "m.onnx"), tmp_path, [IMAGE])
    assert plan_header.read_header(plan) == ("tensorrt_rtx", rtx.version, plan.stat().st_size)
    plan_header.check(plan, "tensorrt_rtx", rtx.version)
    assert built.bindings[0] == made.binding("image", "input", ["batch", 3, 8, 8])
    assert built.target == Target(compute_capabilities="8.0+")
    assert built.proof.status == "unproven"


@needs_rtx
def test_a_static_network_gives_the_same_bytes_in_two_processes(tmp_path):
    models.save(models.conv(2), tmp_path / "m.onnx")
    made.put(tmp_path, config_for(backends.load("tensorrt_rtx")))
    code = (
        "import sys; from pathlib import Path; from trtpipe import backends\n"
        "from trtpipe.documents import config, files\n"
        "settings = files.read(Path('config.json'), config.Config)\n"
        "backends.load('tensorrt_rtx').build(Path('m.onnx'), settings, Path(sys.argv[1]), Path(), print)"
    )
    digests = set()
    for name in ("a.plan", "b.plan"):
        subprocess.run(
            [sys.executable, "-c", code, name],
            cwd=tmp_path, env=PATHS, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


@needs_rtx
def test_tf32_reaches_the_builder_and_is_off_otherwise(rtx, tmp_path):
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    plans = {p: build(rtx, model, tmp_path, precision=p, name=p)[0].read_bytes() for p in ("model", "fp32", "tf32")}
    assert plans["model"] == plans["fp32"] != plans["tf32"]


@needs_rtx
def test_settings_reach_the_builder(rtx, tmp_path, monkeypatch):
    trt = rtx.library.trt
    seen, build_it = [], trt.Builder.build_serialized_network

    def look(builder, network, config):
        workspace = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
        sparse = config.get_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
        seen.append((workspace, sparse, config.profiling_verbosity))
        return build_it(builder, network, config)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", look)
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    build(rtx, model, tmp_path, workspace=32 << 20, sparse_weights=True, verbosity="detailed")
    assert seen == [(32 << 20, True, trt.ProfilingVerbosity.DETAILED)]


@needs_rtx
def test_capabilities_are_the_target_and_change_the_plan(rtx, tmp_path):
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    both, built = build(rtx, model, tmp_path, compute_capabilities=(86, 89), name="both")
    one, _ = build(rtx, model, tmp_path, compute_capabilities=(89,), name="one")
    assert built.target == Target(compute_capabilities=(86, 89))
    assert both.read_bytes() != one.read_bytes()


@needs_rtx
def test_a_workspace_that_is_too_small_fails_with_the_number_and_the_builders_words(rtx, tmp_path):
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    with pytest.raises(StageFailed) as caught:
        build(rtx, model, tmp_path, workspace=1)
    message = str(caught.value)
    assert "workspace 1 bytes: if that is too little for it, give more" in message
    assert re.search(rf"TensorRT-RTX {re.escape(rtx.version)} says:\s+\w", message)
    assert "Invalid Engine" not in message


@needs_rtx
@needs_no_gpu
def test_refit_without_a_gpu_fails_with_the_likely_reason(rtx, tmp_path):
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    with pytest.raises(StageFailed, match=r"refit and strip_plan are known to fail.*where there is no GPU"):
        build(rtx, model, tmp_path, refit=True)


@needs_rtx
def test_errors_of_one_build_are_not_told_by_the_next(rtx, tmp_path):
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    with pytest.raises(StageFailed):
        build(rtx, model, tmp_path, workspace=1)
    build(rtx, model, tmp_path)
    assert not rtx.library.errors


@needs_rtx
def test_several_profiles_and_integer_and_boolean_tensors_build(rtx, tmp_path):
    nodes = [
        helper.make_node("Greater", ["ids", "zero"], ["mask"], name="greater"),
        helper.make_node("Cast", ["half"], ["wide"], name="cast", to=TensorProto.FLOAT),
    ]
    proto = models.model(
        nodes,
        [models.value("ids", ["n"], TensorProto.INT64), models.value("half", ["n"], TensorProto.FLOAT16)],
        [models.value("mask", ["n"], TensorProto.BOOL), models.value("wide", ["n"])],
        {"zero": np.zeros(1, np.int64)},
    )
    profiles = [{name: {"min": [a], "opt": [b], "max": [b]} for name in ("ids", "half")} for a, b in ((1, 4), (8, 16))]
    _, built = build(rtx, models.save(proto, tmp_path / "m.onnx"), tmp_path, profiles)
    assert {b.name: b.dtype for b in built.bindings} == {
        "ids": "int64", "half": "float16", "mask": "bool", "wide": "float32",
    }  # fmt: skip


@needs_rtx
def test_a_build_tells_its_phases_and_steps_and_the_plan_is_the_same(rtx, tmp_path):
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    config = config_for(rtx, [{"image": {"min": [2, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [2, 3, 8, 8]}}])
    phases, steps = [], []

    def told(done, total, unit):
        steps.append((done, total, unit))

    for name, how in (("told.plan", {"doing": phases.append, "progress": told}), ("silent.plan", {})):
        rtx.build(model, config, tmp_path / name, tmp_path, lambda _: None, **how)
    assert phases[0] == "building engine"
    assert len(phases) > 2
    assert steps
    assert all(1 <= done <= total and unit == "steps" for done, total, unit in steps)
    assert (tmp_path / "told.plan").read_bytes() == (tmp_path / "silent.plan").read_bytes()


@needs_rtx
@pytest.mark.parametrize(
    ("said", "helps"),
    [("Assertion node.dims == 4 failed", True), ("MyelinCheckException: x", True), ("out of memory", False)],
)
def test_an_assertion_inside_the_builder_suggests_to_freeze_axes(rtx, monkeypatch, tmp_path, said, helps):
    # The failure is the test: no model is at hand that makes every version of the builder assert.
    def fails(*_, **__):
        raise RuntimeError(said)

    monkeypatch.setattr("polygraphy.backend.trt.EngineBytesFromNetwork", fails)
    with pytest.raises(StageFailed) as told:
        build(rtx, models.save(models.conv(), tmp_path / "m.onnx"), tmp_path, [IMAGE])
    assert ("a stage of type optimize before parse: params: {dims: {batch: 1}}" in str(told.value)) is helps
