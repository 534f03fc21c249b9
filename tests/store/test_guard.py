"""Runs and `cache gc` keep out of each other's way."""

from __future__ import annotations

import os

import pytest

from tests.store.helpers import nothing_locked, several, there
from trtpipe.errors import StoreError
from trtpipe.store import gc, locks
from trtpipe.store.gc import Budget
from trtpipe.store.store import Store


def test_gc_keeps_what_a_running_run_uses(store):
    made = several(store, 2)
    other = Store(store.folder, store.state)
    with other.in_use():
        with other.guard():
            other.use([made[1][0].digest])
        gc.gc(store, Budget(max_size=0), nothing_locked)
        assert there(store, made) == [False, True]
    gc.gc(store, Budget(max_size=0), nothing_locked)
    assert there(store, made) == [False, False]


def test_gc_waits_for_a_commit_and_says_so_if_it_takes_too_long(store, monkeypatch):
    several(store, 1)
    monkeypatch.setattr("trtpipe.store.locks.WAIT_SECONDS", 0.1)
    with Store(store.folder, store.state).guard(), pytest.raises(StoreError, match="other runs use the store"):
        gc.gc(store, Budget(max_size=0), nothing_locked)


@pytest.mark.parametrize("name", ["tmp-12-0123456789ab@{host}", "key-" + "a" * 64, "run-1-2@{host}"])
def test_gc_removes_what_a_run_left_that_was_killed_as_it_took_a_lock(store, monkeypatch, name):
    place = os.path.join(store.folder, "locks")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda *_: None)  # it did not come so far
        held = locks.take(os.path.join(place, name.format(host=locks.host())))
    held.release()
    assert len(os.listdir(place)) == 1
    gc.gc(store, Budget(), nothing_locked)
    assert os.listdir(place) == ["gc"]
