"""The state: unchanged files are not read again, changed ones always, and losing it harms nothing."""

from __future__ import annotations

import os
import sqlite3

import pytest

from trtpipe import key
from trtpipe.store import state
from trtpipe.store.state import State


@pytest.fixture
def old_file(tmp_path, monkeypatch):
    # Files that were written this very second are read again; these tests are about older ones.
    monkeypatch.setattr(state, "_RACY_NS", -1)
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    return path


def test_an_unchanged_file_is_not_read_again(tmp_path, old_file, monkeypatch):
    with State(str(tmp_path)) as one:
        first = one.file_digest(str(old_file))
    monkeypatch.setattr(key, "digest_file", lambda _: pytest.fail("the file was read again"))
    with State(str(tmp_path)) as two:
        assert two.file_digest(str(old_file)) == first


def test_a_change_of_equal_size_and_equal_time_is_seen(tmp_path, old_file):
    with State(str(tmp_path)) as one:
        first = one.file_digest(str(old_file))
        times = (old_file.stat().st_atime_ns, old_file.stat().st_mtime_ns)
        old_file.write_bytes(b"two")
        os.utime(old_file, ns=times)
        assert one.file_digest(str(old_file)) != first


def test_a_file_that_was_just_written_is_not_remembered(tmp_path):
    path = tmp_path / "new.bin"
    path.write_bytes(b"one")
    with State(str(tmp_path)) as one:
        one.file_digest(str(path))
        assert one._rows("SELECT * FROM files", ()) == []


@pytest.mark.parametrize("content", [b"not a database at all, but longer than a header is" * 40, b""])
def test_a_broken_state_is_put_aside_and_made_again(tmp_path, content):
    (tmp_path / "state.sqlite").write_bytes(content)
    with State(str(tmp_path)) as one:
        one.remember_resolved("k", "{}")
    with State(str(tmp_path)) as two:
        assert two.resolved("k") == "{}"


def test_a_state_whose_pages_are_damaged_gives_no_answer_instead_of_a_wrong_one(tmp_path):
    with State(str(tmp_path)) as one:
        for number in range(200):
            one.remember_resolved(f"k{number}", "x" * 500)
    path = tmp_path / "state.sqlite"
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with State(str(tmp_path)) as two:
        assert two.resolved("k7") is None
        two.remember_resolved("new", "{}")
        assert two.resolved("new") == "{}"


@pytest.mark.slow
def test_a_state_with_any_one_bit_flipped_never_ends_a_run(tmp_path):
    with State(str(tmp_path)) as state:
        state.remember_last("p", "s", "key", 1.0)
        state.remember_failure("key", "why")
    path = tmp_path / "state.sqlite"
    whole = path.read_bytes()
    schema = whole.index(b"CREATE TABLE")
    for place in [*range(100), *range(schema, schema + 1500)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        with State(str(tmp_path)) as state:
            assert state.last("p") in ({}, {"s": ("key", 1.0)})
            assert state.failure("key") in (None, "why")
            state.remember_last("p", "other", "key", 2.0)
        for file in tmp_path.glob("state.sqlite*"):
            file.unlink()


def test_a_state_of_another_version_is_emptied(tmp_path):
    with State(str(tmp_path)) as one:
        one.remember_resolved("k", "{}")
    database = sqlite3.connect(tmp_path / "state.sqlite")
    database.execute("PRAGMA user_version = 999")
    database.close()
    with State(str(tmp_path)) as two:
        assert two.resolved("k") is None


def test_the_last_key_of_a_stage_keeps_its_time_when_it_was_only_found(tmp_path):
    with State(str(tmp_path)) as one:
        one.remember_last("p", "s", "k1", 2.0)
        one.remember_last("p", "s", "k2", None)
        assert one.last("p") == {"s": ("k2", 2.0)}


def test_a_failure_is_remembered_until_the_stage_is_made_and_the_oldest_are_forgotten(tmp_path):
    with State(str(tmp_path)) as state:
        state.remember_failure("a" * 64, "no such kernel")
        state.remember_failure("b" * 64, "NaN")
    with State(str(tmp_path)) as state:
        assert state.failure("a" * 64) == "no such kernel"
        state.forget_failure("a" * 64)
        assert state.failure("a" * 64) is None
        for number in range(500):
            state.remember_failure(f"{number:064}", "again")
        assert state.failure("b" * 64) is None
        assert state.failure(f"{0:064}") == "again"


def test_without_a_folder_the_state_is_kept_in_memory(tmp_path):
    with State(str(tmp_path / "missing")) as one:
        one.remember_resolved("k", "{}")
        assert one.resolved("k") == "{}"
    assert not (tmp_path / "missing").exists()
