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
    assert [len(os.listdir(store.layout.part(part))) for part in ("quarantine", "edited")] == [1, 1]
    assert there(store, made) == [True, False, False]


def test_verify_puts_a_file_that_a_disk_damaged_into_quarantine(store):
    ((_, artifact),) = several(store, 1)
    path = store.blob_path(artifact.files["f"][0])
    with open(path, "r+b") as stream:
        stream.write(b"X")
    store.state.remember_good(path, os.stat(path), artifact.files["f"][0])  # as if nothing showed in its stat
    _, _, found = integrity.verify(store)
    assert [f.trouble for f in found] == ["has another content than its name says", "is not what the stage made"]
    assert [f.damage for f in found] == [True, False]
    assert len(os.listdir(store.layout.part("quarantine"))) == 1


def test_verify_keeps_what_was_saved_anew_in_the_view(store):
    ((_, artifact),) = several(store, 1)
    path = os.path.join(store.view_path("p", "s0"), "f")
    os.unlink(path)
    with open(path, "wb") as stream:
        stream.write(b"mine")
    _, _, found = integrity.verify(store)
    assert [(f.trouble, f.fixed, f.damage) for f in found] == [("is not what the stage made", "removed", False)]
    aside = store.told[0].rpartition(" in ")[2]
    assert content_of(os.path.join(aside, "f")) == b"mine"
    assert store.lookup(a_key("0").digest).artifact == artifact


def test_verify_says_what_somebody_wrote_through_the_view(store):
    several(store, 1)
    path = os.path.join(store.view_path("p", "s0"), "f")
    os.chmod(path, 0o644)
    with open(path, "ab") as stream:
        stream.write(b"mine")
    _, _, found = integrity.verify(store)
    assert found[0].trouble.startswith("was changed by somebody, whose version is in edited/")
    assert found[0].damage
    aside = os.path.join(store.folder, found[0].trouble.rpartition(" in ")[2], "f")
    assert content_of(aside).endswith(b"mine")
    assert there(store, [(a_key("0"), None)]) == [False]
    assert integrity.verify(store)[2][0].trouble == "its content is not in the store"
