from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests.helpers import as_input
from trtpipe.data import tensors
from trtpipe.errors import StageFailed
from trtpipe.stage import Input


def rows(source, size, copies=1):
    return [b["x"].copy() for b in tensors.batches({"x": source}, size, copies=copies)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_a_batch_at_a_time_stored_or_deflated(tmp_path, save):
    x = np.arange(7 * 3 * 2, dtype=np.float32).reshape(7, 3, 2)
    save(tmp_path / "d.npz", x=x, label=np.arange(7))
    found = tensors.open_input(as_input("data", tmp_path / "d.npz"))
    assert set(found) == {"x", "label"}
    assert found["x"].shape == (7, 3, 2)
    read = rows(found["x"], 3)
    assert [len(r) for r in read] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(read), x)


def test_a_folder_of_npy_files_is_named_after_its_files(tmp_path):
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", np.ones((2, 3), np.int64))
    np.save(tmp_path / "d" / "y.npy", np.ones((2,), bool))
    found = tensors.open_input(as_input("data", tmp_path / "d"))
    assert {n: (s.dtype.name, s.shape) for n, s in found.items()} == {"x": ("int64", (2, 3)), "y": ("bool", (2,))}


def test_a_written_artifact_reads_back_equal_and_its_bytes_are_the_same_each_time(tmp_path):
    made = {"b": np.arange(6, dtype=np.float32).reshape(3, 2), "a": np.array([1, 2, 3], np.int64)}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tensors.write(tmp_path / name, made)
    one = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}
    assert one == {p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()}
    index = json.loads(one["tensors.json"])
    assert index["batch"] == 3
    assert index["tensors"][0] == {"name": "b", "file": "0.npy", "dtype": "float32", "shape": [3, 2]}
    found = tensors.open_input(as_input("data", tmp_path / "one"))
    for name, array in made.items():
        np.testing.assert_array_equal(found[name].read(), array)
        np.testing.assert_array_equal(np.load(tmp_path / "one" / f"{list(made).index(name)}.npy"), array)


def test_arrays_without_rows_or_without_axes_survive(tmp_path):
    tensors.write(tmp_path, {"none": np.empty((0, 4), np.float32), "hollow": np.empty((3, 0), np.float32)})
    found = tensors.open_input(as_input("data", tmp_path))
    assert found["none"].shape == (0, 4)
    assert [b["hollow"].shape for b in tensors.batches({"hollow": found["hollow"]}, 2)] == [(2, 0), (1, 0)]


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
    np.testing.assert_array_equal(np.load(tmp_path / "0.npy"), whole)


def test_a_disk_without_room_is_a_store_error_before_anything_is_computed(tmp_path):
    code = (
        "import resource, sys, numpy as np; from pathlib import Path\n"
        "from trtpipe.data import tensors; from trtpipe.errors import StoreError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try: tensors.ArrayWriter(Path(sys.argv[1]) / '0.npy', np.dtype('float32'), (1 << 20,))\n"
        "except StoreError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("no room for 4194432 bytes of 0.npy: ")


def test_batches_stay_valid_for_as_many_turns_as_copies(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.arange(6, dtype=np.float32))
    source = tensors.open_input(as_input("data", tmp_path / "d.npz"))["x"]
    held = []
    for batch in tensors.batches({"x": source}, 1, copies=3):
        held = [*held, batch["x"]][-3:]
    assert [float(h[0]) for h in held] == [3, 4, 5]


def test_objects_are_refused_and_never_unpickled(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(StageFailed, match=r"d\.npz\[x\]: found dtype object; expected numbers"):
        tensors.open_input(as_input("data", tmp_path / "d.npz"))


def test_fortran_order_foreign_byte_order_and_negative_sizes_are_refused(tmp_path):
    np.save(tmp_path / "f.npy", np.asfortranarray(np.ones((2, 3), np.float32)))
    np.save(tmp_path / "b.npy", np.ones(3, ">f4"))
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -2), }"
    (tmp_path / "n.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header + b"\n").to_bytes(2, "little") + header + b"\n" + bytes(8)
    )
    for name, message in (
        ("f", "not C-contiguous"),
        ("b", "byte order '>f4'"),
        ("n", r"shape \[-1, -2\]"),
    ):
        with pytest.raises(StageFailed, match=message):
            tensors.open_input(as_input("data", tmp_path / f"{name}.npy"))


def test_torn_files_are_named(tmp_path):
    np.save(tmp_path / "t.npy", np.ones((4, 4), np.float32))
    whole = (tmp_path / "t.npy").read_bytes()
    for size in (0, 5, 60, len(whole) - 1):
        (tmp_path / "t.npy").write_bytes(whole[:size])
        with pytest.raises(StageFailed, match=r"t\.npy is (no \.npy array|torn)"):
            tensors.open_input(as_input("data", tmp_path / "t.npy"))
    np.savez(tmp_path / "t.npz", x=np.ones(100, np.float32))
    (tmp_path / "t.npz").write_bytes((tmp_path / "t.npz").read_bytes()[:-30])
    with pytest.raises(StageFailed, match=r"t\.npz is no \.npz file, or a torn one"):
        tensors.open_input(as_input("data", tmp_path / "t.npz"))


def test_a_damaged_member_is_found_when_it_is_read(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=np.zeros(50_000, np.float32))
    data = bytearray(path.read_bytes())
    data[100_000] ^= 0xFF
    path.write_bytes(data)
    source = tensors.open_input(as_input("data", path))["x"]
    with pytest.raises(StageFailed, match=r"d\.npz\[x\] is damaged"):
        source.read()


def test_a_member_that_claims_more_than_it_holds_allocates_nothing(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(StageFailed, match="needs 4000000000"):
        tensors.open_input(as_input("data", tmp_path / "d.npz"))


def test_what_is_no_data_says_what_would_be(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(StageFailed, match=r"expected a \.npz file, a folder of \.npy files or a tensors artifact"):
        tensors.open_input(as_input("data", tmp_path / "a.txt"))


def test_different_numbers_of_rows_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.ones(3), y=np.ones(4))
    found = tensors.open_input(as_input("data", tmp_path / "d.npz"))
    with pytest.raises(StageFailed, match="x 3, y 4"):
        next(tensors.batches(found, 2))


def test_an_artifact_whose_index_lies_is_refused(tmp_path):
    tensors.write(tmp_path, {"x": np.ones((2, 2))})
    index = json.loads((tmp_path / "tensors.json").read_text())
    index["tensors"][0]["shape"] = [4]
    (tmp_path / "tensors.json").write_text(json.dumps(index))
    given = Input(name="data", kind="tensors", folder=tmp_path, files=("0.npy", "tensors.json"), label="scores")
    with pytest.raises(StageFailed, match=r"scores\[x\]: tensors.json says shape \[4\], found \[2, 2\]"):
        tensors.open_input(given)
