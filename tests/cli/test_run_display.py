"""What people see."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from itertools import pairwise

import pytest

from tests.helpers import PROJECT, project, python_stage, trtpipe
from trtpipe.cli import run_display
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


def lines_of(folder, code, *args):
    """Run the command, or Python code in its place, with `args`; give its lines as they come."""
    with subprocess.Popen(
        [sys.executable, *code, *args], cwd=folder, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    ) as process:  # fmt: skip
        yield from process.stdout
    assert process.returncode == 0


MINUTE = 0.1
SHORT = (
    "import sys; from trtpipe.cli import main; from trtpipe.run import pool, work; "
    f"pool.TELL_SECONDS = work.TELL_SECONDS = {MINUTE}; "
    "sys.exit(main.main(sys.argv[1:]))"
)


def where_a_minute_is_short(folder, *args):
    """Run the command with a minute of a tenth of a second; give its lines as they come."""
    return lines_of(folder, ("-c", SHORT), *args)


@pytest.mark.parametrize("form", [[], ["--json"], ["--quiet"]])
def test_long_work_is_no_silence_where_there_is_no_terminal(tmp_path, form):
    project(tmp_path, python_stage("a", "slow", mark="m", seconds=1.2))
    seen = list(where_a_minute_is_short(tmp_path, "run", "p.yaml", *form))
    if form == ["--json"]:
        told = [event for event in map(json.loads, seen) if event["event"] == "StageRunning"]
        assert {event["stage"] for event in told} == {"a"}
        times = [event["seconds"] for event in told]
        assert times[0] >= MINUTE
        assert all(before < after for before, after in pairwise(times))
        assert 2 <= len(times) <= times[-1] / MINUTE + 1
    else:
        assert any(line.startswith("      a: still running, ") for line in seen) == (not form)


UNTIL = """\
import os, time
def until(arrays, samples, mark):
    while not os.path.exists(mark):
        time.sleep(0.01)
    return {"x": arrays["x"]}
"""


def test_a_run_that_waits_for_another_says_so_again(tmp_path):
    mark = tmp_path / "enough"
    project(tmp_path, python_stage("a", "until", mark=str(mark)), code=UNTIL)
    builder = lines_of(tmp_path, ("-m", "trtpipe"), "run", "p.yaml")
    assert any("run a" in line for line in builder)
    seen = []
    for line in where_a_minute_is_short(tmp_path, "run", "p.yaml"):
        seen.append(line)
        if sum("      a: waiting: process " in one for one in seen) == 3:
            mark.touch()
    assert sum("      a: waiting: process " in one for one in seen) >= 3
    assert "1 hit, 0 ran" in seen[-1]
    assert "0 hit, 1 ran" in list(builder)[-1]


def test_a_long_rebuild_is_no_silence_either(tmp_path):
    project(tmp_path, python_stage("a", "slow", mark="m", seconds=1.2))
    trtpipe("run", "p.yaml", cwd=tmp_path)
    assert "    a: still running, " in "".join(where_a_minute_is_short(tmp_path, "verify", "p.yaml"))


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
    watcher = run_display.JsonLines(stream)
    watcher(events.StageNote("a", "line\nbreak"))
    watcher.close()
    assert stream.getvalue() == '{"event": "StageNote", "stage": "a", "message": "line\\nbreak"}\n'


def test_a_warning_goes_to_the_error_stream_even_when_quiet(capsys):
    run_display.Console(sys.stdout, quiet=True)(events.Warned("the server is down"))
    assert capsys.readouterr() == ("", "warning: the server is down\n")
