"""The head of a `.npy` file, read and written. Nothing is unpickled, ever.

Source of the form: NumPy's documentation of numpy.lib.format, version 1.0.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from pathlib import Path

ALIGNED = 64
"""Data begin at a multiple of so many bytes."""
DIGITS = 20
"""Room for the number of rows: a head that is written again when the rows are counted is as long as before."""


_UNREADABLE = (
    ValueError, TypeError, EOFError, OSError, SyntaxError, RecursionError, tokenize.TokenError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""What NumPy and zipfile raise for heads that are none."""


class Head(NamedTuple):
    """What the head of a file says: `start` is where the data begin, in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int


def head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Give the bytes before the data of a C-contiguous array; the same in every version of NumPy."""
    text = f"{{'descr': {np.lib.format.dtype_to_descr(dtype)!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    spare = DIGITS - len(str(shape[0])) if shape else 0
    before = len(np.lib.format.magic(1, 0)) + 2
    length = -(-(before + len(text) + spare + 1) // ALIGNED) * ALIGNED - before
    return np.lib.format.magic(1, 0) + length.to_bytes(2, "little") + text.ljust(length - 1).encode("latin1") + b"\n"


def read(stream: IO[bytes], label: str, size: int) -> Head:
    """Read a file's head. `size` is the bytes of the whole file, head and data.

    Raises StageFailed for what is no numbers, not in C order, not in this machine's byte order, or torn.
    """
    shape, fortran, dtype = _read(stream, label)
    start = stream.tell()
    if dtype.hasobject or dtype.fields is not None:
        raise StageFailed(f"{label}: found dtype {dtype}; expected numbers (objects would need unpickling)")
    if dtype.kind == "V":
        raise StageFailed(
            f"{label}: found dtype {dtype.str}, which is all that a .npy file keeps of types that NumPy lacks, such as "
            f"bfloat16; expected one that NumPy has, such as float32"
        )
    if not dtype.isnative:
        raise StageFailed(f"{label}: found byte order {dtype.str!r}; save it in this machine's order")
    if any(n < 0 for n in shape):
        raise StageFailed(f"{label}: found shape {list(shape)}; expected no negative sizes")
    if fortran and len(shape) > 1:
        raise StageFailed(f"{label} is not C-contiguous (Fortran order); save numpy.ascontiguousarray of it")
    needed = start + int(math.prod(shape)) * dtype.itemsize
    if size != needed:
        raise StageFailed(f"{label} is torn: shape {list(shape)} of {dtype} needs {needed} bytes, found {size}")
    return Head(dtype, tuple(shape), start)


def of_file(path: Path, label: str) -> Head:
    """Read the head of a file. Raises as `read` does, and if the file cannot be read."""
    try:
        with path.open("rb") as stream:
            return read(stream, label, path.stat().st_size)
    except OSError as error:
        raise StageFailed(f"{label} cannot be read: {error.strerror or error}") from error


def _read(stream: IO[bytes], label: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(stream)
    except _UNREADABLE as error:
        raise StageFailed(f"{label} is no .npy array, or a torn one: {error}") from error
    raise StageFailed(f"{label} is a .npy array of format {version[0]}.{version[1]}; expected 1.0 or 2.0")
