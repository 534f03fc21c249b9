"""Locks between processes: one holder, gone with its process, and nothing left behind that stops anyone."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import types

import pytest

from tests.helpers import PROJECT
from trtpipe.store import locks

HOLD = (
    "import sys; from trtpipe.store import locks; held = locks.take(sys.argv[1]); print('has it', flush=True); input()"
)


def fail(number):
    raise OSError(number, os.strerror(number))


def holder(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert process.stdout.readline() == "has it\n"
    return process


def test_a_lock_is_had_once_and_its_file_goes_with_it(tmp_path):
    path = str(tmp_path / "locks" / "key")
    held = locks.take(path)
    held.write("me")
    assert locks.take(path) is None
    assert locks.text(path) == "me"
    held.release()
    held.release()
    assert not os.path.exists(path)
    again = locks.take(path)
    assert again.real
    again.release()


def test_a_holder_that_is_killed_stops_nobody(tmp_path):
    path = str(tmp_path / "key")
    with holder(path) as process:
        assert locks.take(path) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        held = locks.wait(path, seconds=5)
        assert held is not None
        held.release()
        process.stdin.close()


def test_many_share_and_one_is_alone(tmp_path):
    path = str(tmp_path / "gc")
    one, two = locks.take(path, shared=True), locks.take(path, shared=True)
    assert one is not None
    assert two is not None
    assert locks.take(path) is None
    assert locks.wait(path, seconds=0.05) is None
    one.release(keep=True)
    two.release(keep=True)
    alone = locks.take(path)
    assert locks.take(path, shared=True) is None
    alone.release(keep=True)


def test_a_file_that_its_holder_removed_meanwhile_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    path = str(tmp_path / "key")
    real = fcntl.flock
    raced = []

    def race(handle, how):
        real(handle, how)
        if not raced:
            raced.append(os.unlink(path))

    monkeypatch.setattr(fcntl, "flock", race)
    held = locks.take(path)
    assert os.path.exists(path)
    assert os.stat(path).st_ino == os.fstat(held._handle).st_ino
    held.release()


def test_where_nothing_can_be_locked_the_work_goes_on_without(tmp_path, monkeypatch):
    def none_here(_handle, _how):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", none_here)
    held = locks.take(str(tmp_path / "key"))
    assert held is not None
    assert not held.real
    held.write("nothing happens")
    held.append("nothing happens")
    held.release()


def test_a_file_that_another_machine_removed_just_now_is_not_had_yet(tmp_path, monkeypatch):
    # GlusterFS and NFS say so of a handle, or of a name that this machine still remembers.
    path = str(tmp_path / "key")
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: fail(errno.ESTALE))
        assert locks.take(path) is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_: fail(errno.ESTALE))
        assert locks.take(path) is None
    held = locks.wait(path, seconds=1)
    assert held.real
    held.release()


def test_a_lock_file_that_may_not_be_made_is_an_error_and_no_sign_of_a_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *_: fail(errno.EACCES))
    with pytest.raises(PermissionError):
        locks.take(str(tmp_path / "key"))


def test_a_file_that_is_only_remembered_to_be_there_is_not_had(tmp_path, monkeypatch):
    # What a client of GlusterFS did: another machine removed the file before the lock, and stat did not know it yet.
    path = str(tmp_path / "key")
    real, removed = fcntl.flock, []

    def flock(handle, how):
        if not removed:
            removed.append(os.fstat(handle))
            os.unlink(path)
            monkeypatch.setattr(os, "fstat", lambda _: removed[0])
            monkeypatch.setattr(os, "stat", lambda _: removed[0])
        else:
            monkeypatch.undo()  # the second time, with a new file
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    held = locks.take(path)
    assert held.real
    assert os.path.exists(path)
    assert locks.take(path) is None
    held.release()
    assert os.listdir(tmp_path) == []


def test_without_hard_links_what_stat_says_has_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: fail(errno.EPERM))
    held = locks.take(str(tmp_path / "key"))
    assert held.real
    held.release()


@pytest.mark.parametrize(("node", "name"), [("gpu-1.example", "gpu-1.example"), ("a b@ü", "a_b__"), ("", "_")])
def test_the_name_of_a_machine_fits_into_a_file_name(monkeypatch, node, name):
    monkeypatch.setattr(os, "uname", lambda: types.SimpleNamespace(nodename=node))
    assert locks.host() == name
    assert not locks.foreign(f"run-1@{name}")
    assert locks.foreign("run-1@elsewhere")


def test_what_another_machine_made_counts_as_in_use_for_a_day(tmp_path):
    paths = [tmp_path / f"{number}@{owner}" for number, owner in enumerate(("elsewhere", "elsewhere", locks.host()))]
    for path in paths:
        path.write_text("")
    os.utime(paths[1], (1, 1))
    assert [locks.in_use_elsewhere(str(path)) for path in paths] == [True, False, False]
    assert not locks.in_use_elsewhere(str(tmp_path / "gone@elsewhere"))
