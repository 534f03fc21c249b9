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
from tests.store.helpers import ABOUT, a_key, commit, content_of, nothing_locked
from trtpipe import copying
from trtpipe import key as keys
from trtpipe.errors import StoreError
from trtpipe.stage import put
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


def test_what_people_see_takes_no_space(there, folder):
    plan = os.urandom(24 * MIB)
    artifact = commit(there, {"engine.plan": plan, "small.json": b"{}"})
    before = free(folder)
    shown = os.path.join(there.show("p", "engine", artifact), "engine.plan")
    assert before - free(folder) < 4 * MIB
    assert content_of(shown) == plan
    assert os.path.samefile(shown, there.blob_path(artifact.files["engine.plan"][0]))


def test_a_users_file_is_taken_into_the_store_by_reflink_and_stays_the_users(there, folder):
    mine = folder / "weights.bin"
    mine.write_bytes(os.urandom(24 * MIB))
    before = free(folder)
    with there.workspace() as work:
        put(mine, Path(work) / "weights.bin", link=False)
        artifact = there.commit(a_key(), "model", work, ABOUT)
    assert before - free(folder) < 4 * MIB
    blob = there.blob_path(artifact.files["weights.bin"][0])
    assert not os.path.samefile(mine, blob)
    assert disk_usage.shared(blob) >= 24 * MIB
    write(mine)
    os.sync()
    assert isinstance(there.lookup(a_key().digest), Hit)
    assert keys.digest_file(blob) == artifact.files["weights.bin"][0]


def test_copies_of_an_earlier_version_count_once_where_they_share_blocks(there, folder):
    artifact = commit(there, {"engine.plan": os.urandom(16 * MIB)})
    there.show("p", "engine", artifact)
    shown = there.layout.part("shown") + f"/{artifact.digest}/engine.plan"
    os.makedirs(os.path.dirname(shown))
    copying.copy(there.blob_path(artifact.files["engine.plan"][0]), shown)
    os.sync()
    used = disk_usage.usage(there.layout)
    assert 16 * MIB <= used["blobs"][1] < 17 * MIB
    assert used["shown"][1] < MIB
    assert used["trees"][1] == 0
    with open(shown, "r+b") as stream:
        stream.write(os.urandom(4 * MIB))
    os.sync()
    assert 4 * MIB <= disk_usage.usage(there.layout)["shown"][1] < 6 * MIB
    # A budget that the truth meets is met: no result goes.
    found = gc.gc(there, gc.Budget(max_size=24 * MIB), nothing_locked)
    assert (found.met, found.removed) == (True, ())
    assert not os.path.exists(there.layout.part("shown"))
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
def test_whatever_root_does_to_the_view_is_seen_kept_and_made_again(there, edit):
    plan = os.urandom(3 * MIB)
    artifact = commit(there, {"engine.plan": plan})
    shown = os.path.join(there.show("p", "engine", artifact), "engine.plan")
    edit(shown)
    os.sync()
    edited = content_of(shown)
    assert edited != plan
    assert "engine.plan: its content was changed by somebody" in there.lookup(a_key().digest).damage
    (kept,) = (os.path.join(top, n) for top, _, names in os.walk(f"{there.folder}/edited") for n in names)
    assert os.path.basename(kept) == "engine.plan"
    assert content_of(kept) == edited
    commit(there, {"engine.plan": plan})
    assert content_of(os.path.join(there.show("p", "engine", artifact), "engine.plan")) == plan
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
        shutil.rmtree(where / "trees")
    assert trtpipe("cache", "verify", "--artifacts", where, cwd=tmp_path).returncode == 0


def test_trees_on_another_disk_than_the_blobs_are_copies_and_this_is_told(store, small):
    plan = os.urandom(3 * MIB)
    artifact = commit(store, {"engine.plan": plan, "weights.bin": b"w"}, kind="model")
    (small / "trees").mkdir()
    os.symlink(small / "trees", os.path.join(store.folder, "trees"))
    shown = os.path.join(store.show("p", "engine", artifact), "engine.plan")
    assert content_of(shown) == plan
    assert "takes no hard links" in store.told.pop()
    write(shown)
    assert isinstance(store.lookup(a_key().digest), Hit)
    assert content_of(os.path.join(store.show("p", "engine", artifact), "engine.plan")) == plan
    assert "engine.plan in the view is not what the stage made" in store.told[0]
    assert content_of(os.path.join(store.told[0].rpartition(" in ")[2], "engine.plan")) == b"edited" + plan[6:]
    assert integrity.verify(store)[2] == []


@pytest.fixture
def no_links(monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("no_links")
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
        assert os.listdir(os.path.join(there.folder, "trees")) == []
        assert isinstance(there.lookup(a_key().digest), Hit)


@pytest.mark.usefixtures("no_links")
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
