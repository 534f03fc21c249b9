"""An array in parts is read like one in a file, from any row on, on any number of threads, and never half."""

from __future__ import annotations

import os
import threading

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import as_input
from trtpipe.data import parallel, parts, tensors
from trtpipe.errors import StageFailed

WHOLE = np.arange(9000 * 5, dtype=np.float32).reshape(9000, 5)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """9,000 rows in three parts."""
    folder = tmp_path_factory.mktemp("array")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "TARGET", 1 << 16)
        tensors.write(folder, {"x": WHOLE})
    assert len(list(folder.glob("*.npy"))) == 3
    return tensors.open_input(as_input("d", folder))["x"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 9000), count=st.integers(0, 9000))
def test_rows_are_read_from_anywhere_across_parts(source, start, count):
    into = np.empty((min(count, 9000 - start), 5), np.float32)
    with source.reader() as reader:
        reader.fill_from(start, into)
    np.testing.assert_array_equal(into, WHOLE[start : start + count])


@pytest.mark.parametrize("size", [1, 7, 4095, 4096, 4097, 9000])
def test_batches_cross_the_ends_of_parts(source, size):
    made = [batch["x"].copy() for batch in tensors.batches({"x": source}, size)]
    assert [len(batch) for batch in made[:-1]] == [size] * (len(made) - 1)
    np.testing.assert_array_equal(np.concatenate(made), WHOLE)


def test_several_threads_share_a_batch_and_each_piece_is_looked_at(source, monkeypatch):
    monkeypatch.setattr(parallel, "PIECE", 1 << 12)
    monkeypatch.setattr(parallel, "LEAST", 1 << 13)
    monkeypatch.setattr(parallel, "threads", lambda: 4)
    seen = []
    into = np.empty((9000, 5), np.float32)
    with source.reader() as reader:
        assert reader.anywhere
        reader.fill_from(0, into, lambda piece: seen.append(piece.size))
    np.testing.assert_array_equal(into, WHOLE)
    assert len(seen) == 4
    assert sum(seen) == WHOLE.size


def test_many_threads_read_at_once_while_few_files_are_held_open(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "TARGET", 1)
    whole = np.arange(30 * 4096, dtype=np.int32)
    tensors.write(tmp_path, {"x": whole})
    source = tensors.open_input(as_input("d", tmp_path))["x"]
    wrong, most = [], []

    def work(seed):
        random = np.random.default_rng(seed)
        for start in random.integers(0, len(whole) - 5000, 200).tolist():
            into = np.empty(5000, np.int32)
            reader.fill_from(start, into)
            most.append(len(opened()))
            if not np.array_equal(into, whole[start : start + 5000]):
                wrong.append(start)

    def opened():
        found = []
        for number in os.listdir("/proc/self/fd"):
            try:
                found += [number] if os.readlink(f"/proc/self/fd/{number}").startswith(str(tmp_path)) else []
            except OSError:
                continue
        return found

    with source.reader() as reader:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert max(most) <= 16 + 2 * 4
    assert not opened()


def test_a_file_that_is_cut_short_while_it_is_read_is_torn(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((1000, 10)))
    source = tensors.open_input(as_input("d", tmp_path / "x.npy"))["x"]
    os.truncate(tmp_path / "x.npy", 5000)
    with pytest.raises(StageFailed, match=r"x\.npy is torn: its data ends before its shape is filled"):
        source.read()


def test_rows_beyond_the_last_are_torn_too(source):
    with source.reader() as reader, pytest.raises(StageFailed, match="is torn"):
        reader.fill_from(8999, np.empty((2, 5), np.float32))


def test_small_elements_are_read_across_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "TARGET", 1)
    whole = (np.arange(5000 * 3) % 16 - 8).astype(ml_dtypes.int4).reshape(5000, 3)
    tensors.write(tmp_path, {"x": whole})
    source = tensors.open_input(as_input("d", tmp_path))["x"]
    assert source.row_bytes == 3
    assert source.stored_row_bytes == 2
    made = np.concatenate([batch["x"].copy() for batch in tensors.batches({"x": source}, 999)])
    np.testing.assert_array_equal(made.astype(int), whole.astype(int))
