"""Files: written whole or not at all, and removed without harm to what a link leads to."""

from __future__ import annotations

import errno
import os

import pytest

from trtpipe.store import files


def test_a_file_is_written_in_place_of_another_and_nothing_else_is_left(tmp_path):
    for content in (b"one", b"two"):
        files.write_file(str(tmp_path / "f"), content)
        assert (tmp_path / "f").read_bytes() == content
    assert os.listdir(tmp_path) == ["f"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    files.write_file(str(tmp_path / "f"), b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the disk is full"):
        files.write_file(str(tmp_path / "f"), b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_where_links_cannot_be_made_link_says_so_and_other_errors_are_raised(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"1")
    assert files.link(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.path.samefile(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        files.link(str(tmp_path / "nothing"), str(tmp_path / "c"))

    def refuse(*_):
        raise OSError(errno.EMLINK, "too many links")

    monkeypatch.setattr(os, "link", refuse)
    assert not files.link(str(tmp_path / "a"), str(tmp_path / "c"))


def test_all_files_below_a_folder_are_listed_and_none_where_there_is_no_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b", "a", "sub/c"):
        (tmp_path / name).write_bytes(b"")
    assert list(files.below(str(tmp_path))) == [str(tmp_path / name) for name in ("a", "b", "sub/c")]
    assert list(files.below(str(tmp_path / "nothing"))) == []


def test_to_discard_a_link_leaves_what_it_leads_to(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "f").write_bytes(b"gold")
    os.symlink(tmp_path / "mine", tmp_path / "link")
    files.discard(str(tmp_path / "link"))
    files.discard(str(tmp_path / "nothing"))
    assert (tmp_path / "mine" / "f").read_bytes() == b"gold"
    files.discard(str(tmp_path / "mine"))
    assert os.listdir(tmp_path) == []
