"""Inputs, outputs and dims as the file declares them and as shape inference finds them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests import made
from tests import onnx_models as models
from trtpipe.documents.network import Tensor
from trtpipe.errors import StageFailed
from trtpipe.models import (
    signature,
)


def test_a_description_counts_parameters_and_names_axes():
    found = made.described(models.conv())
    assert found.inputs == (Tensor(name="image", dtype="float32", dims=("batch", 3, 8, 8)),)
    assert found.outputs == (Tensor(name="logits", dtype="float32", dims=("batch", 5)),)
    assert found.parameters == 4 * 27 + 4 * 4 + 20
    assert found.parameter_bytes == found.parameters * 4
    assert found.dtypes == {"float32": found.parameter_bytes}
    assert (found.opset, found.ir_version) == ({"ai.onnx": 17}, 8)


def test_weights_in_constant_nodes_are_parameters_too():
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT16, [3, 2], [0.5] * 6)
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("Mul", ["x", "w"], ["y"])]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, [3, 2]) for name in "xy"]
    found = made.described(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:])))
    assert (found.parameters, found.dtypes) == (6, {"float16": 12})


def test_unnamed_axes_get_names_that_reach_the_outputs():
    inputs, outputs = signature.of(models.doubling([None, 3]))
    assert inputs[0].dims == ("x_0", 3)
    assert outputs[0].dims == ("x_0", 3)


def test_an_output_axis_is_named_after_the_input_axis_whatever_the_exporter_called_it():
    model = models.doubling(["n", 3])
    model.graph.output[0].CopyFrom(models.value("y", ["DynamicDimension.7", 3]))
    assert signature.of(model)[1][0].dims == ("n", 3)


def test_an_output_without_any_shape_has_no_dims():
    model = models.model(
        [helper.make_node("Mystery", ["x"], ["y"], domain="org.example")],
        [models.value("x", ["n"])],
        [models.value("y", None)],
        domains=("org.example",),
    )
    assert signature.of(model)[1] == (Tensor(name="y", dtype="float32", dims=None),)


def test_weights_that_old_models_list_as_inputs_are_no_inputs():
    model = models.model([helper.make_node("Add", ["x", "b"], ["y"])], [models.value("x", [2]), models.value("b", [2])],
                         [models.value("y", [2])], {"b": np.ones(2, np.float32)})  # fmt: skip
    model.ir_version = 3
    assert [v.name for v in signature.graph_inputs(model)] == ["x"]
    assert signature.of(model)[1][0].dims == (2,)


def test_declaring_dims_changes_what_follows_from_them():
    model = models.conv(10)
    signature.set_dims(model, {"image": ["batch", 3, "height", "width"]}, label="m")
    inputs, outputs = signature.of(model)
    assert inputs[0].dims == ("batch", 3, "height", "width")
    assert outputs[0].dims == ("batch", 5)
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_declaring_dims_of_what_is_not_there_lists_what_is():
    with pytest.raises(StageFailed, match=r"m has no input 'picture'; it has image\nm: .*image has 4 axes, found 1"):
        signature.set_dims(models.conv(), {"picture": [1], "image": [1]}, label="m")


def test_a_batch_whose_name_is_lost_on_the_way_is_found_by_its_length():
    """Shape inference follows numbers through the product and the Reshape, and no names."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Mul", ["rows", "one"], ["same"]),
        helper.make_node("Concat", ["rest", "same", "last"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["x", "wanted"], ["y"]),
    ]
    weights = {"first": np.array([0]), "one": np.array([1]), "rest": np.array([2]), "last": np.array([3])}
    proto = models.model(nodes, [models.value("x", ["n", 6])], [models.value("y", [None, None, None])], weights)
    assert signature.of(proto)[1][0].dims == (2, "n", 3)
