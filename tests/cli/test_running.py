"""What `run` prints and where it puts things."""

from __future__ import annotations

from tests.helpers import project, python_stage, trtpipe


def test_quiet_prints_nothing_when_all_is_well(tmp_path):
    project(tmp_path, python_stage("a"))
    result = trtpipe("run", "p.yaml", "-q", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_an_empty_variable_for_the_store_is_none(tmp_path):
    project(tmp_path, python_stage("a"))
    assert trtpipe("run", "p.yaml", "-q", cwd=tmp_path, env={"TRTPIPE_ARTIFACTS": ""}).returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifacts", "data.npz", "p.yaml", "step.py"]
