"""Blobs: nothing is trusted that is not what its name says, and nobody else can change what was taken in."""

from __future__ import annotations

import os

import pytest

from tests.store.helpers import ABOUT, a_key, commit, content_of
from trtpipe import key as keys
from trtpipe.errors import StoreError
from trtpipe.store.artifact import Hit, Miss


def test_equal_content_is_kept_once_and_gives_one_digest(store):
    one = commit(store, {"a": b"same"}, a_key("1"))
    two = commit(store, {"a": b"same"}, a_key("2"))
    assert one.digest == two.digest
    blobs = [f for _, _, files in os.walk(os.path.join(store.folder, "blobs")) for f in files]
    assert len(blobs) == 1


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_harmed_file_is_a_miss_that_says_so_and_is_made_again(store, harm):
    artifact = commit(store, {"a.txt": b"content"})
    path = store.blob_path(artifact.files["a.txt"][0])
    os.chmod(path, 0o644)
    if harm == "remove":
        os.unlink(path)
    else:
        with open(path, "r+b") as stream:
            stream.truncate(3) if harm == "truncate" else stream.write(b"C")
    miss = store.lookup(a_key().digest)
    assert isinstance(miss, Miss)
    assert "a.txt: its content" in miss.damage
    assert commit(store, {"a.txt": b"content"}) == artifact
    assert isinstance(store.lookup(a_key().digest), Hit)
    assert content_of(os.path.join(store.tree(artifact), "a.txt")) == b"content"


def test_a_file_that_was_only_touched_is_read_again_and_still_a_hit(store):
    artifact = commit(store, {"a.txt": b"content"})
    os.utime(store.blob_path(artifact.files["a.txt"][0]), (1, 1))
    assert isinstance(store.lookup(a_key().digest), Hit)


def test_a_change_in_place_is_seen_even_if_its_time_is_put_back(store):
    artifact = commit(store, {"a": b"content"})
    store.tree(artifact)
    path = store.blob_path(artifact.files["a"][0])
    assert isinstance(store.lookup(a_key().digest), Hit)
    status = os.stat(path)
    os.chmod(path, 0o644)
    with open(path, "r+b") as stream:
        stream.write(b"C")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert isinstance(store.lookup(a_key().digest), Miss)


def test_links_that_the_store_makes_do_not_make_it_read_again(store, monkeypatch):
    artifact = commit(store, {"a": b"content"})
    monkeypatch.setattr(keys, "digest_file", lambda _: pytest.fail("the file was read again"))
    store.tree(artifact)
    assert isinstance(store.lookup(a_key().digest), Hit)


def test_what_is_gone_or_damaged_is_fetched_again_if_it_can_be(store):
    artifact = commit(store, {"a": b"content"})
    path = store.blob_path(artifact.files["a"][0])
    asked = []

    def refetch(sha256, size):
        asked.append((sha256, size))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(b"content")
        return True

    store.refetch = refetch
    os.chmod(path, 0o644)
    with open(path, "wb") as stream:
        stream.write(b"CONTENT")
    assert isinstance(store.lookup(a_key().digest), Hit)
    assert asked == [artifact.files["a"]]
    assert "it was fetched again" in store.told[0]
    os.unlink(path)
    store.refetch = lambda *_: False
    assert isinstance(store.lookup(a_key().digest), Miss)


def test_links_in_a_finished_folder_are_refused(store):
    with store.workspace() as folder:
        os.symlink("/etc/hostname", os.path.join(folder, "a"))
        with pytest.raises(StoreError, match="no plain file"):
            store.commit(a_key(), "results", folder, ABOUT)
    assert store.lookup(a_key().digest) == Miss(None)


def test_a_file_that_somebody_else_has_too_is_copied(store, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_bytes(b"mine")
    with store.workspace() as folder:
        os.link(mine, os.path.join(folder, "a"))
        artifact = store.commit(a_key(), "results", folder, ABOUT)
    mine.write_bytes(b"changed")
    assert content_of(os.path.join(store.tree(artifact), "a")) == b"mine"
    assert os.access(mine, os.W_OK)


def test_a_body_may_pass_a_stored_file_on_by_link(store):
    first = commit(store, {"a": b"weights"}, a_key("1"))
    with store.workspace() as folder:
        os.link(os.path.join(store.tree(first), "a"), os.path.join(folder, "b"))
        second = store.commit(a_key("2"), "results", folder, ABOUT, [first])
    assert second.files["b"] == first.files["a"]


def test_what_somebody_wrote_to_a_file_is_kept_and_what_a_disk_did_is_put_in_quarantine(store):
    artifact = commit(store, {"sub/a.txt": b"content"})
    path = store.blob_path(artifact.files["sub/a.txt"][0])
    for kept, folder in ((b"CONTENT", "edited"), (b"damaged", "quarantine")):
        status = os.stat(path)
        os.chmod(path, 0o644)
        with open(path, "r+b") as stream:
            stream.write(kept)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        if folder == "quarantine":
            store.state.forget(path)  # the stat says nothing, as where a disk changes bytes
        damage = store.lookup(a_key().digest).damage
        assert f" in {folder}/" in damage
        assert damage.startswith("sub/a.txt: its content was ")
        (found,) = (os.path.join(top, n) for top, _, names in os.walk(store.layout.part(folder)) for n in names)
        assert content_of(found) == kept
        assert found.endswith("sub/a.txt") == (folder == "edited")
        assert commit(store, {"sub/a.txt": b"content"}) == artifact


def test_a_good_file_is_not_replaced_by_another_of_the_same_content(store):
    artifact = commit(store, {"a": b"same"}, a_key("1"))
    path = store.blob_path(artifact.files["a"][0])
    before = os.stat(path).st_ino
    store.state.forget(path)
    commit(store, {"a": b"same"}, a_key("2"))
    assert os.stat(path).st_ino == before


def test_a_file_that_somebody_made_writable_and_left_as_it_is_becomes_read_only_again(store):
    artifact = commit(store, {"a": b"content"})
    path = store.blob_path(artifact.files["a"][0])
    os.chmod(path, 0o644)
    assert isinstance(store.lookup(a_key().digest), Hit)
    assert os.stat(path).st_mode & 0o777 == 0o444
