"""A worker that takes more time or memory than `run:` allows is ended, with all that it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import events, project, python_stage, trtpipe
from trtpipe.run import limits

MIB = 2**20
CODE = """\
import mmap, os, subprocess, sys, time
import numpy as np

def sleeps(arrays, samples):
    time.sleep(600)

def takes(arrays, samples, mib, where="here"):
    text = f"import time; held = b'x' * ({mib} << 20); time.sleep(600)"
    if where == "child":
        subprocess.run([sys.executable, "-c", text])
    held = b"x" * (mib << 20)
    time.sleep(600)

def ok(arrays, samples, mib):
    held = b"x" * (mib << 20)
    return {"twice": arrays["x"][:, 0].astype(np.int64)}
"""


def run_with(tmp_path, section, function, *arguments, **named):
    stage = python_stage("a", function, **named).replace("type:", f"run: {json.dumps(section)}, type:")
    project(tmp_path, stage, code=CODE)
    return trtpipe("run", "p.yaml", *arguments, cwd=tmp_path)


def failure(result):
    assert result.returncode == 1, result.stdout + result.stderr
    return next(e for e in events(result) if e["event"] == "StageFailed")


def test_a_stage_that_takes_too_long_is_ended_and_told_so(tmp_path):
    failed = failure(run_with(tmp_path, {"timeout": "1s"}, "sleeps", "--json"))
    assert failed["error"] == "LimitExceeded"
    assert failed["message"].partition(";")[0] == "timed out after 1s, which is its run.timeout"


@pytest.mark.parametrize("where", ["here", "child"])
def test_a_stage_whose_processes_hold_too_much_memory_is_ended_and_told_how_much(tmp_path, where):
    failed = failure(run_with(tmp_path, {"memory": "600MiB"}, "takes", "--json", mib=700, where=where))
    assert failed["error"] == "LimitExceeded"
    assert " MiB of memory, and its run.memory is 600MiB" in failed["message"]


def test_a_stage_within_its_limits_is_left_alone(tmp_path):
    result = run_with(tmp_path, {"memory": "4GiB", "timeout": "10min"}, "ok", mib=100)
    assert result.returncode == 0, result.stderr


def test_what_a_limit_ended_is_no_failure_of_the_stage_that_is_remembered(tmp_path):
    run_with(tmp_path, {"timeout": "1s"}, "sleeps")
    status = json.loads(trtpipe("status", "p.yaml", "--json", cwd=tmp_path).stdout)["stages"][0]
    assert (status["status"], status["reasons"]) == ("run", ["never built"])
    assert not (tmp_path / "artifacts/quarantine").exists()


HOLDS = """\
import mmap, os, sys, time
shared = mmap.mmap(-1, 64 << 20)
shared.write(b"x" * (64 << 20))
own = b"x" * (64 << 20)
if not os.fork():
    shared[0], _ = 1, [shared[i] for i in range(0, 64 << 20, 4096)]
    print("ready", flush=True)
    time.sleep(600)
os.wait()
"""


def test_a_worker_at_its_time_limit_ends_with_its_children():
    text = "import os, time; child = os.fork(); print(child, flush=True) if child else None; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, start_new_session=True)
    assert int(process.stdout.readline()) > 0
    limit = limits.Limit(process.pid, timeout=1, memory=None)
    assert process.communicate(timeout=60) == (b"", None), "the pipe closes when the last of them has ended"
    assert process.returncode == -signal.SIGKILL
    assert limit.why == "timed out after 1s, which is its run.timeout"


def test_a_worker_that_ended_in_time_is_not_looked_at_any_more():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    limit = limits.Limit(process.pid, timeout=1, memory=1 << 40)
    limit.over()
    time.sleep(1.5)
    assert (limit.why, process.poll()) == (None, None)
    process.communicate(b"\n")
    assert process.returncode == 0


@pytest.fixture
def session():
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        os.killpg(process.pid, 9)
        process.communicate()


def test_memory_is_that_of_all_processes_of_a_session_and_shared_memory_counts_once(session):
    whole = limits.memory(session)
    assert 128 * MIB < whole < 160 * MIB
    # What was asked for is answered sooner where it is known to be little, and then shared memory counts for each.
    assert limits.memory(session, enough=1024 * MIB) > whole


def test_a_session_that_is_over_holds_nothing(session):
    os.killpg(session, 9)
    os.waitid(os.P_PID, session, os.WEXITED | os.WNOWAIT)
    assert limits.memory(session, 1) < MIB
