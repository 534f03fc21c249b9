"""Sequences are run step by step, and what an engine remembers is fed back."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests import made
from tests import onnx_models as models
from tests.helpers import as_input, run_stage
from trtpipe import backends
from trtpipe.data import tensors
from trtpipe.errors import StageFailed

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")
RANDOM = np.random.default_rng(0)
STATE = {"state": "next"}


def remembering(batch="batch", length=4):
    """y [batch, 4] = x + the sum of two layers; next [2, batch, 4] = state / 2 + x, as a recurrent cell has it."""
    nodes = [
        helper.make_node("ReduceSum", ["state", "zero"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
        helper.make_node("Mul", ["state", "half"], ["less"]),
        helper.make_node("Slice", ["less", "zero", "end", "last"], ["cut"]),
        helper.make_node("Add", ["cut", "x"], ["next"] if length == 4 else ["whole"]),
    ]
    if length != 4:
        nodes.append(helper.make_node("Slice", ["whole", "zero", "short", "last"], ["next"]))
    weights = {"zero": np.array([0]), "half": np.array(0.5, np.float32), "end": np.array([4]), "last": np.array([2]),
               "short": np.array([length])}  # fmt: skip
    inputs = [models.value("x", [batch, 4]), models.value("state", [2, batch, 4])]
    outputs = [models.value("y", [batch, 4]), models.value("next", [2, batch, length])]
    return models.model(nodes, inputs, outputs, weights)


def by_hand(x, state):
    """The same for one sequence [steps, 4] and its state [2, 4]: all y, and the last state."""
    made_y = []
    for step in x:
        made_y.append(step + state.sum(axis=0))
        state = state * 0.5 + step
    return np.array(made_y), state


def engine(tmp_path, proto=None):
    folder = tmp_path / "engine"
    folder.mkdir()
    path = models.save(proto or remembering(), tmp_path / "m.onnx")
    built = backends.load("onnxruntime").build(path, made.config(), folder / "engine.onnx", tmp_path, lambda _: None)
    return made.put(folder, made.manifest(built))


def infer(tmp_path, built, arrays, *, rows=2, state=None, allocate=None, **params):
    given = {"shapes": {"x": [rows, 4], "state": [2, rows, 4]}, **(allocate or {})}
    buffers = run_stage("allocate", given, {"engine": built}, tmp_path)
    folder = tmp_path / f"data-{len(list(tmp_path.glob('data-*')))}"
    folder.mkdir()
    tensors.write(folder, arrays)
    inputs = {"engine": built, "buffers": buffers, "data": folder}
    out = run_stage("infer", {"state": STATE if state is None else state, **params}, inputs, tmp_path)
    return tensors.open_input(as_input("made", out))


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_a_state_goes_from_step_to_step_whatever_the_batch_is(tmp_path, rows):
    x = RANDOM.standard_normal((5, 6, 4)).astype(np.float32)
    found = infer(tmp_path, engine(tmp_path), {"x": x}, rows=rows)
    for sample, sequence in enumerate(x):
        y, last = by_hand(sequence, np.zeros((2, 4), np.float32))
        np.testing.assert_allclose(found["y"].read()[sample], y, atol=1e-5)
        np.testing.assert_allclose(found["next"].read()[sample], last, atol=1e-5)


def test_a_fixed_batch_is_filled_and_a_state_may_begin_as_the_data_says(tmp_path):
    x = RANDOM.standard_normal((3, 4, 4)).astype(np.float32)
    begin = RANDOM.standard_normal((3, 2, 4)).astype(np.float32)
    axes = {"x": 0, "state": 1, "y": 0, "next": 1}
    built = engine(tmp_path, remembering(2))
    found = infer(tmp_path, built, {"x": x, "state": begin}, allocate={"batch_axis": axes})
    for sample, sequence in enumerate(x):
        np.testing.assert_allclose(found["y"].read()[sample], by_hand(sequence, begin[sample])[0], atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3])
def test_sequences_of_many_lengths_end_where_they_end(tmp_path, rows):
    x = [RANDOM.standard_normal((steps, 4)).astype(np.float32) for steps in (3, 7, 1, 2)]
    found = infer(tmp_path, engine(tmp_path), {"x": x}, rows=rows)
    with found["y"].reader() as reader:
        rows_found = reader.rows(0, 4)
    for sample, sequence in enumerate(x):
        y, last = by_hand(sequence, np.zeros((2, 4), np.float32))
        np.testing.assert_allclose(rows_found[sample], y, atol=1e-5)
        np.testing.assert_allclose(found["next"].read()[sample], last, atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "state", "message"),
    [
        ({"x": np.ones((2, 3, 4), "f4")}, {"stat": "next"}, r"state\.stat: found no such input, expected one of x"),
        ({"x": np.ones((2, 3, 4), "f4")}, {"state": "nexd"}, r"state\.state: found no output nexd, expected one of y"),
        ({"x": np.ones((2, 3, 4), "f4")}, {"state": "y"}, r"found y float32 \[batch, 4\], expected float32 \[2, ba"),
        ({"x": np.ones((2, 4), "f4")}, STATE, r"found no tensor \[samples, steps, …\], expected one"),
        ({"x": np.ones((2, 3, 5), "f4")}, STATE, r"shape \[2, 3, 5\], expected \[samples, steps, 4\]: x is"),
        ({"x": np.ones((2, 3, 4), "f4"), "state": np.ones((2, 3, 4), "f4")}, STATE,
         r"state\]: found shape \[2, 3, 4\], expected \[samples, 2, 4\]: state is \[2, batch, 4\]"),
        ({"x": np.ones((2, 0, 4), "f4")}, STATE, "x: found a sample without steps, expected at least one"),
        ({"x": [np.ones((1, 4), "f4"), np.ones((0, 4), "f4")]}, STATE, "x: found a sample without steps, expected at"),
        ({"x": np.full((2, 3, 4), np.nan, "f4")}, STATE, r"x\]: found NaN in sample 0, expected numbers"),
        ({"z": np.ones((2, 3, 4), "f4")}, STATE, r"found tensors z, expected x"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_sequence_is_refused_with_found_and_expected(tmp_path, arrays, state, message):
    with pytest.raises(StageFailed, match=message):
        infer(tmp_path, engine(tmp_path), arrays, state=state)


def test_a_state_of_another_length_than_it_had_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(
        StageFailed, match=r"found next float32 \[2, batch, 3\], expected float32 \[2, batch, 4\] as state is"
    ):
        infer(tmp_path, engine(tmp_path, remembering(length=3)), {"x": np.ones((2, 3, 4), np.float32)})
