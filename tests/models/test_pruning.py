"""Outputs that are left out take with them what only they need."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests import onnx_models as models
from trtpipe.errors import StageFailed
from trtpipe.models import ort_cpu, pruning


def two_ends():
    """y = x + w; texts come of labels and are nobody's business; both is read by both; nothing reads idle."""
    nodes = [
        helper.make_node("Add", ["x", "both"], ["y"]),
        helper.make_node("Gather", ["names", "labels"], ["texts"]),
        helper.make_node("Add", ["both", "only"], ["z"]),
    ]
    weights = {"both": np.ones(2, np.float32), "only": np.ones(2, np.float32), "names": np.array(["a", "b"], object)}
    inputs = [models.value("x", [2]), models.value("labels", [1], TensorProto.INT64), models.value("idle", [1])]
    outputs = [models.value("y", [2]), models.value("texts", [1], TensorProto.STRING), models.value("z", [2])]
    return models.model(nodes, inputs, outputs, weights)


def test_what_only_they_need_goes_too_and_the_rest_computes_as_before():
    proto = two_ends()
    x = np.array([1, 2], np.float32)
    assert pruning.keep_outputs(proto, ["y"], label="m") == ["labels"]
    assert [n.op_type for n in proto.graph.node] == ["Add"]
    assert [t.name for t in proto.graph.initializer] == ["both"]
    assert [v.name for v in proto.graph.input] == ["x", "idle"]
    made = ort_cpu.run(proto.SerializeToString(), {"x": x, "idle": np.zeros(1, np.float32)})
    np.testing.assert_array_equal(made["y"], x + 1)


def test_outputs_come_in_the_order_that_was_asked_for():
    proto = two_ends()
    pruning.keep_outputs(proto, ["z", "y"], label="m")
    assert [v.name for v in proto.graph.output] == ["z", "y"]


def test_what_a_body_reads_stays():
    proto = models.branching()
    proto.graph.output.append(models.value("c", [], TensorProto.BOOL))
    pruning.keep_outputs(proto, ["y"], label="m")
    assert [n.op_type for n in proto.graph.node] == ["ReduceSum", "Greater", "If", "MatMul"]
    assert {t.name for t in proto.graph.initializer} == {"m", "z"}


def test_an_inner_tensor_becomes_an_output():
    proto = models.branching()
    inner = next(n.output[0] for n in proto.graph.node if n.op_type == "Greater")
    assert inner not in {v.name for v in proto.graph.output}
    pruning.keep_outputs(proto, [inner], label="m")
    assert [(v.name, v.type.tensor_type.elem_type) for v in proto.graph.output] == [(inner, TensorProto.BOOL)]
    assert [n.op_type for n in proto.graph.node] == ["ReduceSum", "Greater"]


def test_a_name_that_is_no_output_is_refused_with_those_there_are():
    with pytest.raises(StageFailed, match=r"m: outputs: found w, expected some of the model's outputs y, texts, z"):
        pruning.keep_outputs(two_ends(), ["w", "y"], label="m")
