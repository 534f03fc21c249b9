"""The threads that fill a session's slots, without a GPU: order, errors and giving up."""

from __future__ import annotations

import random
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from trtpipe.backends.trt.reader import Reader, how_many
from trtpipe.backends.trt.slots import Loaded
from trtpipe.data import parallel
from trtpipe.runtime import Pending


def reader_of(feeds, *, slots, threads):
    return Reader([SimpleNamespace(number=n) for n in range(slots)], feeds, load, threads)


def load(slot, feed):
    given = feed["x"]
    given.fill(np.empty(given.shape, given.dtype))
    return Loaded(slot, ((feed["n"],),))


def pending(ordered, seen, n):
    def fill(_into):
        time.sleep(random.random() / 500)
        seen.append(n)

    return Pending(shape=(1,), dtype=np.dtype("float32"), fill=fill, ordered=ordered)


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
@pytest.mark.parametrize("reading", [1, 2, 4])
@pytest.mark.parametrize("ordered", [True, False])
def test_batches_come_in_order_each_in_its_slot(slots, reading, ordered):
    seen = []
    reader = reader_of(({"x": pending(ordered, seen, n), "n": n} for n in range(60)), slots=slots, threads=reading)
    got = []
    while (loaded := reader.next()) is not None:
        got.append((loaded.shapes[0][0], loaded.slot.number))
        reader.launched()
    reader.stop()
    assert got == [(n, n % slots) for n in range(60)]
    assert sorted(seen) == list(range(60))
    assert not ordered or seen == list(range(60))


def soon(seen, expected):
    """Wait for what must come, then a little for what must not."""
    deadline = time.monotonic() + 60
    while len(seen) < len(expected) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert sorted(seen) == expected


def test_no_slot_is_filled_before_its_last_batch_was_launched():
    seen = []
    reader = reader_of(({"x": pending(False, seen, n), "n": n} for n in range(9)), slots=2, threads=2)
    soon(seen, [0, 1])
    reader.next()
    reader.launched()
    soon(seen, [0, 1, 2])
    reader.stop()
    assert threading.active_count() < 50


@pytest.mark.parametrize("where", ["feed", "fill"])
def test_what_goes_wrong_comes_in_its_turn(where):
    seen = []

    def bad(_into):
        raise ValueError("torn")

    def feeds():
        for n in range(5):
            yield {"x": pending(False, seen, n), "n": n}
        if where == "feed":
            raise ValueError("torn")
        yield {"x": Pending(shape=(1,), dtype=np.dtype("float32"), fill=bad, ordered=False), "n": 5}

    reader = reader_of(feeds(), slots=3, threads=2)
    for _ in range(5):
        assert reader.next() is not None
        reader.launched()
    with pytest.raises(ValueError, match="torn"):
        reader.next()
    reader.stop()


@pytest.mark.parametrize(
    ("size", "slots", "reading"),
    [(600_000, 1, 1), (600_000, 2, 1), (600_000, 8, 2), (5 << 20, 2, 4), (5 << 20, 8, 4), (77 << 20, 6, 2)],
)
def test_the_smallest_and_the_largest_batches_are_read_by_few_at_a_time(monkeypatch, size, slots, reading):
    monkeypatch.setattr(parallel, "threads", lambda: 8)
    one = SimpleNamespace(host={"x": np.empty(size, np.uint8)})
    assert how_many([one] * slots, [SimpleNamespace(name="x")]) == reading
