"""Shards are joined by linking parts, and the whole is byte for byte what it would be had it been written at once."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtpipe.data import joining, parts, tensors
from trtpipe.errors import StageFailed
from trtpipe.stage import Input
from trtpipe.store.artifact import Artifact


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """Parts of 64 KiB, so that a few thousand rows are many parts."""
    monkeypatch.setattr(parts, "TARGET", 1 << 16)


def as_artifact(folder):
    files = tuple(sorted(path.name for path in folder.iterdir()))
    return Input(name=folder.name, kind="tensors", folder=folder, files=files, label=folder.name)


def digest(folder):
    sha = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    return Artifact("tensors", {name: (one, 0) for name, one in sha.items()}).digest


def shards(folder, whole, cuts):
    """Write the rows of some tensors between cuts, each as an artifact."""
    rows = len(next(iter(whole.values())))
    made = []
    for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, rows], strict=True)):
        place = folder / f"shard{number}"
        place.mkdir()
        with tensors.Writer(place) as writer:
            for name, rows_of in whole.items():
                if isinstance(rows_of, np.ndarray):
                    writer.add(name, rows_of.dtype, (end - begin, *rows_of.shape[1:])).write(rows_of[begin:end])
                else:
                    writer.add_ragged(name, rows_of[0].dtype, end - begin, rows_of[0].ndim).write(rows_of[begin:end])
        made.append(as_artifact(place))
    return made


def both(folder, whole, cuts):
    """Write it whole and joined; give the two folders."""
    one, joined = folder / "whole", folder / "joined"
    one.mkdir()
    joined.mkdir()
    tensors.write(one, whole)
    joining.join(joined, shards(folder, whole, cuts))
    return one, joined


def ragged_rows(count, dtype):
    return [np.full((n % 4, n % 3), n % 5).astype(dtype) for n in range(count)]


WHOLE = {
    "narrow": lambda n: np.arange(n, dtype=np.int8),  # 65,536 rows a part
    "middle": lambda n: np.arange(n * 2, dtype=np.float32).reshape(n, 2),  # 8,192 rows a part
    "wide": lambda n: np.arange(n * 5, dtype=np.float32).reshape(n, 5),  # 4,096 rows a part
    "hollow": lambda n: np.empty((n, 0), np.float16),
    "half": lambda n: np.arange(n * 3).astype(ml_dtypes.bfloat16).reshape(n, 3),
    "four": lambda n: (np.arange(n * 3) % 8).astype(ml_dtypes.int4).reshape(n, 3),
    "boxes": lambda n: ragged_rows(n, np.float32),
    "small": lambda n: ragged_rows(n, ml_dtypes.uint4),
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), names=st.sets(st.sampled_from(sorted(WHOLE)), min_size=1, max_size=3))
def test_any_cut_at_multiples_of_the_step_gives_the_digest_of_the_whole(data, names):
    steps = data.draw(st.integers(1, 7))
    rows = steps * parts.STEP - data.draw(st.sampled_from([0, 1, 4000]))
    cuts = sorted(data.draw(st.sets(st.integers(1, steps - 1))) if steps > 1 else [])
    whole = {name: WHOLE[name](rows) for name in sorted(names)}
    with tempfile.TemporaryDirectory() as folder:
        one, joined = both(Path(folder), whole, [cut * parts.STEP for cut in cuts])
        assert digest(joined) == digest(one)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(WHOLE)))
def test_any_cut_at_all_does_so_too_by_copying_what_does_not_fit(data, name):
    rows = data.draw(st.integers(1, 9000))
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=3)))
    with tempfile.TemporaryDirectory() as folder:
        one, joined = both(Path(folder), {name: WHOLE[name](rows)}, cuts)
        assert digest(joined) == digest(one)


def same_file(one, other):
    return one.stat().st_ino == other.stat().st_ino


def test_parts_of_shards_that_are_cut_where_parts_begin_are_links(tmp_path):
    whole = {"wide": WHOLE["wide"](9000), "boxes": WHOLE["boxes"](9000)}
    one, joined = both(tmp_path, whole, [4096, 8192])
    assert digest(joined) == digest(one)
    for number in range(3):
        for tensor in ("0", "1-values"):
            shard = tmp_path / f"shard{number}" / f"{tensor}-00000.npy"
            assert same_file(joined / parts.file_name(tensor, number), shard), (tensor, number)


def test_the_last_part_of_a_shard_that_is_cut_elsewhere_is_copied(tmp_path):
    one, joined = both(tmp_path, {"wide": WHOLE["wide"](9000)}, [5000])
    assert digest(joined) == digest(one)
    assert same_file(joined / "0-00000.npy", tmp_path / "shard0" / "0-00000.npy")
    assert (joined / "0-00001.npy").stat().st_nlink == 1


def test_a_part_with_another_head_is_copied_so_that_the_digest_stays(tmp_path):
    whole = {"wide": WHOLE["wide"](8192)}
    one = tmp_path / "whole"
    one.mkdir()
    tensors.write(one, whole)
    made = shards(tmp_path, whole, [4096])
    part = made[1].folder / "0-00000.npy"
    head = b"\x93NUMPY\x02\x00" + (180).to_bytes(4, "little")
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4096, 5), }".ljust(179) + b"\n"
    part.write_bytes(head + text + np.load(part).tobytes())
    (tmp_path / "joined").mkdir()
    joining.join(tmp_path / "joined", made)
    assert digest(tmp_path / "joined") == digest(one)


def test_shards_without_rows_are_nothing(tmp_path):
    one, joined = both(tmp_path, {"x": np.arange(5), "z": ragged_rows(5, np.int8)}, [0, 2, 2, 5])
    assert digest(joined) == digest(one)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"y": np.ones((2, 3))}, r"shard1: found tensors y, expected x"),
        ({"x": np.ones((2, 4))}, r"shard1\[x\]: found float64 \[samples, 4\], expected float64 \[samples, 3\]"),
        ({"x": np.ones((2, 3), np.float32)}, r"\[x\]: found float32 \[samples, 3\], expected float64 \[samples, 3\]"),
        ({"x": [np.ones(3)]}, r"\[x\]: found a ragged tensor of float64 and rank 1, expected float64 \["),
    ],
)  # fmt: skip
def test_shards_that_do_not_fit_each_other_are_refused(tmp_path, other, message):
    for name, content in (("shard0", {"x": np.ones((2, 3))}), ("shard1", other), ("out", None)):
        (tmp_path / name).mkdir()
        if content:
            tensors.write(tmp_path / name, content)
    with pytest.raises(StageFailed, match=message):
        joining.join(tmp_path / "out", [as_artifact(tmp_path / "shard0"), as_artifact(tmp_path / "shard1")])
    assert not (tmp_path / "out" / "tensors.json").exists()


def test_an_artifact_of_format_1_is_a_shard_too(tmp_path):
    (tmp_path / "old").mkdir()
    np.save(tmp_path / "old" / "0.npy", np.arange(3))
    entry = {"name": "x", "file": "0.npy", "dtype": "int64", "shape": [3]}
    (tmp_path / "old" / "tensors.json").write_text(json.dumps({"format": 1, "batch": 3, "tensors": [entry]}))
    (tmp_path / "joined").mkdir()
    joining.join(tmp_path / "joined", [as_artifact(tmp_path / "old")] * 2)
    assert tensors.open_input(as_artifact(tmp_path / "joined"))["x"].read().tolist() == [0, 1, 2, 0, 1, 2]
