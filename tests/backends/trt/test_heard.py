"""What TensorRT-RTX only warns of is told, or refused, by real parses and builds."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests import onnx_models as models
from tests.backends.trt.rtx import build, needs_rtx
from trtpipe.errors import StageFailed

pytestmark = needs_rtx


def rows_of_four(tmp_path, second=False):
    """y [n, 4] of x [4 n]; with `second` another input has a range too."""
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], name="rows")]
    inputs, outputs = [models.value("x", ["a"])], [models.value("y", ["n", 4])]
    if second:
        nodes.append(helper.make_node("Relu", ["other"], ["z"]))
        inputs.append(models.value("other", ["b"]))
        outputs.append(models.value("z", ["b"]))
    return models.save(models.model(nodes, inputs, outputs, {"s": np.array([-1, 4])}), tmp_path / "m.onnx")


@pytest.mark.parametrize(("low", "high", "said"), [(1, 8, "min shapes.*raise min"), (4, 9, "max shapes.*lower max")])
def test_an_end_of_a_profile_that_the_network_does_not_take_is_refused(rtx, tmp_path, low, high, said):
    with pytest.raises(StageFailed, match=rf"the network does not take the {said} in configure"):
        build(rtx, rows_of_four(tmp_path), tmp_path, [{"x": {"min": [low], "opt": [8], "max": [high]}}])


def test_with_several_ranges_it_is_told(rtx, tmp_path):
    profile = {"x": {"min": [4], "opt": [8], "max": [9]}, "other": {"min": [1], "opt": [2], "max": [3]}}
    _, built = build(rtx, rows_of_four(tmp_path, second=True), tmp_path, [profile])
    (remark,) = built.told
    assert remark.startswith("the engine does not take the max shapes of all inputs together: ")
    assert "rows" in remark


def test_a_sound_profile_is_silent(rtx, tmp_path):
    _, built = build(rtx, rows_of_four(tmp_path), tmp_path, [{"x": {"min": [4], "opt": [8], "max": [16]}}])
    assert built.told == ()


def test_a_weight_that_would_be_clamped_is_refused(rtx, tmp_path):
    proto = models.model(
        [helper.make_node("Add", ["x", "w"], ["y"])], [models.value("x", [2], TensorProto.DOUBLE)],
        [models.value("y", [2], TensorProto.DOUBLE)], {"w": np.array([1e300, 1])},
    )  # fmt: skip
    with pytest.raises(StageFailed, match="computes float64 in float32, and a weight does not fit that"):
        rtx.parse(models.save(proto, tmp_path / "m.onnx"))
