from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import onnx_models as models
from tests.backends.trt.rtx import needs_rtx
from tests.helpers import run_stage
from trtpipe.errors import StageFailed
from trtpipe.stage import Input


def parse(given, tmp_path, notes=None, **params):
    return run_stage("parse", params, {"model": given}, tmp_path, notes=notes)


def network(folder):
    return json.loads((folder / "network.json").read_text())


def added(weights):
    return models.model([helper.make_node("Add", ["x", "b"], ["y"])], [models.value("x", list(weights.shape))],
                        [models.value("y", list(weights.shape))], {"b": weights})  # fmt: skip


def test_a_network_is_described_beside_its_model(tmp_path):
    path = models.save(models.conv(), tmp_path / "in" / "digits.onnx")
    out = parse(path, tmp_path)
    assert (out / "model.onnx").read_bytes() == path.read_bytes()
    assert (out / "model.onnx").stat().st_ino != path.stat().st_ino
    found = network(out)
    assert found["inputs"] == [{"name": "image", "dtype": "float32", "dims": ["batch", 3, 8, 8]}]
    assert found["outputs"] == [{"name": "logits", "dtype": "float32", "dims": ["batch", 5]}]
    assert found["runtime"] == "onnxruntime"
    assert found["layers"]["Conv"] == found["nodes"]["Conv"] == 1
    assert set(found) == {
        "inputs", "outputs", "nodes", "layers", "opset", "ir_version", "producer", "parameters", "parameter_bytes",
        "dtypes", "runtime", "runtime_version", "metadata", "format",
    }  # fmt: skip


def test_external_data_comes_along(tmp_path):
    path = models.with_external(tmp_path / "in" / "m.onnx", models.conv())
    given = Input(name="model", kind="file", folder=path.parent, files=("m.onnx", "weights.bin"), label="m.onnx")
    out = parse(given, tmp_path)
    assert sorted(p.name for p in out.iterdir()) == ["model.onnx", "network.json", "weights.bin"]
    assert network(out)["parameters"] > 0


def test_external_data_outside_its_folder_is_refused_by_name(tmp_path):
    path = models.with_external(tmp_path / "in" / "m.onnx", models.conv())
    model = onnx.load_model(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../weights.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(StageFailed, match=r"m\.onnx: external data '../../weights\.bin'.* outside the model's folder"):
        parse(path, tmp_path)


def test_a_torn_model_is_refused_by_name(tmp_path):
    path = models.save(models.conv(), tmp_path / "torn.onnx")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(StageFailed, match=r"torn\.onnx is no ONNX model, or a torn one \(500 bytes\)"):
        parse(path, tmp_path)


def test_two_axes_that_share_a_name_are_refused_with_the_way_out(tmp_path):
    path = models.save(models.doubling(["batch", 3, "?", "?"]), tmp_path / "m.onnx")
    with pytest.raises(StageFailed) as caught:
        parse(path, tmp_path)
    assert "input x [batch, 3, ?, ?]: axes 2, 3 share the name '?'" in str(caught.value)
    assert "params.dims: {x: [batch, 3, axis_2, axis_3]}" in str(caught.value)
    out = parse(path, tmp_path, dims={"x": ["batch", 3, "height", "width"]})
    assert network(out)["inputs"][0]["dims"] == ["batch", 3, "height", "width"]
    assert network(out)["outputs"][0]["dims"] == ["batch", 3, "height", "width"]
    model = onnx.load_model(str(out / "model.onnx"))
    assert [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "", "height", "width"]


def test_axes_that_really_are_one_may_share_a_name_when_it_is_said(tmp_path):
    path = models.save(models.doubling(["batch", "s", "s"]), tmp_path / "m.onnx")
    out = parse(path, tmp_path, dims={"x": ["batch", "s", "s"]})
    assert network(out)["inputs"][0]["dims"] == ["batch", "s", "s"]


def test_declaring_dims_leaves_the_input_artifact_as_it_was(tmp_path):
    folder = tmp_path / "artifact"
    path = models.save(models.conv(10), folder / "model.onnx")
    before = path.read_bytes()
    given = Input(name="model", kind="model", folder=folder, files=("model.onnx",), label="model")
    plain = parse(given, tmp_path)
    assert (plain / "model.onnx").stat().st_ino == path.stat().st_ino
    parse(given, tmp_path, dims={"image": ["batch", 3, "height", "width"]})
    assert path.read_bytes() == before


def test_an_axis_that_is_frozen_keeps_its_name_also_in_the_outputs(tmp_path):
    path = models.save(models.conv(), tmp_path / "m.onnx")
    out = run_stage("parse", {"dims": {"image": [4, 3, 8, 8]}}, {"model": path}, tmp_path)
    network = json.loads((out / "network.json").read_text())
    assert network["inputs"][0] | {"dtype": ""} == {
        "name": "image", "dtype": "", "dims": [4, 3, 8, 8], "names": ["batch", None, None, None]
    }  # fmt: skip
    assert (network["outputs"][0]["dims"], network["outputs"][0]["names"]) == ([4, 5], ["batch", None])
    again = run_stage("parse", {}, {"model": out / "model.onnx"}, tmp_path)
    assert json.loads((again / "network.json").read_text())["outputs"] == network["outputs"]


def test_nan_and_infinity_in_weights_are_named_and_counted(tmp_path):
    weights = np.ones((2, 3), np.float32)
    weights[0, 0], weights[1, 1], weights[1, 2] = np.nan, np.inf, np.inf
    path = models.save(added(weights), tmp_path / "m.onnx")
    with pytest.raises(StageFailed, match="weight b holds 1 NaN and 2 Inf among 6 values"):
        parse(path, tmp_path)
    notes = []
    parse(path, tmp_path, notes, strict_lints=False)
    assert notes == ["weight b holds 1 NaN and 2 Inf among 6 values; expected finite numbers"]


def test_an_attention_mask_of_minus_infinity_passes(tmp_path):
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    assert network(parse(models.save(added(mask), tmp_path / "m.onnx"), tmp_path))["parameters"] == 16


def test_all_findings_come_at_once(tmp_path):
    proto = models.model(
        [helper.make_node("Add", ["x", "b"], ["y"]), helper.make_node("Identity", ["s"], ["t"])],
        [models.value("x", ["n", "n"]), models.value("s", [1], TensorProto.STRING)],
        [models.value("y", ["n", "n"]), models.value("t", [1], TensorProto.STRING)],
        {"b": np.array([np.nan], np.float32)},
    )
    with pytest.raises(StageFailed) as caught:
        parse(models.save(proto, tmp_path / "m.onnx"), tmp_path)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1].split(" is ")[0].split(" holds")[0].strip()[:9] for line in lines] == [
        "input s", "output t", "weight b", "input x [",
    ]  # fmt: skip


def test_unnamed_axes_get_a_name(tmp_path):
    path = models.save(models.doubling([None, 3]), tmp_path / "m.onnx")
    found = network(parse(path, tmp_path))
    assert found["inputs"][0]["dims"] == found["outputs"][0]["dims"] == ["x_0", 3]


def test_metadata_of_the_model_is_kept(tmp_path):
    proto = models.doubling([2])
    helper.set_model_props(proto, {"character": "a\nb"})
    assert network(parse(models.save(proto, tmp_path / "m.onnx"), tmp_path))["metadata"] == {"character": "a\nb"}


def test_dims_with_odd_names_are_refused_before_anything_runs(tmp_path):
    path = models.save(models.doubling([None]), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"dims\.x\[0\]"):
        parse(path, tmp_path, dims={"x": ["?"]})


def test_probabilities_before_a_zipmap_are_the_way_on(tmp_path):
    nodes = [
        helper.make_node("LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", coefficients=[0.1, 0.2, -0.1,
                         -0.2], intercepts=[0.0, 0.1], classlabels_strings=["cat", "dog"], post_transform="SOFTMAX"),
        helper.make_node("ZipMap", ["p"], ["chances"], domain="ai.onnx.ml", classlabels_strings=["cat", "dog"]),
    ]  # fmt: skip
    mapped = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    chances = helper.make_value_info("chances", helper.make_sequence_type_proto(mapped))
    outputs = [models.value("label", ["n"], TensorProto.STRING), chances]
    proto = models.model(nodes, [models.value("x", ["n", 2])], outputs, domains=("ai.onnx.ml",))
    path = models.save(proto, tmp_path / "m.onnx")
    with pytest.raises(StageFailed, match=r"a ZipMap makes it of the tensor p: take that with .*{outputs: \[p\]}"):
        parse(path, tmp_path)
    out = parse(path, tmp_path, outputs=["p"])
    assert [(t["name"], t["dtype"]) for t in network(out)["outputs"]] == [("p", "float32")]


def test_outputs_that_nobody_wants_are_left_out_with_their_inputs(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Gather", ["names", "label"], ["text"])]
    proto = models.model(
        nodes, [models.value("x", ["n"]), models.value("label", [1], TensorProto.INT64)],
        [models.value("y", ["n"]), models.value("text", [1], TensorProto.STRING)],
        {"names": np.array(["a", "b"], object)},
    )  # fmt: skip
    path = models.save(proto, tmp_path / "m.onnx")
    with pytest.raises(
        StageFailed, match=r"output text is of type string; .*; leave it out with params: {outputs: \[y\]}"
    ):
        parse(path, tmp_path)
    notes = []
    out = parse(path, tmp_path, notes, outputs=["y"])
    assert [t["name"] for t in network(out)["outputs"]] == ["y"]
    assert [t["name"] for t in network(out)["inputs"]] == ["x"]
    assert notes == ["the inputs label go too: only outputs that are left out need them"]


def test_an_input_without_a_shape_is_refused_and_dims_give_it_one(tmp_path):
    proto = models.model([helper.make_node("Relu", ["x"], ["y"])], [models.value("x", None)], [models.value("y", None)])
    path = models.save(proto, tmp_path / "m.onnx")
    with pytest.raises(
        StageFailed, match=r"input x has no shape in the model.*params\.dims, such as {x: \[batch, 3\]}"
    ):
        parse(path, tmp_path)
    assert network(parse(path, tmp_path, dims={"x": ["n", 4]}))["outputs"][0]["dims"] == ["n", 4]


@needs_rtx
def test_an_output_that_is_an_input_is_refused_on_tensorrt_with_the_way_out(tmp_path):
    proto = models.model([helper.make_node("Relu", ["x"], ["y"])], [models.value("x", [2]), models.value("ids", [2])],
                         [models.value("y", [2]), models.value("ids", [2])])  # fmt: skip
    path = models.save(proto, tmp_path / "m.onnx")
    with pytest.raises(StageFailed, match=r"ids is both an input and an output.*{outputs: \[y\]}"):
        run_stage("parse", {}, {"model": path}, tmp_path, backend="tensorrt_rtx")


@needs_rtx
def test_float64_is_float32_to_tensorrt_and_that_is_told(tmp_path):
    path = models.save(models.doubling([2], TensorProto.DOUBLE), tmp_path / "m.onnx")
    notes = []
    run_stage("parse", {}, {"model": path}, tmp_path, backend="tensorrt_rtx", notes=notes)
    assert notes == [
        f"{mode} is float64 in the model and float32 to tensorrt_rtx, with fewer digits"
        for mode in ("input x", "output y")
    ]
