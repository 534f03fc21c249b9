"""Verification finds damage, says whose it is, and puts it aside."""

from __future__ import annotations

import os

from tests.store.helpers import a_key, content_of, several, there
from trtpipe.store import integrity


def test_verify_reads_everything_and_puts_aside_what_is_not_its_name(store):
    made = several(store, 3)
    assert integrity.verify(store) == (3, 120_000, [])
    path = store.blob_path(made[1][1].files["f"][0])
    status = os.stat(path)
    os.chmod(path, 0o644)
    with open(path, "r+b") as stream:
        stream.write(b"X")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with open(store.action_path(made[2][0].digest), "w") as stream:
        stream.write("{}")
    _, _, found = integrity.verify(store)
    assert [f.fixed for f in found] == ["put aside", "put aside", "removed"]
    assert len(os.listdir(os.path.join(store.folder, "quarantine"))) == 2
    assert there(store, made) == [True, False, False]


def test_verify_tells_of_what_was_changed_in_the_view_and_leaves_it(store):
    ((_, artifact),) = several(store, 1)
    path = os.path.join(store.view_path("p", "s0"), "f")
    with open(path, "ab") as stream:
        stream.write(b"mine")
    _, _, found = integrity.verify(store)
    assert [(f.trouble) for f in found] == ["somebody changed it"]
    assert content_of(path).endswith(b"mine")
    assert store.lookup(a_key("0").digest).artifact == artifact
