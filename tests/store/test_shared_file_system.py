"""Two machines on one store: two mounts of one network file system, given by TRTPIPE_TEST_SHARED=DIR:DIR."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.helpers import PATHS, project, python_stage, trtpipe
from tests.run.test_runner import wait_for
from trtpipe.store import locks

SHARED = os.environ.get("TRTPIPE_TEST_SHARED", "")
COUNTED = """\
import os, time
import numpy as np
def slow(arrays, samples, log, seconds):
    with open(log, "a") as stream:
        stream.write(f"{os.getpid()}\\n")
    time.sleep(seconds)
    return {"made": arrays["x"][:, 0].astype(np.int64)}
"""
EXCLUDE = """\
import os, random, sys, time
from trtpipe.store import locks
path, mark = sys.argv[1:]
end = time.monotonic() + 5
while time.monotonic() < end:
    held = locks.wait(path, seconds=20)
    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    time.sleep(random.random() * 0.003)
    os.unlink(mark)
    held.release()
    time.sleep(random.random() * 0.003)
"""

pytestmark = [
    pytest.mark.skipif(":" not in SHARED, reason="TRTPIPE_TEST_SHARED=DIR:DIR does not name two mounts of one folder"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def sides():
    """Give one new folder as both machines see it."""
    first, second = map(Path, SHARED.split(":"))
    made = Path(tempfile.mkdtemp(dir=first))
    yield made, second / made.name
    shutil.rmtree(made)


def run(side):
    return subprocess.Popen(
        [sys.executable, "-m", "trtpipe", "run", "p.yaml"], cwd=side, env={**os.environ, "PYTHONPATH": PATHS},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def made(sides, tmp_path, seconds):
    log = tmp_path / "log"
    project(sides[0], python_stage("a", "slow", log=str(log), seconds=seconds), code=COUNTED)
    return log


def whole(sides):
    for side in sides:
        assert trtpipe("cache", "verify", cwd=side).returncode == 0
        assert trtpipe("status", "p.yaml", cwd=side).returncode == 0
        with sqlite3.connect(side / "artifacts" / "state.sqlite") as state:
            assert state.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        state.close()


def test_a_key_is_built_once_and_who_waits_on_the_other_machine_says_so(sides, tmp_path):
    log = made(sides, tmp_path, 4)
    first = run(sides[0])
    wait_for(log)
    others = [run(side) for side in (*sides, sides[1])]
    said = [process.communicate(timeout=120)[0] for process in (first, *others)]
    assert [process.returncode for process in (first, *others)] == [0, 0, 0, 0]
    assert len(log.read_text().splitlines()) == 1
    assert all(f"waiting: process {first.pid} on {os.uname().nodename} makes p/a" in text for text in said[1:])
    whole(sides)


def test_who_waits_takes_over_when_the_builder_is_killed(sides, tmp_path):
    log = made(sides, tmp_path, 6)
    first = run(sides[0])
    wait_for(log)
    second = run(sides[1])
    time.sleep(2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    killed = time.monotonic()
    while len(log.read_text().splitlines()) < 2:
        assert time.monotonic() - killed < 60
        time.sleep(0.05)
    print(f"taken over after {time.monotonic() - killed:.2f} s")
    assert second.communicate(timeout=120)[0].count("waiting:") == 1
    assert second.returncode == 0
    whole(sides)


def test_a_lock_is_had_by_one_machine_at_a_time(sides, tmp_path):
    mark = tmp_path / "mark"
    env = {**os.environ, "PYTHONPATH": PATHS}
    started = [
        subprocess.Popen([sys.executable, "-c", EXCLUDE, str(side / "key"), str(mark)], env=env)
        for side in (*sides, *sides)
    ]
    assert [process.wait(timeout=60) for process in started] == [0, 0, 0, 0]
    held = locks.take(str(sides[0] / "key"))
    assert held.real
    held.release()
