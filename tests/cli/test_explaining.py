"""What `explain` says."""

from __future__ import annotations

import json

from tests.helpers import project, python_stage, trtpipe


def test_explain_of_a_hit_says_when_and_with_what_it_was_made(tmp_path):
    project(tmp_path, python_stage("a"))
    trtpipe("run", "p.yaml", cwd=tmp_path)
    result = trtpipe("explain", "p.yaml", "a", cwd=tmp_path)
    assert "a (postprocess): hit" in result.stdout
    assert "numpy: " in result.stdout


def test_the_history_shows_a_few_of_many_reasons_and_json_has_all(tmp_path):
    code = """\
import os
import numpy as np
HERE = os.path.dirname(os.path.abspath(__file__))
def f(arrays, samples):
    found = [os.path.exists(f"{HERE}/w{n}") for n in range(9)] if os.path.exists(HERE + "/all") else []
    return {"twice": (arrays["x"][:, 0] * len(found)).astype(np.int64)}
"""
    project(tmp_path, python_stage("a", "f"), code=code)
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "all").touch()
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    last = trtpipe("explain", "p.yaml", "a", "--history", cwd=tmp_path).stdout.splitlines()[-1]
    assert "all appeared" in last
    assert last.count("; ") == 5
    assert last.endswith("; and 5 more (--json has them all)")
    whole = json.loads(trtpipe("explain", "p.yaml", "a", "--history", "--json", cwd=tmp_path).stdout)
    assert len(whole["runs"][-1]["reasons"]) == 10
