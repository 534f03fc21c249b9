"""Read and write tensors a batch at a time, so that memory does not grow with the data.

Reads three things: a `tensors` artifact, a `.npz` file (stored or deflated) and `.npy` files, alone or in a folder.
Nothing is unpickled, ever. Writes the `tensors` artifact as it comes.
"""

from __future__ import annotations

import errno
import io
import math
import os
import weakref
import zipfile
import zlib
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import parallel
from trtpipe.documents import files
from trtpipe.documents.tensors import Array, Tensors
from trtpipe.errors import StageFailed, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from numpy.typing import NDArray

    from trtpipe.stage import Input

INDEX = Tensors.file
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """One array on disk. `shape` is whole, axis 0 first; `label` says where it lies, for messages."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    label: str
    opener: Callable[[], AbstractContextManager[IO[bytes]]]
    """Opens the file at its header."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one step along axis 0."""
        return int(math.prod(self.shape[1:])) * self.dtype.itemsize

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Open the array for one pass from its start."""
        with self.opener() as stream:
            _header(stream, self.label)
            yield Reader(self, stream)

    def read(self) -> NDArray[Any]:
        """Read the whole array; for small ones."""
        whole = np.empty(self.shape, self.dtype)
        with self.reader() as reader:
            reader.fill(whole)
        return whole


class Reader:
    """One pass over an array's bytes."""

    def __init__(self, source: Source, stream: IO[bytes]) -> None:
        self._source = source
        self._stream = stream
        # A file of its own can be read at several places at once; a member of an archive only along.
        self._start = stream.tell() if isinstance(stream, io.BufferedReader) and hasattr(os, "preadv") else None
        self._place = self._start
        self._number = -1
        if self._start is not None:
            # A descriptor of its own: a thread may still read when whoever opened the stream has closed it.
            self._number = os.dup(stream.fileno())
            weakref.finalize(self, os.close, self._number)

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole array's shape."""
        return self._source.shape

    @property
    def anywhere(self) -> bool:
        """Whether `fill_from` can be used."""
        return self._place is not None and parallel.PIECE % self._source.dtype.itemsize == 0

    def fill_from(self, row: int, into: NDArray[Any], check: Callable[[NDArray[Any]], None] | None = None) -> None:
        """Fill an array with the rows from `row` on; may be called from several threads. Raises as `fill` does."""
        assert self._start is not None
        view: memoryview = into.reshape(-1).view(np.uint8).data if into.size else memoryview(b"")
        self._fill_at(self._start + row * self._source.row_bytes, view, into.reshape(-1), check)

    def fill(self, into: NDArray[Any], check: Callable[[NDArray[Any]], None] | None = None) -> None:
        """Fill a C-contiguous array with the next bytes, on several threads where that can be.

        `check` is called with the new values, a flat piece at a time, maybe on several threads too. Raises
        StageFailed if the file ends before, or is damaged.
        """
        view: memoryview = into.reshape(-1).view(np.uint8).data if into.size else memoryview(b"")
        flat = into.reshape(-1)
        if self._place is not None and parallel.PIECE % into.itemsize == 0:
            place, self._place = self._place, self._place + len(view)
            self._fill_at(place, view, flat, check)
            return
        self._fill_along(view)
        if check is not None and flat.size:
            check(flat)

    def _fill_at(
        self, place: int, view: memoryview, flat: NDArray[Any], check: Callable[[NDArray[Any]], None] | None
    ) -> None:
        number = self._number

        def work(begin: int, end: int) -> None:
            done = begin
            while done < end:
                count = os.preadv(number, [view[done:end]], place + done)
                if not count:
                    raise StageFailed(f"{self._source.label} is torn: its data ends before its shape is filled")
                done += count
            if check is not None:
                check(flat[begin // flat.itemsize : end // flat.itemsize])

        parallel.pieces(len(view), work)

    def _fill_along(self, view: memoryview) -> None:
        done = 0
        try:
            while done < len(view):
                count = self._stream.readinto(view[done : done + CHUNK])  # type: ignore[attr-defined]
                if not count:
                    raise StageFailed(f"{self._source.label} is torn: its data ends before its shape is filled")
                done += count
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise StageFailed(f"{self._source.label} is damaged: {error}") from error


def _header(stream: IO[bytes], label: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a .npy file: shape, whether it is in Fortran order, dtype."""
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(stream)
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise StageFailed(f"{label} is no .npy array, or a torn one: {error}") from error
    raise StageFailed(f"{label} is a .npy array of format {version[0]}.{version[1]}; expected 1.0 or 2.0")


def _source(name: str, label: str, opener: Callable[[], AbstractContextManager[IO[bytes]]], size: int) -> Source:
    """Check one array's header. `size` is the bytes of header and data together."""
    with opener() as stream:
        shape, fortran, dtype = _header(stream, label)
        start = stream.tell()
    if dtype.hasobject or dtype.fields is not None:
        raise StageFailed(f"{label}: found dtype {dtype}; expected numbers (objects would need unpickling)")
    if not dtype.isnative:
        raise StageFailed(f"{label}: found byte order {dtype.str!r}; save it in this machine's order")
    if any(n < 0 for n in shape):
        raise StageFailed(f"{label}: found shape {list(shape)}; expected no negative sizes")
    if fortran and len(shape) > 1:
        raise StageFailed(f"{label} is not C-contiguous (Fortran order); save numpy.ascontiguousarray of it")
    needed = start + int(math.prod(shape)) * dtype.itemsize
    if size != needed:
        raise StageFailed(f"{label} is torn: shape {list(shape)} of {dtype} needs {needed} bytes, found {size}")
    return Source(name=name, dtype=dtype, shape=tuple(shape), label=label, opener=opener)


def _npy(path: Path, name: str, label: str) -> Source:
    try:
        return _source(name, label, lambda: path.open("rb", buffering=CHUNK), path.stat().st_size)
    except OSError as error:
        raise StageFailed(f"{label} cannot be read: {error.strerror or error}") from error


def _npz(path: Path, label: str) -> dict[str, Source]:
    def member(name: str) -> Callable[[], AbstractContextManager[IO[bytes]]]:
        @contextmanager
        def opened() -> Iterator[IO[bytes]]:
            with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
                yield stream

        return opened

    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise StageFailed(f"{label} is no .npz file, or a torn one: {error}") from error
    found: dict[str, Source] = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in found:
            raise StageFailed(f"{label} has two arrays called {name}")
        if info.flag_bits & 1:
            raise StageFailed(f"{label} is encrypted")
        try:
            found[name] = _source(name, f"{label}[{name}]", member(info.filename), info.file_size)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise StageFailed(f"{label}[{name}] is damaged: {error}") from error
    return found


def open_input(given: Input) -> dict[str, Source]:
    """List the arrays of a stage's input by name, having read their headers only.

    Takes a `tensors` artifact, a `.npz` file, a `.npy` file or a folder of them (an array is called after its
    file). Raises StageFailed for anything else, and for objects, Fortran order, foreign byte order and torn files.
    """
    if given.kind == "tensors" or INDEX in given.files:
        found = {}
        for array in given.read(Tensors).tensors:
            source = _npy(given.path(array.file), array.name, f"{given.label}[{array.name}]")
            if source.shape != array.shape:
                said, have = list(array.shape), list(source.shape)
                raise StageFailed(f"{source.label}: {INDEX} says shape {said}, found {have}")
            found[array.name] = source
        return found
    arrays = [f for f in given.files if PurePosixPath(f).suffix in (".npy", ".npz")]
    if given.kind == "file" and len(given.files) == 1 and arrays:
        path = given.path(arrays[0])
        if path.suffix == ".npz":
            return _npz(path, given.label)
        return {path.stem: _npy(path, path.stem, given.label)}
    if given.kind == "folder":
        plain = [f for f in arrays if f.endswith(".npy") and "/" not in f]
        if plain:
            return {f[:-4]: _npy(given.path(f), f[:-4], f"{given.label}/{f}") for f in plain}
    raise StageFailed(
        f"input {given.name} ({given.label}): expected a .npz file, a folder of .npy files or a tensors artifact, "
        f"found {', '.join(given.files[:8]) or 'nothing'}"
    )


class ArrayWriter:
    """A C-contiguous `.npy` file that is filled along axis 0.

    The disk is reserved at once, so that a full disk is an error before the work and not in the middle. Plain writes,
    because pages that were written through a memory map are small, and whoever reads them takes nearly half as long
    again (bench/fill.py --mapped).
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: Sequence[int]) -> None:
        self.dtype = np.dtype(dtype)
        self.shape = tuple(int(n) for n in shape)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape},
        )
        self._name = path.name
        self._size = len(header.getvalue()) + int(math.prod(self.shape)) * self.dtype.itemsize
        self._cursor = 0
        # Results of a few KB come thousands of times a second, each a moment in which another thread takes over.
        self._stream = path.open("wb", buffering=CHUNK)
        try:
            with self._room():
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self._stream.fileno(), 0, self._size)
            self._append(header.getvalue())
        except BaseException:
            self._stream.close()
            raise

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise StoreError(f"no room for {self._size} bytes of {self._name}: {error.strerror}") from error

    def _append(self, data: Any) -> None:
        with self._room():
            self._cursor += self._stream.write(data)

    def write(self, rows: NDArray[Any]) -> None:
        """Append rows of shape (n, *shape[1:]) and of the array's dtype. Raises StoreError if the disk is full."""
        if rows.dtype != self.dtype or rows.shape[1:] != self.shape[1:]:
            raise ValueError(f"{rows.dtype} {rows.shape} does not fit {self.dtype} {self.shape}")
        if self._cursor + rows.nbytes > self._size:
            raise ValueError("more rows than the array has")
        if rows.nbytes:
            self._append(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))

    def close(self) -> None:
        """Finish the file. Raises ValueError if rows are missing, and StoreError if the disk is full."""
        with self._room():
            self._stream.close()
        if self._cursor != self._size:
            raise ValueError(f"rows are missing: {self._size - self._cursor} bytes")

    def abandon(self) -> None:
        """Close without asking whether all rows came."""
        with suppress(OSError):
            self._stream.close()


class Writer:
    """Writes a `tensors` artifact into a folder. A context manager: on success it writes the index last."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._arrays: dict[str, ArrayWriter] = {}

    def __enter__(self) -> Writer:  # noqa: PYI034  typing.Self came with Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for array in self._arrays.values():
            if kind is None:
                array.close()
            else:
                array.abandon()
        if kind is None:
            arrays = tuple(
                Array(name=name, file=f"{i}.npy", dtype=array.dtype.name, shape=array.shape)
                for i, (name, array) in enumerate(self._arrays.items())
            )
            rows = next((array.shape[0] for array in self._arrays.values()), 0)
            files.write(self._out / INDEX, Tensors(tensors=arrays, batch=rows))

    def add(self, name: str, dtype: Any, shape: Sequence[int]) -> ArrayWriter:
        """Begin a tensor of the whole shape (axis 0: samples); the file is named after its place in the artifact."""
        if name in self._arrays:
            raise ValueError(f"two tensors called {name}")
        array = ArrayWriter(self._out / f"{len(self._arrays)}.npy", np.dtype(dtype), shape)
        self._arrays[name] = array
        return array


def write(out: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write whole arrays as a `tensors` artifact into a folder."""
    with Writer(out) as writer:
        for name, array in arrays.items():
            writer.add(name, array.dtype, array.shape).write(np.ascontiguousarray(array))


def batches(sources: Mapping[str, Source], size: int, *, copies: int = 1) -> Iterator[dict[str, NDArray[Any]]]:
    """Give rows of all sources together, `size` at a time; the last batch may be smaller.

    The arrays are C-contiguous views of `copies` sets of buffers that are used in turn: a batch is valid until
    `copies` more have been asked for. Raises StageFailed if the sources differ in their number of rows.
    """
    rows = {name: source.shape[0] if source.shape else 0 for name, source in sources.items()}
    if len(set(rows.values())) > 1:
        raise StageFailed(
            "the tensors differ in their number of samples (axis 0): " + ", ".join(f"{n} {r}" for n, r in rows.items())
        )
    total = next(iter(rows.values()), 0)
    sets = [
        {name: np.empty((min(size, total), *source.shape[1:]), source.dtype) for name, source in sources.items()}
        for _ in range(max(copies, 1))
    ]
    with ExitStack() as stack:
        readers = {name: stack.enter_context(source.reader()) for name, source in sources.items()}
        for turn, start in enumerate(range(0, total, size)):
            count = min(size, total - start)
            batch = {name: buffer[:count] for name, buffer in sets[turn % len(sets)].items()}
            for name, reader in readers.items():
                reader.fill(batch[name])
            yield batch
