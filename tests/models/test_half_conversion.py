"""The conversion to float16 and bfloat16, subgraphs included."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import onnx_models as models
from tests.models.helpers import rewrite, types
from trtpipe.models import (
    bfloat16,
)

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")


def test_a_body_stays_float32_and_reads_float32_from_outside(tmp_path):
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
    record, made = rewrite(proto, tmp_path)
    assert record.check.outputs["y"].relative_l2 < 0.01
    assert [(kept.node, kept.why) for kept in record.kept] == [("if", "its bodies stay float32")]
    assert types(made) == {"w": "float32"}
    assert "Relu" in [n.op_type for n in made.graph.node if n.input[0] == "x__half"]


def widths(made):
    """Give the ops of a model that compute in half precision."""
    typed = onnx.shape_inference.infer_shapes(made, data_prop=True)
    half = {v.name for v in typed.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    return {n.op_type for n in made.graph.node if half & {*n.output} and n.op_type != "Cast"}


@pytest.mark.parametrize("op", ["Celu", "IsInf"])
def test_what_onnx_defines_for_float32_only_stays_so_between_casts(tmp_path, op):
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["m"], name="before"),
        helper.make_node(op, ["m"], ["o"], name="only"),
        helper.make_node("Cast", ["o"], ["f"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Add", ["f", "two"], ["y"], name="after"),
    ]
    ends = [models.value("x", [1, 2, 4, 4])], [models.value("y", [1, 2, 4, 4])]
    record, made = rewrite(models.model(nodes, *ends, {"two": np.full(1, 2, np.float32)}), tmp_path)
    assert [(kept.node, kept.why) for kept in record.kept if kept.node == "only"] == [
        ("only", f"ONNX defines it for float32 only at opset {made.opset_import[0].version}")
    ]
    assert {"Mul", "Add"} & widths(made)


def test_weights_and_constants_that_are_outputs_keep_their_type_and_value(tmp_path):
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["y"], name="mul"),
        helper.make_node("Mul", ["w", "w"], ["squares"], name="squares"),
    ]
    outputs = [models.value(name, [3]) for name in ("y", "w", "squares")]
    weight = np.array([1 / 3, 2, 1e6], np.float32)
    record, made = rewrite(models.model(nodes, [models.value("x", [3])], outputs, {"w": weight}), tmp_path)
    assert {v.name: v.type.tensor_type.elem_type for v in made.graph.output} == dict.fromkeys(("y", "w", "squares"), 1)
    (held,) = [t for t in made.graph.initializer if t.name == "w"]
    np.testing.assert_array_equal(numpy_helper.to_array(held), weight)
    assert record.check.outputs["w"].relative_l2 == 0


def test_local_functions_are_inlined_and_converted(tmp_path):
    body = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    proto = models.model([helper.make_node("Twice", ["x"], ["t"], domain="mine", name="twice"),
                          helper.make_node("Relu", ["t"], ["y"], name="relu")],
                         [models.value("x", [3])], [models.value("y", [3])], domains=("mine",))  # fmt: skip
    proto.functions.append(body)
    record, made = rewrite(proto, tmp_path)
    assert (record.kept, widths(made), list(made.functions)) == ((), {"Add", "Relu"}, [])


def test_sizes_and_scales_that_onnx_wants_in_float32_stay_so(tmp_path):
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["r"], name="resize", mode="nearest"),
             helper.make_node("Relu", ["r"], ["y"], name="relu")]  # fmt: skip
    ends = [models.value("x", [1, 1, 2, 2])], [models.value("y", [1, 1, 4, 4])]
    _, made = rewrite(models.model(nodes, *ends, {"scales": np.array([1, 1, 2, 2], np.float32)}), tmp_path)
    assert types(made) == {"scales": "float32"}
    assert widths(made) == {"Resize", "Relu"}


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


def test_an_lstm_with_peepholes_and_a_mean_variance_normalization_stay_float32(tmp_path):
    random = np.random.default_rng(0)
    weights = {"W": random.standard_normal((1, 8, 3)), "R": random.standard_normal((1, 8, 2)), "P": np.ones((1, 6))}
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R", "", "", "", "", "P"], ["o"], name="lstm", hidden_size=2),
        helper.make_node("MeanVarianceNormalization", ["o"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["y"], name="relu"),
    ]
    proto = models.model(nodes, [models.value("x", [5, 1, 3])], [models.value("y", [5, 1, 1, 2])],
                         {name: value.astype(np.float32) for name, value in weights.items()})  # fmt: skip
    record, made = rewrite(proto, tmp_path)
    why = "TensorRT-RTX refuses an LSTM with peepholes in half precision"
    assert [(kept.node, kept.why) for kept in record.kept] == [("lstm", why)]
    assert record.ops_kept == ("MeanVarianceNormalization",)
    assert widths(made) == {"Relu"}


def test_ops_that_tensorrt_refuses_in_bfloat16_stay_float32(tmp_path):
    nodes = [helper.make_node("HardSwish", ["x"], ["y"], name="act")]
    proto = models.model(nodes, [models.value("x", [4])], [models.value("y", None)])
    record, _ = rewrite(proto, tmp_path, "bf16")
    assert record.ops_kept == ("HardSwish",)
