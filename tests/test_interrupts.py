"""Ctrl-C, SIGTERM and SIGHUP, once and again and again, at every moment of the command's life."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import PROJECT, further, project, python_stage, trtpipe

CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]

COMMAND = """\
import os, signal, sys, time
from trtpipe import __main__

def storm(number):
    me = os.getpid()
    os.kill(me, number)
    if not os.fork():  # somebody who goes on sending
        while os.getppid() == me:
            time.sleep(0.0002)
            os.kill(me, number)
        os._exit(0)

begun, calls, number, at = False, 0, int(sys.argv[1]), int(sys.argv[2])

def count(frame, event, argument):
    global begun, calls
    # What comes before, no program can help: the interpreter starts, and the handlers are not yet in place.
    begun = begun or frame.f_code.co_filename.endswith(os.path.join("trtpipe", "cli", "__init__.py"))
    calls += begun
    if begun and calls == at:
        storm(number)

del sys.argv[1:3]
if not at:
    os._exit = sys.exit
sys.setprofile(count)
try:
    __main__.main()
except SystemExit:
    if at:
        raise
    sys.setprofile(None)
    print("calls", calls)
"""
"""The command, to which signals are sent from a given call of a function on (0: never, it tells how many there are)."""


def python(folder, code, *args):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], cwd=folder, capture_output=True, text=True, check=False,
        timeout=60, env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": "0"},
    )  # fmt: skip


def workers_in(folder):
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder) in os.readlink(entry / "cwd"):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [line for line in found if "trtpipe.run.worker" in line]


@contextlib.contextmanager
def running(folder, *how):
    """Start `run p.yaml`, and go on when the stage has made the file `mark`."""
    with subprocess.Popen(
        [sys.executable, *how, "run", "p.yaml"], cwd=folder, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(PROJECT)},
    ) as process:  # fmt: skip
        while not (folder / "mark").exists():
            assert process.poll() is None
            time.sleep(0.01)
        yield process


@pytest.mark.parametrize(("number", "code"), [CODES[0], *further(*CODES[1:])])
def test_at_whatever_call_signals_begin_to_come_the_run_ends_in_order(tmp_path, number, code):
    project(tmp_path, python_stage("a"))
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    told = python(tmp_path, COMMAND, number, 0, "run", "p.yaml").stdout
    calls = int(told.rpartition("calls ")[2])
    steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, *range(1000, calls, calls // 8)]
    for at in [*steps, *(calls - n for n in (100, 50, 20, 10, 5, 2, 1, 0))]:
        result = python(tmp_path, COMMAND, number, at, "run", "p.yaml")
        late = at > calls - 1000 and result.returncode == 0  # how many calls there are differs by a few
        assert result.returncode == code or late, f"at call {at} of {calls}: {result}"
        assert "Traceback" not in result.stderr, f"at call {at} of {calls}: {result.stderr}"
        assert "Exception ignored" not in result.stderr
    assert trtpipe("status", "p.yaml", cwd=tmp_path).returncode == 0
    assert list((tmp_path / "artifacts" / "tmp").iterdir()) == []


@pytest.mark.parametrize(("number", "code"), CODES)
def test_signals_that_do_not_cease_while_a_stage_runs_end_it_in_order(tmp_path, number, code):
    project(tmp_path, python_stage("a", "slow", mark=str(tmp_path / "mark")))
    with running(tmp_path, "-m", "trtpipe") as process:
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(0.0002)
        error = process.stderr.read()
    assert process.returncode == code
    assert "Traceback" not in error
    assert workers_in(tmp_path) == []
    assert list((tmp_path / "artifacts" / "tmp").iterdir()) == []


def test_a_second_interrupt_waits_for_no_worker(tmp_path):
    code = """\
import signal, time
def f(arrays, samples, mark):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(mark, "w").close()
    time.sleep(1000)
"""
    patient = """\
from trtpipe import __main__
from trtpipe.run import pool
assert pool._GRACE_SECONDS
pool._GRACE_SECONDS = 1000
__main__.main()
"""
    project(tmp_path, python_stage("a", "f", mark=str(tmp_path / "mark")), code=code)
    with running(tmp_path, "-c", patient) as process:
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
    assert process.returncode == 130
    assert workers_in(tmp_path) == []
    assert list((tmp_path / "artifacts" / "tmp").iterdir()) == []


def test_when_the_command_is_over_nothing_is_left_that_a_signal_could_break(tmp_path):
    late = """\
import atexit, os, signal, sys
from trtpipe import __main__
class Late:
    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.SIGINT):
        kill(me, number)
late = Late()
atexit.register(os.kill, os.getpid(), signal.SIGINT)
__main__.main()
"""
    result = python(tmp_path, late, "--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("trtpipe ")


def test_an_interrupt_within_a_destructor_is_not_lost(tmp_path):
    code = """\
import os, signal, time
from trtpipe import interrupts
class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)
interrupts.handle()
try:
    Closing()
    time.sleep(60)
except KeyboardInterrupt as interrupt:
    raise SystemExit(interrupts.code(interrupt))
"""
    result = python(tmp_path, code)
    assert (result.returncode, result.stderr) == (143, "")


def test_a_signal_ends_the_process_at_once_if_the_clean_up_takes_too_long(tmp_path):
    code = """\
import os, signal, time
from trtpipe import interrupts
interrupts._PATIENCE_SECONDS = {}
interrupts.handle()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGTERM)
    raise SystemExit(7 if interrupts.again() else 8)
"""
    assert python(tmp_path, code.format(0)).returncode == 130
    assert python(tmp_path, code.format(1000)).returncode == 7


def test_a_signal_that_is_ignored_from_the_start_stays_so(tmp_path):
    code = """\
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from trtpipe import interrupts
interrupts.handle()
os.kill(os.getpid(), signal.SIGHUP)
"""
    assert python(tmp_path, code).returncode == 0
