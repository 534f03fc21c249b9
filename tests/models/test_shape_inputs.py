"""Which inputs decide sizes, told from the graph alone."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests import onnx_models as models
from trtpipe.models import shape_inputs


def test_an_input_that_ends_a_slice_decides_a_size():
    assert shape_inputs.find(models.reading()) == {"n"}


def test_sizes_are_followed_back_through_arithmetic():
    nodes = [
        helper.make_node("Mul", ["half", "two"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["long"], to=TensorProto.INT64),
        helper.make_node("Concat", ["rows", "long"], ["sizes"], axis=0),
        helper.make_node("Expand", ["x", "sizes"], ["y"]),
    ]
    proto = models.model(
        nodes,
        [models.value("x", [1, 1]), models.value("half", [1], TensorProto.INT32),
         models.value("rows", [1], TensorProto.INT64)],
        [models.value("y", ["a", "b"])],
        {"two": np.array([2], np.int32)},
    )  # fmt: skip
    assert shape_inputs.find(proto) == {"half", "rows"}


@pytest.mark.parametrize("op", ["Gather", "Add"])
def test_values_that_no_size_depends_on_are_none(op):
    kind = TensorProto.INT64 if op == "Add" else TensorProto.FLOAT
    nodes = [helper.make_node(op, ["x", "ids"], ["y"])]
    proto = models.model(
        nodes, [models.value("x", [4], kind), models.value("ids", [4], TensorProto.INT64)],
        [models.value("y", [4], kind)],
    )  # fmt: skip
    assert shape_inputs.find(proto) == set()


def test_a_size_inside_a_branch_counts():
    body = helper.make_graph([helper.make_node("Expand", ["x", "sizes"], ["t"])], "then", [], [models.value("t", None)])
    plain = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [models.value("e", None)])
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=plain)]
    inputs = [models.value("x", [1, 1]), models.value("c", [], TensorProto.BOOL),
              models.value("sizes", [2], TensorProto.INT64)]  # fmt: skip
    assert shape_inputs.find(models.model(nodes, inputs, [models.value("y", None)])) == {"sizes"}
