"""A project's own defaults, and where its store lies."""

from __future__ import annotations

import json
import os

import pytest

from tests.helpers import project, python_stage, within
from trtpipe import defaults
from trtpipe.errors import PipelineInvalid


def test_the_store_lies_in_the_projects_root_whatever_the_shells_folder(tmp_path):
    root = tmp_path / "team"
    document = project(root / "vision", python_stage("a"))
    (root / "pyproject.toml").touch()
    first = within("run", "vision/p.yaml", cwd=root)
    assert first.stdout.splitlines()[0].endswith(" · store artifacts"), first.stderr
    for folder, name in ((root / "vision", "p.yaml"), (tmp_path, "team/vision/p.yaml"), (tmp_path, str(document))):
        again = within("run", name, cwd=folder)
        assert "1 hit, 0 ran" in again.stdout
        assert again.stdout.splitlines()[0].endswith(
            " · store team/artifacts" if folder == tmp_path else f" · store {root}/artifacts"
        )
    assert [p for p in tmp_path.rglob("artifacts") if p.is_dir()] == [root / "artifacts"]
    assert within("cache", "ls", cwd=root / "vision").stdout.count("p/a ") == 1


def test_an_option_and_a_variable_come_before_the_projects_own(tmp_path):
    project(tmp_path, python_stage("a"))
    (tmp_path / "trtpipe.toml").write_text('store = "made"\nbackend = "onnxruntime"\njobs = 1\n')
    said = [
        within("run", "p.yaml", *options, cwd=tmp_path, env=env).stdout.splitlines()[0]
        for options, env in (
            ([], {}),
            ([], {"TRTPIPE_ARTIFACTS": "v"}),
            (["--artifacts", "o"], {"TRTPIPE_ARTIFACTS": "v"}),
        )
    ]
    assert [line.rpartition(" ")[2] for line in said] == ["made", "v", "o"]
    assert "(named in trtpipe.toml)" in said[0]


def test_everything_that_is_wrong_in_the_file_is_told_at_once(tmp_path):
    (tmp_path / "trtpipe.toml").write_text('stor = "x"\njobs = 0\nbackend = "tensort"\nremote = 1\n')
    with pytest.raises(PipelineInvalid) as told:
        defaults.read(str(tmp_path))
    file = tmp_path / "trtpipe.toml"
    assert told.value.problems == (
        f'{file}: unknown key stor, did you mean "store"?',
        f"{file}: jobs: found 0, expected a whole number of at least 1",
        f"{file}: backend: found tensort, expected one of auto, tensorrt, tensorrt_rtx, onnxruntime",
        f"{file}: remote: found 1, expected a text",
    )
    (tmp_path / "trtpipe.toml").write_text("store = \n")
    with pytest.raises(PipelineInvalid, match="not TOML"):
        defaults.read(str(tmp_path))


def test_an_empty_file_and_none_say_nothing(tmp_path):
    assert defaults.read(str(tmp_path)) == defaults.Defaults()
    (tmp_path / "trtpipe.toml").touch()
    assert defaults.read(str(tmp_path)) == defaults.Defaults()


def test_a_document_that_comes_through_a_pipe_lies_in_the_current_folders_project(tmp_path, monkeypatch):
    monkeypatch.delenv("TRTPIPE_ARTIFACTS", raising=False)
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    reading, writing = os.pipe()
    try:
        assert defaults.store(f"/dev/fd/{reading}") == defaults.store(None) == str(tmp_path / "artifacts")
    finally:
        os.close(reading)
        os.close(writing)
    monkeypatch.chdir(tmp_path)
    assert defaults.store(None) == "artifacts"


def test_show_works_after_a_frozen_run_without_what_it_was_made_of(tmp_path):
    project(tmp_path, python_stage("a"))
    for command in (["run", "p.yaml"], ["lock", "p.yaml"]):
        assert within(*command, cwd=tmp_path).returncode == 0
    before = within("show", "p.yaml", "a/results.jsonl", cwd=tmp_path).stdout
    (tmp_path / "data.npz").unlink()
    (tmp_path / "step.py").unlink()
    assert within("run", "p.yaml", "--frozen", cwd=tmp_path).returncode == 0
    shown = within("show", "p.yaml", "a/results.jsonl", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, before)
    assert "as p.lock has locked it; not here: " in shown.stderr
    (tmp_path / "p.lock").unlink()
    assert within("show", "p.yaml", "a", cwd=tmp_path).returncode == 2


def test_the_store_is_listed_by_document_and_kind_and_cleaned_of_what_no_document_uses(tmp_path):
    project(tmp_path, python_stage("a"))
    project(tmp_path, python_stage("b"), name="q")
    for name in ("p", "q"):
        assert within("run", f"{name}.yaml", cwd=tmp_path).returncode == 0
    document = tmp_path / "p.yaml"

    def listed(*options):
        found = json.loads(within("cache", "ls", *options, "--json", cwd=tmp_path).stdout)
        return [one["stage"] for one in found["actions"]]

    both = listed()
    assert listed("p.yaml") == both
    assert listed("--kind", "results") == both
    wrong = within("cache", "ls", "--kind", "result", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (
        2, 'error: --kind result: nothing in the store is of this kind, did you mean "results"?\n',
    )  # fmt: skip
    assert "removed 0 results" in within("cache", "gc", "--unused-by", "*.yaml", cwd=tmp_path).stdout
    text = document.read_text()
    for name in ("p", "q"):
        (tmp_path / f"{name}.yaml").write_text(text.replace("step.py", "other.py").replace("name: p", f"name: {name}"))
    (tmp_path / "other.py").write_text((tmp_path / "step.py").read_text())
    tried = within("cache", "gc", "--unused-by", "*.yaml", "--dry-run", cwd=tmp_path).stdout
    assert f"would remove {len(both)} results" in tried
    assert listed() == both
    (tmp_path / "bad.yaml").write_text("name: [")
    assert within("cache", "gc", "--unused-by", "*.yaml", cwd=tmp_path).returncode == 2
    assert listed() == both
    (tmp_path / "bad.yaml").unlink()
    assert f"removed {len(both)} results" in within("cache", "gc", "--unused-by", "*.yaml", cwd=tmp_path).stdout
    assert listed() == []
    nothing = within("cache", "gc", "--unused-by", "*.yml", cwd=tmp_path)
    assert (nothing.returncode, "found no file, expected documents" in nothing.stderr) == (2, True)


def test_a_project_that_cannot_be_written_says_where_else_the_store_may_lie(tmp_path):
    project(tmp_path, python_stage("a"))
    (tmp_path / "artifacts").write_text("a file stands where the store would be")
    result = within("run", "p.yaml", cwd=tmp_path)
    assert result.returncode == 4
    assert "--artifacts DIR" in result.stderr
