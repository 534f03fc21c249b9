"""The layout: where things lie, and what people are told when the disk says no."""

from __future__ import annotations

import errno
import os

import pytest

from trtpipe.store.layout import Layout


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full: /s/f; free some space or use --artifacts on another disk"),
        (errno.EDQUOT, "the disk is full: /s/f; free some space or use --artifacts on another disk"),
        (errno.EROFS, "/s/f is not writable (Read-only file system); use --artifacts DIR for another place"),
        (errno.ENOTDIR, "/s/f: Not a directory; the artifacts folder must be a folder: use --artifacts DIR"),
        (errno.EIO, "/s/f: Input/output error; use --artifacts DIR for another place"),
    ],
)
def test_an_error_of_the_disk_says_where_and_what_to_do(code, said):
    assert str(Layout("/s").error(OSError(code, os.strerror(code), "/s/f"))) == said


def test_an_error_that_names_no_file_names_the_store():
    assert str(Layout("/s").error(OSError("odd"))) == "/s: odd; use --artifacts DIR for another place"
