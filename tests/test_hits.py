"""The table of docs/reliability.md: no change is a wrong hit, and nothing runs without need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import hits
from tests.helpers import PROJECT


def run(*args):
    command = [sys.executable, str(PROJECT / "tests" / "hits.py"), "--jobs", "2", *args]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=1700, check=False)


def test_one_row_of_the_table_is_as_the_page_says(reliability):
    result = run("--only", "an environment variable")
    assert result.returncode == 0, result.stdout + result.stderr
    assert set(result.stdout.splitlines()[:3]) <= set(reliability)
    assert "4 tried, 0 wrong" in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_row_of_the_table_is_as_the_page_says(reliability):
    result = run()
    assert result.returncode == 0, result.stdout + result.stderr
    rows = {line for line in result.stdout.splitlines() if line.startswith("|")}
    assert rows <= set(reliability)


def test_the_page_has_a_row_for_each_kind_and_for_each_that_needs_no_run(reliability):
    for name in (*hits.KINDS, *hits.NEEDLESS):
        assert sum(line.startswith(f"| {name} |") for line in reliability) == 1, name


@pytest.mark.slow
def test_a_hit_that_is_wrong_is_noticed(tmp_path):
    blind = hits.Cell('"the code looks at nothing"', hits.nothing, lambda cell: hits.write(cell / "p" / "w"))
    assert hits.try_cell(blind, tmp_path / "a").wrong == "the change does not show in a forced run"


@pytest.fixture
def reliability():
    return (PROJECT / "docs" / "reliability.md").read_text("utf-8").splitlines()
