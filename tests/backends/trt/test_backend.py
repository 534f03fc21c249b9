"""The TensorRT backend on the real TensorRT-RTX: loading, configuring, and what it refuses to open."""

from __future__ import annotations

import pytest

from tests import made
from tests import onnx_models as models
from tests.backends.trt.rtx import build, needs_no_gpu, needs_rtx
from trtpipe import backends
from trtpipe.documents.network import Tensor
from trtpipe.errors import EnvironmentMissing, StageFailed


@needs_rtx
def test_a_capability_that_the_bindings_do_not_know_is_refused(rtx):
    asked = made.asked(compute_capabilities=(90,))
    with pytest.raises(StageFailed, match="compute_capabilities: 90: it knows 75, 80, 86, 89"):
        rtx.configure(asked, made.network())


@needs_rtx
def test_dynamic_inputs_without_a_profile_are_refused(rtx):
    x, z = (Tensor(name=name, dtype="float32", dims=dims) for name, dims in (("x", ("n", 3)), ("z", (1,))))
    with pytest.raises(StageFailed, match=r"needs a profile for dynamic inputs.*profiles is empty: x \[n, 3\];"):
        rtx.configure(made.asked(), made.network(inputs=(x, z)))


@needs_rtx
def test_a_process_serves_one_flavour(rtx):
    with pytest.raises(EnvironmentMissing, match="this process has already loaded tensorrt_rtx"):
        backends.load("tensorrt")
    assert backends.load("tensorrt_rtx") is rtx


@needs_rtx
@needs_no_gpu
def test_running_without_a_gpu_says_what_works_instead(rtx, tmp_path):
    plan, built = build(rtx, models.save(models.conv(2), tmp_path / "m.onnx"), tmp_path)
    with pytest.raises(EnvironmentMissing, match="builds here, but running a plan needs a GPU.*--target engine"):
        rtx.open(plan, made.manifest(built, runtime="tensorrt_rtx"), made.buffers(built.bindings, {}), print)


@needs_rtx
def test_a_plan_that_cannot_load_is_refused_before_it_is_loaded(rtx, tmp_path):
    plan, built = build(rtx, models.save(models.conv(2), tmp_path / "m.onnx"), tmp_path)
    given = made.manifest(built, runtime="tensorrt_rtx"), made.buffers(built.bindings, {})
    good = plan.read_bytes()
    plan.write_bytes(good[:-10])
    with pytest.raises(StageFailed, match="truncated"):
        rtx.open(plan, *given, print)
    plan.write_bytes(good[:24] + bytes([1, 2, 0, 54]) + good[28:])
    with pytest.raises(StageFailed, match=r"built by tensorrt_rtx 1\.2\.0\.54, and .* is installed"):
        rtx.open(plan, *given, print)
    plan.write_bytes(b"ftrt" + good[4:])
    with pytest.raises(StageFailed, match="--backend tensorrt"):
        rtx.open(plan, *given, print)
