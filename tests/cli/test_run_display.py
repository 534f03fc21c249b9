"""What people see."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from tests.helpers import PROJECT, further, project, python_stage, trtpipe
from tests.helpers import events as json_events
from trtpipe.cli import live, printing, run_display
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


@pytest.mark.parametrize("form", [[], *further(["--json"], ["--quiet"])])
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
        assert any(re.match(r"      \[1/1\] a: running, 0:0\d$", line) for line in seen) == (not form)


UNTIL = """\
import os, time
def until(arrays, samples, mark):
    while not os.path.exists(mark):
        time.sleep(0.01)
    return {"x": arrays["x"]}
"""


@pytest.mark.slow
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


@pytest.mark.slow
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


def on_a_screen(folder, columns, *args, env=None):
    """Run the command on a terminal of so many columns; give its exit code and what it leaves there, in lines."""
    code, text = on_a_terminal(folder, *args, env={"COLUMNS": str(columns), **(env or {})})
    lines = [""]
    for piece in re.findall(r"\033\[[0-9;?]*[A-Za-z]|\r\n|[^\033\r\n]+", text):
        if piece == "\r\n":
            lines.append("")
        elif re.fullmatch(r"\033\[\d+A", piece):
            lines = [*lines[: len(lines) - 1 - int(piece[2:-1])], ""]
        elif not piece.startswith("\033"):
            lines[-1] += piece
    return code, lines


METRIC = """\
  accuracy:
    type: evaluate
    inputs: {results: a, labels: {file: right.txt}}
    params: {metrics: [{metric: exact_match, field: twice, name: right}], require: {right: ">= 0.5"}}
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Give a folder with a pipeline that measures a figure and meets its rule; it has run."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "right.txt").write_text("0\n2\n4\n7\n")
    project(folder, python_stage("a") + METRIC)
    result = trtpipe("run", "p.yaml", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_a_run_ends_with_its_figures_and_where_its_results_lie(measured):
    folder, said = measured
    assert said.splitlines()[0].endswith(" · 2 stages · store artifacts")
    for text in (said, trtpipe("run", "p.yaml", cwd=folder).stdout):
        figures = text[text.index("stage     figure") :].splitlines()
        assert figures[1].split() == ["accuracy", "right", "0.75", ">=", "0.5", "✓"]
        path = "artifacts/view/p/accuracy/metrics.json"
        assert re.search(rf"^accuracy  {path}  \d+ B$", text, re.MULTILINE)
        assert (folder / path).is_file()


def test_a_figure_that_breaks_its_rule_is_marked(tmp_path):
    (tmp_path / "right.txt").write_text("0\n1\n1\n7\n")
    project(tmp_path, python_stage("a") + METRIC)
    result = trtpipe("run", "p.yaml", cwd=tmp_path)
    assert result.returncode == 5
    assert re.search(r"^accuracy  right +0\.25  >= 0\.5  ✗$", result.stdout, re.MULTILINE)


def test_the_notes_of_hits_are_folded_to_a_line_and_the_command_notes_has_them(measured):
    folder, said = measured
    assert "      accuracy: right = 0.75" in said
    again = trtpipe("run", "p.yaml", cwd=folder).stdout
    assert "right = " not in again
    assert "\n1 note of accuracy: trtpipe notes p.yaml\n" in again
    assert trtpipe("notes", "p.yaml", cwd=folder).stdout.startswith("accuracy: right = 0.7500 (3 of 4")
    as_json = json.loads(trtpipe("notes", "p.yaml", "a", "--json", cwd=folder).stdout)
    assert as_json == {"notes": {"a": []}, "not built": []}


@pytest.mark.parametrize("columns", [20, 40, 60, 100])
@pytest.mark.parametrize("command", ["run", "status", "notes", "cache ls"])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_words(measured, columns, command):
    folder, _ = measured
    code, lines = on_a_screen(folder, columns, *command.split(), "p.yaml")
    assert code == 0
    long = [line for line in lines if len(line) > columns]
    assert all(line.split() == [line.strip()] for line in long), long  # one word, such as a path
    if command == "run":
        head = next(line for line in lines if line.startswith("stage     "))
        dropped = {20: ["stage", "result"], 40: ["stage", "result", "time", "size"]}
        assert head.split() == dropped.get(columns, ["stage", "type", "result", "time", "size", "artifact"])


def test_a_pipe_gets_whole_lines_whatever_the_columns_are(measured):
    folder, _ = measured
    assert max(map(len, trtpipe("run", "p.yaml", cwd=folder, env={"COLUMNS": "20"}).stdout.splitlines())) > 60


def test_progress_may_be_chosen(measured):
    folder, _ = measured
    plain = on_a_terminal(folder, "run", "p.yaml", "--force", "accuracy", "--progress", "plain")[1]
    assert "[2/2] accuracy" not in plain
    lively = trtpipe("run", "p.yaml", "--force", "accuracy", "--progress", "tty", cwd=folder).stdout
    assert "[2/2] accuracy: running, 0:0" in lively
    assert (
        json_events(trtpipe("run", "p.yaml", "--progress", "json", cwd=folder))[-1]["results"][0]["stage"] == "accuracy"
    )
    dumb = on_a_terminal(folder, "run", "p.yaml", "--force", "accuracy", env={"TERM": "dumb"})[1]
    assert "\033" not in dumb


def test_a_line_of_a_running_stage_says_what_it_is_at_and_leaves_parts_out_where_there_is_no_room():
    one = live.Running("[3/8] config", 18.0)
    one.begun = time.monotonic() - 12.3
    one.doing("checking fp16 on 8 samples")
    assert one.text() == "[3/8] config: checking fp16 on 8 samples, 0:12 of ~0:18"
    assert one.text(40) == "[3/8] config: 0:12"
    one.progress(4, 8, "samples")
    assert one.text(90) == "[3/8] config: checking fp16 on 8 samples, 4 of 8 samples, 0:12 of ~0:18"
    assert "[##########----------] 4 of 8 samples" in one.text(120)
    assert one.text(40) == "[3/8] config: 4 of 8 samples, 0:12"
    one.progress(4, None, "samples")
    assert "[#" not in one.text(120)
    assert one.text(11) == "[3/8] 0:12"
    one.doing("something else")
    assert one.text() == "[3/8] config: something else, 0:12 of ~0:18"


def test_reasons_that_were_told_are_not_told_again():
    why = printing.Reasons()
    assert (
        why(("backend: onnxruntime → tensorrt_rtx", "never built"))
        == "backend: onnxruntime → tensorrt_rtx; never built"
    )
    assert why(("backend: onnxruntime → tensorrt_rtx", "input a: a changed")) == "input a: a changed; and as above"
    assert why(("backend: onnxruntime → tensorrt_rtx",)) == "as above"
    assert why(("never built",)) == "never built"


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
