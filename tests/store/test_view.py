"""The view: people find what a stage made last, and whatever they do to it, no work of theirs is lost."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.store.helpers import a_key, commit, content_of, nothing_locked
from trtpipe.errors import StoreError
from trtpipe.store import gc
from trtpipe.store.artifact import Hit, Miss


def test_the_view_leads_to_the_tree_so_that_showing_takes_no_space(store):
    artifact = commit(store, {"engine.plan": b"plan"})
    assert store.show("p", "s", artifact) == store.tree(artifact)
    path = os.path.join(store.view_path("p", "s"), "engine.plan")
    assert os.path.samefile(path, store.blob_path(artifact.files["engine.plan"][0]))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_what_people_see_is_read_only(store):
    artifact = commit(store, {"a.txt": b"content"})
    store.show("p", "s", artifact)
    with pytest.raises(PermissionError), open(os.path.join(store.view_path("p", "s"), "a.txt"), "r+b"):
        pass


@pytest.mark.parametrize("kind", ["results", "model"])
def test_what_is_written_through_the_view_is_never_taken_for_what_the_stage_made(store, kind):
    files = {"a.txt": b"content", "m.data": b"weights"}
    artifact = commit(store, files, kind=kind)
    folder = store.show("p", "s", artifact)
    for name in files:
        path = os.path.join(store.view_path("p", "s"), name)
        os.chmod(path, 0o644)
        with open(path, "r+b") as stream:
            stream.write(b"EVIL")
    for name, content in files.items():  # a look-up ends at the first
        miss = store.lookup(a_key().digest)
        assert isinstance(miss, Miss)
        assert f"{name}: its content was changed by somebody, whose version is in edited/" in miss.damage
        aside = os.path.join(store.folder, miss.damage.split(" in ")[1], name)
        assert content_of(aside) == b"EVIL" + content[4:]
        assert os.access(aside, os.W_OK)
        assert commit(store, {name: content}, a_key(name))
    assert commit(store, files, kind=kind) == artifact
    assert store.show("p", "s", artifact) == folder
    for name, content in files.items():
        assert content_of(os.path.join(store.view_path("p", "s"), name)) == content
    assert isinstance(store.lookup(a_key().digest), Hit)


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
@pytest.mark.parametrize("shown", [True, False])
def test_a_file_that_somebody_put_into_the_view_is_never_lost(store, harm, shown):
    artifact = commit(store, {"a": b"1", "b": b"2"})
    folder = store.show("p", "s", artifact)
    for name in ("mine.txt", "notes/mine.txt"):
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        with open(os.path.join(folder, name), "w") as stream:
            stream.write("mine")
    if harm != "none":
        os.unlink(os.path.join(folder, "a"))
    if harm == "edited":
        with open(os.path.join(folder, "a"), "w") as stream:
            stream.write("other")
    if shown:
        store.show("p", "s", artifact)
    gc.gc(store, gc.Budget(max_size=0), nothing_locked)
    kept = {os.path.relpath(os.path.join(top, n), store.folder).partition("/")[2].partition("/")[2]
            for top, _, names in os.walk(os.path.join(store.folder, "edited")) for n in names}  # fmt: skip
    assert kept == {"mine.txt", "notes/mine.txt"} | ({"a"} if harm == "edited" else set())
    assert len(store.told) == 1
