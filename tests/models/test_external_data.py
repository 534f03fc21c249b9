"""External data: what points outside, is missing or torn is refused, and values are read."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import onnx_models as models
from trtpipe.errors import StageFailed
from trtpipe.models import external_data, onnxfile, ort_cpu


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


def referring(path, values, *, location="weights.bin", offset=0, **fields):
    """Save y = Identity(w) whose weight lies beside it in a file, referred to with just these fields."""
    tensor = values if isinstance(values, onnx.TensorProto) else numpy_helper.from_array(values, "w")
    model = models.model(
        [helper.make_node("Identity", ["w"], ["y"])], [], [models.value("y", None, tensor.data_type)], {}
    )
    beside = path.parent / location
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_bytes(bytes(offset) + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for name, value in {"location": location, "offset": offset, **fields}.items():
        tensor.external_data.add(key=name, value=str(value))
    model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())
    return onnxfile.load(path)


WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    ("location", "name"),
    [("./w.bin", "w.bin"), ("a//w.bin", "a/w.bin"), ("./a/./w.bin", "a/w.bin"), ("w.bin", "w.bin")],
)
def test_locations_are_paths_however_they_are_spelt(tmp_path, location, name):
    model = referring(tmp_path / "m.onnx", WEIGHTS, location=location)
    assert external_data.external_files(model, tmp_path, label="m", known=("m.onnx", name)) == (name,)
    assert onnxfile.external_locations(tmp_path / "m.onnx") == [name]
    whole = onnxfile.whole(tmp_path / "m.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(whole.graph.initializer[0]), WEIGHTS)


@pytest.mark.parametrize("length", [40, 52, 1])
def test_a_length_that_is_not_that_of_the_shape_is_refused_with_both(tmp_path, length):
    model = referring(tmp_path / "m.onnx", WEIGHTS, length=length)
    (tmp_path / "weights.bin").write_bytes(bytes(100))
    said = rf"m: tensor w: its shape needs 48 bytes \(float32 \[4, 3\]\), it points to {length}$"
    with pytest.raises(StageFailed, match=said):
        external_data.external_files(model, tmp_path, label="m")
    with pytest.raises(StageFailed, match="its shape needs 48 bytes"):
        onnxfile.whole(tmp_path / "m.onnx")
    with pytest.raises(StageFailed, match="its shape needs 48 bytes"):
        external_data.take_in(model.graph.initializer[0], tmp_path)


@pytest.mark.parametrize("fields", [{}, {"length": 0}, {"length": 48}])
def test_a_length_that_is_not_given_is_that_of_the_shape(tmp_path, fields):
    model = referring(tmp_path / "m.onnx", WEIGHTS, offset=4096, **fields)
    with (tmp_path / "weights.bin").open("ab") as stream:
        stream.write(b"more")
    assert external_data.external_files(model, tmp_path, label="m") == ("weights.bin",)
    np.testing.assert_array_equal(external_data.array(model.graph.initializer[0], tmp_path), WEIGHTS)
    external_data.take_in(model.graph.initializer[0], tmp_path)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHTS)


@pytest.mark.parametrize("fields", [{"offset": -4}, {"offset": "x"}, {"length": -48}, {"length": "x"}])
def test_numbers_that_cannot_be_are_refused(tmp_path, fields):
    model = referring(tmp_path / "m.onnx", WEIGHTS)
    del model.graph.initializer[0].external_data[:]
    for name, value in {"location": "weights.bin", **fields}.items():
        model.graph.initializer[0].external_data.add(key=name, value=str(value))
    with pytest.raises(StageFailed, match="tensor w: its external data has no location, or a bad offset or length"):
        external_data.external_files(model, tmp_path, label="m")
    with pytest.raises(StageFailed, match="tensor w: "):
        external_data.take_in(model.graph.initializer[0], tmp_path)


@pytest.mark.parametrize(("dims", "kind"), [([-4, 3], TensorProto.FLOAT), ([2], TensorProto.STRING), ([2], 99)])
def test_what_has_no_size_cannot_lie_outside(tmp_path, dims, kind):
    model = referring(tmp_path / "m.onnx", WEIGHTS)
    tensor = model.graph.initializer[0]
    tensor.dims[:] = dims
    tensor.data_type = kind
    with pytest.raises(StageFailed, match=r"tensor w: its type and shape are .*, which cannot lie outside"):
        external_data.external_files(model, tmp_path, label="m")


@pytest.mark.parametrize("dims", [[2**40, 2**40], [2**62, 4]])
def test_a_shape_beyond_the_file_reads_nothing(tmp_path, dims):
    model = referring(tmp_path / "m.onnx", WEIGHTS)
    model.graph.initializer[0].dims[:] = dims
    with pytest.raises(StageFailed, match="is torn: tensor w ends at byte"):
        external_data.external_files(model, tmp_path, label="m")
    with pytest.raises(StageFailed, match=r"is torn: tensor w takes \d+ bytes, 48 are there"):
        external_data.take_in(model.graph.initializer[0], tmp_path)


@pytest.mark.parametrize("location", ["/etc/hostname", "../weights.bin"])
def test_a_tensor_is_never_read_from_outside(tmp_path, location):
    (tmp_path / "in").mkdir()
    model = referring(tmp_path / "in" / "m.onnx", WEIGHTS)
    (tmp_path / "weights.bin").write_bytes(bytes(48))
    for entry in model.graph.initializer[0].external_data:
        entry.value = location if entry.key == "location" else entry.value
    with pytest.raises(StageFailed, match="points outside the model's folder"):
        external_data.take_in(model.graph.initializer[0], tmp_path / "in")


def test_a_file_that_became_shorter_is_told(tmp_path):
    model = referring(tmp_path / "m.onnx", WEIGHTS)
    os.truncate(tmp_path / "weights.bin", 40)
    with pytest.raises(StageFailed, match="ends within tensor w"):
        external_data.array(model.graph.initializer[0], tmp_path)
    with pytest.raises(StageFailed, match="takes 48 bytes, 40 are there"):
        external_data.take_in(model.graph.initializer[0], tmp_path)


KINDS = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT4", "UINT4", "INT8", "INT64", "BOOL", "FLOAT8E4M3FN")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [[5, 3], [], [0, 4]])
def test_every_type_is_read_from_a_file_with_several_links_as_it_was_written(tmp_path, kind, shape):
    (tmp_path / "m").mkdir()
    numbers = np.arange(int(np.prod(shape))).reshape(shape) % 7
    wanted = TensorProto.DataType.Value(kind)
    tensor = numpy_helper.from_array(numbers.astype(helper.tensor_dtype_to_np_dtype(wanted)), "w")
    assert tensor.data_type == wanted
    right = numpy_helper.to_array(tensor)
    model = referring(tmp_path / "m" / "m.onnx", tensor, offset=64)
    os.link(tmp_path / "m" / "weights.bin", tmp_path / "another name")
    assert external_data.external_files(model, tmp_path / "m", label="m") == ("weights.bin",)
    found = external_data.array(model.graph.initializer[0], tmp_path / "m")
    assert (found.dtype, found.shape) == (right.dtype, right.shape)
    np.testing.assert_array_equal(found, right)
    (inside,) = onnxfile.whole(tmp_path / "m" / "m.onnx").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(inside), right)
    assert not external_data.is_external(inside)


def test_onnxruntime_takes_a_model_whose_external_data_has_several_links(tmp_path):
    (tmp_path / "m").mkdir()
    path = models.with_external(tmp_path / "m" / "m.onnx", models.conv())
    feed = {"image": np.ones((1, 3, 8, 8), np.float32)}
    before = ort_cpu.run(path, feed)
    os.link(tmp_path / "m" / "weights.bin", tmp_path / "another name")
    after = ort_cpu.run(path, feed)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
    with pytest.raises(onnx.checker.ValidationError):  # what onnx does, and why it is not asked
        onnx.load_model(str(path))


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ({"raw_data": b""}, 0),
        ({}, 0),
        ({"raw_data": bytes(8)}, 8),
        ({"float_data": [1, 2]}, 8),
        ({"raw_data": bytes(16)}, 16),
    ],
)
def test_a_weight_in_the_file_that_does_not_fit_its_shape_is_named_with_both_sizes(tmp_path, fields, held):
    proto = models.doubling([3])
    proto.graph.initializer.append(onnx.TensorProto(name="w", data_type=1, dims=[3], **fields))
    message = rf"m.onnx: tensor w: its shape needs 12 bytes \(float32 \[3\]\), the ONNX file holds {held} for it"
    with pytest.raises(StageFailed, match=message):
        external_data.external_files(proto, tmp_path, label="m.onnx")


@pytest.mark.parametrize(
    "kind", ["FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "INT4", "UINT64", "DOUBLE", "BOOL", "COMPLEX64"]
)
@pytest.mark.parametrize("raw", [True, False])
def test_a_weight_of_any_type_that_fits_passes(tmp_path, kind, raw):
    number = getattr(TensorProto, kind)
    values = np.ones(3, helper.tensor_dtype_to_np_dtype(number))
    proto = models.doubling([3])
    tensor = numpy_helper.from_array(values, "w") if raw else helper.make_tensor("w", number, [3], values.tolist())
    proto.graph.initializer.append(tensor)
    assert external_data.external_files(proto, tmp_path, label="m.onnx") == ()
