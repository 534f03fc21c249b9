"""What `build` and `init` find out of a model by trying."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests import onnx_models
from trtpipe.cli import drafted
from trtpipe.models import outline
from trtpipe.store.state import State


@pytest.fixture
def state(tmp_path):
    with State(str(tmp_path)) as opened:
        yield opened


def found(tmp_path, state, nodes, dims, out, weights=None, rows=4):  # noqa: PLR0917
    model = onnx_models.model(nodes, [onnx_models.value("x", dims)], [onnx_models.value("y", out)], weights)
    path = str(onnx_models.save(model, tmp_path / "m.onnx"))
    return drafted.batch_axes(path, outline.read(path, state), {"x": [rows, 3]}, state)


def test_the_batch_of_fixed_axes_is_found_by_reversed_samples(tmp_path, state):
    node = helper.make_node("Relu", ["x"], ["y"])
    assert found(tmp_path, state, [node], [4, 3], [4, 3]) == {"x": 0, "y": 0}


def test_a_named_batch_is_followed_into_outputs_whose_names_say_nothing(tmp_path, state):
    nodes = [helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0]), helper.make_node("Relu", ["x"], ["z"])]
    sides = [onnx_models.value("x", [3, "batch"])], [onnx_models.value("y", None), onnx_models.value("z", None)]
    path = str(onnx_models.save(onnx_models.model(nodes, *sides), tmp_path / "m.onnx"))
    read = outline.read(path, state)
    nameless = tuple(one._replace(dims=("a", "b")) for one in read.outputs)  # as where shape inference gets stuck
    axes = drafted.batch_axes(path, read._replace(outputs=nameless), {"x": [3, 4]}, state)
    assert axes == {"y": 0, "z": 1}


def test_a_batch_that_is_moved_to_another_axis_is_found_there(tmp_path, state):
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])
    assert found(tmp_path, state, [node], [4, 3], [3, 4]) == {"x": 0, "y": 1}


def test_an_output_that_mixes_samples_has_no_batch(tmp_path, state):
    nodes = [helper.make_node("MatMul", ["w", "x"], ["y"])]
    weights = {"w": np.random.default_rng(0).random((4, 4), np.float32)}
    assert found(tmp_path, state, nodes, [4, 3], [4, 3], weights) == {}


def test_where_names_say_it_nothing_is_said(tmp_path, state):
    node = helper.make_node("Relu", ["x"], ["y"])
    assert found(tmp_path, state, [node], ["batch", 3], ["batch", 3]) == {}


def test_one_sample_needs_no_answer(tmp_path, state):
    node = helper.make_node("Relu", ["x"], ["y"])
    assert found(tmp_path, state, [node], [1, 3], [1, 3], rows=1) == {}


def test_an_answer_is_remembered(tmp_path, state, monkeypatch):
    node = helper.make_node("Relu", ["x"], ["y"])
    first = found(tmp_path, state, [node], [4, 3], [4, 3])
    monkeypatch.setattr(drafted, "_reversed", lambda *_: pytest.fail("tried again"))
    assert found(tmp_path, state, [node], [4, 3], [4, 3]) == first


def test_a_runtime_that_makes_plans_comes_first_unless_an_onnx_file_is_wanted(monkeypatch):
    monkeypatch.setattr(drafted.environment, "gpus", lambda: ())
    monkeypatch.setattr(drafted.environment, "runtime_version", {"tensorrt_rtx": "1.7", "onnxruntime": "1.2"}.get)
    assert drafted.choose(None, None).backend == "tensorrt_rtx"
    assert drafted.choose(None, "a.onnx").backend == "onnxruntime"
    assert drafted.choose("onnxruntime", None).backend == "onnxruntime"
