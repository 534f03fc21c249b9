"""The table of what each TensorRT honours, for versions that cannot all be installed here."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests import made
from trtpipe.backends.trt.rules import parse_version, settle, typing
from trtpipe.documents.checks import Check
from trtpipe.documents.config import Hold, Kept
from trtpipe.documents.network import Tensor
from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.runtime import Settled

NETWORK = made.network(
    inputs=(Tensor(name="x", dtype="float32", dims=(1,)),),
    outputs=(Tensor(name="y", dtype="float32", dims=(1,)),),
    dtypes={"float32": 4, "int64": 8},
)
HALF = replace(NETWORK, dtypes={"float16": 2})
OLD, WEAK, TEN, ELEVEN = (("tensorrt", v) for v in ("8.6.0", "9.3.0", "10.16.1.11", "11.4.0.106"))
RTX = ("tensorrt_rtx", "1.7.1.116")


def decide(runtime, network=NETWORK, hold=None, **asked):
    return settle(*runtime, made.asked(**asked), network, hold=hold)


def held(*nodes):
    kept = tuple(Kept(node=node, op="Conv", why="its weight") for node in nodes)
    check = Check(how="onnxruntime", tolerance=0.05, outputs={})
    return Hold(precision="fp16", kept=kept, activations_measured=True, narrow=0.5, check=check)


@pytest.mark.parametrize("runtime", [TEN, ELEVEN, RTX])
def test_strongly_typed_runtimes_get_half_precision_by_rewriting_the_model(runtime):
    for precision in ("fp16", "bf16"):
        part = decide(runtime, precision=precision)
        assert (part.strongly_typed, part.rewrite, part.flags) == (True, precision, ())


def test_weakly_typed_runtimes_get_half_precision_by_flags():
    assert decide(OLD, precision="fp16") == Settled(
        strongly_typed=False, rewrite=None, flags=("FP16",), not_applicable=()
    )
    assert decide(TEN, precision="bf16", strongly_typed=False).flags == ("BF16",)
    assert decide(OLD, precision="fp16", keep_fp32=("conv",)).flags == ("FP16", "OBEY_PRECISION_CONSTRAINTS")
    assert decide(OLD, precision="fp16", hold=held("conv")).flags == ("FP16", "OBEY_PRECISION_CONSTRAINTS")
    assert decide(OLD, precision="fp16", hold=held()).flags == ("FP16",)


@pytest.mark.parametrize("runtime", [OLD, TEN, ELEVEN, RTX])
def test_tf32_is_on_only_when_it_is_asked_for(runtime):
    assert decide(runtime, precision="tf32").flags == ("TF32",)
    for precision in ("model", "fp32"):
        assert decide(runtime, precision=precision).flags == ()


def test_bfloat16_on_8_6_is_refused_with_alternatives():
    with pytest.raises(StageFailed, match=r"TensorRT 8\.6\.0 cannot honour precision: bf16.*fp16 or tf32, or"):
        decide(OLD, precision="bf16")


@pytest.mark.parametrize("runtime", [OLD, TEN, ELEVEN, RTX])
def test_fp32_on_a_model_that_holds_float16_is_refused(runtime):
    for precision in ("fp32", "tf32"):
        with pytest.raises(StageFailed, match=f"{precision}: the model itself holds float16.*precision: model"):
            decide(runtime, HALF, precision=precision)


def test_a_float16_model_as_it_is_needs_a_strongly_typed_runtime():
    assert decide(RTX, HALF).rewrite is None
    with pytest.raises(StageFailed, match="weakly typed.*precision: fp16, or TensorRT 10"):
        decide(OLD, HALF)


@pytest.mark.parametrize("runtime", [ELEVEN, RTX])
def test_weak_typing_is_refused_where_it_is_gone(runtime):
    with pytest.raises(StageFailed, match="strongly_typed: false: its networks are always strongly typed"):
        decide(runtime, strongly_typed=False)


def test_strong_typing_is_refused_where_it_is_not_there_yet():
    with pytest.raises(StageFailed, match="it came with TensorRT 9"):
        decide(OLD, strongly_typed=True)
    assert decide(WEAK).strongly_typed is True


@pytest.mark.parametrize(
    ("runtime", "config", "message"),
    [
        (RTX, {"version_compatible": True}, "version_compatible: it ships no lean runtime"),
        (RTX, {"hardware_compatibility": "ampere+"}, "hardware_compatibility: ampere.*compute_capabilities"),
        (OLD, {"hardware_compatibility": "same_compute_capability"}, "does not know it.*ampere"),
        (TEN, {"compute_capabilities": (89,)}, "compute_capabilities: it builds for the GPU that it runs on"),
        (OLD, {"strip_plan": True}, "strip_plan: it came with TensorRT 10"),
        (OLD, {"weight_streaming": True}, "weight_streaming: it came with TensorRT 10"),
        (TEN, {"weight_streaming": True, "strongly_typed": False}, "needs a strongly typed network"),
    ],
)
def test_what_a_runtime_lacks_is_refused_by_name(runtime, config, message):
    with pytest.raises(StageFailed, match=message) as caught:
        decide(runtime, **config)
    assert runtime[1] in str(caught.value)
    assert "Instead: " in str(caught.value)


def test_capabilities_that_the_bindings_do_not_know_are_refused_with_those_that_they_know():
    def has(_enum, member):
        return member in ("SM75", "SM80", "SM89")

    with pytest.raises(StageFailed, match=r"compute_capabilities: 90: it knows 75, 80, 89"):
        settle(*RTX, made.asked(compute_capabilities=(80, 90)), NETWORK, has)


def test_a_flag_that_the_bindings_lack_is_refused_even_if_the_table_allows_it():
    with pytest.raises(StageFailed, match="sparse_weights: its bindings have no such builder flag"):
        settle(*TEN, made.asked(sparse_weights=True), NETWORK, lambda *_: False)


def test_settings_become_flags_and_stripping_implies_refitting():
    part = decide(TEN, sparse_weights=True, strip_plan=True, version_compatible=True, weight_streaming=True)
    assert part.flags == ("REFIT", "SPARSE_WEIGHTS", "STRIP_PLAN", "VERSION_COMPATIBLE", "WEIGHT_STREAMING")


def test_rtx_says_which_settings_mean_nothing_to_it():
    assert decide(RTX, optimization_level=3).not_applicable == ("optimization_level", "timing_cache")
    assert decide(TEN, optimization_level=3).not_applicable == ()


def test_versions_are_read_up_to_their_first_word():
    assert parse_version("10.16.1.11") == (10, 16, 1, 11)
    assert parse_version("8.6.0.post1") == (8, 6, 0)


def test_too_old_a_runtime_is_named_with_the_oldest_that_fits():
    with pytest.raises(EnvironmentMissing, match=r"TensorRT 8\.5\.3 is too old; trtpipe needs 8\.6"):
        typing("tensorrt", (8, 5, 3))


def test_a_quantised_model_gets_its_flag_only_where_types_are_picked_by_flags():
    quantised = replace(NETWORK, nodes={"QuantizeLinear": 2, "DequantizeLinear": 2, "Conv": 1})
    assert decide(OLD, quantised).flags == ("INT8",)
    assert decide(OLD, quantised, precision="fp16").flags == ("FP16", "INT8")
    assert decide(TEN, quantised, strongly_typed=False).flags == ("INT8",)
    for runtime in (TEN, ELEVEN, RTX):
        assert decide(runtime, quantised).flags == ()
        assert decide(runtime, quantised, precision="fp16").rewrite == "fp16"


def test_fp8_in_a_model_needs_a_runtime_that_knows_it():
    eighth = replace(NETWORK, nodes={"DequantizeLinear": 1}, dtypes={"float8e4m3fn": 1})
    assert decide(TEN, eighth, strongly_typed=False).flags == ("FP8",)
    with pytest.raises(StageFailed, match="knows no fp8"):
        decide(OLD, eighth)
