from __future__ import annotations

import json
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests import made
from tests import onnx_models as models
from tests.helpers import PROJECT, as_input, run_stage
from trtpipe import backends
from trtpipe.data import parts, tensors
from trtpipe.documents.config import Values
from trtpipe.errors import StageFailed


def engine(proto, tmp_path, profiles=(), name="engine"):
    folder = tmp_path / name
    folder.mkdir()
    path = models.save(proto, tmp_path / f"{name}.onnx")
    built = backends.load("onnxruntime").build(path, made.config(), folder / "engine.onnx", tmp_path, lambda _: None)
    return made.put(folder, made.manifest(built, profiles=tuple(map(made.profile, profiles))))


def infer(built, shapes, data, tmp_path, notes=None, *, batch_axis=None, **params):
    buffers = run_stage("allocate", {"shapes": shapes, "batch_axis": batch_axis or {}}, {"engine": built}, tmp_path)
    inputs = {"engine": built, "buffers": buffers, "data": data}
    return run_stage("infer", params, inputs, tmp_path, notes=notes)


def save(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def pictures(count):
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)


def read(out, name="logits"):
    return tensors.fixed(tensors.open_input(as_input("made", out))[name]).read()


def plain(tmp_path, x, name="engine"):
    session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": x})[0]


@pytest.mark.parametrize("count", [1, 4, 7, 8, 9])
def test_batches_give_what_one_run_gives_whatever_the_last_batch_holds(tmp_path, count):
    x = pictures(count)
    out = infer(engine(models.conv(), tmp_path), {"image": [4, 3, 8, 8]}, save(tmp_path, image=x), tmp_path)
    np.testing.assert_allclose(read(out), plain(tmp_path, x), atol=1e-5)
    assert json.loads((out / "tensors.json").read_text()) == {
        "format": 2,
        "batch": count,
        "tensors": [
            {"name": "logits", "form": "fixed", "dtype": "float32", "shape": [count, 5], "file": "0",
             "rows_per_part": 1 << 21},
        ],
    }  # fmt: skip


def test_a_fixed_batch_is_padded_and_cut(tmp_path):
    x = pictures(6)
    built, data = engine(models.conv(4), tmp_path), save(tmp_path, image=x)
    out = infer(built, {}, data, tmp_path, batch_axis={"image": 0, "logits": 0})
    assert read(out).shape == (6, 5)
    engine(models.conv(), tmp_path, name="free")
    np.testing.assert_allclose(read(out), plain(tmp_path, x, "free"), atol=1e-5)


def test_a_last_batch_below_the_profile_is_padded_and_cut(tmp_path):
    low, high = [3, 3, 8, 8], [4, 3, 8, 8]
    built = engine(models.conv(), tmp_path, [{"image": {"min": low, "opt": high, "max": high}}])
    x = pictures(5)
    out = infer(built, {"image": high}, save(tmp_path, image=x), tmp_path)
    np.testing.assert_allclose(read(out), plain(tmp_path, x), atol=1e-5)


def test_samples_are_carried_along_and_counted(tmp_path):
    built = engine(models.conv(), tmp_path)
    data = tmp_path / "prepared"
    data.mkdir()
    tensors.write(data, {"image": pictures(3)})
    (data / "samples.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n{"id": "c"}\n')
    out = infer(built, {"image": [2, 3, 8, 8]}, data, tmp_path)
    assert (out / "samples.jsonl").read_bytes() == (data / "samples.jsonl").read_bytes()
    (data / "samples.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(StageFailed, match=r"samples\.jsonl has 1 lines for 3 samples"):
        infer(built, {"image": [2, 3, 8, 8]}, data, tmp_path)


def test_a_folder_of_arrays_is_data_too(tmp_path):
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "image.npy", pictures(3))
    out = infer(engine(models.conv(), tmp_path), {"image": [2, 3, 8, 8]}, tmp_path / "folder", tmp_path)
    assert read(out).shape == (3, 5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"picture": pictures(2)}, r"data\.npz: found tensors picture, expected image"),
        ({"image": pictures(2).astype(np.float64)}, r"data\.npz\[image\]: found dtype float64, expected float32"),
        ({"image": pictures(2)[0]}, r"\[image\]: found rank 3, shape \[3, 8, 8\], expected rank 4, .*\[samples, 3, 8"),
        (
            {"image": pictures(2)[:, :1]},
            r"\[image\]: found shape \[2, 1, 8, 8\], expected shape \[samples, 3, 8, 8\]; the model fixes axis 1 at 3$",
        ),
        ({"image": np.asfortranarray(pictures(2))}, r"\[image\] is not C-contiguous"),
        ({"image": pictures(0)}, "holds no samples"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_named_with_found_and_expected(tmp_path, arrays, message):
    with pytest.raises(StageFailed, match=message):
        infer(engine(models.conv(), tmp_path), {"image": [2, 3, 8, 8]}, save(tmp_path, **arrays), tmp_path)


def test_a_batch_that_has_two_names_is_explained_and_one_name_helps(tmp_path):
    def summing(x, y):
        nodes = [helper.make_node("Add", ["x", "y"], ["sum"])]
        return models.model(
            nodes, [models.value("x", [x, 3]), models.value("y", [y, 3])], [models.value("sum", [x, 3])]
        )

    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    data, shapes = save(tmp_path, x=x, y=x), {"x": [2, 3], "y": [2, 3]}
    with pytest.raises(
        StageFailed, match=r"y\]: found .*; its first axis is rows and the batch n: give them one name in"
    ):
        infer(engine(summing("n", "rows"), tmp_path, name="two"), shapes, data, tmp_path)
    out = infer(tmp_path / "two", shapes, data, tmp_path, batch_axis={"y": 0, "x": 0})
    np.testing.assert_array_equal(read(out, "sum"), x + x)
    out = infer(engine(summing("n", "n"), tmp_path, name="one"), shapes, data, tmp_path)
    np.testing.assert_array_equal(read(out, "sum"), x + x)


def reading(tmp_path, rows=1):
    """An engine that takes n from 1 to 9, and what it is fed."""
    path = models.save(models.reading(rows), tmp_path / "reading.onnx")
    built = backends.load("onnxruntime").build(path, made.config(), tmp_path / "engine.onnx", tmp_path, lambda _: None)
    values = ({"n": Values(min=(1,), opt=(5,), max=(9,))},)
    folder = tmp_path / "reading"
    folder.mkdir()
    shutil.copy(tmp_path / "engine.onnx", folder)
    profiles = (made.profile({"cache": {"min": [1, 64, 8], "opt": [1, 64, 8], "max": [4, 64, 8]}}),)
    manifest = made.manifest(built, profiles=profiles, profile_values=values)
    return made.put(folder, manifest), np.random.default_rng(0).standard_normal((3, 64, 8)).astype(np.float32)


def test_the_values_of_a_shape_input_come_from_the_data(tmp_path):
    built, cache = reading(tmp_path)
    n = np.array([[2], [9], [5]])
    out = infer(built, {}, save(tmp_path, cache=cache[:, None], n=n), tmp_path)
    expected = [[one[: int(k[0])].sum(0)] for one, k in zip(cache, n, strict=True)]
    np.testing.assert_allclose(read(out, "y"), np.array(expected), atol=1e-5)


def test_the_values_of_a_shape_input_may_stand_in_the_document(tmp_path):
    built, cache = reading(tmp_path)
    buffers = run_stage("allocate", {"values": {"n": [7]}}, {"engine": built}, tmp_path)
    inputs = {"engine": built, "buffers": buffers, "data": save(tmp_path, cache=cache)}
    out = run_stage("infer", {}, inputs, tmp_path)
    np.testing.assert_allclose(read(out, "y"), cache[:, :7].sum(1), atol=1e-5)


def test_values_outside_the_profile_are_refused_with_the_sample(tmp_path):
    built, cache = reading(tmp_path)
    data = save(tmp_path, cache=cache[:, None], n=np.array([[2], [64], [5]]))
    with pytest.raises(StageFailed) as told:
        infer(built, {}, data, tmp_path)
    assert str(told.value) == (
        "data.npz[n], sample 1: found the values [64], outside those of profile 0: min [1], opt [5], max [9]"
    )


def test_nan_names_the_tensor_and_the_sample(tmp_path):
    x = pictures(7)
    x[5, 1, 2, 3] = np.nan
    built = engine(models.conv(), tmp_path)
    with pytest.raises(StageFailed, match=r"data\.npz\[image\]: found NaN in sample 5 \(1 of 384 values"):
        infer(built, {"image": [2, 3, 8, 8]}, save(tmp_path, image=x), tmp_path)
    out = infer(built, {"image": [2, 3, 8, 8]}, save(tmp_path, image=x), tmp_path, allow_nan=True)
    assert np.isfinite(read(out)[:5]).all()


def test_tensors_that_the_engine_does_not_read_are_mentioned(tmp_path):
    notes = []
    data = save(tmp_path, image=pictures(2), label=np.arange(2))
    infer(engine(models.conv(), tmp_path), {"image": [2, 3, 8, 8]}, data, tmp_path, notes)
    assert notes == ["data.npz also holds label, which the engine does not read"]


def test_a_tensor_of_another_name_is_fed_where_the_document_says_so(tmp_path):
    built = engine(models.conv(), tmp_path)
    data = save(tmp_path, picture=pictures(2))
    out = infer(built, {"image": [2, 3, 8, 8]}, data, tmp_path, names={"image": "picture"})
    assert read(out).shape == (2, 5)
    with pytest.raises(StageFailed, match=r"params\.names\.img: the engine's inputs are image"):
        infer(built, {"image": [2, 3, 8, 8]}, data, tmp_path, names={"img": "picture"})


def test_an_engine_of_another_runtime_is_refused(tmp_path):
    built = engine(models.conv(), tmp_path)
    manifest = json.loads((built / "manifest.json").read_text())
    (built / "manifest.json").write_text(json.dumps({**manifest, "runtime": "tensorrt"}))
    with pytest.raises(StageFailed, match="built by tensorrt; it cannot run on onnxruntime"):
        infer(built, {"image": [2, 3, 8, 8]}, save(tmp_path, image=pictures(1)), tmp_path)


def test_a_model_without_a_batch_axis_runs_once_a_sample(tmp_path):
    data = save(tmp_path, x=np.arange(12, dtype=np.float32).reshape(4, 3))
    out = infer(engine(models.doubling([3]), tmp_path), {}, data, tmp_path)
    np.testing.assert_array_equal(read(out, "y"), 2 * np.arange(12).reshape(4, 3))


def scaled():
    """y [batch, 2] = x * factor, with a scalar factor; total [] = sum of all."""
    return models.model(
        [helper.make_node("Mul", ["x", "factor"], ["y"]), helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0)],
        [models.value("x", ["batch", 2]), models.value("factor", [])],
        [models.value("y", ["batch", 2]), models.value("total", [])],
    )


def test_a_scalar_is_fed_to_every_batch_or_one_to_each_sample(tmp_path):
    built = engine(scaled(), tmp_path)
    x = np.ones((3, 2), np.float32)
    out = infer(built, {"x": [1, 2]}, save(tmp_path, x=x, factor=np.float32(5)), tmp_path)
    np.testing.assert_array_equal(read(out, "y"), np.full((3, 2), 5))
    np.testing.assert_array_equal(read(out, "total"), [10, 10, 10])
    each = save(tmp_path, x=x, factor=np.array([1, 2, 3], np.float32))
    out = infer(built, {"x": [1, 2]}, each, tmp_path)
    np.testing.assert_array_equal(read(out, "total"), [2, 4, 6])
    with pytest.raises(StageFailed, match="allocate a batch of 1; or give factor once for all samples, as \\[\\]"):
        infer(built, {"x": [2, 2]}, each, tmp_path, batch_axis={"total": "none"})


def test_an_output_without_rows_needs_a_batch_of_one_or_belongs_to_all(tmp_path):
    data = save(tmp_path, x=np.ones((4, 2), np.float32), factor=np.float32(1))
    built = engine(scaled(), tmp_path)
    with pytest.raises(StageFailed, match=r"which axis of total \[\] they lie along; .* or shapes with a batch of 1"):
        infer(built, {"x": [2, 2]}, data, tmp_path)
    out = infer(built, {"x": [2, 2]}, data, tmp_path, batch_axis={"total": "none"})
    np.testing.assert_array_equal(read(out, "total"), [4, 4, 4, 4])


def fixed():
    """y = x * x, x [8, 4] without a name for its batch."""
    return models.model([helper.make_node("Mul", ["x", "x"], ["y"])], [models.value("x", [8, 4])],
                        [models.value("y", [8, 4])])  # fmt: skip


def test_data_of_the_shape_of_an_input_without_a_batch_is_one_sample_and_that_is_told(tmp_path):
    notes, x = [], np.arange(32, dtype=np.float32).reshape(8, 4)
    out = infer(engine(fixed(), tmp_path), {}, save(tmp_path, x=x), tmp_path, notes)
    np.testing.assert_array_equal(read(out, "y"), (x * x)[None])
    line = "if axis 0 has samples, write batch_axis: {x: 0, y: 0} in params of allocate"
    assert notes == [f"the data is one sample: data.npz[x] has the shape of x, which names no batch; {line}"]


@pytest.mark.parametrize("count", [1, 16])
def test_data_of_another_length_shows_the_line_to_write(tmp_path, count):
    built, x = engine(fixed(), tmp_path), np.ones((count, 4), np.float32)
    with pytest.raises(StageFailed) as caught:
        infer(built, {}, save(tmp_path, x=x), tmp_path)
    assert str(caught.value) == (
        f"data.npz[x]: found rank 2, shape [{count}, 4], expected rank 3, shape [samples, 8, 4], or [8, 4] for all "
        "samples; x [8, 4] names no batch: if axis 0 is one, write batch_axis: {x: 0, y: 0} in params of allocate"
    )
    out = infer(built, {}, tmp_path / "data.npz", tmp_path, batch_axis={"x": 0, "y": 0})
    np.testing.assert_array_equal(read(out, "y"), x)


def recurrent():
    """y [time, batch, 4] = 2 x, and last [2, batch, 4]: the state of two layers, one above the other."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("ReduceSum", ["x", "zero"], ["sum"], keepdims=1),
        helper.make_node("Add", ["sum", "state"], ["last"]),
    ]
    time, layers = ["time", "batch", 4], [2, "batch", 4]
    return models.model(nodes, [models.value("x", time), models.value("state", layers)],
                        [models.value("y", time), models.value("last", layers)], {"zero": np.array([0])})  # fmt: skip


def test_the_batch_is_cut_where_it_stands(tmp_path):
    """Two layers and a batch of two; five samples, so that the last batch is not full."""
    random = np.random.default_rng(0)
    x, state = (random.standard_normal(shape).astype(np.float32) for shape in ((5, 3, 4), (5, 2, 4)))
    shapes = {"x": [3, 2, 4], "state": [2, 2, 4]}
    out = infer(engine(recurrent(), tmp_path), shapes, save(tmp_path, x=x, state=state), tmp_path)
    np.testing.assert_array_equal(read(out, "y"), 2 * x)
    np.testing.assert_allclose(read(out, "last"), x.sum(axis=1, keepdims=True) + state, atol=1e-6)
    with pytest.raises(StageFailed, match=r"the samples come first, the engine has them on axis 1: \[2, batch, 4\]"):
        infer(engine(recurrent(), tmp_path, name="b"), shapes,
              save(tmp_path, x=x, state=np.moveaxis(state, 0, 1).copy()), tmp_path)  # fmt: skip


def test_a_model_that_is_fixed_inside_says_so(tmp_path):
    """Its output is called [batch, 2, 2], and is [8, 2, 2] whatever the batch is."""
    nodes = [helper.make_node("Relu", ["x"], ["z"]), helper.make_node("Reshape", ["z", "s"], ["y"])]
    proto = models.model(nodes, [models.value("x", ["batch", 4])], [models.value("y", ["batch", 2, 2])],
                         {"s": np.array([8, 2, 2])})  # fmt: skip
    built = engine(proto, tmp_path)
    x = np.random.default_rng(0).random((8, 4), np.float32)
    out = infer(built, {"x": [8, 4]}, save(tmp_path, x=x), tmp_path)
    np.testing.assert_array_equal(read(out, "y"), x.reshape(8, 2, 2))


def nonzero(rows=1):
    return models.model([helper.make_node("NonZero", ["x"], ["y"])], [models.value("x", [rows, 3])],
                        [models.value("y", [2, "n"], TensorProto.INT64)])  # fmt: skip


def rows_of(out, name):
    tensor = tensors.open_input(as_input("made", out))[name]
    assert isinstance(tensor, tensors.Ragged)
    with tensor.reader() as reader:
        return reader.rows(0, len(tensor))


def test_outputs_whose_size_the_data_decides_are_ragged(tmp_path):
    x = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]], np.float32)
    out = infer(engine(nonzero(), tmp_path), {}, save(tmp_path, x=x), tmp_path)
    found = rows_of(out, "y")
    assert [row.tolist() for row in found] == [[[0, 0], [1, 2]], [[0], [0]], [[], []]]
    assert json.loads((out / "tensors.json").read_text())["tensors"][0]["shape"] == [3, None, None]


def test_ragged_outputs_that_happen_to_have_one_shape_are_read_as_an_array(tmp_path):
    x = np.array([[0, 1, 1], [1, 1, 0]], np.float32)
    out = infer(engine(nonzero(), tmp_path), {}, save(tmp_path, x=x), tmp_path)
    tensor = tensors.open_input(as_input("made", out))["y"]
    assert isinstance(tensor, tensors.Ragged)
    np.testing.assert_array_equal(tensors.fixed(tensor).read(), [[[0, 0], [1, 2]], [[0, 0], [0, 1]]])


def selecting():
    """NMS in the model, as in many detectors: sel [n, 3] is (picture, class, box); best [n] repeats the picture."""
    weights = {"k": np.array([10]), "iou": np.array([0.5], np.float32), "thr": np.array([0.5], np.float32),
               "zero": np.array(0)}  # fmt: skip
    nodes = [helper.make_node("NonMaxSuppression", ["boxes", "scores", "k", "iou", "thr"], ["sel"]),
             helper.make_node("Gather", ["sel", "zero"], ["best"], axis=1)]  # fmt: skip
    inputs = [models.value("boxes", ["batch", 6, 4]), models.value("scores", ["batch", 1, 6])]
    kind = TensorProto.INT64
    return models.model(
        nodes, inputs, [models.value("sel", ["n", 3], kind), models.value("best", ["n"], kind)], weights
    )


def pictures_with_boxes():
    boxes, scores = np.zeros((3, 6, 4), np.float32), np.zeros((3, 1, 6), np.float32)
    for i in range(6):
        boxes[:, i] = [0, i * 10, 5, i * 10 + 5]
    scores[1, 0, 2], scores[1, 0, 4], scores[2, 0, 1] = 0.9, 0.8, 0.7
    return {"boxes": boxes, "scores": scores}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_selected_rows_go_to_the_sample_that_their_column_says(tmp_path, batch):
    built, data = engine(selecting(), tmp_path), save(tmp_path, **pictures_with_boxes())
    shapes = {"boxes": [batch, 6, 4], "scores": [batch, 1, 6]}
    split = {"tensor": "sel", "column": 0, "also": ["best"]}
    buffers = run_stage("allocate", {"shapes": shapes, "split_by": split}, {"engine": built}, tmp_path)
    out = run_stage("infer", {}, {"engine": built, "buffers": buffers, "data": data}, tmp_path)
    assert [row.tolist() for row in rows_of(out, "sel")] == [[], [[0, 0, 2], [0, 0, 4]], [[0, 0, 1]]]
    assert [len(row) for row in rows_of(out, "best")] == [0, 2, 1]


def test_a_number_that_is_no_sample_of_the_batch_is_refused(tmp_path):
    """Rows [7, 1] and [0, 2] whatever goes in: there is no sample 7 in a batch of two."""
    nodes = [helper.make_node("Mul", ["x", "x"], ["y"]),
             helper.make_node("Cast", ["y"], ["whole"], to=TensorProto.INT64),
             helper.make_node("ReduceMin", ["whole"], ["least"], keepdims=0),
             helper.make_node("Add", ["rows", "least"], ["sel"])]  # fmt: skip
    proto = models.model(nodes, [models.value("x", ["n", 3])],
                         [models.value("y", ["n", 3]), models.value("sel", [2, 2], TensorProto.INT64)],
                         {"rows": np.array([[7, 1], [0, 2]])})  # fmt: skip
    built, data = engine(proto, tmp_path), save(tmp_path, x=np.zeros((2, 3), np.float32))
    params = {"shapes": {"x": [2, 3]}, "split_by": {"tensor": "sel", "column": 0}}
    buffers = run_stage("allocate", params, {"engine": built}, tmp_path)
    wrong = "output sel: found 7 in column 0, expected the number of a sample in the batch, 0 to 1"
    with pytest.raises(StageFailed, match=wrong):
        run_stage("infer", {}, {"engine": built, "buffers": buffers, "data": data}, tmp_path)


def native():
    """Pictures of any size: y [batch, 3, height, width] = 2 x, and the mean of each channel."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]),
             helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0)]  # fmt: skip
    whole = ["batch", 3, "height", "width"]
    return models.model(nodes, [models.value("x", whole)],
                        [models.value("y", whole), models.value("mean", ["batch", 3])])  # fmt: skip


def test_samples_of_many_shapes_are_fed_one_by_one(tmp_path):
    random = np.random.default_rng(0)
    x = [random.standard_normal((3, h, w)).astype(np.float32) for h, w in ((4, 5), (7, 2), (1, 1))]
    (tmp_path / "native").mkdir()
    tensors.write(tmp_path / "native", {"x": x})
    built = engine(native(), tmp_path)
    out = infer(built, {"x": [2, 3, 7, 5]}, tmp_path / "native", tmp_path)
    for found, wanted in zip(rows_of(out, "y"), x, strict=True):
        np.testing.assert_array_equal(found, 2 * wanted)
    np.testing.assert_allclose(read(out, "mean"), [one.mean(axis=(1, 2)) for one in x], atol=1e-6)
    with pytest.raises(StageFailed) as caught:
        infer(built, {"x": [1, 3, 6, 5]}, tmp_path / "native", tmp_path)
    assert str(caught.value) == (
        "native[x]: found shape [3, 7, 2] for sample 1, expected [3, 0, 0] to [3, 6, 5]: what allocate planned is the "
        "largest that is fed; write shapes: {x: [1, 3, 7, 5]} in its params, within the profile"
    )


def ragged(tmp_path, **more):
    (tmp_path / "ragged").mkdir()
    tensors.write(tmp_path / "ragged", {"image": [np.ones((3, 8, n), np.float32) for n in (8, 7)], **more})
    return tmp_path / "ragged"


def test_ragged_samples_that_the_model_does_not_take_are_refused_before_anything_runs(tmp_path):
    wrong = r"ragged\[image\]: found shape \[3, 8, 7\] for sample 1, expected \[samples, 3, 8, 8\]"
    with pytest.raises(StageFailed, match=wrong):
        infer(engine(models.conv(), tmp_path), {"image": [2, 3, 8, 8]}, ragged(tmp_path), tmp_path)
    with pytest.raises(StageFailed, match=r"found samples with 3 axes, expected 2 axes each: \[samples, 3, 8\]"):
        infer(engine(models.doubling(["n", 3, 8]), tmp_path, name="flat"), {"x": [2, 3, 8]}, tmp_path / "ragged",
              tmp_path, names={"x": "image"})  # fmt: skip


def test_a_ragged_tensor_that_the_engine_does_not_read_does_not_matter(tmp_path):
    notes = []
    built, data = engine(models.conv(), tmp_path), ragged(tmp_path, picture=pictures(2))
    out = infer(built, {"image": [2, 3, 8, 8]}, data, tmp_path, notes, names={"image": "picture"})
    assert read(out).shape == (2, 5)
    assert notes == ["ragged also holds image, which the engine does not read"]


def test_a_type_that_numpy_lacks_is_named(tmp_path):
    (tmp_path / "half").mkdir()
    tensors.write(tmp_path / "half", {"image": pictures(2).astype(ml_dtypes.bfloat16)})
    with pytest.raises(StageFailed, match=r"half\[image\]: found dtype bfloat16, expected float32"):
        infer(engine(models.conv(), tmp_path), {"image": [2, 3, 8, 8]}, tmp_path / "half", tmp_path)


def test_batches_that_cross_parts_give_what_one_run_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "TARGET", 1)
    x = np.random.default_rng(0).standard_normal((9000, 5)).astype(np.float32)
    (tmp_path / "data").mkdir()
    tensors.write(tmp_path / "data", {"x": x})
    out = infer(engine(models.doubling(["batch", 5]), tmp_path), {"x": [1000, 5]}, tmp_path / "data", tmp_path)
    assert len(list(out.glob("0-*.npy"))) == 3
    made = tensors.open_input(as_input("made", out))
    np.testing.assert_array_equal(next(iter(made.values())).read(), 2 * x)


def test_two_runs_write_the_same_bytes(tmp_path):
    built = engine(models.conv(), tmp_path)
    data = save(tmp_path, image=pictures(5))
    one, two = (infer(built, {"image": [2, 3, 8, 8]}, data, tmp_path) for _ in range(2))
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}


MEASURE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.stages import test_infer
from tests.helpers import run_stage

def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024

tmp = Path(sys.argv[2])
fixed = {"engine": tmp / "engine", "buffers": tmp / "buffers"}
run = lambda name: run_stage("infer", {}, {**fixed, "data": tmp / name}, tmp)
run("small.npz")
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
out = run(sys.argv[3])
print(json.dumps({"grown": resident("VmHWM") - before, "written": sum(p.stat().st_size for p in out.glob("0-*.npy"))}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("save_as", [np.savez, pytest.param(np.savez_compressed, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_data(tmp_path, save_as):
    built = engine(models.doubling(["batch", 1 << 16]), tmp_path)
    buffers = run_stage("allocate", {"shapes": {"x": [8, 1 << 16]}}, {"engine": built}, tmp_path)
    shutil.copytree(buffers, tmp_path / "buffers")
    np.savez(tmp_path / "small.npz", x=np.ones((16, 1 << 16), np.float32))
    big = np.zeros((1200, 1 << 16), np.float32)  # 315 MB in, 315 MB out
    big[:, 0] = np.arange(1200)
    save_as(tmp_path / "big.npz", x=big)
    del big
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(PROJECT), str(tmp_path), "big.npz"],
        capture_output=True, text=True, check=True, cwd=PROJECT,
    )  # fmt: skip
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen["written"] > 300e6
    assert seen["grown"] < 100e6


def test_an_output_that_is_an_input_holds_what_was_fed(tmp_path):
    proto = models.model(
        [helper.make_node("Relu", ["x"], ["y"])],
        [models.value("x", ["n", 4]), models.value("ids", ["n"], TensorProto.INT64)],
        [models.value("y", ["n", 4]), models.value("ids", ["n"], TensorProto.INT64)],
    )
    ids, x = np.arange(101, 107), np.ones((6, 4), np.float32)
    out = infer(engine(proto, tmp_path), {"x": [3, 4], "ids": [3]}, save(tmp_path, x=x, ids=ids), tmp_path)
    np.testing.assert_array_equal(read(out, "ids"), ids)


def test_bfloat16_is_fed_from_float32_with_a_note_and_written_as_it_is(tmp_path):
    ends = [models.value(name, ["n", 2], TensorProto.BFLOAT16) for name in "xy"]
    proto = models.model([helper.make_node("Identity", ["x"], ["y"])], ends[:1], ends[1:])
    x = np.array([[1.5, 1.0009765625], [3, 4], [5, 6]], np.float32)
    notes = []
    out = infer(engine(proto, tmp_path), {"x": [2, 2]}, save(tmp_path, x=x), tmp_path, notes)
    np.testing.assert_array_equal(read(out, "y"), x.astype(ml_dtypes.bfloat16))
    assert notes == ["data.npz[x] is float32 and is fed as bfloat16, rounded"]


def test_an_axis_of_no_length_is_a_shape_too(tmp_path):
    nodes = [helper.make_node("Concat", ["past", "x"], ["all"], axis=1)]
    proto = models.model(nodes, [models.value("past", ["n", "steps", 4]), models.value("x", ["n", 1, 4])],
                         [models.value("all", ["n", "now", 4])])  # fmt: skip
    x = np.ones((2, 1, 4), np.float32)
    data = save(tmp_path, x=x, past=np.zeros((2, 0, 4), np.float32))
    out = infer(engine(proto, tmp_path), {"past": [2, 0, 4], "x": [2, 1, 4]}, data, tmp_path)
    np.testing.assert_array_equal(read(out, "all"), x)


def test_a_batch_of_no_samples_takes_no_samples_but_a_whole_empty_input(tmp_path):
    built, empty = engine(models.doubling(["n", 3]), tmp_path), np.zeros((1, 0, 3), np.float32)
    out = infer(built, {"x": [0, 3]}, save(tmp_path, x=empty), tmp_path)
    assert read(out, "y").shape == (1, 0, 3)
    with pytest.raises(StageFailed, match="allocate: found a batch of 0 samples, expected at least 1"):
        infer(built, {"x": [0, 3]}, save(tmp_path, x=np.ones((2, 3), np.float32)), tmp_path)


def test_a_shape_that_buffers_planned_otherwise_names_who_planned_it(tmp_path):
    built = engine(models.doubling(["batch", "width"]), tmp_path)
    with pytest.raises(StageFailed) as told:
        infer(built, {"x": [2, 4]}, save(tmp_path, x=np.zeros((6, 5), np.float32)), tmp_path)
    assert str(told.value).endswith(
        "found shape [6, 5], expected shape [samples, 4]; that is as `buffers` has planned it: in that stage write "
        "params: {shapes: {x: [2, 5]}}"
    )
    right = infer(built, {"x": [2, 5]}, save(tmp_path, x=np.zeros((6, 5), np.float32)), tmp_path)
    assert read(right, "y").shape == (6, 5)
