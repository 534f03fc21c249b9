"""Samples of many lengths are padded to the next bucket, and results are cut back."""

from __future__ import annotations

import json

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
BUCKETS = [{"x": [4, 8, 2], "mask": [4, 8]}, {"x": [2, 4, 2], "mask": [2, 4]}]
SOUNDS = [np.random.default_rng(n).standard_normal((n, 2)).astype(np.float32) for n in (3, 4, 8, 1, 5, 2, 2)]


def masked():
    """y [batch, time, 2] = 2 x; mean [batch, 2] over what the mask says; size [batch] counts what was fed."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["x", "wide"], ["true"]),
        helper.make_node("ReduceSum", ["true", "time"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "time"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("ReduceSumSquare", ["x"], ["size"], axes=[1, 2], keepdims=0),
    ]
    weights = {"time": np.array([1]), "last": np.array([2])}
    inputs = [models.value("x", ["batch", "time", 2]), models.value("mask", ["batch", "time"])]
    outputs = [models.value("y", ["batch", "time", 2]), models.value("mean", ["batch", 2]),
               models.value("size", ["batch"])]  # fmt: skip
    return models.model(nodes, inputs, outputs, weights)


def engine(tmp_path, proto=None, profiles=()):
    folder = tmp_path / "engine"
    folder.mkdir()
    path = models.save(proto or masked(), tmp_path / "m.onnx")
    built = backends.load("onnxruntime").build(path, made.config(), folder / "engine.onnx", tmp_path, lambda _: None)
    return made.put(folder, made.manifest(built, profiles=tuple(map(made.profile, profiles))))


def infer(tmp_path, built, arrays, shapes, **params):
    buffers = run_stage("allocate", {"shapes": shapes}, {"engine": built}, tmp_path)
    folder = tmp_path / f"data-{len(list(tmp_path.glob('data-*')))}"
    folder.mkdir()
    tensors.write(folder, arrays)
    out = run_stage("infer", params, {"engine": built, "buffers": buffers, "data": folder}, tmp_path)
    return tensors.open_input(as_input("made", out))


def test_results_are_those_of_samples_that_were_never_padded(tmp_path):
    found = infer(tmp_path, engine(tmp_path), {"x": SOUNDS}, BUCKETS, mask="mask")
    with found["y"].reader() as reader:
        for made_y, sound in zip(reader.rows(0, len(SOUNDS)), SOUNDS, strict=True):
            np.testing.assert_array_equal(made_y, 2 * sound)
    np.testing.assert_allclose(found["mean"].read(), [s.mean(axis=0) for s in SOUNDS], atol=1e-6)


def test_samples_are_padded_with_the_value_that_the_document_says(tmp_path):
    found = infer(tmp_path, engine(tmp_path), {"x": SOUNDS[:2]}, BUCKETS, mask="mask", pad={"x": 10})
    fed = [float((s**2).sum()) + 100 * 2 * (4 - len(s)) for s in SOUNDS[:2]]  # the bucket of 4 is the smallest
    np.testing.assert_allclose(found["size"].read(), fed, rtol=1e-5)


def test_an_array_of_one_shape_is_padded_too(tmp_path):
    x = np.ones((5, 3, 2), np.float32)
    found = infer(tmp_path, engine(tmp_path), {"x": x}, BUCKETS, mask="mask")
    np.testing.assert_array_equal(found["y"].read(), 2 * x)


def test_buckets_are_planned_for_the_largest_of_each_axis_and_kept(tmp_path):
    shapes = [{"x": [1, 8, 2], "mask": [1, 8]}, {"x": [4, 2, 2], "mask": [4, 2]}]
    out = run_stage("allocate", {"shapes": shapes}, {"engine": engine(tmp_path)}, tmp_path)
    found = json.loads((out / "buffers.json").read_text())
    assert (found["bindings"][0]["shape"], found["batch"], found["buckets"]) == ([4, 8, 2], 4, shapes)


def test_auto_takes_the_best_and_the_largest_shape_of_the_profile(tmp_path):
    profile = {"x": {"min": [1, 1, 2], "opt": [2, 4, 2], "max": [4, 8, 2]},
               "mask": {"min": [1, 1], "opt": [2, 4], "max": [4, 8]}}  # fmt: skip
    built = engine(tmp_path, profiles=[profile])
    out = run_stage("allocate", {"shapes": "auto"}, {"engine": built}, tmp_path)
    found = json.loads((out / "buffers.json").read_text())["buckets"]
    assert found == [{"x": [2, 4, 2], "mask": [2, 4]}, {"x": [4, 8, 2], "mask": [4, 8]}]
    longer = [{**BUCKETS[0], "x": [4, 9, 2]}, BUCKETS[1]]
    with pytest.raises(StageFailed, match=r"bucket 0: shapes\.x: found \[4, 9, 2\], outside profile 0"):
        run_stage("allocate", {"shapes": longer}, {"engine": built}, tmp_path)


@pytest.mark.parametrize(
    ("arrays", "params", "message"),
    [
        ({"x": [np.ones((9, 2), "f4"), np.ones((1, 2), "f4")]}, {"mask": "mask"}, r"found shape \[9, 2\] for sample 0"),
        ({"x": np.ones((2, 9, 2), "f4")}, {"mask": "mask"}, "samples 0 to 1: found time 9, expected a bucket of alloc"),
        ({"x": SOUNDS}, {"mask": "mask", "pad": {"mask": 1}}, "pad: found mask, which is the mask and is 0 where"),
        ({"x": SOUNDS, "mask": [np.ones(2, "f4")] * 7}, {"mask": "mask"}, "mask: found mask in the data too, expected"),
        ({"x": SOUNDS}, {"mask": "mas"}, "pad and mask: found mas, expected an input; they are x, mask"),
        ({"x": SOUNDS}, {}, "found tensors x, expected mask"),
        ({"x": [np.full((1, 2), np.nan, "f4")]}, {"mask": "mask"}, r"x\]: found NaN in sample 0"),
        ({"x": SOUNDS, "mask": [np.ones(2, "f4")] * 7}, {}, "found time 2 in sample 0, and 3 in another input"),
    ],
)  # fmt: skip
def test_what_fits_no_bucket_is_refused(tmp_path, arrays, params, message):
    with pytest.raises(StageFailed, match=message):
        infer(tmp_path, engine(tmp_path), arrays, BUCKETS, **params)


@pytest.mark.parametrize(
    ("kind", "value", "right"),
    [("int64", 0.5, False), ("int64", 1e30, False), ("uint8", -1, False), ("bool", 2, False), ("int64", -100, True)],
)
def test_what_pads_is_a_value_of_the_inputs_type(tmp_path, kind, value, right):
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    ends = [models.value(name, ["batch", "time"], number) for name in "xy"]
    proto = models.model([helper.make_node("Identity", ["x"], ["y"])], ends[:1], ends[1:])
    given = [np.ones(2, kind), np.ones(1, kind)], [{"x": [1, 2]}, {"x": [1, 4]}]
    if right:
        assert len(infer(tmp_path, engine(tmp_path, proto), {"x": given[0]}, given[1], pad={"x": value})["y"]) == 2
        return
    with pytest.raises(StageFailed, match=rf"pad\.x: found .*, expected a value of {kind}"):
        infer(tmp_path, engine(tmp_path, proto), {"x": given[0]}, given[1], pad={"x": value})


def test_an_output_that_cannot_be_cut_back_is_refused_before_anything_runs(tmp_path):
    nodes = [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2], strides=[2])]
    proto = models.model(nodes, [models.value("x", ["batch", 2, "time"])], [models.value("y", ["batch", 2, "half"])])
    with pytest.raises(StageFailed, match=r"output y \[batch, 2, half\]: nothing says how half follows from what is"):
        infer(tmp_path, engine(tmp_path, proto), {"x": [np.ones((2, 4), np.float32)]},
              [{"x": [1, 2, 4]}, {"x": [1, 2, 8]}])  # fmt: skip
