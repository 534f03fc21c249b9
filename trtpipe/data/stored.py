"""Where the bytes of an array lie: in files one after the other, in a member of an archive, or in memory.

Each gives, for one pass, something that reads bytes at a place: `anywhere` says whether several threads may.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
import zipfile
import zlib
from bisect import bisect_right
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Protocol

from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from trtpipe.data.npy import Head

CHUNK = 1 << 20
KEPT = 16
"""Files of one array that are held open at a time."""


class Opened(Protocol):
    """The bytes of an array while they are read."""

    anywhere: bool

    def read_at(self, place: int, into: memoryview) -> None:
        """Fill `into` with the bytes from `place` on. Raises StageFailed if there are too few, or they are damaged."""
        ...


class Bytes(Protocol):
    """The bytes of an array."""

    def open(self) -> AbstractContextManager[Opened]:
        """Open them for one pass."""
        ...


@dataclass(frozen=True, kw_only=True)
class Files:
    """Bytes in files. `starts` is where the data begin in each; `rows` how many rows are before each, and in all."""

    paths: Sequence[Path]
    starts: Sequence[int]
    rows: Sequence[int]
    row_bytes: int
    label: str

    @contextmanager
    def open(self) -> Iterator[Opened]:
        """Open the files as they are needed, KEPT of them at a time."""
        opened = _OpenedFiles(self)
        try:
            yield opened
        finally:
            opened.let_go()


def in_files(paths: Sequence[Path], heads: Sequence[Head], label: str) -> Files:
    """Give the bytes of `.npy` files whose rows are of one size, one file after the other."""
    rows = [head.shape[0] if head.shape else 1 for head in heads]
    row_bytes = math.prod(heads[0].shape[1:]) * heads[0].dtype.itemsize if heads else 0
    return Files(
        paths=paths, starts=[h.start for h in heads], rows=list(accumulate(rows, initial=0)), row_bytes=row_bytes,
        label=label,
    )  # fmt: skip


class _Descriptor:
    """A file that is open as long as somebody holds this: a thread may still read when others have let it go."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)


class _OpenedFiles:
    anywhere = True

    def __init__(self, files: Files) -> None:
        self._files = files
        self._starts = files.starts
        self._bounds = [rows * files.row_bytes for rows in files.rows]
        self._held: dict[int, _Descriptor] = {}
        self._lock = threading.Lock()

    def read_at(self, place: int, into: memoryview) -> None:
        bounds, starts, size, done = self._bounds, self._starts, len(into), 0
        while done < size:
            number = bisect_right(bounds, place + done) - 1
            if number >= len(starts):
                raise self._torn()
            end = min(size, bounds[number + 1] - place)
            held = self._held.get(number) or self._hold(number)
            offset = starts[number] + place - bounds[number]
            while done < end:
                count = os.preadv(held.number, [into[done:end]], offset + done)
                if not count:
                    raise self._torn()
                done += count

    def _hold(self, number: int) -> _Descriptor:
        try:
            found = _Descriptor(self._files.paths[number])
        except OSError as error:
            raise StageFailed(f"{self._files.label} cannot be read: {error.strerror or error}") from error
        with self._lock:
            while len(self._held) >= KEPT:
                self._held.pop(next(iter(self._held)))
            return self._held.setdefault(number, found)

    def _torn(self) -> StageFailed:
        return StageFailed(f"{self._files.label} is torn: its data ends before its shape is filled")

    def let_go(self) -> None:
        with self._lock:
            self._held.clear()


@dataclass(frozen=True, kw_only=True)
class Member:
    """Bytes in a member of a zip archive, deflated or not; `start` is where the data begin in it."""

    archive: Path
    name: str
    start: int
    label: str

    @contextmanager
    def open(self) -> Iterator[Opened]:
        """Open the member; reading along is quick, going back begins anew."""
        with zipfile.ZipFile(self.archive) as archive, archive.open(self.name) as stream:
            opened = _OpenedMember(self, stream)
            opened.pass_over(self.start)
            yield opened


class _OpenedMember:
    anywhere = False

    def __init__(self, member: Member, stream: IO[bytes]) -> None:
        self._member = member
        self._stream = stream
        self._place = -member.start

    def pass_over(self, size: int) -> None:
        with memoryview(bytearray(size)) as dropped:
            self._read(dropped)

    def read_at(self, place: int, into: memoryview) -> None:
        if place != self._place:
            # Only where it must be: what is read along is held against the archive's checksum at its end.
            self._stream.seek(self._member.start + place)
            self._place = place
        self._read(into)

    def _read(self, into: memoryview) -> None:
        done, label = 0, self._member.label
        try:
            while done < len(into):
                count = self._stream.readinto(into[done : done + CHUNK])  # type: ignore[attr-defined]
                if not count:
                    raise StageFailed(f"{label} is torn: its data ends before its shape is filled")
                done += count
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise StageFailed(f"{label} is damaged: {error}") from error
        self._place += done


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes in memory."""

    data: memoryview

    anywhere = True

    @contextmanager
    def open(self) -> Iterator[Opened]:
        """Give them as they are."""
        yield self

    def read_at(self, place: int, into: memoryview) -> None:
        """Copy bytes."""
        into[:] = self.data[place : place + len(into)]
