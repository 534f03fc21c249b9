"""Data that a model runs with, until there are real samples."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tests import onnx_models
from trtpipe.models import trial_data
from trtpipe.models.outline import Side


def looked_up(rows):
    nodes = [
        helper.make_node("Cast", ["ids"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["e"]),
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["e"], ["s"], keepdims=0),
        helper.make_node("Mul", ["s", "m"], ["y"]),
    ]
    ids, mask = (onnx_models.value(n, ["b", "s"], TensorProto.INT32) for n in ("ids", "attention_mask"))
    mask.name = "mask"
    return onnx_models.model(nodes, [ids, mask], [onnx_models.value("y", None)],
                             {"table": np.zeros((rows, 4), np.float32)})  # fmt: skip


SIDES = [Side("ids", "int32", ("b", "s")), Side("mask", "int32", ("b", "s")), Side("x", "float16", (2,))]
SHAPES = {"ids": [8, 32], "mask": [8, 32], "x": [2]}


def test_whole_numbers_are_rows_of_the_table_that_they_choose_from():
    made = trial_data.make(looked_up(7), SIDES, SHAPES)
    assert set(np.unique(made["ids"])) == set(range(7))


def test_masks_are_ones_and_every_array_has_its_type_and_shape():
    made = trial_data.make(looked_up(7), SIDES, SHAPES)
    assert made["mask"].min() == 1
    assert [(a.dtype.name, list(a.shape)) for a in made.values()] == [
        ("int32", [8, 32]), ("int32", [8, 32]), ("float16", [2]),
    ]  # fmt: skip


def test_the_data_is_the_same_each_time():
    one, other = (trial_data.make(looked_up(7), SIDES, SHAPES) for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)
