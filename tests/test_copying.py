"""Copies of files: by reflink where there is one, else by bytes, and always whole."""

from __future__ import annotations

import errno
import os

from trtpipe import copying


def test_a_copy_is_made_however_little_the_kernel_helps(tmp_path, monkeypatch):
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    real = os.copy_file_range
    calls = []

    def gives_up(source, target, count):
        calls.append(count)
        if len(calls) > 1:
            raise OSError(errno.EXDEV, "not across file systems")
        return real(source, target, min(count, 1000))

    monkeypatch.setattr(os, "copy_file_range", gives_up)
    copying.copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content
    assert len(calls) == 2
