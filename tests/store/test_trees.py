"""Trees: stages find every file of an artifact, as it was made, and each content lies on the disk once."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from tests.store.helpers import a_key, commit, content_of
from trtpipe import key as keys
from trtpipe.store import files
from trtpipe.store.artifact import Hit
from trtpipe.store.state import State
from trtpipe.store.store import Store


def same(path, store, artifact, name):
    return os.path.samefile(path, store.blob_path(artifact.files[name][0]))


def edited(store):
    """Give the content of all that was put aside, by name."""
    top = store.layout.part("edited")
    return {
        os.path.relpath(path, top).partition("/")[2]: content_of(path)
        for path in files.below(top)
        if os.path.exists(path)
    }


@pytest.mark.parametrize("kind", ["model", "network", "engine"])
def test_all_files_of_a_tree_are_links_to_read_only_blobs_external_data_too(store, kind):
    artifact = commit(store, {"m.onnx": b"graph", "weights/m.data": b"weights"}, kind=kind)
    tree = store.tree(artifact)
    for name in artifact.files:
        assert same(os.path.join(tree, name), store, artifact, name)
        assert os.stat(os.path.join(tree, name)).st_mode & 0o222 == 0


def test_a_tree_that_was_harmed_is_made_again(store):
    artifact = commit(store, {"a": b"1", "b": b"2"})
    tree = store.tree(artifact)
    os.unlink(os.path.join(tree, "a"))
    assert sorted(os.listdir(store.tree(artifact))) == ["a", "b"]
    shutil.rmtree(tree)
    assert sorted(os.listdir(store.tree(artifact))) == ["a", "b"]
    assert store.told == []


@pytest.mark.parametrize("what", ["link", "dangling", "file"])
def test_what_somebody_put_in_place_of_a_tree_is_replaced_and_nothing_behind_it_touched(store, tmp_path, what):
    artifact = commit(store, {"a": b"1", "sub/b": b"2"})
    path = store.tree(artifact)
    shutil.rmtree(path)
    behind = tmp_path / "mine"
    if what != "dangling":
        behind.mkdir()
        (behind / "a").write_bytes(b"gold")
    if what == "file":
        shutil.copyfile(behind / "a", path)
    else:
        os.symlink(behind, path)
    assert content_of(os.path.join(store.tree(artifact), "sub", "b")) == b"2"
    assert content_of(os.path.join(path, "a")) == b"1"
    assert not os.path.islink(path)
    if what != "dangling":
        assert [p.read_bytes() for p in behind.iterdir()] == [b"gold"]
    assert os.listdir(os.path.dirname(path)) == [artifact.digest]
    assert "the folder in the view is not what the stage made" in store.told[0]


@pytest.mark.parametrize("how", ["saved anew", "a link to another file", "a folder"])
def test_a_file_that_was_replaced_is_put_aside_and_told_and_the_blob_is_as_it_was(store, tmp_path, how):
    artifact = commit(store, {"a": b"content", "b": b"2"})
    path = os.path.join(store.tree(artifact), "a")
    os.unlink(path)
    if how == "saved anew":
        with open(path, "wb") as stream:
            stream.write(b"CONTENT")
    elif how == "a link to another file":
        (tmp_path / "mine").write_bytes(b"CONTENT")
        os.symlink(tmp_path / "mine", path)
    else:
        os.makedirs(path)
        with open(os.path.join(path, "mine"), "wb") as stream:
            stream.write(b"CONTENT")
    assert content_of(os.path.join(store.tree(artifact), "a")) == b"content"
    assert isinstance(store.lookup(a_key().digest), Hit)
    name = "a/mine" if how == "a folder" else "a"
    assert edited(store) == {name: b"CONTENT"}
    assert len(store.told) == 1
    assert f"{name} in the view is not what the stage made; it is restored, the other is in" in store.told[0]


def test_a_file_that_somebody_put_into_a_tree_is_moved_out_before_a_stage_reads_the_folder(store):
    artifact = commit(store, {"a": b"1", "sub/b": b"2"})
    tree = store.tree(artifact)
    for name in ("mine.txt", "sub/mine.txt"):
        with open(os.path.join(tree, name), "w") as stream:
            stream.write("mine")
    assert os.listdir(os.path.join(store.tree(artifact), "sub")) == ["b"]
    assert edited(store) == {"mine.txt": b"mine", "sub/mine.txt": b"mine"}
    assert len(store.told) == 1
    assert "it is in" in store.told[0]
    assert store.tree(artifact) == tree
    assert len(store.told) == 1


def test_trees_that_share_a_file_which_somebody_wrote_to_are_all_made_right_and_told_once(store):
    one = commit(store, {"a": b"weights"}, a_key("1"))
    two = commit(store, {"b": b"weights"}, a_key("2"))
    store.tree(one), store.tree(two)
    with open(os.path.join(store.tree(one), "a"), "r+b") as stream:  # as root may
        stream.write(b"WEIGHTS")
    assert "a: its content was changed by somebody" in store.lookup(a_key("1").digest).damage
    assert commit(store, {"a": b"weights"}, a_key("1")) == one
    for artifact, name in ((one, "a"), (two, "b")):
        path = os.path.join(store.tree(artifact), name)
        assert content_of(path) == b"weights"
        assert same(path, store, artifact, name)
    assert edited(store) == {"a": b"WEIGHTS"}
    assert store.told == []


def test_where_the_disk_takes_no_links_there_is_one_copy_which_is_told_once_a_run(store, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    one, two = commit(store, {"a": b"1"}, a_key("1")), commit(store, {"a": b"2", "b": b"3"}, a_key("2"))
    for artifact in (one, two, one, two):
        assert os.stat(os.path.join(store.tree(artifact), "a")).st_mode & 0o222 == 0
        assert store.show("p", "s", artifact) == store.tree(artifact)
    assert len(store.told) == 1
    assert "takes no hard links" in store.told[0]
    store.state.commit()
    monkeypatch.setattr(keys, "digest_file", lambda _: pytest.fail("a copy was read again"))
    with State(store.folder) as state:
        again = Store(store.folder, state)
        assert content_of(os.path.join(again.tree(two), "b")) == b"3"
        assert again.told == []


def test_a_copy_that_an_earlier_version_made_becomes_a_link(store):
    artifact = commit(store, {"m.onnx": b"graph", "m.data": b"weights"}, kind="model")
    path = os.path.join(store.tree(artifact), "m.data")
    shutil.copyfile(path, path + ".copy")
    os.replace(path + ".copy", path)
    os.chmod(path, 0o444)
    store.tree(artifact)
    assert same(path, store, artifact, "m.data")
    assert os.listdir(store.layout.part("trees")) == [artifact.digest]
    assert store.told == []
    assert isinstance(store.lookup(a_key().digest), Hit)
