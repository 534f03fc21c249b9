from __future__ import annotations

import json

import msgspec
import pytest

from tests import made
from tests.helpers import run_stage
from tests.made import binding
from trtpipe.documents.config import Values
from trtpipe.errors import StageFailed

IMAGE = binding("image", "input", ["batch", 3, "height", "width"])
LOGITS = binding("logits", "output", ["batch", 10], "float16")
PROFILE = {"image": {"min": [1, 3, 32, 32], "opt": [4, 3, 64, 64], "max": [8, 3, 128, 128]}}


def allocate(tmp_path, bindings=(IMAGE, LOGITS), profiles=(PROFILE,), runtime="onnxruntime", notes=None, **params):
    manifest = made.manifest(runtime=runtime, bindings=tuple(bindings), profiles=tuple(map(made.profile, profiles)))
    engine = made.put(tmp_path / "engine", manifest)
    out = run_stage("allocate", params, {"engine": engine}, tmp_path, backend=runtime, notes=notes)
    return json.loads((out / "buffers.json").read_text())


def test_each_binding_has_its_shape_and_bytes(tmp_path):
    found = allocate(tmp_path, shapes={"image": [4, 3, 64, 32]})
    assert found["bindings"] == [
        {"name": "image", "mode": "input", "dtype": "float32", "shape": [4, 3, 64, 32], "bytes": 4 * 3 * 64 * 32 * 4,
         "size": "known", "batch_axis": 0, "host": "pageable", "device": "cpu"},
        {"name": "logits", "mode": "output", "dtype": "float16", "shape": [4, 10], "bytes": 80, "size": "known",
         "batch_axis": 0, "host": "pageable", "device": "cpu"},
    ]  # fmt: skip
    assert found["totals"] == {"host": 98304 + 80, "device": 0}
    assert (found["slots"], found["profile"], found["batch"], found["unknown"]) == (1, 0, 4, [])


def test_on_a_gpu_the_memory_is_pinned_and_counted_twice(tmp_path):
    found = allocate(tmp_path, runtime="tensorrt", shapes={"image": [1, 3, 32, 32]}, slots=3)
    assert {(b["host"], b["device"]) for b in found["bindings"]} == {("pinned", "cuda:0")}
    assert found["totals"]["host"] == found["totals"]["device"] == 3 * (12288 + 20)
    plain = allocate(tmp_path, runtime="tensorrt", shapes={"image": [1, 3, 32, 32]}, host="pageable")
    assert {b["host"] for b in plain["bindings"]} == {"pageable"}


@pytest.mark.parametrize(("rows", "slots"), [(1, 8), (2048, 8), (5000, 8), (10000, 4), (20000, 2), (100000, 2)])
def test_on_a_gpu_there_are_as_many_slots_as_half_a_gibibyte_holds(tmp_path, rows, slots):
    row = binding("x", "input", ["batch", 3072])
    assert allocate(tmp_path, (row, LOGITS), (), runtime="tensorrt", shapes={"x": [rows, 3072]})["slots"] == slots


def test_pinned_memory_on_the_cpu_is_refused(tmp_path):
    with pytest.raises(StageFailed, match="host: found pinned, but onnxruntime runs on the CPU"):
        allocate(tmp_path, shapes={"image": [1, 3, 32, 32]}, host="pinned")


@pytest.mark.parametrize("shape", [[9, 3, 64, 64], [1, 3, 31, 32], [1, 3, 32, 129]])
def test_a_shape_outside_the_profile_is_refused_with_the_profile_shown(tmp_path, shape):
    with pytest.raises(StageFailed) as caught:
        allocate(tmp_path, shapes={"image": shape})
    assert str(caught.value) == (
        f"shapes.image: found {shape}, outside profile 0: min [1, 3, 32, 32], opt [4, 3, 64, 64], max [8, 3, 128, 128]"
    )


def test_the_chosen_profile_is_the_one_that_counts(tmp_path):
    big = {"image": {"min": [9, 3, 32, 32], "opt": [9, 3, 64, 64], "max": [9, 3, 128, 128]}}
    found = allocate(tmp_path, profiles=(PROFILE, big), shapes={"image": [9, 3, 64, 64]}, profile=1)
    assert (found["profile"], found["batch"]) == (1, 9)
    with pytest.raises(StageFailed, match="profile: found 2, expected 0 to 1: the engine has 2"):
        allocate(tmp_path, profiles=(PROFILE, big), shapes={"image": [9, 3, 64, 64]}, profile=2)


def test_unknown_missing_misfit_and_fixed_axes_are_listed_together(tmp_path):
    mask = binding("mask", "input", ["batch", 7])
    size = binding("size", "input", ["batch", 2])
    with pytest.raises(StageFailed) as caught:
        allocate(
            tmp_path,
            (IMAGE, mask, size, LOGITS),
            (),
            shapes={"imag": [1], "mask": [4, 8], "size": [1, 2, 3]},
        )
    assert str(caught.value).splitlines() == [
        "shapes: found imag; the engine's inputs are image, mask, size",
        "shapes: input image [batch, 3, height, width] is missing; its dynamic axes need sizes",
        "shapes.mask: found [4, 8], but axis 1 is fixed: [batch, 7]",
        "shapes.size: found [1, 2, 3] (3 axes), expected 2: [batch, 2]",
    ]


def test_one_axis_has_one_size(tmp_path):
    mask = binding("mask", "input", ["batch", 7])
    with pytest.raises(StageFailed, match=r"shapes\.mask: axis 0 \(batch\) is 5, but 4 in input image: it is one axis"):
        allocate(tmp_path, (IMAGE, mask, LOGITS), (), shapes={"image": [4, 3, 64, 64], "mask": [5, 7]})


def test_static_inputs_need_no_shape(tmp_path):
    found = allocate(tmp_path, (binding("x", "input", [2, 3]), binding("y", "output", [2])), ())
    assert [b["shape"] for b in found["bindings"]] == [[2, 3], [2]]
    assert (found["batch"], found["bindings"][1]["batch_axis"]) == (1, None)
    said = {"x": 0, "y": 0}
    found = allocate(tmp_path, (binding("x", "input", [2, 3]), binding("y", "output", [2])), (), batch_axis=said)
    assert (found["batch"], found["bindings"][1]["batch_axis"]) == (2, 0)


def axes(found):
    return {b["name"]: b["batch_axis"] for b in found["bindings"]}


def test_the_batch_is_where_its_name_stands(tmp_path):
    probabilities = binding("p", "output", [20, "batch", 37])
    state = binding("state", "input", [2, "batch", 64])
    notes = []
    found = allocate(tmp_path, (IMAGE, state, probabilities), (), notes=notes,
                     shapes={"image": [2, 3, 8, 8], "state": [2, 2, 64]})  # fmt: skip
    assert axes(found) == {"image": 0, "state": 1, "p": 1}
    inputs = "axis 0 of image [batch, 3, height, width], axis 1 of state [2, batch, 64]"
    assert notes == [f"batch of 2: {inputs}, axis 1 of p [20, batch, 37]"]


def test_an_axis_called_batch_goes_before_a_first_axis_with_another_name(tmp_path):
    x, y = binding("x", "input", ["time", "batch_size", 4]), binding("y", "output", ["batch_size", 4])
    found = allocate(tmp_path, (x, y), (), shapes={"x": [5, 2, 4]})
    assert (axes(found), found["batch"]) == ({"x": 1, "y": 0}, 2)


def test_a_frozen_axis_is_the_batch_by_the_name_that_it_had(tmp_path):
    x = msgspec.structs.replace(binding("x", "input", [8, 4]), names=("batch", None))
    y = msgspec.structs.replace(binding("y", "output", [3, 8]), names=(None, "batch"))
    found = allocate(tmp_path, (x, y), ())
    assert (axes(found), found["batch"]) == ({"x": 0, "y": 1}, 8)


def test_lengths_that_happen_to_fit_say_nothing(tmp_path):
    boxes = binding("sel", "output", ["n", 3], "int64")
    with pytest.raises(StageFailed) as caught:
        allocate(tmp_path, (IMAGE, boxes), shapes={"image": [2, 3, 32, 32]})
    assert str(caught.value) == (
        "a batch has 2 samples (axis 0 of image [batch, 3, height, width]), and nothing says which axis of sel [n, 3] "
        "they lie along; expected in params of allocate: batch_axis: {sel: 0} with the axis that is the batch, or none "
        "where all samples share the output; or split_by: {tensor: sel, column: 0} if a column has the sample's "
        "number; or shapes with a batch of 1; or batch_axis: {image: none} if that is no batch at all"
    )
    assert axes(allocate(tmp_path, (IMAGE, boxes), shapes={"image": [1, 3, 32, 32]}))["sel"] is None


def test_a_batch_of_one_is_not_proposed_where_it_cannot_be(tmp_path):
    bindings = (binding("x", "input", [8, 4]), binding("y", "output", [3]))
    with pytest.raises(StageFailed) as caught:
        allocate(tmp_path, bindings, (), batch_axis={"x": 0})
    assert "batch of 1" not in str(caught.value)
    low = {"image": {"min": [2, 3, 32, 32], "opt": [4, 3, 64, 64], "max": [8, 3, 128, 128]}}
    with pytest.raises(StageFailed) as caught:
        allocate(tmp_path, (IMAGE, binding("s", "output", [])), (low,), shapes={"image": [2, 3, 32, 32]})
    assert "batch of 1" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"nosuch": 0}, r"batch_axis\.nosuch: found a tensor that is not there; there are x, state, y"),
        ({"state": 3}, r"batch_axis\.state: found 3, expected less than 3: \[2, 4, 5\]"),
        (
            {"x": 0, "state": 1},
            r"the batch has two sizes: axis 0 of x is 8, axis 1 of state is 4; batch_axis says which",
        ),
    ],
)
def test_what_batch_axis_cannot_say_is_refused(tmp_path, said, message):
    bindings = (binding("x", "input", [8, 3]), binding("state", "input", [2, 4, 5]), binding("y", "output", [8]))
    with pytest.raises(StageFailed, match=message):
        allocate(tmp_path, bindings, (), batch_axis=said)


def test_outputs_may_be_split_by_a_column(tmp_path):
    sel, best = binding("sel", "output", ["n", 3], "int64"), binding("best", "output", ["n"])
    split = {"tensor": "sel", "column": 0, "also": ["best"]}
    found = allocate(tmp_path, (IMAGE, sel, best), shapes={"image": [2, 3, 32, 32]}, split_by=[split])
    assert found["splits"] == [split]
    assert axes(found) == {"image": 0, "sel": None, "best": None}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"tensor": "self", "column": 0}, r"split_by \(self\): found self, expected an output; they are sel, best"),
        ({"tensor": "sel", "column": 3}, r"split_by: found column 3, but sel is \[n, 3\]"),
        ({"tensor": "best", "column": 0}, r"split_by: best is float32 \[n\], expected whole numbers \[n\] or"),
        ({"tensor": "sel", "column": 0, "also": ["sel"]}, r"found sel twice, expected it once"),
    ],
)
def test_a_split_that_cannot_be_is_refused(tmp_path, split, message):
    sel, best = binding("sel", "output", ["n", 3], "int64"), binding("best", "output", ["n"])
    with pytest.raises(StageFailed, match=message):
        allocate(tmp_path, (IMAGE, sel, best), shapes={"image": [2, 3, 32, 32]}, split_by=split)


def test_an_output_in_which_the_batch_stands_twice_is_asked_for(tmp_path):
    square = binding("similar", "output", ["batch", "batch"])
    with pytest.raises(StageFailed, match=r"which axis of similar \[batch, batch\] they lie along"):
        allocate(tmp_path, (IMAGE, square), shapes={"image": [2, 3, 32, 32]})
    found = allocate(tmp_path, (IMAGE, square), shapes={"image": [2, 3, 32, 32]}, batch_axis={"similar": 1})
    assert axes(found)["similar"] == 1


def test_what_depends_on_the_data_is_said_to(tmp_path):
    boxes = binding("boxes", "output", ["boxes_0", 4])
    found = allocate(tmp_path, (IMAGE, LOGITS, boxes), shapes={"image": [1, 3, 32, 32]})
    assert found["unknown"] == ["boxes"]
    assert found["bindings"][2]["bytes"] is None
    assert found["bindings"][2]["size"] == "data-dependent"
    assert found["bindings"][2]["shape"] == [None, 4]


def test_a_scalar_input_has_no_batch(tmp_path):
    rate = binding("rate", "input", [], "int64")
    found = allocate(tmp_path, (rate, IMAGE, LOGITS), shapes={"image": [2, 3, 32, 32]})
    assert [b["batch_axis"] for b in found["bindings"]] == [None, 0, 0]
    assert (found["bindings"][0]["bytes"], found["batch"]) == (8, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"m": [5]}, "values: found m, expected one of the engine's shape inputs; they are n"),
        ({"n": [5, 5]}, r"values.n: found 2 values, expected 1: [1]"),
        ({"n": [65]}, "values.n: found the values [65], outside those of profile 0: min [1], opt [5], max [64]"),
    ],
)
def test_values_of_shape_inputs_that_cannot_be_are_refused(tmp_path, values, message):
    n = msgspec.structs.replace(binding("n", "input", [1], "int64"), shape_input=True)
    known = ({"n": Values(min=(1,), opt=(5,), max=(64,))},)
    manifest = made.manifest(bindings=(n,), profiles=({},), profile_values=known)
    engine = made.put(tmp_path / "engine", manifest)
    with pytest.raises(StageFailed) as caught:
        run_stage("allocate", {"values": values}, {"engine": engine}, tmp_path)
    assert str(caught.value) == message
    out = run_stage("allocate", {"values": {"n": [64]}}, {"engine": engine}, tmp_path)
    assert json.loads((out / "buffers.json").read_text())["values"] == {"n": [64]}


def test_an_axis_may_be_empty(tmp_path):
    past = binding("past", "input", ["batch", "past_length", 4])
    found = allocate(tmp_path, (past, LOGITS), (), shapes={"past": [2, 0, 4]})
    assert [(b["shape"], b["bytes"]) for b in found["bindings"]] == [([2, 0, 4], 0), ([2, 10], 40)]
