"""Trees: stages find every file of an artifact, as it was made."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.store.helpers import commit, content_of


def test_weights_beside_an_onnx_file_are_copied_into_the_tree(store):
    artifact = commit(store, {"m.onnx": b"graph", "m.data": b"weights"}, kind="model")
    tree = store.tree(artifact)
    assert os.stat(os.path.join(tree, "m.data")).st_nlink == 1
    assert os.stat(os.path.join(tree, "m.onnx")).st_nlink == 2


def test_a_tree_that_was_harmed_is_made_again(store):
    artifact = commit(store, {"a": b"1", "b": b"2"})
    tree = store.tree(artifact)
    os.unlink(os.path.join(tree, "a"))
    assert sorted(os.listdir(store.tree(artifact))) == ["a", "b"]
    shutil.rmtree(tree)
    assert sorted(os.listdir(store.tree(artifact))) == ["a", "b"]


@pytest.mark.parametrize("part", ["shown", "trees"])
@pytest.mark.parametrize("what", ["link", "dangling", "file"])
def test_what_somebody_put_in_place_of_a_folder_is_replaced_and_nothing_behind_it_touched(store, tmp_path, part, what):
    artifact = commit(store, {"a": b"1", "sub/b": b"2"})
    path = os.path.join(store.folder, part, artifact.digest)
    give = store.tree if part == "trees" else store.shown
    give(artifact)
    shutil.rmtree(path)
    behind = tmp_path / "mine"
    if what != "dangling":
        behind.mkdir()
        (behind / "a").write_bytes(b"gold")
    if what == "file":
        shutil.copyfile(behind / "a", path)
    else:
        os.symlink(behind, path)
    assert content_of(os.path.join(give(artifact), "sub", "b")) == b"2"
    assert content_of(os.path.join(path, "a")) == b"1"
    assert not os.path.islink(path)
    if what != "dangling":
        assert [p.read_bytes() for p in behind.iterdir()] == [b"gold"]
    assert os.listdir(os.path.dirname(path)) == [artifact.digest]
