"""The store as a whole: what was put in is found again."""

from __future__ import annotations

import os

import pytest

from tests.store.helpers import a_key, commit, content_of
from trtpipe.errors import StoreError
from trtpipe.store.artifact import Hit, Miss
from trtpipe.store.state import State
from trtpipe.store.store import Store


def test_what_was_committed_is_a_hit_with_its_files(store):
    artifact = commit(store, {"a.txt": b"one", "sub/b.txt": b"two"})
    hit = store.lookup(a_key().digest)
    assert hit == Hit(artifact, 1.5, ("hello",))
    tree = store.tree(artifact)
    assert content_of(os.path.join(tree, "sub", "b.txt")) == b"two"
    assert artifact.size == 6


def test_another_key_misses(store):
    commit(store, {"a": b"1"})
    assert store.lookup(a_key("y").digest) == Miss(None)


def test_an_artifacts_folder_that_is_a_file_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with State(str(tmp_path / "file")) as state:
        store = Store(str(tmp_path / "file"), state)
        assert store.lookup(a_key().digest) == Miss(None)
        with pytest.raises(StoreError, match="--artifacts"), store.workspace():
            pass
