"""Artifacts of tensors are written part by part, the same bytes each time."""

from __future__ import annotations

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from tests.helpers import as_input
from trtpipe.data import parts, tensors
from trtpipe.errors import StageFailed, StoreError


def test_a_written_artifact_reads_back_equal_and_its_bytes_are_the_same_each_time(tmp_path):
    made = {"b": np.arange(6, dtype=np.float32).reshape(3, 2), "a": np.array([1, 2, 3], np.int64)}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tensors.write(tmp_path / name, made)
    one = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}
    assert one == {p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()}
    index = json.loads(one["tensors.json"])
    assert index["batch"] == 3
    assert index["format"] == 2
    assert index["tensors"][0] == {
        "name": "b", "form": "fixed", "dtype": "float32", "shape": [3, 2], "file": "0", "rows_per_part": 1 << 23,
    }  # fmt: skip
    found = tensors.open_input(as_input("data", tmp_path / "one"))
    for name, array in made.items():
        np.testing.assert_array_equal(found[name].read(), array)
        np.testing.assert_array_equal(np.load(tmp_path / "one" / f"{list(made).index(name)}-00000.npy"), array)


def test_arrays_without_rows_or_without_axes_survive(tmp_path):
    tensors.write(tmp_path, {"none": np.empty((0, 4), np.float32), "hollow": np.empty((3, 0), np.float32),
                             "one": np.array(5, np.int16)})  # fmt: skip
    found = tensors.open_input(as_input("data", tmp_path))
    assert found["none"].shape == (0, 4)
    assert found["none"].read().dtype == np.float32
    assert [b["hollow"].shape for b in tensors.batches({"hollow": found["hollow"]}, 2)] == [(2, 0), (1, 0)]
    assert found["one"].read() == np.array(5, np.int16)
    assert sorted(p.name for p in tmp_path.glob("*.npy")) == ["1-00000.npy", "2-00000.npy"]


def test_an_artifact_is_abandoned_without_an_index_when_the_body_fails(tmp_path):
    writer = tensors.Writer(tmp_path)
    writer.__enter__()
    writer.add("x", np.float32, (4, 2)).write(np.ones((1, 2), np.float32))
    writer.__exit__(RuntimeError, RuntimeError(), None)
    assert not (tmp_path / "tensors.json").exists()


def test_missing_rows_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="rows are missing"), tensors.Writer(tmp_path) as writer:
        writer.add("x", np.float32, (4, 2)).write(np.ones((3, 2), np.float32))


def test_an_array_is_written_in_pieces_of_any_size(tmp_path):
    whole = np.arange(40_000, dtype=np.int64).reshape(400, 100)
    with tensors.Writer(tmp_path) as writer:
        array = writer.add("x", np.int64, whole.shape)
        for start in range(0, 400, 7):
            array.write(whole[start : start + 7])
    np.testing.assert_array_equal(np.load(tmp_path / "0-00000.npy"), whole)


def test_a_disk_without_room_is_a_store_error_before_anything_is_computed(tmp_path):
    code = (
        "import resource, sys, numpy as np; from pathlib import Path\n"
        "from trtpipe.data import tensors; from trtpipe.errors import StoreError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try: tensors.Writer(Path(sys.argv[1])).add('x', np.float32, (1 << 20,))\n"
        "except StoreError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("no room for 4194432 bytes of 0-00000.npy: ")


def test_a_disk_that_cannot_hold_all_parts_is_told_before_the_first_is_written(tmp_path):
    with (
        tensors.Writer(tmp_path) as writer,
        pytest.raises(StoreError, match="no room for 1638400000000000 bytes of tensor 0: the disk has"),
    ):
        writer.add("x", np.float32, (400_000_000, 1024, 1000))
    assert [p.name for p in tmp_path.iterdir()] == ["tensors.json"]


@pytest.mark.parametrize("step", [1000, 4096, 5000, 20_000])
def test_rows_are_cut_into_parts_however_they_come(tmp_path, monkeypatch, step):
    monkeypatch.setattr(parts, "TARGET", 1 << 16)
    whole = np.arange(10_000 * 25, dtype=np.float64).reshape(10_000, 25)
    with tensors.Writer(tmp_path) as writer:
        array = writer.add("x", np.float64, whole.shape)
        for start in range(0, len(whole), step):
            array.write(whole[start : start + step])
    made = [np.load(path) for path in sorted(tmp_path.glob("*.npy"))]
    assert [len(part) for part in made] == [4096, 4096, 1808]
    np.testing.assert_array_equal(np.concatenate(made), whole)


def test_parts_of_rows_without_bytes_are_counted_too(tmp_path):
    tensors.write(tmp_path, {"x": np.empty((5000, 0), np.float32)})
    assert [np.load(path).shape for path in sorted(tmp_path.glob("*.npy"))] == [(4096, 0), (904, 0)]
    assert tensors.open_input(as_input("d", tmp_path))["x"].read().shape == (5000, 0)


def test_types_that_numpy_loses_are_stored_as_bits_and_come_back(tmp_path):
    given = {
        "half": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
        "eight": np.arange(6).astype(ml_dtypes.float8_e4m3fn).reshape(2, 3),
        "four": np.arange(-3, 3).astype(ml_dtypes.int4).reshape(2, 3),
        "float4": np.arange(6).astype(ml_dtypes.float4_e2m1fn).reshape(3, 2),
    }
    tensors.write(tmp_path, given)
    index = json.loads((tmp_path / "tensors.json").read_text())
    assert [(t["dtype"], t["shape"]) for t in index["tensors"]] == [
        ("bfloat16", [2, 3]), ("float8e4m3fn", [2, 3]), ("int4", [2, 3]), ("float4e2m1", [3, 2]),
    ]  # fmt: skip
    stored = [np.load(tmp_path / f"{number}-00000.npy") for number in range(4)]
    assert [(a.dtype.name, a.shape) for a in stored] == [
        ("uint16", (2, 3)), ("uint8", (2, 3)), ("uint8", (2, 2)), ("uint8", (3, 1)),
    ]  # fmt: skip
    for name, source in tensors.open_input(as_input("d", tmp_path)).items():
        back = source.read()
        assert back.dtype == given[name].dtype
        np.testing.assert_array_equal(back.astype(np.float32), given[name].astype(np.float32))


def test_a_list_of_arrays_is_written_as_a_ragged_tensor(tmp_path):
    samples = [np.arange(n * 2, dtype=np.float32).reshape(n, 2) for n in (3, 0, 1)]
    tensors.write(tmp_path, {"boxes": samples})
    assert json.loads((tmp_path / "tensors.json").read_text()) == {
        "format": 2,
        "batch": 3,
        "tensors": [
            {"name": "boxes", "form": "ragged", "dtype": "float32", "shape": [3, None, None], "file": "0",
             "rows_per_part": 4096, "values": 8},
        ],
    }  # fmt: skip
    parts_of = {path.name: np.load(path).tolist() for path in tmp_path.glob("*.npy")}
    assert parts_of == {
        "0-values-00000.npy": [0, 1, 2, 3, 4, 5, 0, 1],
        "0-offsets-00000.npy": [0, 6, 6, 8],
        "0-shapes-00000.npy": [[3, 2], [0, 2], [1, 2]],
    }


def test_parts_of_ragged_values_hold_as_many_samples_as_the_step(tmp_path):
    samples = [np.full(n % 5, n, np.int32) for n in range(9000)]
    tensors.write(tmp_path, {"x": samples})
    made = [np.load(path) for path in sorted(tmp_path.glob("0-values-*.npy"))]
    assert [part[0] for part in made] == [1, 4096, 8192]
    assert [len(np.load(path)) for path in sorted(tmp_path.glob("0-offsets-*.npy"))] == [4096, 4096, 809]
    found = tensors.open_input(as_input("d", tmp_path))["x"]
    with found.reader() as reader:
        for index in (0, 4095, 4096, 8999):
            np.testing.assert_array_equal(reader.row(index), samples[index])


def test_a_ragged_tensor_without_samples_is_one(tmp_path):
    with tensors.Writer(tmp_path) as writer:
        writer.add_ragged("x", "bfloat16", 0, 2)
    found = tensors.open_input(as_input("d", tmp_path))["x"]
    assert (len(found), found.rank, found.element) == (0, 2, "bfloat16")
    with found.reader() as reader:
        assert reader.rows(0, 0) == []


def test_a_sample_of_another_rank_or_type_one_too_many_and_one_too_few_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"float64 of rank 1 does not fit float32 of rank 1"):
        tensors.write(tmp_path, {"x": [np.ones(1, np.float32), np.ones(1)]})
    with pytest.raises(ValueError, match=r"int8 of rank 2 does not fit int8 of rank 1"):
        tensors.write(tmp_path, {"x": [np.ones(1, np.int8), np.ones((1, 1), np.int8)]})
    with pytest.raises(ValueError, match="more samples than the tensor has"), tensors.Writer(tmp_path) as writer:
        writer.add_ragged("x", np.int8, 1, 1).write([np.ones(1, np.int8)] * 2)
    with pytest.raises(ValueError, match="rows are missing: 1 of 2"), tensors.Writer(tmp_path) as writer:
        writer.add_ragged("x", np.int8, 2, 1).write([np.ones(1, np.int8)])


def test_objects_and_texts_are_not_written_and_too_long_a_name_neither(tmp_path):
    for dtype in (object, "U4"):
        with pytest.raises(StageFailed, match="tensor x: found dtype .*, expected one of bool, int8"):
            tensors.Writer(tmp_path).add("x", dtype, (1,))
    with pytest.raises(StageFailed, match="found a tensor's name of 5000 characters"):
        tensors.Writer(tmp_path).add("x" * 5000, np.int8, (1,))
    tensors.write(tmp_path, {"/model/conv/Output": np.ones(1, np.int8)})
    assert list(tensors.open_input(as_input("d", tmp_path))) == ["/model/conv/Output"]


def test_a_tensor_of_too_many_parts_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(StageFailed, match=rf"found {10**12} rows, which are 244140625 parts of 4096 rows; expected at"):
        tensors.Writer(tmp_path).add("x", np.float32, (10**12, 0))
    assert parts.MOST == 100_000
    assert not list(tmp_path.iterdir())
