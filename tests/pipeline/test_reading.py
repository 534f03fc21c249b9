"""What resolving reads goes through one door, which remembers it and can tell whether it is still the same."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest

from trtpipe.pipeline.reading import Reading


def test_what_was_read_is_recorded_once_by_kind_name_and_digest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    reading = Reading()
    assert (reading.file("b"), reading.file("a"), reading.file(str(tmp_path / "b"))) == (b"two", b"one", b"two")
    assert reading.record == [
        ["file", str(tmp_path / name), hashlib.sha256(text).hexdigest()]
        for name, text in (("b", b"two"), ("a", b"one"))
    ]


def test_a_record_holds_until_one_of_its_files_changes_or_goes(tmp_path):
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_text("1")
    first = Reading()
    for file in files:
        first.file(str(file))
    assert Reading().holds(first.record)
    files[1].write_text("2")
    assert not Reading().holds(first.record)
    files[1].write_text("1")
    assert Reading().holds(first.record)
    files[0].unlink()
    assert not Reading().holds(first.record)


def test_a_record_with_a_kind_that_is_not_known_does_not_hold(tmp_path):
    assert not Reading().holds([["planet", str(tmp_path), "0" * 64]])


def test_what_was_only_compared_is_not_in_the_record(tmp_path):
    (tmp_path / "a").write_text("1")
    first, second = Reading(), Reading()
    first.file(str(tmp_path / "a"))
    assert second.holds(first.record)
    assert second.record == []


def test_a_pipe_is_read_once_for_comparing_and_reading(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"text",))
    writer.start()
    reading = Reading()
    assert not reading.holds([["file", str(pipe), "0" * 64]])
    writer.join()
    assert reading.file(str(pipe)) == b"text"


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        Reading().file(str(tmp_path / "none"))
