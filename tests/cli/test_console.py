"""What people see."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys

import pytest

from tests.helpers import PROJECT, project, python_stage, trtpipe
from trtpipe.cli import console
from trtpipe.run import events


def test_a_pipe_gets_plain_lines_and_a_closing_table(tmp_path):
    project(tmp_path, python_stage("a"))
    lines = trtpipe("run", "p.yaml", cwd=tmp_path).stdout.splitlines()
    assert lines[0].startswith("p · onnxruntime ")
    assert lines[1] == "  run a (postprocess): never built"
    assert lines[3].split() == ["stage", "type", "result", "time", "size", "artifact"]
    assert lines[4].split()[:3] == ["a", "postprocess", "ran"]
    assert lines[-1].startswith("0 hit, 1 ran in ")
    assert not any("\033" in line for line in lines)


def where_a_minute_is_half_a_second(folder, *args):
    """Run the command with a shorter minute; give what it printed."""
    short = (
        "import sys; from trtpipe.cli import main; from trtpipe.run import pool, work; "
        "pool.STILL_SECONDS = work.STILL_SECONDS = 0.5; "
        "sys.exit(main.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", short, *args], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("form", [[], ["--json"], ["--quiet"]])
def test_long_work_is_no_silence_where_there_is_no_terminal(tmp_path, form):
    project(tmp_path, python_stage("a", "slow", mark="m", seconds=1.2))
    seen = where_a_minute_is_half_a_second(tmp_path, "run", "p.yaml", *form)
    if form == ["--json"]:
        told = [json.loads(line) for line in seen.splitlines() if "StageRunning" in line]
        assert [event["stage"] for event in told[:2]] == ["a", "a"]
        assert 0.5 <= told[0]["seconds"] < told[1]["seconds"]
    else:
        assert seen.count("      a: still running, 0.5") == (not form)


def test_a_run_that_waits_for_another_says_so_again(tmp_path):
    project(tmp_path, python_stage("a", "slow", mark="m", seconds=4))
    with subprocess.Popen(
        [sys.executable, "-m", "trtpipe", "run", "p.yaml"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    ) as builder:  # fmt: skip
        assert builder.stdout is not None
        assert any("run a" in line for line in iter(builder.stdout.readline, ""))
        seen = where_a_minute_is_half_a_second(tmp_path, "run", "p.yaml")
        builder.stdout.read()
    assert seen.count("      a: waiting: process ") > 1
    assert "1 hit, 0 ran" in seen


def test_a_long_rebuild_is_no_silence_either(tmp_path):
    project(tmp_path, python_stage("a", "slow", mark="m", seconds=1.2))
    trtpipe("run", "p.yaml", cwd=tmp_path)
    assert "    a: still running, " in where_a_minute_is_half_a_second(tmp_path, "verify", "p.yaml")


def on_a_terminal(folder, *args, env=None):
    primary, secondary = pty.openpty()
    settings = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-m", "trtpipe", *args], cwd=folder, stdout=secondary, stderr=secondary, close_fds=True,
        env={**settings, "PYTHONPATH": str(PROJECT), "TERM": "xterm-256color", "COLUMNS": "100", **(env or {})},
    )  # fmt: skip
    os.close(secondary)
    seen = bytearray()
    while True:
        try:
            chunk = os.read(primary, 4096)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    os.close(primary)
    return process.wait(), seen.decode()


def test_a_terminal_gets_a_live_display_that_says_what_it_took_last_time(tmp_path):
    project(tmp_path, python_stage("a", "slow", mark="m", seconds=1))
    code, first = on_a_terminal(tmp_path, "run", "p.yaml")
    assert code == 0
    assert "a (postprocess)" in first
    assert "\033[" in first
    code, again = on_a_terminal(tmp_path, "run", "p.yaml", "--force")
    assert code == 0
    assert "last time" in again
    assert "forced" in again


def test_a_terminal_that_wants_no_colour_gets_none(tmp_path):
    project(tmp_path, python_stage("a"))
    code, text = on_a_terminal(tmp_path, "run", "p.yaml", env={"NO_COLOR": "1"})
    assert code == 0
    assert "\033" not in text


def test_json_lines_are_one_event_a_line():
    from trtpipe.run import events

    stream = io.StringIO()
    watcher = console.JsonLines(stream)
    watcher(events.StageNote("a", "line\nbreak"))
    watcher.close()
    assert stream.getvalue() == '{"event": "StageNote", "stage": "a", "message": "line\\nbreak"}\n'


def test_a_warning_goes_to_the_error_stream_even_when_quiet(capsys):
    console.Console(sys.stdout, quiet=True)(events.Warned("the server is down"))
    assert capsys.readouterr() == ("", "warning: the server is down\n")
