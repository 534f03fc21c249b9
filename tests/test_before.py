"""A document, a store, a lock file and a remote store that the version before wrote: read, or refused with a sentence.

`tests/before/` holds what it wrote, with the machine's names replaced; a run at 23 November 2026.
"""

from __future__ import annotations

import os
import shutil
import sqlite3

import pytest

from tests.helpers import PROJECT, trtpipe

KEY = "dc0c4ef72af577f3d1cdc8b974cc600c4e57e427a3a64763d0db566778a85472"


@pytest.fixture
def before(tmp_path):
    """The folder as it was left, and a command in it."""
    shutil.copytree(PROJECT / "tests" / "before", tmp_path / "p")
    folder = tmp_path / "p"
    (folder / "store").rename(folder / "artifacts")
    with sqlite3.connect(folder / "artifacts" / "state.sqlite") as state:
        state.execute("CREATE TABLE last (pipeline TEXT, stage TEXT, key TEXT NOT NULL, seconds REAL,"
                      " PRIMARY KEY (pipeline, stage)) WITHOUT ROWID")  # fmt: skip
        state.execute("CREATE TABLE external (sha256 TEXT PRIMARY KEY, locations TEXT NOT NULL) WITHOUT ROWID")
        state.execute("INSERT INTO last VALUES ('p', 'a', ?, 0.5)", (KEY,))
        state.execute("PRAGMA user_version = 3")
    state.close()

    def command(*args):
        far = ("--set", f"remote.url=file://{folder}/far") if args[0] != "cache" else ()
        return trtpipe(*args, *far, cwd=folder, env={"XDG_CONFIG_HOME": str(tmp_path / "config")})

    command.folder = folder
    return command


def test_its_document_is_read(before):
    assert before("validate", "p.yaml").returncode == 0


def test_its_results_are_made_again_and_it_is_told_once_why(before):
    before_files = {p for p in (before.folder / "artifacts" / "blobs").rglob("*") if p.is_file()}
    told = "was made by an older trtpipe, whose keys held less"
    assert told in before("status", "p.yaml").stdout
    first = before("run", "p.yaml")
    assert first.returncode == 0, first.stderr
    assert told in first.stdout
    assert "0 hit, 1 ran" in first.stdout
    again = before("run", "p.yaml")
    assert "1 hit, 0 ran" in again.stdout
    assert told not in again.stdout
    assert all(path.exists() for path in before_files)
    assert before("cache", "verify").returncode == 0


def test_its_lock_file_is_refused_and_the_message_says_what_to_do(before):
    for command in (("lock", "p.yaml", "--check"), ("explain", "p.yaml", "a", "--lock")):
        result = before(*command)
        assert result.returncode == 2
        assert "p.lock: found a lock file of format 1, from an older trtpipe" in result.stderr
        assert "write it again: trtpipe lock" in result.stderr
    os.remove(before.folder / "p.lock")
    assert before("run", "p.yaml").returncode == 0
    assert before("lock", "p.yaml").returncode == 0


def test_what_it_pushed_is_not_taken_for_a_result_and_does_no_harm(before):
    shutil.rmtree(before.folder / "artifacts")
    result = before("run", "p.yaml")
    assert result.returncode == 0, result.stderr
    assert "0 hit, 1 ran" in result.stdout
    assert KEY not in {path.stem for path in (before.folder / "artifacts" / "actions").rglob("*.json")}
