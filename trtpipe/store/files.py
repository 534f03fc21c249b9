"""Files on the disk: written whole or not at all, linked, listed, removed."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)


def write_file(path: str, data: bytes) -> None:
    """Write a file into an existing folder: it appears whole or not at all, and no temporary file stays.

    Raises OSError.
    """
    temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync(os.path.dirname(path) or ".")


def sync(path: str) -> None:
    """Wait until a file, or the names in a folder, are on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link(source: str, target: str) -> bool:
    """Make a hard link; give False if the file system allows no link, or no further one. Raises OSError."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def below(top: str) -> Iterator[str]:
    """Give the path of every file below a folder; none if the folder does not exist."""
    for folder, _, names in os.walk(top):
        for name in sorted(names):
            yield os.path.join(folder, name)


def discard(folder: str) -> None:
    """Remove a folder, or whatever is in its place. What cannot be removed stays for a later sweep."""
    with contextlib.suppress(OSError):  # ignore_errors does not ignore all of them
        if os.path.islink(folder) or not os.path.isdir(folder):
            os.unlink(folder)  # never what a link leads to
        else:
            import shutil

            shutil.rmtree(folder, ignore_errors=True)
