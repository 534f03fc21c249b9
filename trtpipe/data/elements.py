"""The element types of tensors: their names, and how those are stored that NumPy's files lose.

NumPy has no bfloat16 and nothing smaller than a byte. In memory the package ml_dtypes has such types; a `.npy` file
keeps of them only how many bytes an element has. So files hold unsigned integers of their width, and the index has the
name.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trtpipe.errors import EnvironmentMissing, StageFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAIN = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128",
)  # fmt: skip
"""Types that NumPy's files keep."""


class Lost(NamedTuple):
    """A type that NumPy's files lose: bits of an element, and its name in ml_dtypes."""

    bits: int
    name: str


LOST = {
    "bfloat16": Lost(16, "bfloat16"),
    "float8e4m3fn": Lost(8, "float8_e4m3fn"),
    "float8e4m3fnuz": Lost(8, "float8_e4m3fnuz"),
    "float8e5m2": Lost(8, "float8_e5m2"),
    "float8e5m2fnuz": Lost(8, "float8_e5m2fnuz"),
    "float8e8m0": Lost(8, "float8_e8m0fnu"),
    "float4e2m1": Lost(4, "float4_e2m1fn"),
    "int4": Lost(4, "int4"),
    "uint4": Lost(4, "uint4"),
    "int2": Lost(2, "int2"),
    "uint2": Lost(2, "uint2"),
}
"""By ONNX's names."""
_NAMES = {lost.name: name for name, lost in LOST.items()}


def name(dtype: Any) -> str:
    """Give our name of an element type: NumPy's, or ONNX's where only ml_dtypes has the type.

    Takes a name too. Raises StageFailed for objects, texts, structures and what nobody knows.
    """
    if isinstance(dtype, str) and dtype in LOST:
        return dtype
    try:
        found = np.dtype(dtype).name
    except TypeError:
        found = str(dtype)
    element: str = _NAMES.get(found, found)
    if element not in PLAIN and element not in LOST:
        raise StageFailed(f"found dtype {element}, expected one of {', '.join([*PLAIN, *LOST])}")
    return element


@lru_cache(maxsize=64)
def in_memory(element: str) -> np.dtype[Any]:
    """Give the type that arrays of these elements have. Raises EnvironmentMissing if only ml_dtypes would have it."""
    if element not in LOST:
        return np.dtype(element)
    try:
        import ml_dtypes
    except ImportError as error:
        raise EnvironmentMissing(
            f"NumPy has no {element}: install ml_dtypes to read or write it (pip install ml_dtypes); "
            f"the stored bits are plain {stored(element)} arrays"
        ) from error
    own = getattr(ml_dtypes, LOST[element].name, None)
    if own is None:
        raise EnvironmentMissing(
            f"ml_dtypes {ml_dtypes.__version__} has no {element}: install a newer one (pip install -U ml_dtypes)"
        )
    found: np.dtype[Any] = np.dtype(own)
    return found


@lru_cache(maxsize=64)
def stored(element: str) -> np.dtype[Any]:
    """Give the type of the elements in files."""
    if element not in LOST:
        return np.dtype(element)
    return np.dtype("uint16") if LOST[element].bits == 16 else np.dtype("uint8")


def itemsize(element: str) -> int:
    """Give the bytes of an element in memory."""
    return stored(element).itemsize


def per_byte(element: str) -> int:
    """Give how many elements of a row lie in a byte: 1 unless an element has fewer than 8 bits."""
    return 8 // LOST[element].bits if element in LOST and LOST[element].bits < 8 else 1


def is_float(dtype: np.dtype[Any]) -> bool:
    """Tell whether a type can hold NaN."""
    return dtype.kind in "fc" or (dtype.kind == "V" and "float" in dtype.name and not dtype.name.startswith("float4"))


def stored_shape(element: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the shape of an array in files.

    Elements of fewer than 8 bits are packed, the first one lowest, and each row begins with a byte of its own; so rows
    can be cut and joined. The axes behind the first become one. An array of one axis is not packed: its rows are single
    elements, each in the low bits of a byte.
    """
    share = per_byte(element)
    if share == 1 or len(shape) < 2:
        return shape
    return (shape[0], -(-math.prod(shape[1:]) // share))


def pack(rows: NDArray[Any], element: str) -> NDArray[Any]:
    """Give rows in memory as they lie in files: C-contiguous, of the type and shape that `stored` and so on say."""
    rows = np.ascontiguousarray(rows) if rows.ndim else rows
    if element not in LOST:
        return rows
    share = per_byte(element)
    if share == 1:
        return rows.view(stored(element))
    bits = 8 // share
    raw: NDArray[np.uint8] = rows.view(np.uint8) & np.uint8((1 << bits) - 1)
    if raw.ndim < 2:
        return raw
    count, size = len(raw), math.prod(raw.shape[1:])
    packed = np.zeros(stored_shape(element, rows.shape), np.uint8)
    flat = np.pad(raw.reshape(count, size), [(0, 0), (0, -size % share)]).reshape(*packed.shape, share)
    for place in range(share):
        packed |= flat[:, :, place] << np.uint8(place * bits)
    return packed


def unpack(raw: NDArray[np.uint8], element: str, into: NDArray[Any]) -> None:
    """Fill an array in memory with rows of fewer than 8 bits an element as they lie in files."""
    share = per_byte(element)
    bits = 8 // share
    if raw.ndim > 1:
        spread = np.stack([raw >> np.uint8(place * bits) for place in range(share)], axis=-1)
        raw = spread.reshape(raw.shape[0], raw.shape[1] * share)
        raw = raw[:, : math.prod(into.shape[1:])]
    raw = np.atleast_1d(raw) & np.uint8((1 << bits) - 1)
    if element.startswith("int"):  # bits above an element are those of its sign
        sign = np.uint8(1 << (bits - 1))
        raw = (raw ^ sign) - sign
    into[...] = raw.view(into.dtype).reshape(into.shape)
