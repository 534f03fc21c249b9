from __future__ import annotations

import zipfile

import ml_dtypes
import numpy as np
import pytest

from tests.helpers import as_input
from trtpipe.data import tensors
from trtpipe.errors import StageFailed


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


def test_what_a_npy_file_keeps_of_bfloat16_is_refused_with_the_reason(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(3, ml_dtypes.bfloat16))
    with pytest.raises(
        StageFailed, match=r"x\.npy: found dtype .V2, which is all that a \.npy file keeps of types that"
    ):
        tensors.open_input(as_input("data", tmp_path / "x.npy"))


def test_more_rows_than_parts_can_hold_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.empty((10**12, 0), np.float32))
    with pytest.raises(StageFailed, match=r"d\.npz\[x\]: found 1000000000000 rows, which are 244140625 parts of 4096"):
        tensors.open_input(as_input("data", tmp_path / "d.npz"))


def test_names_with_slashes_are_names_and_absurdly_long_ones_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", **{"/model/out": np.ones(1), "../up": np.ones(1)})
    assert set(tensors.open_input(as_input("data", tmp_path / "d.npz"))) == {"/model/out", "../up"}
    np.savez(tmp_path / "d.npz", **{"n" * 5000: np.ones(1)})
    with pytest.raises(
        StageFailed, match=r"d\.npz: found a tensor's name of 5000 characters \(n+…\), expected at most"
    ):
        tensors.open_input(as_input("data", tmp_path / "d.npz"))


# --- ragged

SAMPLES = [np.arange(n * 3, dtype=np.float32).reshape(n, 3) for n in (2, 0, 4, 1)]
TRIPLE = {
    "boxes.values": np.concatenate([s.reshape(-1) for s in SAMPLES]),
    "boxes.offsets": np.array([0, 6, 6, 18, 21]),
    "boxes.shapes": np.array([s.shape for s in SAMPLES]),
}


def samples_of(ragged):
    with ragged.reader() as reader:
        return [row for block in reader.blocks(64) for row in block]


def as_npz(tmp_path, arrays):
    np.savez(tmp_path / "d.npz", **arrays)
    return tmp_path / "d.npz"


def as_deflated(tmp_path, arrays):
    np.savez_compressed(tmp_path / "d.npz", **arrays)
    return tmp_path / "d.npz"


def as_folder(tmp_path, arrays):
    (tmp_path / "d").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "d" / f"{name}.npy", array)
    return tmp_path / "d"


@pytest.mark.parametrize("put", [as_npz, as_deflated, as_folder])
def test_three_arrays_of_one_name_are_a_ragged_tensor(tmp_path, put):
    found = tensors.open_input(as_input("data", put(tmp_path, {**TRIPLE, "x": np.ones(2)})))
    assert set(found) == {"x", "boxes"}
    boxes = found["boxes"]
    assert (len(boxes), boxes.rank, boxes.element) == (4, 2, "float32")
    for row, sample in zip(samples_of(boxes), SAMPLES, strict=True):
        np.testing.assert_array_equal(row, sample)
    with boxes.reader() as reader:
        for index in (3, 0, 2, 2):
            np.testing.assert_array_equal(reader.row(index), SAMPLES[index])


def test_offsets_and_shapes_may_be_whole_numbers_of_any_width(tmp_path):
    small = {name: a if name == "boxes.values" else a.astype(np.uint8) for name, a in TRIPLE.items()}
    found = tensors.open_input(as_input("data", as_npz(tmp_path, small)))["boxes"]
    assert [s.shape for s in samples_of(found)] == [s.shape for s in SAMPLES]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"offsets": [0, 6, 5, 18, 21]},
            r"d\.npz\[boxes\.offsets\]: found offset 5 after 6 \(sample 1\), expected offsets",
        ),
        (
            {"offsets": [0, 6, 6, 18, 30]},
            r"\[boxes\.shapes\]: found shape \[1, 3\] for sample 3, expected one of 12 elem",
        ),
        (
            {"values": np.ones(20)},
            r"\[boxes\.offsets\]: found 21 as the last offset, expected 20, the number of values",
        ),
        (
            {"values": np.ones(22)},
            r"\[boxes\.offsets\]: found 21 as the last offset, expected 22, the number of values",
        ),
        ({"offsets": [1, 6, 6, 18, 21]}, r"\[boxes\.offsets\]: found 1 as the first offset, expected 0"),
        (
            {"offsets": [0, 6, 18, 21]},
            r"\[boxes\.offsets\]: found 4 offsets for 4 samples, expected 5, one more than sam",
        ),
        (
            {"offsets": [0.0, 6, 6, 18, 21]},
            r"\[boxes\.offsets\]: found dtype float64, expected int64 \(whole numbers\)",
        ),
        (
            {"shapes": [[2.0, 3], [np.nan, 3], [4, 3], [1, 3]]},
            r"\[boxes\.shapes\]: found dtype float64, expected int64",
        ),
        (
            {"shapes": [[2, 3], [0, 3], [5, 3], [1, 3]]},
            r"\[boxes\.shapes\]: found shape \[5, 3\] for sample 2, expected",
        ),
        ({"shapes": [[-2, -3], [0, 3], [4, 3], [1, 3]]}, r"\[boxes\.shapes\]: found shape \[-2, -3\] for sample 0"),
        ({"shapes": [[2, 3], [2**33, 2**31], [4, 3], [1, 3]]}, r"found shape \[8589934592, 2147483648\] for sample 1"),
        ({"shapes": [6, 0, 12, 3]}, r"\[boxes\.shapes\]: found shape \[4\], expected \[samples, axes\]"),
        ({"values": np.ones((7, 3))}, r"\[boxes\.values\]: found shape \[7, 3\], expected \[n\]"),
        ({"offsets": [[0, 6, 6, 18, 21]]}, r"\[boxes\.offsets\]: found shape \[1, 5\], expected \[samples \+ 1\]"),
    ],
)
def test_three_arrays_that_do_not_fit_each_other_are_refused_in_a_sentence(tmp_path, changed, message):
    arrays = {**TRIPLE, **{f"boxes.{name}": np.asarray(value) for name, value in changed.items()}}
    with pytest.raises(StageFailed, match=message) as caught:
        tensors.open_input(as_input("data", as_npz(tmp_path, arrays)))
    assert "\n" not in str(caught.value)


def test_two_of_the_three_are_refused_and_one_is_an_array(tmp_path):
    two = {name: array for name, array in TRIPLE.items() if name != "boxes.offsets"}
    with pytest.raises(
        StageFailed, match=r"d\.npz: found boxes\.values and boxes\.shapes without boxes\.offsets; a rag"
    ):
        tensors.open_input(as_input("data", as_npz(tmp_path, two)))
    found = tensors.open_input(as_input("data", as_npz(tmp_path, {"encoder.values": np.ones(2)})))
    assert found["encoder.values"].shape == (2,)


def test_a_ragged_tensor_and_an_array_of_one_name_are_refused(tmp_path):
    with pytest.raises(StageFailed, match=r"found the array boxes and the ragged tensor boxes, expected one of them"):
        tensors.open_input(as_input("data", as_npz(tmp_path, {**TRIPLE, "boxes": np.ones(4)})))


def sampled(tmp_path, samples, names=None, folder="audio.samples"):
    (tmp_path / "d" / folder).mkdir(parents=True)
    for number, sample in enumerate(samples):
        np.save(tmp_path / "d" / folder / f"{names[number] if names else f'{number:02d}'}.npy", sample)
    return tmp_path / "d"


def test_a_folder_of_samples_is_a_ragged_tensor_in_the_order_of_names(tmp_path):
    folder = sampled(tmp_path, SAMPLES, ["b", "a", "d", "c"])
    np.save(folder / "x.npy", np.ones(2))
    found = tensors.open_input(as_input("data", folder))
    assert set(found) == {"x", "audio"}
    assert (len(found["audio"]), found["audio"].rank) == (4, 2)
    rows = samples_of(found["audio"])
    for row, index in zip(rows, (1, 0, 3, 2), strict=True):
        np.testing.assert_array_equal(row, SAMPLES[index])


def test_samples_of_one_shape_are_ragged_too_since_the_folder_says_so(tmp_path):
    found = tensors.open_input(as_input("data", sampled(tmp_path, [np.ones((2, 2), np.int8)] * 3)))
    assert isinstance(found["audio"], tensors.Ragged)
    with found["audio"].reader() as reader:
        assert [row.shape for row in reader.rows(0, 3)] == [(2, 2)] * 3


def test_numbers_as_names_must_have_as_many_digits(tmp_path):
    folder = sampled(tmp_path, SAMPLES, ["9", "10", "11", "12"])
    with pytest.raises(
        StageFailed, match=r"audio\.samples: found 9\.npy and 10\.npy, whose order by name .*\(09\.npy\)"
    ):
        tensors.open_input(as_input("data", folder))


def test_samples_of_different_types_or_ranks_are_refused(tmp_path):
    with pytest.raises(
        StageFailed, match=r"audio\.samples/01\.npy: found float64 of rank 2, expected float32 of rank 2, "
    ):
        tensors.open_input(as_input("data", sampled(tmp_path, [SAMPLES[0], SAMPLES[1].astype(np.float64)])))


def test_what_else_lies_in_a_folder_of_samples_is_refused(tmp_path):
    folder = sampled(tmp_path, SAMPLES)
    (folder / "audio.samples" / "notes.txt").write_text("x")
    with pytest.raises(
        StageFailed, match=r"d: found audio\.samples/notes\.txt, expected only \.npy files in audio\.samp"
    ):
        tensors.open_input(as_input("data", folder))


def test_a_folder_of_samples_and_an_array_of_one_name_are_refused(tmp_path):
    folder = sampled(tmp_path, SAMPLES)
    np.save(folder / "audio.npy", np.ones(2))
    with pytest.raises(StageFailed, match=r"found the array audio and the folder audio\.samples, expected one of them"):
        tensors.open_input(as_input("data", folder))


def test_files_in_another_folder_are_refused_with_the_name_that_it_should_have(tmp_path):
    folder = sampled(tmp_path, SAMPLES, folder="audio")
    with pytest.raises(
        StageFailed, match=r"found audio/00\.npy, .*; samples in files of their own lie in a folder NAME\."
    ):
        tensors.open_input(as_input("data", folder))


def test_more_files_than_are_held_open_are_read_in_any_order(tmp_path):
    samples = [np.full(n % 7, n, np.int32) for n in range(60)]
    found = tensors.open_input(as_input("data", sampled(tmp_path, samples)))["audio"]
    with found.reader() as reader:
        for index in (59, 0, 30, 17, 59, 1):
            np.testing.assert_array_equal(reader.row(index), samples[index])
        np.testing.assert_array_equal(np.concatenate(reader.rows(0, 60)), np.concatenate(samples))
