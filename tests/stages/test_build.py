"""`build`: the plan and the manifest beside it, on onnxruntime and on the real TensorRT-RTX."""

from __future__ import annotations

import importlib.util
import json

import pytest

from tests import made
from tests import onnx_models as models
from tests.helpers import run_stage
from trtpipe.backends import plan_header
from trtpipe.documents.checks import Check
from trtpipe.documents.config import Hold, Rewrite, WeightChanges
from trtpipe.documents.manifest import Proof
from trtpipe.errors import StageFailed
from trtpipe.stages.build import check_precision

RTX = any(importlib.util.find_spec(m) for m in ("tensorrt_rtx", "tensorrt_rtx_bindings"))
needs_rtx = pytest.mark.skipif(not RTX, reason="TensorRT-RTX is not installed: pip install 'trtpipe[rtx]'")
BACKENDS = ["onnxruntime", pytest.param("tensorrt_rtx", marks=needs_rtx)]
IMAGE = {"image": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}}


def configured(tmp_path, *, backend="tensorrt_rtx", proto=None, **params):
    model = models.save(proto or models.conv(), tmp_path / "model.onnx")
    network = run_stage("parse", {}, {"model": model}, tmp_path, backend=backend)
    return run_stage("configure", params, {"network": network}, tmp_path, backend=backend)


def build(tmp_path, config, backend="tensorrt_rtx"):
    out = run_stage("build", {}, {"config": config}, tmp_path, backend=backend)
    return out, json.loads((out / "manifest.json").read_text())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_manifest_says_what_the_plan_is(tmp_path, backend):
    out, manifest = build(tmp_path, configured(tmp_path, backend=backend, profiles=[IMAGE]), backend)
    assert sorted(p.name for p in out.iterdir()) == sorted([manifest["plan"], "manifest.json", "parsed"])
    assert manifest["format"] == 1
    assert manifest["runtime"] == backend
    assert manifest["plan"] == ("engine.onnx" if backend == "onnxruntime" else "engine.plan")
    assert manifest["plan_bytes"] == (out / manifest["plan"]).stat().st_size
    assert manifest["profiles"] == [IMAGE]
    assert manifest["precision"] == "model"
    assert manifest["precision_proof"]["status"] == ("proven" if backend == "onnxruntime" else "unproven")
    assert manifest["key"] == "0" * 64
    assert [(b["name"], b["mode"], b["dtype"], b["dims"]) for b in manifest["bindings"]] == [
        ("image", "input", "float32", ["batch", 3, 8, 8]),
        ("logits", "output", "float32", ["batch", 5]),
    ]


def proven(layers, weights):
    return Proof(status="proven", layers=layers, weight_bytes=weights)


CHECKED = {
    "precision": "fp16", "kept": (), "activations_measured": True,
    "check": Check(how="onnxruntime", tolerance=0.05, outputs={}),
}  # fmt: skip


def held(narrow):
    return made.config(precision="fp16", hold=Hold(narrow=narrow, **CHECKED))


def rewritten(narrow):
    weights = WeightChanges(values=1)
    change = Rewrite(narrow=narrow, method="onnxruntime", ops_kept=(), weights=weights, **CHECKED)
    return made.config(precision="fp16", rewrite=change)


FP16, FP32 = made.config(precision="fp16"), made.config(precision="fp32")


def test_an_engine_that_was_to_be_half_and_is_mostly_float32_fails_with_the_table():
    mostly = proven({"float32": 3, "float16": 5, "none": 1}, {"float32": 4000, "float16": 500})
    with pytest.raises(StageFailed) as caught:
        check_precision(mostly, FP16)
    assert str(caught.value).splitlines()[:5] == [
        "precision: fp16 was asked for, and the engine is mostly float32: 20% of it is of less than 32 bits",
        "  type     layers  bytes of weights",
        "  float16       5               500",
        "  float32       3              4000",
        "  none          1                 0",
    ]


def test_nodes_that_configure_keeps_in_float32_lower_what_is_asked_and_do_not_end_the_asking():
    check_precision(proven({}, {"float32": 6000, "float16": 2000}), held(0.6))
    with pytest.raises(StageFailed, match="20% of it is of less than 32 bits, and 60% of the weights were to be"):
        check_precision(proven({}, {"float32": 8000, "float16": 1000}), held(0.6))


@pytest.mark.parametrize(
    ("proof", "config"),
    [
        (proven({"float32": 3, "float16": 5}, {"float32": 1000, "float16": 1000}), FP16),
        (proven({"float32": 3, "float16": 5}, {}), FP16),
        (proven({"float32": 3}, {"float32": 4}), FP32),
        (proven({"float32": 3}, {"float32": 4}), held(0.002)),
        (proven({}, {"float32": 8000, "float16": 1000}), rewritten(0.3)),
        (Proof(status="unproven", why="…"), FP16),
        (Proof(status="proven", rows={}), FP16),
    ],
)
def test_an_engine_that_is_what_it_was_to_be_or_does_not_tell_passes(proof, config):
    check_precision(proof, config)


@needs_rtx
def test_a_reproducible_build_of_tensorrt_rtx_wants_fixed_shapes(tmp_path):
    config = configured(tmp_path, profiles=[IMAGE])
    with pytest.raises(StageFailed, match="same plan again for fixed shapes only, and image has a range"):
        run_stage("build", {"reproducible": True}, {"config": config}, tmp_path, backend="tensorrt_rtx")
    fixed = configured(tmp_path, proto=models.conv(2))
    plans = [
        (
            run_stage("build", {"reproducible": True}, {"config": fixed}, tmp_path, backend="tensorrt_rtx")
            / "engine.plan"
        )
        for _ in range(2)
    ]
    assert plans[0].read_bytes() == plans[1].read_bytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_runtime_without_timings_refuses_a_timing_cache(tmp_path, backend):
    config = configured(tmp_path, backend=backend, profiles=[IMAGE])
    (tmp_path / "pinned.cache").write_bytes(b"timings")
    inputs = {"config": config, "timing_cache": tmp_path / "pinned.cache"}
    with pytest.raises(StageFailed, match="takes no timing cache"):
        run_stage("build", {}, inputs, tmp_path, backend=backend)


@needs_rtx
@pytest.mark.parametrize("precision", ["model", "fp32", "tf32", "fp16", "bf16"])
def test_every_precision_builds_a_real_plan(tmp_path, precision):
    out, manifest = build(tmp_path, configured(tmp_path, profiles=[IMAGE], precision=precision))
    assert plan_header.read_header(out / "engine.plan").flavour == "tensorrt_rtx"
    assert manifest["precision"] == precision
    assert [b["dtype"] for b in manifest["bindings"]] == ["float32", "float32"]


@needs_rtx
@pytest.mark.parametrize("precision", ["model", "fp16"])
def test_a_static_network_builds_to_the_same_artifact_twice(tmp_path, precision):
    config = configured(tmp_path, proto=models.conv(2), precision=precision)
    first, second = (build(tmp_path, config)[0] for _ in range(2))
    for name in ("engine.plan", "manifest.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@needs_rtx
def test_a_failing_build_shows_the_builders_own_errors(tmp_path):
    with pytest.raises(StageFailed, match=r"(?s)workspace 1 bytes.*TensorRT-RTX .* says:\s+\w"):
        build(tmp_path, configured(tmp_path, profiles=[IMAGE], workspace="1B"))


@needs_rtx
def test_a_config_of_another_runtime_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    config = configured(tmp_path, backend="onnxruntime")
    with pytest.raises(StageFailed, match="checked for onnxruntime .*, and this is tensorrt_rtx .*configure again"):
        build(tmp_path, config)
