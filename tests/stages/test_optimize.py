"""optimize: a simpler model with the same results, and a step that changes them is refused."""

from __future__ import annotations

import importlib.util
import json

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper

from tests import onnx_models as models
from tests.helpers import run_stage
from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.models import ort_cpu
from trtpipe.stages.optimize import OptimizeParams

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")
SLIM = importlib.util.find_spec("onnxslim") is not None


def optimize(tmp_path, proto, notes=None, **params):
    path = models.save(proto, tmp_path / "in" / "model.onnx")
    out = run_stage("optimize", params, {"model": path}, tmp_path, notes=notes)
    return onnx.load(out / "model.onnx"), json.loads((out / "optimize.json").read_text()), out / "model.onnx"


def folding():
    """A Conv whose weights are computed from constants, in a model that lists its weights as inputs."""
    proto = models.conv()
    proto.graph.node[0].input[1] = "w2"
    proto.graph.node.insert(0, helper.make_node("Mul", ["w", "w"], ["w2"], name="square"))
    for tensor in proto.graph.initializer:
        proto.graph.input.append(models.value(tensor.name, list(tensor.dims)))
    return proto


def test_constants_and_batch_norms_are_folded_and_results_stay(tmp_path):
    model, record, path = optimize(tmp_path, folding())
    assert [n.op_type for n in model.graph.node] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "MatMul"]
    assert [v.name for v in model.graph.input] == ["image"]
    assert record["nodes"]["before"]["BatchNormalization"] == 1
    assert record["steps"][0]["outputs"]["logits"]["relative_l2"] < 1e-5
    feed = {"image": np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)}
    before, after = (ort_cpu.run(p, feed)["logits"] for p in (tmp_path / "in" / "model.onnx", path))
    assert np.allclose(before, after, rtol=1e-4, atol=1e-4)


def test_an_axis_is_frozen_and_another_one_renamed(tmp_path):
    model, record, _ = optimize(tmp_path, models.conv("?"), dims={"image": ["rows", 3, 8, 8]})
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"
    model, record, _ = optimize(tmp_path, models.conv(), dims={"image": [4, 3, 8, 8]}, fold=False)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert [s["step"] for s in record["steps"]] == ["dims"]


def test_dims_that_a_fixed_model_cannot_take_are_remarked_and_the_rest_is_checked_against_the_new_one(tmp_path):
    notes = []
    _, record, _ = optimize(tmp_path, models.conv(10), notes, dims={"image": [2, 3, 8, 8]})
    assert "unchecked" in record["steps"][0]
    assert record["steps"][1]["outputs"]["logits"]["relative_l2"] < 1e-5
    assert notes[0] == "the original cannot take these dims, so that they cannot be checked against it"


def test_dims_that_break_the_model_fail(tmp_path):
    with pytest.raises(StageFailed, match=r"dims: the model does not run with them: \S"):
        optimize(tmp_path, models.conv(10), dims={"image": [2, 4, 8, 8]})


def test_the_opset_is_raised_and_checked(tmp_path):
    model, record, _ = optimize(tmp_path, models.conv(), opset=19, fold=False)
    assert model.opset_import[0].version == 19
    assert record["steps"][0] | {"outputs": None} == {"step": "opset", "from": 17, "to": 19, "outputs": None}


def test_an_opset_that_the_model_has_already_is_a_remark(tmp_path):
    notes = []
    optimize(tmp_path, models.conv(), notes, opset=13)
    assert notes[0] == "opset 13 asked for, the model has 17 already"


def test_unknown_inputs_are_named(tmp_path):
    with pytest.raises(StageFailed, match="has no input 'x'; it has image"):
        optimize(tmp_path, models.conv(), dims={"x": [1]})


def test_params_that_ask_for_nothing_are_a_mistake():
    def found(**params):
        return [where for where, _ in msgspec.convert(params, OptimizeParams).problems()]

    assert found(fold=False) == ["fold"]
    assert found(dims={"x": ["?"]}) == ["dims.x[0]"]


@pytest.mark.skipif(SLIM, reason="onnxslim is installed here")
def test_without_onnxslim_the_command_that_installs_it_is_told(tmp_path):
    with pytest.raises(EnvironmentMissing, match=r"pip install 'trtpipe\[onnxslim\]'"):
        optimize(tmp_path, models.conv(), simplify="onnxslim")


@pytest.mark.skipif(not SLIM, reason="onnxslim is not installed: pip install 'trtpipe[onnxslim]'")
def test_onnxslim_simplifies_and_is_checked(tmp_path):
    _, record, _ = optimize(tmp_path, folding(), simplify="onnxslim")
    assert record["steps"][-1]["step"] == "onnxslim"
