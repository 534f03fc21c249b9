"""The check of scales: what TensorRT would refuse, or worse, take wrongly, is found before the build."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests import onnx_models as models
from trtpipe.errors import StageFailed
from trtpipe.models import qdq


def pair(scales=(0.1, 0.1), zero=0, missing=False):
    """x → QuantizeLinear → DequantizeLinear → y."""
    weights = {"s0": np.float32(scales[0]), "s1": np.float32(scales[1]), "z": np.int8(zero)}
    weights = {n: np.array(v) for n, v in weights.items() if not (missing and n == "s0")}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s0", "z"], ["q"], name="Q"),
        helper.make_node("DequantizeLinear", ["q", "s1", "z"], ["y"], name="DQ"),
    ]
    return models.model(nodes, [models.value("x", ["n"])], [models.value("y", ["n"])], weights)


def test_a_right_pair_passes():
    assert qdq.check_scales(pair()) == []


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (pair(missing=True), r"Q \(QuantizeLinear of x\): its scale is missing"),
        (pair((0.0, 0.0)), r"its scale is \[0.0\]"),
        (pair((np.nan, np.nan)), r"its scale is \[nan\]"),
        (pair((0.1, 0.2)), "Q and DQ are one pair with two different scales"),
        (pair(zero=3), "its zero point is not 0, TensorRT takes symmetric ranges only"),
    ],
)
def test_a_wrong_scale_is_named_with_its_node(proto, message):
    with pytest.raises(StageFailed, match=message):
        qdq.check_scales(proto)


def test_a_tensor_with_two_scales_is_named():
    proto = pair()
    proto.graph.node.append(helper.make_node("QuantizeLinear", ["x", "s2", "z"], ["q2"], name="Q2"))
    proto.graph.initializer.append(helper.make_tensor("s2", 1, [], [0.3]))
    with pytest.raises(StageFailed, match="x has two different scales, in Q and Q2"):
        qdq.check_scales(proto)
