"""The store: nothing half-written, nothing trusted that is not what it says."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtpipe import key as keys
from trtpipe.errors import StoreError
from trtpipe.key import Key
from trtpipe.store import gc
from trtpipe.store.state import State
from trtpipe.store.store import Artifact, Hit, Miss, Store

RECORD = {"seconds": 1.5, "notes": ["hello"]}


def a_key(name="x"):
    return Key("parse", 1, {"name": name}, {}, {}, {})


def content_of(path):
    with open(path, "rb") as stream:
        return stream.read()


def commit(store, files, key=None, kind="results", known=()):
    with store.workspace() as folder:
        for name, content in files.items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as stream:
                stream.write(content)
        return store.commit(key or a_key(), kind, folder, RECORD, known)


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


def test_equal_content_is_kept_once_and_gives_one_digest(store):
    one = commit(store, {"a": b"same"}, a_key("1"))
    two = commit(store, {"a": b"same"}, a_key("2"))
    assert one.digest == two.digest
    blobs = [f for _, _, files in os.walk(os.path.join(store.folder, "blobs")) for f in files]
    assert len(blobs) == 1


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=20), min_size=1, max_size=4),
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=20), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=40)
def test_two_artifacts_have_one_digest_only_if_names_and_contents_agree(tmp_path_factory, one, two):
    folder = str(tmp_path_factory.mktemp("store"))
    with State(folder) as state:
        store = Store(folder, state)
        first, second = commit(store, one, a_key("1")), commit(store, two, a_key("2"))
        assert (first.digest == second.digest) == (one == two)
        for artifact, files in ((first, one), (second, two)):
            tree = store.tree(artifact)
            assert {n: content_of(os.path.join(tree, n)) for n in os.listdir(tree)} == files


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


def tampered(record, how):
    if how == "params":
        record["key"]["params"]["name"] = "y"
    elif how == "digest":
        record["artifact"]["digest"] = "0" * 64
    elif how == "path":
        record["artifact"]["files"] = {"../../evil": next(iter(record["artifact"]["files"].values()))}
    elif how == "size":
        record["artifact"]["files"]["a.txt"][1] = "7"
    elif how == "sha":
        record["artifact"]["files"]["a.txt"][0] = "../" * 20 + "a" * 4
    elif how == "seconds":
        del record["seconds"]
    elif how == "notes":
        record["notes"] = ["hallo"]
    if how != "notes":
        del record["check"]  # it would notice all of these
    return record


@pytest.mark.parametrize("how", ["params", "digest", "path", "size", "sha", "seconds", "notes"])
def test_an_action_record_that_does_not_say_what_it_should_is_a_miss(store, how):
    commit(store, {"a.txt": b"content"})
    path = store.action_path(a_key().digest)
    record = json.loads(content_of(path))
    with open(path, "w") as stream:
        json.dump(tampered(record, how), stream)
    miss = store.lookup(a_key().digest)
    assert isinstance(miss, Miss)
    assert "action record is damaged" in miss.damage


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(max_size=5),
       lambda i: st.lists(i, max_size=3) | st.dictionaries(st.text(max_size=5), i, max_size=3)).map(
           lambda v: json.dumps(v).encode()))  # fmt: skip
@settings(deadline=None)
def test_any_bytes_in_place_of_a_record_are_a_miss(tmp_path_factory, data):
    folder = str(tmp_path_factory.mktemp("store"))
    with State(folder) as state:
        store = Store(folder, state)
        path = store.action_path(a_key().digest)
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as stream:
            stream.write(data)
        assert isinstance(store.lookup(a_key().digest), Miss)


def test_links_in_a_finished_folder_are_refused(store):
    with store.workspace() as folder:
        os.symlink("/etc/hostname", os.path.join(folder, "a"))
        with pytest.raises(StoreError, match="no plain file"):
            store.commit(a_key(), "results", folder, RECORD)
    assert store.lookup(a_key().digest) == Miss(None)


def test_a_file_that_somebody_else_has_too_is_copied(store, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_bytes(b"mine")
    with store.workspace() as folder:
        os.link(mine, os.path.join(folder, "a"))
        artifact = store.commit(a_key(), "results", folder, RECORD)
    mine.write_bytes(b"changed")
    assert content_of(os.path.join(store.tree(artifact), "a")) == b"mine"
    assert os.access(mine, os.W_OK)


def test_a_body_may_pass_a_stored_file_on_by_link(store):
    first = commit(store, {"a": b"weights"}, a_key("1"))
    with store.workspace() as folder:
        os.link(os.path.join(store.tree(first), "a"), os.path.join(folder, "b"))
        second = store.commit(a_key("2"), "results", folder, RECORD, [first])
    assert second.files["b"] == first.files["a"]


def test_weights_beside_an_onnx_file_are_copied_into_the_tree(store):
    artifact = commit(store, {"m.onnx": b"graph", "m.data": b"weights"}, kind="model")
    tree = store.tree(artifact)
    assert os.stat(os.path.join(tree, "m.data")).st_nlink == 1
    assert os.stat(os.path.join(tree, "m.onnx")).st_nlink == 2


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


def test_a_copy_is_made_however_little_the_kernel_helps(store, tmp_path, monkeypatch):
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    real = os.copy_file_range
    calls = []

    def gives_up(source, target, count):
        calls.append(count)
        if len(calls) > 1:
            raise OSError(errno.EXDEV, "not across file systems")
        return real(source, target, min(count, 1000))

    monkeypatch.setattr(os, "copy_file_range", gives_up)
    store.copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == content
    assert len(calls) == 2


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


def test_a_tree_that_was_harmed_is_made_again(store):
    artifact = commit(store, {"a": b"1", "b": b"2"})
    tree = store.tree(artifact)
    os.unlink(os.path.join(tree, "a"))
    assert sorted(os.listdir(store.tree(artifact))) == ["a", "b"]
    shutil.rmtree(tree)
    assert sorted(os.listdir(store.tree(artifact))) == ["a", "b"]


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


def test_work_in_progress_is_gone_afterwards_and_stale_work_is_swept(store):
    stale = os.path.join(store.folder, "tmp", "999999999-00000000dead")
    os.makedirs(stale)
    os.utime(stale, (1, 1))
    with store.workspace() as folder:
        assert os.listdir(os.path.join(store.folder, "tmp")) == [os.path.basename(folder)]
    assert os.listdir(os.path.join(store.folder, "tmp")) == []


def test_an_artifacts_folder_that_is_a_file_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with State(str(tmp_path / "file")) as state:
        store = Store(str(tmp_path / "file"), state)
        assert store.lookup(a_key().digest) == Miss(None)
        with pytest.raises(StoreError, match="--artifacts"), store.workspace():
            pass


def test_the_digest_of_an_artifact_does_not_depend_on_the_order_of_its_files():
    a, b = ("0" * 64, 1), ("1" * 64, 1)
    assert Artifact("k", {"x": a, "y": b}).digest == Artifact("k", {"y": b, "x": a}).digest
    assert Artifact("k", {"x": a}).digest != Artifact("l", {"x": a}).digest


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
    gc.gc(store, gc.Budget(max_size=0))
    kept = {os.path.relpath(os.path.join(top, n), store.folder).partition("/")[2].partition("/")[2]
            for part in ("edited", "shown") for top, _, names in os.walk(os.path.join(store.folder, part))
            for n in names}  # fmt: skip
    assert {"mine.txt", "notes/mine.txt"} <= kept


def test_a_sweep_leaves_folders_alone_that_are_not_workspaces(store):
    os.makedirs(os.path.join(store.folder, "tmp", "mine"))
    os.makedirs(os.path.join(store.folder, "tmp", "1-0123456789ab"))
    store.sweep()
    assert os.listdir(os.path.join(store.folder, "tmp")) == ["mine"]
