"""Work is shared out in whole pieces, and little of it not at all."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.data import parallel

MIB = 1 << 20


@pytest.fixture
def threads(monkeypatch):
    """Ask for a number of threads, whatever the machine has."""

    def ask(count):
        monkeypatch.setenv(parallel.THREADS, str(count))
        parallel.threads.cache_clear()
        parallel.pool.cache_clear()

    yield ask
    parallel.threads.cache_clear()
    parallel.pool.cache_clear()


def shares(size):
    found = []
    parallel.pieces(size, lambda begin, end: found.append((begin, end)))
    return sorted(found)


@given(size=st.integers(0, 200 * MIB), count=st.integers(1, 40))
def test_shares_are_consecutive_whole_and_worth_a_thread(size, count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "threads", lambda: count)
        found = shares(size)
    assert len(found) <= count
    assert [begin for begin, _ in found] == [0, *(end for _, end in found)][: len(found)]
    assert found[-1][1] == size if size else not found
    assert all(begin % parallel.PIECE == 0 for begin, _ in found)
    assert all(end - begin >= parallel.LEAST for begin, end in found[:-1])


def test_little_work_stays_on_the_thread_that_asks(threads):
    threads(8)
    who = []
    parallel.pieces(2 * parallel.LEAST - 1, lambda *_: who.append(threading.current_thread()))
    assert who == [threading.current_thread()]


def test_a_copy_by_several_threads_is_the_source(threads):
    threads(3)
    source = np.random.default_rng(0).integers(0, 256, 13 * MIB + 17, np.uint8)
    target = np.zeros_like(source)
    parallel.copy(target, source)
    assert (target == source).all()


def test_what_one_share_raises_is_raised(threads):
    threads(4)

    def work(begin, _end):
        if begin:
            raise ValueError(begin)

    with pytest.raises(ValueError, match=r"\d+"):
        parallel.pieces(40 * MIB, work)


def test_how_many_shares_there_will_be_is_told_beforehand(threads):
    threads(8)
    assert [parallel.shares(size * MIB) for size in (0, 4, 7, 8, 80)] == [1, 1, 1, 2, 8]
    assert parallel.shares(80 * MIB) == len(shares(80 * MIB))
