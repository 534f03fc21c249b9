"""What `explain` says."""

from __future__ import annotations

from tests.helpers import project, python_stage, trtpipe


def test_explain_of_a_hit_says_when_and_with_what_it_was_made(tmp_path):
    project(tmp_path, python_stage("a"))
    trtpipe("run", "p.yaml", cwd=tmp_path)
    result = trtpipe("explain", "p.yaml", "a", cwd=tmp_path)
    assert "a (postprocess): hit" in result.stdout
    assert "numpy: " in result.stdout
