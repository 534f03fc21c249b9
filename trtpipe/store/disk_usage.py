"""What a file takes of its disk by itself: reflinked copies share their blocks until somebody writes to one.

Source: Linux, Documentation/filesystems/fiemap.rst.
"""

from __future__ import annotations

import fcntl
import os
import struct

_FIEMAP = 0xC020660B
_HEAD = struct.Struct("=QQLLLL")  # start, length, flags, mapped, room, reserved
_EXTENT = struct.Struct("=QQQQQLLLL")  # logical, physical, length, two reserved, flags, three reserved
_ROOM = 256
_LAST, _SHARED = 0x1, 0x2000
_SMALL = 64 * 1024


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


def own(path: str, status: os.stat_result) -> int:
    """Give the bytes that come free when a copy goes: what no other file shares. `status` is the file's lstat."""
    taken = status.st_blocks * 512
    if taken <= _SMALL:
        return taken
    try:
        return max(0, taken - shared(path))
    except OSError:
        return taken
