from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from tests import onnx_models as models
from trtpipe.errors import StageFailed
from trtpipe.models import onnxgraph, opset


def answers(model, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def one(node, outputs=("y",), weights=None):
    return models.model([node], [models.value("x", [2, 4, 6])], [models.value(o, None) for o in outputs], weights,
                        opset=18)  # fmt: skip


AXES = {"axes": np.array([1, -1], np.int64)}
CASES = {
    **{
        op: one(helper.make_node(op, ["x", "axes"], ["y"], keepdims=0), weights=AXES)
        for op in sorted(opset.REDUCE - {"ReduceLogSum"})
    },
    "ReduceMean over all": one(helper.make_node("ReduceMean", ["x"], ["y"])),
    "ReduceMean over nothing": one(helper.make_node("ReduceMean", ["x"], ["y"], noop_with_empty_axes=1)),
    "Pad": one(helper.make_node("Pad", ["x", "p"], ["y"], mode="reflect"),
               weights={"p": np.array([0, 1, 1, 0, 1, 1], np.int64)}),
    "Mish": one(helper.make_node("Mish", ["x"], ["y"], name="m")),
    "Split": one(helper.make_node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2), ("y", "z")),
    "Resize": one(helper.make_node("Resize", ["x", "", "s"], ["y"], antialias=0, mode="linear"),
                  weights={"s": np.array([1, 1, 2], np.float32)}),
    "Softmax, which did not change": one(helper.make_node("Softmax", ["x"], ["y"])),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_lowered_graph_is_valid_at_opset_17_and_computes_the_same(name):
    model = onnx.ModelProto.FromString(CASES[name].SerializeToString())
    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    # Reducing over nothing is the identity; onnxruntime 1.21 itself fails on it.
    before = [x] if name == "ReduceMean over nothing" else answers(model, x)
    opset.to_opset_17(model)
    assert onnxgraph.opsets(model) == {"ai.onnx": 17}
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)
    for want, found in zip(before, answers(model, x), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)
    assert "axes" not in {t.name for t in model.graph.initializer}


def test_every_node_that_opset_17_cannot_say_is_listed():
    model = models.model(
        [
            helper.make_node("BitwiseNot", ["i"], ["a"], name="flip"),
            helper.make_node("Resize", ["x", "", "s"], ["b"], name="smooth", antialias=1, mode="linear"),
            helper.make_node("ReduceMean", ["x", "i"], ["c"], name="computed"),
        ],
        [models.value("x", [2, 4, 6]), models.value("i", [1], onnx.TensorProto.INT64)],
        [models.value("a", [1], onnx.TensorProto.INT64), models.value("b", None), models.value("c", None)],
        {"s": np.array([1, 1, 2], np.float32)},
        opset=18,
    )
    with pytest.raises(StageFailed) as caught:
        opset.to_opset_17(model)
    text = str(caught.value)
    assert "flip (BitwiseNot): the operator came with opset 18" in text
    assert "smooth (Resize): it resizes with antialias" in text
    assert "computed (ReduceMean): its input i is computed" in text


def test_subgraphs_are_lowered_too():
    inner = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0)], "t", [], [models.value("m", None)]
    )
    other = helper.make_graph([helper.make_node("ReduceMax", ["x", "axes"], ["k"], keepdims=0)], "e", [],
                              [models.value("k", None)])  # fmt: skip
    model = models.model(
        [
            helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", onnx.TensorProto.BOOL, [], [True])),
            helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other),
        ],
        [models.value("x", [2, 4, 6])],
        [models.value("y", None)],
        AXES,
        opset=18,
    )
    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    opset.to_opset_17(model)
    np.testing.assert_allclose(answers(model, x)[0], x.mean((1, 2)), rtol=1e-5)


def test_another_opset_is_refused():
    with pytest.raises(StageFailed, match="expected a model of opset 18"):
        opset.to_opset_17(models.conv())
