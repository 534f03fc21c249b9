"""The command: every subcommand, as people and as programs use it, and its exit codes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest

from tests.helpers import PROJECT, project, python_stage, trtpipe
from trtpipe import errors
from trtpipe.cli import main, opening

DOC = """\
name: graph
stages:
  config: {type: configure, inputs: {network: network}}
  network: {type: parse, inputs: {model: {file: my model.onnx}}}
"""


@pytest.fixture
def graph(tmp_path):
    (tmp_path / "g.yaml").write_text(DOC)
    (tmp_path / "my model.onnx").write_bytes(b"x")
    return tmp_path


def test_help_names_every_command_and_exit_code(tmp_path):
    text = trtpipe("--help", cwd=tmp_path).stdout
    for word in ("run", "status", "explain", "validate", "graph", "show", "stages", "schema", "doctor", "completion"):
        assert re.search(rf"^    {word}\b", text, re.MULTILINE)
    for code in ("0 done", "1 a stage failed", "70 our bug", "130 interrupted"):
        assert code in text


@pytest.mark.parametrize(
    "args", [[], ["nonsense"], ["run"], ["run", "p.yaml", "--jobs", "0"], ["run", "p.yaml", "--backend", "cuda"]]
)
def test_a_wrong_command_line_is_exit_2(tmp_path, args):
    result = trtpipe(*args, cwd=tmp_path)
    assert result.returncode == 2
    assert "usage:" in result.stderr


def test_a_missing_document_is_exit_2_in_one_line(tmp_path):
    result = trtpipe("run", "nowhere.yaml", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "error: nowhere.yaml: there is no such file\n")
    as_json = trtpipe("run", "nowhere.yaml", "--json", cwd=tmp_path)
    assert json.loads(as_json.stdout) == {
        "event": "Error", "error": "PipelineInvalid", "problems": ["nowhere.yaml: there is no such file"],
    }  # fmt: skip


def test_graph_draws_text_mermaid_and_dot(graph):
    assert trtpipe("graph", "g.yaml", cwd=graph).stdout == (
        "network (parse → network)\n  └─ model ← my model.onnx\nconfig (configure → config)\n  └─ network ← network\n"
    )
    mermaid = trtpipe("graph", "g.yaml", "--format", "mermaid", cwd=graph).stdout
    assert 'file_20_my_20_model_2e_onnx(["my model.onnx"]) -- model --> network' in mermaid
    assert "network -- network --> config" in mermaid
    dot = trtpipe("graph", "g.yaml", "--format", "dot", cwd=graph).stdout
    assert '"my model.onnx" -> "network" [label="model"];' in dot
    found = json.loads(trtpipe("graph", "g.yaml", "--json", cwd=graph).stdout)
    assert found["edges"][0] == {"from": "my model.onnx", "to": "network", "input": "model", "outside": True}


def test_validate_says_each_documents_verdict(graph):
    (graph / "bad.yaml").write_text("name: bad\nstages: {}\n")
    result = trtpipe("validate", "g.yaml", "bad.yaml", cwd=graph)
    assert result.returncode == 2
    assert result.stdout == "g.yaml: valid, 2 stages\n"
    assert result.stderr == "bad.yaml:2:1 stages: found an empty mapping, expected at least one entry\n"
    found = json.loads(trtpipe("validate", "g.yaml", "bad.yaml", "--json", cwd=graph).stdout)
    assert [f["valid"] for f in found] == [True, False]


def test_show_before_a_run_says_how_to_get_there(tmp_path):
    project(tmp_path, python_stage("a"))
    result = trtpipe("show", "p.yaml", "a", cwd=tmp_path)
    assert result.returncode == 1
    assert "trtpipe run p.yaml --target a" in result.stderr


def test_show_prints_paths_and_json(tmp_path):
    project(tmp_path, python_stage("a"))
    trtpipe("run", "p.yaml", cwd=tmp_path)
    found = json.loads(trtpipe("show", "p.yaml", "a", "--json", cwd=tmp_path).stdout)
    assert found["kind"] == "results"
    assert "results.jsonl" in found["files"]
    missing = trtpipe("show", "p.yaml", "a/result.jsonl", cwd=tmp_path)
    assert missing.returncode == 2
    assert 'did you mean "results.jsonl"?' in missing.stderr
    assert trtpipe("show", "p.yaml", "zz", cwd=tmp_path).returncode == 2


def test_explain_of_a_hit_says_when_and_with_what_it_was_made(tmp_path):
    project(tmp_path, python_stage("a"))
    trtpipe("run", "p.yaml", cwd=tmp_path)
    result = trtpipe("explain", "p.yaml", "a", cwd=tmp_path)
    assert "a (postprocess): hit" in result.stdout
    assert "numpy: " in result.stdout


def test_stages_lists_types_and_describes_one(tmp_path):
    assert "postprocess  results" in trtpipe("stages", cwd=tmp_path).stdout
    one = trtpipe("stages", "configure", cwd=tmp_path).stdout
    assert "precision: " in one
    assert "workspace: " in one
    assert len(json.loads(trtpipe("stages", "--json", cwd=tmp_path).stdout)) >= 9
    wrong = trtpipe("stages", "confgure", cwd=tmp_path)
    assert wrong.returncode == 2
    assert 'did you mean "configure"?' in wrong.stderr


def test_schema_is_printed_written_and_checked(tmp_path):
    assert trtpipe("schema", "--check", cwd=tmp_path).returncode == 1
    assert trtpipe("schema", "--write", cwd=tmp_path).returncode == 0
    assert trtpipe("schema", "--check", cwd=tmp_path).returncode == 0
    printed = trtpipe("schema", cwd=tmp_path).stdout
    assert (tmp_path / "schemas" / "pipeline.schema.json").read_text() == printed


def test_doctor_says_what_this_machine_can_do(tmp_path):
    result = trtpipe("doctor", cwd=tmp_path)
    assert result.returncode == 0
    assert "onnxruntime" in result.stdout
    found = json.loads(trtpipe("doctor", "--json", cwd=tmp_path).stdout)
    assert found["runtimes"]["onnxruntime"]["can"] == ["parse", "build", "run"]
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_is_a_script_that_the_shell_accepts(tmp_path, shell):
    script = trtpipe("completion", shell, cwd=tmp_path).stdout
    assert "trtpipe" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


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
        "TrtpipeError": 70, "StageFailed": 1, "PipelineInvalid": 2, "SchemaViolation": 2, "UnknownReference": 2,
        "KindMismatch": 2, "Cycle": 2, "EnvironmentMissing": 3, "StoreError": 4, "GateFailed": 5,
    }  # fmt: skip


def test_a_runtime_that_is_not_installed_is_exit_3_with_the_command_that_helps(tmp_path):
    project(tmp_path, python_stage("a"))
    result = trtpipe("run", "p.yaml", "--backend", "tensorrt", cwd=tmp_path)
    if result.returncode == 0:
        pytest.skip("TensorRT is installed here")
    assert result.returncode == 3
    assert "pip install 'trtpipe[tensorrt]'" in result.stderr


def test_quiet_prints_nothing_when_all_is_well(tmp_path):
    project(tmp_path, python_stage("a"))
    result = trtpipe("run", "p.yaml", "-q", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


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


def test_a_terminal_without_unicode_gets_escapes(graph):
    result = shell(graph, "t graph g.yaml", PYTHONIOENCODING="ascii")
    assert result.stdout.startswith("network (parse \\u2192 network)")


def test_names_that_are_not_utf_8_and_a_folder_that_is_gone_are_refused(graph):
    result = shell(graph, "t validate g.yaml --set $'vars.x=\\xff'")
    assert (result.returncode, result.stderr) == (2, "error: found b'vars.x=\\xff', expected UTF-8\n")
    result = shell(graph, "mkdir gone; cd gone; rmdir ../gone; t status ../g.yaml")
    assert result.returncode == 4
    assert "is gone; change to one that is there" in result.stderr


def test_an_empty_variable_for_the_store_is_none(tmp_path):
    project(tmp_path, python_stage("a"))
    assert trtpipe("run", "p.yaml", "-q", cwd=tmp_path, env={"TRTPIPE_ARTIFACTS": ""}).returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifacts", "data.npz", "p.yaml", "step.py"]


def test_a_document_may_come_through_a_pipe(graph):
    result = shell(graph, "t graph <(cat g.yaml) --json")
    assert json.loads(result.stdout)["pipeline"] == "graph"


def test_an_unknown_stage_is_named_as_it_was_given(graph):
    for command in (["explain", "g.yaml", "confg"], ["show", "g.yaml", "confg"], ["run", "g.yaml", "--force", "confg"]):
        result = trtpipe(*command, cwd=graph)
        assert (result.returncode, result.stderr) == (2, 'error: unknown stage confg, did you mean "config"?\n')


def test_graphs_can_be_read_whatever_files_and_stages_are_called(tmp_path):
    parse = "  {}: {{type: parse, inputs: {{model: {{file: '{}'}}}}}}\n"
    stages = parse.format("end", 'a "b" #1.onnx') + parse.format("a", "end")
    (tmp_path / "g.yaml").write_text(f"name: g\nstages:\n{stages}")
    mermaid = trtpipe("graph", "g.yaml", "--format", "mermaid", cwd=tmp_path).stdout
    assert '(["a #quot;b#quot; #35;1.onnx"]) -- model --> end_\n' in mermaid
    dot = trtpipe("graph", "g.yaml", "--format", "dot", cwd=tmp_path).stdout
    assert '"./end" -> "a" [label="model"];' in dot
