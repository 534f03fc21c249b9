"""`trtpipe cache`: what it says to people and to programs, and how it ends."""

from __future__ import annotations

import json

import pytest

from tests.helpers import project, python_stage, trtpipe


@pytest.fixture
def built(tmp_path):
    project(tmp_path, python_stage("a") + python_stage("b", "slow", mark="m", seconds=0))
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    return tmp_path


def test_the_commands_tell_people_and_programs_what_lies_there(built):
    assert "p/a" in trtpipe("cache", "ls", cwd=built).stdout
    assert {a["stage"] for a in json.loads(trtpipe("cache", "ls", "--json", cwd=built).stdout)["actions"]} == {
        "p/a",
        "p/b",
    }
    assert "blobs" in trtpipe("cache", "du", cwd=built).stdout
    assert trtpipe("cache", "verify", cwd=built).stdout.endswith("all whole\n")
    assert trtpipe("cache", "pin", "p.yaml", "a", cwd=built).stdout == "pin: p/a\n"
    assert "pinned as p/a" in trtpipe("cache", "gc", "--max-size", "1B", "--dry-run", cwd=built).stdout
    assert trtpipe("cache", "unpin", "p.yaml", cwd=built).stdout == "unpin: p/a\n"
    assert trtpipe("cache", "gc", "--max-size", "lots", cwd=built).returncode == 2
    assert "found 20, expected a size such as 20GiB" in trtpipe("cache", "gc", "--max-size", "20", cwd=built).stderr
    assert trtpipe("cache", "ls", "--artifacts", "nowhere", cwd=built).returncode == 4


@pytest.mark.slow
def test_damage_that_verify_finds_is_exit_4_and_the_next_run_mends_it(built):
    blob = next(p for p in (built / "artifacts" / "blobs").rglob("*") if p.is_file())
    blob.chmod(0o644)
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    result = trtpipe("cache", "verify", cwd=built)
    assert result.returncode == 4
    assert "was changed by somebody, whose version is in edited/" in result.stdout
    assert trtpipe("run", "p.yaml", cwd=built).returncode == 0
    assert trtpipe("cache", "verify", cwd=built).returncode == 0
