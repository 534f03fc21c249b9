"""The store on file systems that share blocks between copies: real xfs and btrfs, on loop devices."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.helpers import events, project, python_stage, trtpipe
from tests.store.helpers import a_key, commit, content_of, nothing_locked
from trtpipe import key as keys
from trtpipe.errors import StoreError
from trtpipe.store import disk_usage, gc, integrity
from trtpipe.store.artifact import Hit, Miss
from trtpipe.store.state import State
from trtpipe.store.store import Store

MIB = 1 << 20
MAKE = {
    "xfs": (320, ["mkfs.xfs", "-q", "-m", "reflink=1"]),
    "btrfs": (160, ["mkfs.btrfs", "-q"]),
    "tmpfs": (16, []),
}


def mounted(kind, folder):
    """Make a file system of a kind and mount it; skip with the reason where that cannot be."""
    size, make = MAKE[kind]
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    target = folder / "mounted"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(target)]
    if make:
        if shutil.which(make[0]) is None:
            pytest.skip(f"{make[0]} is not installed")
        image = folder / "image"
        with image.open("wb") as stream:
            stream.truncate(size * MIB)
        subprocess.run([*make, str(image)], check=True, capture_output=True)
        command = ["mount", "-t", kind, "-o", "loop", str(image), str(target)]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    if said.returncode != 0:
        pytest.skip(f"{kind} cannot be mounted here: {said.stderr.strip()}")
    return target


def unmount(target):
    """Unmount, and if somebody is still in there, at the latest when they leave."""
    for how in ([], ["-l"]):
        if subprocess.run(["umount", *how, str(target)], check=False, capture_output=True).returncode == 0:
            return


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def disk(request, tmp_path_factory):
    target = mounted(request.param, tmp_path_factory.mktemp(request.param))
    yield target
    unmount(target)


@pytest.fixture
def small(tmp_path):
    (tmp_path / "tmpfs").mkdir()
    target = mounted("tmpfs", tmp_path / "tmpfs")
    yield target
    unmount(target)


@pytest.fixture
def folder(disk):
    """Give an empty folder on the disk, gone afterwards: the disk is small."""
    path = Path(tempfile.mkdtemp(dir=disk))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def there(folder):
    with State(str(folder)) as state:
        yield Store(str(folder), state)


def free(folder):
    os.sync()
    status = os.statvfs(folder)
    return status.f_bavail * status.f_bsize


def fill(folder, leave):
    """Leave so few bytes free on a disk, to half a MiB."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as stream:
        for size in (MIB, 1 << 16):
            try:
                while free(folder) > leave + size:
                    stream.write(os.urandom(size))
                    os.fsync(stream.fileno())
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return path


def test_what_people_see_shares_its_blocks_with_the_store(there, folder):
    plan = os.urandom(24 * MIB)
    artifact = commit(there, {"engine.plan": plan, "small.json": b"{}"})
    before = free(folder)
    shown = os.path.join(there.show("p", "engine", artifact), "engine.plan")
    assert before - free(folder) < 4 * MIB
    assert content_of(shown) == plan
    assert os.stat(shown).st_nlink == 1
    assert disk_usage.shared(shown) >= 24 * MIB
    assert disk_usage.own(shown, os.lstat(shown)) < MIB
    blob = there.blob_path(artifact.files["engine.plan"][0])
    assert os.path.samefile(os.path.join(there.tree(artifact), "engine.plan"), blob)


def test_weights_that_onnx_wants_unlinked_are_reflinks(there):
    artifact = commit(there, {"model.onnx": b"m", "weights.bin": os.urandom(8 * MIB)}, kind="model")
    weights = os.path.join(there.tree(artifact), "weights.bin")
    assert os.stat(weights).st_nlink == 1
    assert disk_usage.shared(weights) >= 8 * MIB


def test_the_store_counts_shared_blocks_once(there, folder):
    artifact = commit(there, {"engine.plan": os.urandom(16 * MIB)})
    shown = os.path.join(there.show("p", "engine", artifact), "engine.plan")
    there.tree(artifact)
    os.sync()
    used = disk_usage.usage(there.layout)
    assert 16 * MIB <= used["blobs"][1] < 17 * MIB
    assert used["shown"][1] < MIB
    with open(shown, "r+b") as stream:
        stream.write(os.urandom(4 * MIB))
    os.sync()
    assert 4 * MIB <= disk_usage.usage(there.layout)["shown"][1] < 6 * MIB
    # A budget that the truth meets is met: nothing goes.
    found = gc.gc(there, gc.Budget(max_size=24 * MIB), nothing_locked)
    assert (found.met, found.removed) == (True, ())
    there.show("p", "engine", artifact)
    shutil.rmtree(folder / "edited")
    os.sync()
    before = free(folder)
    found = gc.gc(there, gc.Budget(max_size=MIB), nothing_locked)
    assert found.met
    assert len(found.removed) == 1
    assert 15 * MIB < found.freed < 18 * MIB
    deadline = time.monotonic() + 60
    while free(folder) - before < 12 * MIB:  # btrfs gives back a little later
        assert time.monotonic() < deadline
        time.sleep(0.1)


def write(path):
    with open(path, "r+b") as stream:
        stream.write(b"edited")


def map_and_write(path):
    with open(path, "r+b") as stream, mmap.mmap(stream.fileno(), 0) as memory:
        memory[MIB : MIB + 6] = b"edited"


def truncate(path):
    os.truncate(path, 5)


def append(path):
    with open(path, "ab") as stream:
        stream.write(b"edited")


def punch(path):
    if shutil.which("fallocate") is None:
        pytest.skip("fallocate is not installed")
    subprocess.run(["fallocate", "--punch-hole", "--offset", "0", "--length", str(MIB), path], check=True)


@pytest.mark.parametrize("edit", [write, map_and_write, truncate, append, punch])
def test_whatever_somebody_does_to_the_view_the_store_is_not_harmed(there, edit):
    plan = os.urandom(3 * MIB)
    artifact = commit(there, {"engine.plan": plan})
    shown = os.path.join(there.show("p", "engine", artifact), "engine.plan")
    edit(shown)
    os.sync()
    edited = content_of(shown)
    assert edited != plan
    sha256 = artifact.files["engine.plan"][0]
    assert keys.digest_file(there.blob_path(sha256)) == sha256
    assert isinstance(there.lookup(a_key().digest), Hit)
    _, _, found = integrity.verify(there)
    assert [f.damage for f in found] == [False]
    assert content_of(os.path.join(there.show("p", "engine", artifact), "engine.plan")) == plan
    (kept,) = (os.path.join(top, n) for top, _, names in os.walk(f"{there.folder}/edited") for n in names)
    assert content_of(kept) == edited
    assert integrity.verify(there)[2] == []


def test_on_a_full_disk_nothing_is_half_done_and_the_view_still_comes(there, folder):
    kept = commit(there, {"engine.plan": os.urandom(24 * MIB)}, a_key("kept"))
    ballast = fill(folder, 8 * MIB)
    try:
        shown = there.show("p", "engine", kept)  # takes no space, where a copy would not fit
        assert os.path.getsize(os.path.join(shown, "engine.plan")) == 24 * MIB
        with pytest.raises((StoreError, OSError)) as caught:
            commit(there, {"engine.plan": os.urandom(48 * MIB)}, a_key("new"))
        assert isinstance(caught.value, StoreError) or caught.value.errno == errno.ENOSPC
        assert there.lookup(a_key("new").digest) == Miss(None)
        assert isinstance(there.lookup(a_key("kept").digest), Hit)
        assert os.listdir(os.path.join(folder, "tmp")) == []
    finally:
        ballast.unlink()
    os.sync()
    commit(there, {"engine.plan": os.urandom(8 * MIB)}, a_key("new"))
    assert isinstance(there.lookup(a_key("new").digest), Hit)
    assert integrity.verify(there)[2] == []


def test_a_store_on_another_disk_than_the_project_serves_runs(folder, tmp_path):
    project(tmp_path, python_stage("a"))
    where = folder / "artifacts"
    for expected in ((0, 1), (1, 0)):
        said = trtpipe("run", "p.yaml", "--artifacts", where, "--json", cwd=tmp_path)
        assert said.returncode == 0, said.stderr
        end = events(said)[-1]
        assert (end["hit"], end["ran"]) == expected
        shutil.rmtree(where / "shown")
    said = trtpipe("run", "p.yaml", "--artifacts", where, cwd=tmp_path, env={"TRTPIPE_VIEW": "link"})
    assert said.returncode == 0, said.stderr
    assert trtpipe("cache", "verify", "--artifacts", where, cwd=tmp_path).returncode == 0


def test_a_view_on_another_disk_than_the_store_is_copied(store, small):
    plan = os.urandom(3 * MIB)
    artifact = commit(store, {"engine.plan": plan, "weights.bin": b"w"}, kind="model")
    for part in ("shown", "trees"):
        (small / part).mkdir()
        os.symlink(small / part, os.path.join(store.folder, part))
    shown = os.path.join(store.show("p", "engine", artifact), "engine.plan")
    assert content_of(shown) == plan
    assert content_of(os.path.join(store.tree(artifact), "engine.plan")) == plan
    write(shown)
    assert isinstance(store.lookup(a_key().digest), Hit)
    assert content_of(os.path.join(store.show("p", "engine", artifact), "engine.plan")) == plan
    assert integrity.verify(store)[2] == []


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_copy_that_does_not_fit_is_an_error_and_nobody_sees_it(small, monkeypatch, in_kernel):
    if not in_kernel:

        def refuse(*_):
            raise OSError(errno.EOPNOTSUPP, "not here")

        monkeypatch.setattr(os, "copy_file_range", refuse)
    with State(str(small)) as state:
        there = Store(str(small), state)
        artifact = commit(there, {"engine.plan": os.urandom(9 * MIB + 123_456)})
        with pytest.raises(StoreError, match="the disk is full"):
            there.show("p", "engine", artifact)
        assert not os.path.exists(there.view_path("p", "engine"))
        assert os.listdir(os.path.join(there.folder, "shown")) == []
        assert isinstance(there.lookup(a_key().digest), Hit)


def test_a_copy_whose_last_piece_does_not_fit_is_not_taken_for_whole(small, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    with State(str(small)) as state:
        there = Store(str(small), state)
        artifact = commit(there, {"engine.plan": os.urandom(5 * MIB)})
        with (small / "ballast").open("wb", buffering=0) as stream:
            # Room for four and a half: the last write takes half of what it is given.
            os.posix_fallocate(stream.fileno(), 0, free(small) - 4 * MIB - MIB // 2)
        with pytest.raises(StoreError, match="the disk is full"):
            there.show("p", "engine", artifact)
        (small / "ballast").unlink()
        shown = there.show("p", "engine", artifact)
        assert os.path.getsize(os.path.join(shown, "engine.plan")) == 5 * MIB
