from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import onnx_models as models
from trtpipe.errors import StageFailed
from trtpipe.models import dtypes, external_data, onnxfile, onnxgraph, signature


def test_a_model_is_loaded_without_its_external_data(tmp_path):
    path = models.with_external(tmp_path / "m.onnx", models.conv())
    model = onnxfile.load(path)
    assert all(not t.raw_data for t in model.graph.initializer)
    assert external_data.external_files(model, tmp_path, label="m.onnx") == ("weights.bin",)
    assert onnxfile.external_locations(path) == ["weights.bin"]


@pytest.mark.parametrize("rubbish", [b"", b"hello, I am no model\n" * 20, b"\x00" * 64, b"\x08\x08"])
def test_what_is_no_model_is_refused_with_its_name(tmp_path, rubbish):
    (tmp_path / "m.onnx").write_bytes(rubbish)
    with pytest.raises(StageFailed, match=r"^m\.onnx is (empty|no ONNX model)"):
        onnxfile.load(tmp_path / "m.onnx")
    assert onnxfile.external_locations(tmp_path / "m.onnx") == []


def test_a_model_torn_at_any_place_is_refused_or_has_lost_its_outputs(tmp_path):
    whole = models.conv().SerializeToString()
    for size in range(1, len(whole) - 8, 37):
        (tmp_path / "m.onnx").write_bytes(whole[:size])
        with pytest.raises(StageFailed, match="torn"):
            onnxfile.load(tmp_path / "m.onnx")


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(StageFailed, match=r"m\.onnx cannot be read: No such file"):
        onnxfile.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("location", ["/etc/hostname", "../weights.bin", "a/../../weights.bin"])
def test_external_data_that_points_outside_is_refused(tmp_path, location):
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    (tmp_path / "in").mkdir()
    path = models.with_external(tmp_path / "in" / "m.onnx", models.conv())
    model = onnxfile.load(path)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    with pytest.raises(StageFailed, match=r"m\.onnx: external data .* points outside the model's folder"):
        external_data.external_files(model, path.parent, label="m.onnx")


def test_external_data_that_is_missing_torn_or_a_link_out_is_refused(tmp_path):
    path = models.with_external(tmp_path / "in" / "m.onnx", models.conv())
    model = onnxfile.load(path)
    data = path.parent / "weights.bin"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(StageFailed, match=r"weights\.bin' is torn: tensor \w+ ends at byte \d+, the file at byte \d+"):
        external_data.external_files(model, path.parent, label="m.onnx")
    data.unlink()
    with pytest.raises(StageFailed, match=r"weights\.bin' \(tensor \w+\) is missing"):
        external_data.external_files(model, path.parent, label="m.onnx")
    (tmp_path / "elsewhere").write_bytes(whole)
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StageFailed, match="is a link that leaves the model's folder"):
        external_data.external_files(model, path.parent, label="m.onnx")


def test_external_data_that_the_key_does_not_know_is_refused(tmp_path):
    path = models.with_external(tmp_path / "m.onnx", models.conv())
    with pytest.raises(StageFailed, match="not among the input's files"):
        external_data.external_files(onnxfile.load(path), tmp_path, label="m.onnx", known=("m.onnx",))


def test_a_copied_model_keeps_its_external_data_and_runs(tmp_path):
    path = models.with_external(tmp_path / "a" / "m.onnx", models.conv())
    (tmp_path / "b").mkdir()
    onnxfile.copy_model(path, tmp_path / "b", ("weights.bin",), link=False)
    assert (tmp_path / "b" / "model.onnx").stat().st_ino != path.stat().st_ino
    onnx.checker.check_model(str(tmp_path / "b" / "model.onnx"), full_check=True)


def test_external_data_may_not_take_the_artifacts_own_names(tmp_path):
    path = models.with_external(tmp_path / "a" / "m.onnx", models.conv(), "network.json")
    with pytest.raises(StageFailed, match=r"called network\.json"):
        onnxfile.copy_model(path, tmp_path, ("network.json",), link=False)


def test_saved_weights_go_outside_above_the_limit_and_read_back_equal(tmp_path):
    model = models.conv()
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    onnxfile.save(model, tmp_path / "model.onnx", limit=100)
    first = [(tmp_path / n).read_bytes() for n in ("model.onnx", "model.onnx.data")]
    onnxfile.save(models.conv(), tmp_path / "model.onnx", limit=100)
    assert first == [(tmp_path / n).read_bytes() for n in ("model.onnx", "model.onnx.data")]
    loaded = onnxfile.load(tmp_path / "model.onnx")
    # A tensor below 1 KiB stays inside, so make one that does not.
    big = models.model([helper.make_node("Add", ["x", "b"], ["y"])], [models.value("x", [600])],
                       [models.value("y", [600])], {"b": np.arange(600, dtype=np.float32)})  # fmt: skip
    onnxfile.save(big, tmp_path / "big.onnx", limit=100)
    again = onnxfile.load(tmp_path / "big.onnx")
    assert external_data.external_files(again, tmp_path, label="big") == ("big.onnx.data",)
    np.testing.assert_array_equal(external_data.array(again.graph.initializer[0], tmp_path), np.arange(600))
    onnx.checker.check_model(str(tmp_path / "big.onnx"), full_check=True)
    for tensor in loaded.graph.initializer:
        np.testing.assert_array_equal(external_data.array(tensor, tmp_path), before[tensor.name])


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
    assert signature.describe(model)["nodes"] == {"If": 1, "Neg": 1, "Relu": 1}


def test_a_description_counts_parameters_and_names_axes():
    found = signature.describe(models.conv())
    assert found["inputs"] == [{"name": "image", "dtype": "float32", "dims": ["batch", 3, 8, 8]}]
    assert found["outputs"] == [{"name": "logits", "dtype": "float32", "dims": ["batch", 5]}]
    assert found["parameters"] == 4 * 27 + 4 * 4 + 20
    assert found["parameter_bytes"] == found["parameters"] * 4
    assert found["dtypes"] == {"float32": found["parameter_bytes"]}
    assert (found["opset"], found["ir_version"]) == ({"ai.onnx": 17}, 8)


def test_weights_in_constant_nodes_are_parameters_too():
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT16, [3, 2], [0.5] * 6)
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("Mul", ["x", "w"], ["y"])]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, [3, 2]) for name in "xy"]
    found = signature.describe(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:])))
    assert (found["parameters"], found["dtypes"]) == (6, {"float16": 12})


def test_unnamed_axes_get_names_that_reach_the_outputs():
    inputs, outputs = signature.of(models.doubling([None, 3]))
    assert inputs[0]["dims"] == ["x_0", 3]
    assert outputs[0]["dims"] == ["x_0", 3]


def test_an_output_axis_is_named_after_the_input_axis_whatever_the_exporter_called_it():
    model = models.doubling(["n", 3])
    model.graph.output[0].CopyFrom(models.value("y", ["DynamicDimension.7", 3]))
    assert signature.of(model)[1][0]["dims"] == ["n", 3]


def test_an_output_without_any_shape_has_no_dims():
    model = models.model(
        [helper.make_node("Mystery", ["x"], ["y"], domain="org.example")],
        [models.value("x", ["n"])],
        [models.value("y", None)],
        domains=("org.example",),
    )
    assert signature.of(model)[1] == [{"name": "y", "dtype": "float32", "dims": None}]


def test_weights_that_old_models_list_as_inputs_are_no_inputs():
    model = models.model([helper.make_node("Add", ["x", "b"], ["y"])], [models.value("x", [2]), models.value("b", [2])],
                         [models.value("y", [2])], {"b": np.ones(2, np.float32)})  # fmt: skip
    model.ir_version = 3
    assert [v.name for v in signature.graph_inputs(model)] == ["x"]
    assert signature.of(model)[1][0]["dims"] == [2]


def test_declaring_dims_changes_what_follows_from_them():
    model = models.conv(10)
    signature.set_dims(model, {"image": ["batch", 3, "height", "width"]}, label="m")
    inputs, outputs = signature.of(model)
    assert inputs[0]["dims"] == ["batch", 3, "height", "width"]
    assert outputs[0]["dims"] == ["batch", 5]
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_declaring_dims_of_what_is_not_there_lists_what_is():
    with pytest.raises(StageFailed, match=r"m has no input 'picture'; it has image\nm: .*image has 4 axes, found 1"):
        signature.set_dims(models.conv(), {"picture": [1], "image": [1]}, label="m")


@pytest.mark.parametrize("external", [False, True])
def test_values_that_are_not_finite_are_counted(tmp_path, external):
    weights = np.ones((4, 4), np.float32)
    weights[0, 0], weights[1, 1], weights[2, 2] = np.nan, np.inf, -np.inf
    model = models.model([helper.make_node("Add", ["x", "b"], ["y"])], [models.value("x", [4, 4])],
                         [models.value("y", [4, 4])], {"b": weights})  # fmt: skip
    path = tmp_path / "m.onnx"
    if external:
        models.with_external(path, model)
    else:
        models.save(model, path)
    assert external_data.not_finite(onnxfile.load(path).graph.initializer[0], tmp_path) == (1, 2, False)


def test_an_attention_mask_is_known_by_its_zeros_and_infinities(tmp_path):
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    assert external_data.not_finite(numpy_helper.from_array(mask), tmp_path) == (0, 6, True)
    assert external_data.not_finite(numpy_helper.from_array(mask + 1), tmp_path) == (0, 6, False)


def test_dtypes_have_numpys_names():
    assert dtypes.dtype_name(TensorProto.FLOAT) == "float32"
    assert dtypes.dtype_name(TensorProto.BFLOAT16) == "bfloat16"
    assert dtypes.dtype_name(TensorProto.INT64) == "int64"
    assert dtypes.dtype_name(TensorProto.STRING) == "string"
