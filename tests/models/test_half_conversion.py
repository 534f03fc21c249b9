"""The conversion to float16 and bfloat16, subgraphs included."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests import onnx_models as models
from tests.models.helpers import rewrite
from trtpipe.models import (
    bfloat16,
)

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")


def test_a_subgraph_is_converted_and_sorted_too(tmp_path):
    f = np.float32

    def branch(name, op):
        inner = [helper.make_node(op, ["t", "w"], [name], name=f"{name}_node")]
        return helper.make_graph(inner, name, [], [models.value(name, [4])])

    nodes = [
        helper.make_node("Relu", ["x"], ["t"], name="relu"),
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch("a", "Add"), else_branch=branch("s", "Sub")),
    ]
    proto = models.model(
        nodes, [models.value("x", [4]), models.value("c", [], TensorProto.BOOL)], [models.value("y", [4])],
        {"w": np.ones(4, f)},
    )  # fmt: skip
    record, _ = rewrite(proto, tmp_path)
    assert record.check.outputs["y"].relative_l2 < 0.01


def test_bfloat16_weights_are_rounded_from_the_float32_originals(tmp_path):
    """By way of float16, 1e-9 would be 5.96e-8 and 1e30 would be 65504."""
    weights = {"w": np.array([1e-9, 1e30, 1.0, 3.14159], np.float32)}
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    proto = models.model(nodes, [models.value("x", [4])], [models.value("y", None)], weights)
    record, made = rewrite(proto, tmp_path, "bf16")
    (tensor,) = made.graph.initializer
    assert tensor.data_type == TensorProto.BFLOAT16
    held = bfloat16.from_bfloat16(np.frombuffer(tensor.raw_data, "<u2"))
    np.testing.assert_allclose(held, weights["w"], rtol=2**-8)
    assert record.kept == ()


def test_ops_that_tensorrt_refuses_in_bfloat16_stay_float32(tmp_path):
    nodes = [helper.make_node("HardSwish", ["x"], ["y"], name="act")]
    proto = models.model(nodes, [models.value("x", [4])], [models.value("y", None)])
    record, _ = rewrite(proto, tmp_path, "bf16")
    assert record.ops_kept == ("HardSwish",)
