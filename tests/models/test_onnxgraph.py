"""The walk over a graph and its subgraphs."""

from __future__ import annotations

from onnx import TensorProto, helper

from tests import made
from tests import onnx_models as models
from trtpipe.models import (
    onnxgraph,
)


def branch(name, op):
    return helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [models.value(name, [2])])


def test_the_walk_sees_nodes_in_subgraphs():
    model = models.model(
        [helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch("a", "Relu"),
                          else_branch=branch("b", "Neg"))],
        [models.value("c", [], TensorProto.BOOL), models.value("x", [2])],
        [models.value("y", [2])],
    )  # fmt: skip
    seen = {(f.node.op_type, f.scope) for f in onnxgraph.walk(model)}
    assert seen == {("If", ""), ("Neg", "choice/else_branch"), ("Relu", "choice/then_branch")}
    assert made.described(model).nodes == {"If": 1, "Neg": 1, "Relu": 1}
