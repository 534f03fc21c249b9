"""How many bytes the store takes of its disk, part by part.

Reflinked copies share their blocks until somebody writes to one; what is shared counts once.
Source: Linux, Documentation/filesystems/fiemap.rst.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from trtpipe.store import files

if TYPE_CHECKING:
    from trtpipe.store.layout import Layout

_PARTS = ("blobs", "actions", "trees", "shown", "edited", "quarantine", "timing", "tmp")
_COPIES = ("trees", "shown", "edited")
_FIEMAP = 0xC020660B
_HEAD = struct.Struct("=QQLLLL")  # start, length, flags, mapped, room, reserved
_EXTENT = struct.Struct("=QQQQQLLLL")  # logical, physical, length, two reserved, flags, three reserved
_ROOM = 256
_LAST, _SHARED = 0x1, 0x2000
_SMALL = 64 * 1024


def usage(layout: Layout) -> dict[str, tuple[int, int]]:
    """Give for each part of the store (files, bytes on disk). Raises OSError.

    A file with several links counts at the first part, and so does what reflinked copies share with the blobs.
    """
    seen: set[tuple[int, int]] = set()
    found: dict[str, tuple[int, int]] = {}
    parts: tuple[str, ...] = _PARTS
    with contextlib.suppress(OSError):
        more = [n for n in sorted(os.listdir(layout.folder)) if n not in parts and n != "view"]
        parts = (*parts, *more)
    for part in parts:
        top = layout.part(part)
        count = size = 0
        for path in [top] if os.path.isfile(top) else files.below(top):
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            count += 1
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                size += own(path, status) if part in _COPIES else taken(status)
        if count:
            found[part] = (count, size)
    return found


def taken(status: os.stat_result) -> int:
    """Give the bytes that a file's blocks take, shared or not."""
    return status.st_blocks * 512


def own(path: str, status: os.stat_result) -> int:
    """Give the bytes that come free when a copy goes: what no other file shares. `status` is the file's lstat."""
    size = taken(status)
    if size <= _SMALL:
        return size
    try:
        return max(0, size - shared(path))
    except OSError:
        return size


def shared(path: str) -> int:
    """Give the bytes of a file whose blocks other files have, too; 0 where the file system does not tell.

    Raises OSError if the file cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = start = 0
        while True:
            asked = bytearray(_HEAD.pack(start, (1 << 64) - 1 - start, 0, 0, _ROOM, 0) + bytes(_ROOM * _EXTENT.size))
            try:
                fcntl.ioctl(handle, _FIEMAP, asked)
            except OSError:
                return 0
            mapped = _HEAD.unpack_from(asked)[3]
            flags = _LAST
            for index in range(mapped):
                start, _, length, _, _, flags, *_ = _EXTENT.unpack_from(asked, _HEAD.size + index * _EXTENT.size)
                found += length if flags & _SHARED else 0
                start += length
            if flags & _LAST:
                return found
    finally:
        os.close(handle)
