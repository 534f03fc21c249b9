"""Write a `tensors` artifact as its rows come: part by part, with one part of each tensor open at a time."""

from __future__ import annotations

import errno
import math
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import elements, npy, parts
from trtpipe.documents import files
from trtpipe.documents.tensors import Array, Tensors
from trtpipe.errors import StageFailed, StoreError
from trtpipe.stage import put

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

CHUNK = 1 << 20


@contextmanager
def _room(name: str, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise StoreError(f"no room for {size} bytes of {name}: {error.strerror}") from error


class _File:
    """One part that is being written: the head, then rows.

    The disk is reserved at once where the number of rows is known, so that a full disk is an error before the work and
    not in the middle of the part. Plain writes, because pages that were written through a memory map are small, and
    whoever reads them takes nearly half as long again (bench/fill.py --mapped).
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], *, counted: bool = True) -> None:
        self._name = path.name
        head = npy.head(dtype, shape)
        self._size = len(head) + int(math.prod(shape)) * dtype.itemsize if counted else len(head)
        # Results of a few KB come thousands of times a second, each a moment in which another thread takes over.
        self._stream = path.open("wb", buffering=CHUNK)
        try:
            with _room(self._name, self._size):
                if counted and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self._stream.fileno(), 0, self._size)
                self._stream.write(head)
        except BaseException:
            self.abandon()
            raise

    def append(self, data: NDArray[Any]) -> None:
        if data.nbytes:
            with _room(self._name, self._size):
                self._stream.write(data.reshape(-1).view(np.uint8).data)

    def close(self, head: bytes = b"") -> None:
        """Finish the file; with another head if it has become one of other rows."""
        with _room(self._name, self._size):
            if head:
                self._stream.seek(0)
                self._stream.write(head)
            self._stream.close()

    def abandon(self) -> None:
        with suppress(OSError):
            self._stream.close()


class ArrayWriter:
    """A tensor of fixed shape that is filled along axis 0, as parts in a folder.

    `rows_per_part` is said only for what is itself a piece of a tensor. Raises StoreError if the disk has no room for
    it, and StageFailed if it has too many parts.
    """

    def __init__(
        self, folder: Path, file: str, element: str, shape: Sequence[int], *, rows_per_part: int | None = None
    ) -> None:
        self.element = element
        self.dtype = elements.in_memory(element)
        self.shape = tuple(int(n) for n in shape)
        self.file = file
        self._stored = elements.stored(element)
        self._rest = elements.stored_shape(element, self.shape)[1:]
        row_bytes = math.prod(self._rest) * self._stored.itemsize
        self.rows_per_part = rows_per_part or parts.rows_per_part(row_bytes)
        self._total = self.shape[0] if self.shape else 1
        parts.count(self._total, self.rows_per_part, f"tensor {file} of shape {list(self.shape)}")
        _ask_for_room(folder, file, self._total * row_bytes)
        self._folder = folder
        self._done = self._number = self._left = 0
        self._open: _File | None = None
        if self._total:
            self._next()

    def _next(self) -> None:
        self._left = min(self.rows_per_part, self._total - self._done)
        path = self._folder / parts.file_name(self.file, self._number)
        self._open = _File(path, self._stored, (self._left, *self._rest) if self.shape else ())
        self._number += 1

    def write(self, rows: NDArray[Any]) -> None:
        """Append rows of shape (n, *shape[1:]) and of the tensor's dtype. Raises StoreError if the disk is full."""
        if rows.dtype != self.dtype or rows.shape[1:] != self.shape[1:]:
            raise ValueError(f"{rows.dtype} {rows.shape} does not fit {self.dtype} {self.shape}")
        data = elements.pack(rows, self.element)
        count, begin = rows.shape[0] if rows.ndim else 1, 0
        if self._done + count > self._total:
            raise ValueError("more rows than the array has")
        while begin < count:
            if self._open is None:
                self._next()
            assert self._open is not None
            end = min(count, begin + self._left)
            self._open.append(data if end - begin == count else data[begin:end])
            self._advance(end - begin)
            begin = end

    def _advance(self, rows: int) -> None:
        self._left -= rows
        self._done += rows
        if not self._left and self._open is not None:
            self._open.close()
            self._open = None

    def link(self, part: Path, rows: int) -> bool:
        """Take over a part that was made elsewhere, by a hard link where that can be; tell whether it fits as it is.

        It fits if the next row begins a part, the part has as many rows as that, and its head is the one of that.
        """
        whole = min(self.rows_per_part, self._total - self._done)
        fresh = self._done % self.rows_per_part == 0
        if not fresh or not rows or rows != whole or not _headed(part, npy.head(self._stored, (rows, *self._rest))):
            return False
        if self._open is None:
            self._number += 1
        else:
            self._open.abandon()
            self._open = None
        target = self._folder / parts.file_name(self.file, self._number - 1)
        target.unlink(missing_ok=True)
        put(part, target, link=True)
        self._left = whole
        self._advance(rows)
        return True

    def close(self) -> None:
        """Finish the tensor. Raises ValueError if rows are missing, and StoreError if the disk is full."""
        missing = self._total - self._done
        if missing:
            raise ValueError(f"rows are missing: {missing} of {self._total}")

    def abandon(self) -> None:
        """Close without asking whether all rows came."""
        if self._open is not None:
            self._open.abandon()

    def entry(self, name: str) -> Array:
        """Give what the index says of the tensor."""
        return Array(
            name=name, form="fixed", dtype=self.element, shape=self.shape, file=self.file,
            rows_per_part=self.rows_per_part,
        )  # fmt: skip


class RaggedWriter:
    """A ragged tensor that is filled sample by sample. Raises as ArrayWriter does."""

    def __init__(self, folder: Path, file: str, element: str, samples: int, rank: int) -> None:
        self.element = element
        self.dtype = elements.in_memory(element)
        self.samples = samples
        self.rank = rank
        self.file = file
        self._folder = folder
        self._offsets = ArrayWriter(folder, f"{file}-offsets", "int64", (samples + 1,), rows_per_part=parts.STEP)
        self._shapes = ArrayWriter(folder, f"{file}-shapes", "int64", (samples, rank), rows_per_part=parts.STEP)
        self._offsets.write(np.zeros(1, np.int64))
        self._done = self._values = self._held = 0
        self._open: _File | None = None

    def write(self, rows: Sequence[NDArray[Any]]) -> None:
        """Append samples of the tensor's dtype and rank. Raises StoreError if the disk is full."""
        for row in rows:
            if row.dtype != self.dtype or row.ndim != self.rank:
                raise ValueError(f"{row.dtype} of rank {row.ndim} does not fit {self.dtype} of rank {self.rank}")
        if self._done + len(rows) > self.samples:
            raise ValueError("more samples than the tensor has")
        for row in rows:
            if self._open is None:
                self._open = _File(self._part(), elements.stored(self.element), (0,), counted=False)
            self._open.append(elements.pack(np.ascontiguousarray(row).reshape(-1), self.element))
            self._held += row.size
            self._done += 1
            if self._done % parts.STEP == 0:
                self._finish()
        self._note(np.array([row.shape for row in rows], np.int64).reshape(len(rows), self.rank))

    def link(self, part: Path, shapes: NDArray[np.int64]) -> bool:
        """Take over a part of the values of samples of those shapes; tell whether it fits, as ArrayWriter.link does."""
        values = int(np.prod(shapes, axis=1).sum())
        fits = self._open is None and len(shapes) == min(parts.STEP, self.samples - self._done)
        if not fits or not len(shapes) or not _headed(part, npy.head(elements.stored(self.element), (values,))):
            return False
        put(part, self._part(), link=True)
        self._done += len(shapes)
        self._note(shapes)
        return True

    def _part(self) -> Path:
        return self._folder / parts.file_name(f"{self.file}-values", self._done // parts.STEP)

    def _note(self, shapes: NDArray[np.int64]) -> None:
        ends = self._values + np.cumsum(np.prod(shapes, axis=1, dtype=np.int64))
        self._values = int(ends[-1]) if len(ends) else self._values
        self._offsets.write(ends)
        self._shapes.write(shapes)

    def _finish(self) -> None:
        if self._open is not None:
            self._open.close(npy.head(elements.stored(self.element), (self._held,)))
        self._open, self._held = None, 0

    def close(self) -> None:
        """Finish the tensor. Raises ValueError if samples are missing, and StoreError if the disk is full."""
        self._finish()
        self._shapes.close()
        self._offsets.close()

    def abandon(self) -> None:
        """Close without asking whether all samples came."""
        self._offsets.abandon()
        self._shapes.abandon()
        if self._open is not None:
            self._open.abandon()

    def entry(self, name: str) -> Array:
        """Give what the index says of the tensor."""
        return Array(
            name=name, form="ragged", dtype=self.element, shape=(self.samples, *[None] * self.rank), file=self.file,
            rows_per_part=parts.STEP, values=self._values,
        )  # fmt: skip


class Writer:
    """Writes a `tensors` artifact into a folder. A context manager: on success it writes the index last."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._tensors: dict[str, ArrayWriter | RaggedWriter] = {}

    def __enter__(self) -> Writer:  # noqa: PYI034  typing.Self came with Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                for tensor in self._tensors.values():
                    tensor.close()
        finally:
            for tensor in self._tensors.values():
                tensor.abandon()  # which does nothing to one that is closed
        if kind is None:
            entries = tuple(tensor.entry(name) for name, tensor in self._tensors.items())
            rows = next((entry.shape[0] or 0 for entry in entries if entry.shape), 0)
            files.write(self._out / Tensors.file, Tensors(tensors=entries, batch=rows))

    def add(self, name: str, dtype: Any, shape: Sequence[int]) -> ArrayWriter:
        """Begin a tensor of the whole shape (axis 0: samples); its files are named after its place in the artifact.

        `dtype` is NumPy's, ml_dtypes' or a name. Raises StageFailed for what is no type of numbers, for a name that is
        too long and for too many rows, StoreError if the disk has no room.
        """
        file, element = self._begin(name, dtype)
        array = ArrayWriter(self._out, file, element, shape)
        self._tensors[name] = array
        return array

    def add_ragged(self, name: str, dtype: Any, samples: int, rank: int) -> RaggedWriter:
        """Begin a ragged tensor of so many samples, each with `rank` axes. Raises as `add` does."""
        file, element = self._begin(name, dtype)
        ragged = RaggedWriter(self._out, file, element, samples, rank)
        self._tensors[name] = ragged
        return ragged

    def _begin(self, name: str, dtype: Any) -> tuple[str, str]:
        if name in self._tensors:
            raise ValueError(f"two tensors called {name}")
        parts.check_name(name, "the tensors to write")
        try:
            element = elements.name(dtype)
        except StageFailed as error:
            raise StageFailed(f"tensor {name}: {error}") from error
        return str(len(self._tensors)), element


def write(out: Path, arrays: Mapping[str, NDArray[Any] | Sequence[NDArray[Any]]]) -> None:
    """Write whole arrays as a `tensors` artifact into a folder; a list of arrays, a sample each, as a ragged tensor."""
    with Writer(out) as writer:
        for name, array in arrays.items():
            if isinstance(array, np.ndarray):
                writer.add(name, array.dtype, array.shape).write(array)
            elif not array:
                raise ValueError(f"{name} has no samples, which would say its dtype and rank")
            else:
                writer.add_ragged(name, array[0].dtype, len(array), array[0].ndim).write(array)


def _headed(path: Path, head: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(head)) == head


def _ask_for_room(folder: Path, file: str, size: int) -> None:
    """Ask before the first part is written, since each part reserves its own disk only."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if disk.f_blocks and free < size:
        raise StoreError(f"no room for {size} bytes of tensor {file}: the disk has {free} left")
