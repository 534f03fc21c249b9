"""The index of an artifact and its files must agree; format 1 is read."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from tests.helpers import as_input
from trtpipe.data import parts, tensors
from trtpipe.errors import StageFailed
from trtpipe.stage import Input


def opened(folder):
    files = tuple(sorted(p.name for p in folder.iterdir()))
    return tensors.open_input(Input(name="data", kind="tensors", folder=folder, files=files, label="scores"))


def changed(folder, number=0, **fields):
    """Say other things in the index; None takes a field away."""
    index = json.loads((folder / "tensors.json").read_text())
    entry = {**index["tensors"][number], **fields}
    index["tensors"][number] = {name: value for name, value in entry.items() if value is not None}
    (folder / "tensors.json").write_text(json.dumps(index))


FIRST = """\
{
 "batch": 3,
 "format": 1,
 "tensors": [
  {"dtype": "float32", "file": "0.npy", "name": "logits", "shape": [3, 2]},
  {"dtype": "int64", "file": "1.npy", "name": "boxes.values", "shape": [3]}
 ]
}
"""


def first(folder):
    """Write an artifact of format 1 by hand, byte for byte as it was."""
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }".ljust(117) + "\n"
    values = b"".join(np.float32(n).tobytes() for n in range(6))
    (folder / "0.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + head.encode() + values)
    np.save(folder / "1.npy", np.array([7, 8, 9]))
    (folder / "tensors.json").write_text(FIRST)
    return folder


def test_an_artifact_of_format_1_is_read(tmp_path):
    found = opened(first(tmp_path))
    assert {name: (s.element, s.shape) for name, s in found.items()} == {
        "logits": ("float32", (3, 2)), "boxes.values": ("int64", (3,)),
    }  # fmt: skip
    assert found["logits"].read().tolist() == [[0, 1], [2, 3], [4, 5]]
    read = [batch["x"].tolist() for batch in tensors.batches({"x": found["logits"]}, 2)]
    assert read == [[[0, 1], [2, 3]], [[4, 5]]]


def test_an_artifact_of_format_1_whose_index_lies_is_refused(tmp_path):
    first(tmp_path)
    changed(tmp_path, shape=[6])
    with pytest.raises(StageFailed, match=r"scores\[logits\]: tensors.json says shape \[6\], found \[3, 2\]"):
        opened(tmp_path)
    changed(tmp_path, file="9.npy")
    with pytest.raises(StageFailed, match=r"\(scores\) has no file 9\.npy; it has 0\.npy, 1\.npy, tensors\.json"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("number", "found"), [(3, "format 3"), ("2", 'format "2"'), (None, "format nothing"), (2.5, "format 2.5")]
)
def test_another_format_is_told_with_those_that_are_known(tmp_path, number, found):
    tensors.write(tmp_path, {"x": np.ones(1)})
    index = json.loads((tmp_path / "tensors.json").read_text())
    (tmp_path / "tensors.json").write_text(json.dumps({**index, "format": number}))
    with pytest.raises(StageFailed) as caught:
        opened(tmp_path)
    assert str(caught.value) == (
        f"input data (scores): tensors.json: found {found}, and this trtpipe knows formats 1 and 2: "
        "run the stage that makes it again"
    )


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Tensor x: 9,000 rows in three parts; y: bfloat16; z: ragged."""
    monkeypatch.setattr(parts, "TARGET", 1 << 16)
    with tensors.Writer(tmp_path) as writer:
        writer.add("x", np.float32, (9000, 4)).write(np.zeros((9000, 4), np.float32))
        writer.add("y", "bfloat16", (3, 2)).write(np.ones((3, 2), ml_dtypes.bfloat16))
        writer.add_ragged("z", np.int8, 3, 1).write([np.full(n, n, np.int8) for n in (2, 0, 3)])
    return tmp_path


def other(path, array):
    np.save(path, array)


X = np.zeros((4096, 4), np.float32)
ONE = "0-00001.npy"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / ONE).unlink(), rf"scores\[x\]: found no part {ONE}, expected 3 parts, as tensors\.json says"),
        (lambda f: other(f / "0-00003.npy", X), r"\[x\]: found a part 0-00003\.npy, expected 3 parts"),
        (lambda f: other(f / ONE, X[:4000]),
         rf"scores\[x\], part {ONE}: found shape \[4000, 4\], expected \[4096, 4\]"),
        (lambda f: other(f / "0-00002.npy", X[:809]), r"part 0-00002\.npy: found shape \[809, 4\], expected \[808,"),
        (lambda f: other(f / ONE, X.astype(np.int32)), rf"\[x\], part {ONE}: found dtype int32, expected float32"),
        (lambda f: other(f / ONE, X.reshape(-1)), rf"part {ONE}: found shape \[16384\], expected \[4096, 4\]"),
        (lambda f: (f / ONE).write_bytes((f / ONE).read_bytes()[:-1]), rf"\[x\], part {ONE} is torn: shape .* needs"),
        (lambda f: (f / ONE).write_bytes(b""), rf"\[x\], part {ONE} is no \.npy array, or a torn one"),
        (lambda f: other(f / "1-00000.npy", np.ones((3, 2), np.float16)),
         r"scores\[y\], part 1-00000\.npy: found dtype float16, expected uint16"),
        (lambda f: changed(f, shape=[9001, 4]), r"part 0-00002\.npy: found shape \[808, 4\], expected \[809, 4\]"),
        (lambda f: changed(f, shape=[90, 4]), r"found a part 0-00001\.npy, expected 1 parts"),
        (lambda f: changed(f, shape=[10**12, 0]), r"scores\[x\]: found 1000000000000 rows, which are 244140625 parts"),
        (lambda f: changed(f, shape=[9000, None]),
         r"scores\[x\]: tensors\.json says fixed, and a shape with unknown sizes"),
        (lambda f: changed(f, dtype="float31"),
         r"scores\[x\]: tensors\.json: found dtype float31, expected one of bool, "),
        (lambda f: changed(f, rows_per_part=5000), r"tensors\[0\]\.rows_per_part: .*5000 is not a multiple of 4096"),
        (lambda f: changed(f, rows_per_part=0), r"tensors\[0\]\.rows_per_part: .*found 0, expected at least 4096"),
        (lambda f: changed(f, rows_per_part=8192), r"scores\[x\]: found a part 0-00002\.npy, expected 2 parts"),
        (lambda f: changed(f, file="../0"), r"scores\[x\]: found no part \.\./0-00000\.npy, expected 3 parts"),
        (lambda f: changed(f, name="n" * 2000), r"tensors\[0\]\.name: found \"nnn.*expected a text of at most 1024"),
        (lambda f: changed(f, name="y"), r"found two tensors called y, expected different names"),
        (lambda f: changed(f, 2, shape=[3, 3]),
         r"scores\[z\]: tensors\.json says ragged, and a shape with sizes other"),
        (lambda f: changed(f, 2, values=6),
         r"scores\[z\.values\]: found 5 values in all parts, expected 6, as tensors\.json"),
        (lambda f: changed(f, 2, values=None),
         r"scores\[z\.values\]: found 5 values in all parts, expected 0, as tensors\.json"),
        (lambda f: changed(f, 2, shape=[2, None]),
         r"\[z\.offsets\], part 2-offsets-00000\.npy: found shape \[4\], expected \[3\]"),
        (lambda f: other(f / "2-offsets-00000.npy", np.array([0, 2, 1, 5])),
         r"scores\[z\.offsets\]: found offset 1 after 2 \(sample 1\), expected offsets that rise"),
        (lambda f: other(f / "2-offsets-00000.npy", np.array([1, 2, 2, 5])), "found 1 as the first offset, expected 0"),
        (lambda f: other(f / "2-shapes-00000.npy", np.array([[2], [1], [3]])),
         r"scores\[z\.shapes\]: found shape \[1\] for sample 1, expected one of 0 elements, as the offsets say"),
        (lambda f: other(f / "2-shapes-00000.npy", np.array([[2.0], [np.nan], [3]])),
         r"\[z\.shapes\], part 2-shapes-00000\.npy: found dtype float64, expected int64"),
        (lambda f: other(f / "2-values-00000.npy", np.zeros((5, 1), np.int8)),
         r"\[z\.values\], part 2-values-00000\.npy: found shape \[5, 1\], expected \[n\]"),
    ],
)  # fmt: skip
def test_an_index_and_files_that_do_not_agree_are_refused_in_a_sentence(made, damage, message):
    assert set(opened(made)) == {"x", "y", "z"}
    damage(made)
    with pytest.raises(StageFailed, match=message) as caught:
        opened(made)
    assert "\n" not in str(caught.value)


def test_values_that_lie_in_another_part_than_their_samples_are_refused(tmp_path):
    tensors.write(tmp_path, {"z": [np.zeros(1, np.int8)] * 5000})
    np.save(tmp_path / "0-values-00000.npy", np.zeros(4097, np.int8))
    np.save(tmp_path / "0-values-00001.npy", np.zeros(903, np.int8))
    with pytest.raises(
        StageFailed, match=r"part 0-values-00000\.npy: found 4097 values, expected 4096, as the offsets"
    ):
        opened(tmp_path)


def test_a_part_that_goes_away_while_it_is_read_is_a_failure_of_the_stage(made):
    source = opened(made)["x"]
    with source.reader() as reader:
        into = np.empty((10, 4), np.float32)
        reader.fill(into)
        (made / ONE).unlink()
        with pytest.raises(StageFailed, match=r"scores\[x\] cannot be read: No such file"):
            reader.fill_from(4090, into)


def test_an_artifact_in_a_folder_is_known_by_its_index(made):
    assert set(tensors.open_input(as_input("data", made))) == {"x", "y", "z"}


def test_a_format_that_only_python_takes_for_a_number_is_refused(tmp_path):
    first(tmp_path)
    (tmp_path / "tensors.json").write_text(FIRST.replace('"format": 1', '"format": true'))
    with pytest.raises(StageFailed, match=r"tensors\.json: format: found true, expected 1"):
        opened(tmp_path)
