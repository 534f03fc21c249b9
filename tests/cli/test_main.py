"""The entry point: streams, and errors as exit codes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

from tests.helpers import PROJECT, project, python_stage, trtpipe
from trtpipe import errors
from trtpipe.cli import main, opening


def test_a_missing_document_is_exit_2_in_one_line(tmp_path):
    result = trtpipe("run", "nowhere.yaml", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "error: nowhere.yaml: there is no such file\n")
    as_json = trtpipe("run", "nowhere.yaml", "--json", cwd=tmp_path)
    assert json.loads(as_json.stdout) == {
        "event": "Error", "error": "PipelineInvalid", "problems": ["nowhere.yaml: there is no such file"],
    }  # fmt: skip


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    project(tmp_path, python_stage("a"))
    command = f"{shlex.quote(sys.executable)} -m trtpipe schema | head -c 10"
    env = {"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert result.stderr == ""


def test_a_bug_of_ours_is_exit_70_with_a_traceback_and_where_to_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    project(tmp_path, python_stage("a"))
    monkeypatch.setattr(opening.loading, "load", lambda *_: 1 / 0)
    assert main.main(["run", "p.yaml"]) == 70
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error
    assert "please report" in error


def test_every_foreseen_failure_has_its_own_exit_code():
    assert {name: c.exit_code for name, c in errors.CLASSES.items()} == {
        "TrtpipeError": 70, "StageFailed": 1, "LimitExceeded": 1, "PipelineInvalid": 2, "SchemaViolation": 2,
        "UnknownReference": 2, "KindMismatch": 2, "Cycle": 2, "EnvironmentMissing": 3, "StoreError": 4, "GateFailed": 5,
    }  # fmt: skip


def test_a_runtime_that_is_not_installed_is_exit_3_with_the_command_that_helps(tmp_path):
    project(tmp_path, python_stage("a"))
    result = trtpipe("run", "p.yaml", "--backend", "tensorrt", cwd=tmp_path)
    if result.returncode == 0:
        pytest.skip("TensorRT is installed here")
    assert result.returncode == 3
    assert "pip install 'trtpipe[tensorrt]'" in result.stderr


def shell(folder, command, **env):
    """Run a shell's line in which `t` is the command."""
    line = f't() {{ {shlex.quote(sys.executable)} -m trtpipe "$@"; }}; {command}'
    around = {"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin", **env}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=folder, env=around, check=False)


def test_closed_streams_change_no_exit_code(graph):
    assert shell(graph, "t graph g.yaml >&-").returncode == 0
    assert shell(graph, "t validate nowhere.yaml --json <&- >&- 2>&-").returncode == 2


def test_a_full_disk_under_the_output_is_exit_4_and_no_bug_of_ours(graph):
    result = shell(graph, "t status g.yaml > /dev/full")
    assert (result.returncode, result.stderr) == (4, "error: the output cannot be written: No space left on device\n")
    assert shell(graph, "t status nowhere.yaml 2> /dev/full").returncode == 4


def test_a_reader_that_left_before_the_error_came_is_no_bug_of_ours(graph):
    result = shell(graph, "{ sleep 1; t status nowhere.yaml --json; echo $? >&2; } | true")
    assert result.stderr == "141\n"


def test_a_terminal_without_unicode_gets_ascii_and_escapes(graph):
    (graph / "mödel.onnx").write_bytes(b"x")
    (graph / "g.yaml").write_text((graph / "g.yaml").read_text().replace("my model", "mödel"))
    for setting in ({"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "PYTHONIOENCODING": "ascii"}):
        result = shell(graph, "t graph g.yaml", **setting)
        assert result.stdout.splitlines()[:2] == ["network (parse -> network)", "  `- model <- m\\xf6del.onnx"]


def test_a_locale_without_unicode_gets_ascii_for_our_own_signs(graph):
    assert shell(graph, "t graph g.yaml", LANG="C").stdout.startswith("network (parse -> network)\n")
    assert shell(graph, "t graph g.yaml", LC_ALL="POSIX").stdout.startswith("network (parse -> network)\n")
    assert shell(graph, "t graph g.yaml", LANG="de_DE.UTF-8").stdout.startswith("network (parse → network)\n")


def test_names_that_are_not_utf_8_and_a_folder_that_is_gone_are_refused(graph):
    result = shell(graph, "t validate g.yaml --set $'vars.x=\\xff'")
    assert (result.returncode, result.stderr) == (
        2,
        "error: found b'vars.x=\\xff' in the command or the current folder, expected UTF-8\n",
    )
    result = shell(graph, "mkdir gone; cd gone; rmdir ../gone; t status ../g.yaml")
    assert result.returncode == 4
    assert "the current folder was removed; change to another folder" in result.stderr


def test_a_document_may_come_through_a_pipe(graph):
    result = shell(graph, "t graph <(cat g.yaml) --json")
    assert json.loads(result.stdout)["pipeline"] == "graph"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rum", "p.yaml"], 'there is no command rum, did you mean "run"?'),
        (["p.yaml"], "found p.yaml, expected a command, such as: trtpipe run p.yaml"),
        (["m.onnx"], "found m.onnx, expected a command, such as: trtpipe build m.onnx"),
        (["cache", "lz"], "there is no command lz"),
        (["run", "m.onnx"], "expected a pipeline in YAML; build an engine of it: trtpipe build m"),
        (["run", "e.bin"], "expected a pipeline in YAML; ask whether it can load here: trtpipe doctor e.bin"),
        (["run", "."], ".: found a folder, expected a document; it holds ./g.yaml"),
        (["run", "h.yaml"], 'there is no such file, did you mean "g.yaml"?'),
    ],
)  # fmt: skip
def test_a_careless_command_says_the_next_step(graph, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(graph)
    (graph / "m.onnx").write_bytes(b"\x08\x08")
    (graph / "e.bin").write_bytes(b"vtrt" + bytes(30))
    assert main.main(arguments) == 2
    assert said in capsys.readouterr().err
