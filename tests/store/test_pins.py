"""What is pinned stays until it is unpinned."""

from __future__ import annotations

from tests.store.helpers import nothing_locked, several, there
from trtpipe.store import files, gc, pins
from trtpipe.store.gc import Budget


def test_gc_keeps_what_is_pinned_until_it_is_unpinned(store):
    made = several(store, 2)
    pins.pin(store.layout, [("p/s0", made[0][0].digest, made[0][1])])
    found = gc.gc(store, Budget(max_size=0), nothing_locked)
    assert there(store, made) == [True, False]
    assert not found.met
    assert found.kept == {made[0][0].digest: "pinned as p/s0"}
    assert pins.unpin(store.layout, [made[0][0].digest]) == ["p/s0"]
    gc.gc(store, Budget(max_size=0), nothing_locked)
    assert there(store, made) == [False, False]


def test_a_damaged_pin_still_keeps_its_key(store):
    made = several(store, 2)
    pins.pin(store.layout, [("p/s0", made[0][0].digest, made[0][1])])
    (path,) = files.below(store.layout.part("pins"))
    with open(path, "w") as stream:
        stream.write("[")
    assert gc.gc(store, Budget(max_size=0), nothing_locked).kept == {made[0][0].digest: "pinned"}
    assert pins.unpin(store.layout, [made[0][0].digest]) == [made[0][0].digest[:12]]
    assert pins.read_all(store.layout) == []
