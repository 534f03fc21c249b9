"""The view: whatever people do to it, the store is not harmed and their work is not lost."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.store.helpers import a_key, commit, content_of, nothing_locked
from trtpipe.errors import StoreError
from trtpipe.store import gc
from trtpipe.store.artifact import Hit


@pytest.mark.parametrize("kind", ["results", "model"])
def test_whatever_is_done_to_the_view_no_stored_byte_changes(store, kind):
    artifact = commit(store, {"a.txt": b"content", "m.data": b"weights"}, kind=kind)
    folder = store.show("p", "s", artifact)
    for name in ("a.txt", "m.data"):
        with open(os.path.join(store.view_path("p", "s"), name), "r+b") as stream:  # in place, as root may
            stream.write(b"EVIL")
    assert isinstance(store.lookup(a_key().digest), Hit)
    assert content_of(store.blob_path(artifact.files["a.txt"][0])) == b"content"
    assert content_of(os.path.join(store.tree(artifact), "m.data")) == b"weights"
    assert store.show("p", "s", artifact) == folder
    assert content_of(os.path.join(folder, "a.txt")) == b"content"
    assert "a.txt, m.data in the view is not what the stage made; it is restored" in store.told[0]
    kept = os.path.join(store.folder, "edited", os.listdir(os.path.join(store.folder, "edited"))[0])
    assert content_of(os.path.join(kept, "a.txt")) == b"EVILent"


def test_a_view_that_lost_a_file_or_all_is_made_again(store):
    artifact = commit(store, {"a": b"1", "sub/b": b"2"})
    folder = store.show("p", "s", artifact)
    os.unlink(os.path.join(folder, "sub", "b"))
    store.show("p", "s", artifact)
    assert content_of(os.path.join(folder, "sub", "b")) == b"2"
    shutil.rmtree(folder)
    store.show("p", "s", artifact)
    assert content_of(os.path.join(folder, "a")) == b"1"
    assert store.told == []


def test_a_view_of_links_is_to_be_had_for_who_wants_it(store, monkeypatch):
    monkeypatch.setenv("TRTPIPE_VIEW", "link")
    artifact = commit(store, {"a": b"1"})
    folder = store.show("p", "s", artifact)
    assert os.path.samefile(os.path.join(folder, "a"), store.blob_path(artifact.files["a"][0]))
    assert isinstance(store.lookup(a_key().digest), Hit)


def test_the_view_points_at_the_newest_artifact(store):
    one, two = commit(store, {"a": b"1"}, a_key("1")), commit(store, {"a": b"2"}, a_key("2"))
    for artifact in (one, two, two):
        store.show("p", "s", artifact)
        with open(os.path.join(store.view_path("p", "s"), "a"), "rb") as stream:
            assert stream.read() == (b"1" if artifact is one else b"2")


def test_a_folder_of_the_users_in_the_view_is_not_removed(store):
    artifact = commit(store, {"a": b"1"})
    os.makedirs(store.view_path("p", "s"))
    with pytest.raises(StoreError, match="move it away"):
        store.show("p", "s", artifact)


@pytest.mark.parametrize("harm", ["none", "removed", "edited"])
def test_a_file_that_somebody_put_into_the_view_is_never_lost(store, harm):
    artifact = commit(store, {"a": b"1", "b": b"2"})
    folder = store.show("p", "s", artifact)
    for name in ("mine.txt", "notes/mine.txt"):
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        with open(os.path.join(folder, name), "w") as stream:
            stream.write("mine")
    if harm == "removed":
        os.unlink(os.path.join(folder, "a"))
    elif harm == "edited":
        with open(os.path.join(folder, "a"), "w") as stream:
            stream.write("other")
    store.show("p", "s", artifact)
    gc.gc(store, gc.Budget(max_size=0), nothing_locked)
    kept = {os.path.relpath(os.path.join(top, n), store.folder).partition("/")[2].partition("/")[2]
            for part in ("edited", "shown") for top, _, names in os.walk(os.path.join(store.folder, part))
            for n in names}  # fmt: skip
    assert {"mine.txt", "notes/mine.txt"} <= kept
