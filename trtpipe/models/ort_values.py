"""Tensors of every type into and out of ONNX Runtime: also bfloat16 and smaller ones, which NumPy lacks.

ONNX Runtime's Python takes and gives such tensors as bits alone. On this side they are arrays of ml_dtypes, an element
a place; of types below 8 bits ONNX Runtime puts several elements into a byte.
"""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from trtpipe.data import elements

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_NAMES = {"float": "float32", "double": "float64"}


def element(kind: str) -> str:
    """Give our name for ONNX Runtime's `tensor(float)`."""
    inner = kind[kind.find("(") + 1 : kind.rfind(")")] if kind.startswith("tensor(") else kind
    return _NAMES.get(inner, inner)


def lost(session: Any) -> dict[str, str]:
    """Name the inputs and outputs of a session whose type NumPy lacks, each with its type."""
    found = {one.name: element(one.type) for one in (*session.get_inputs(), *session.get_outputs())}
    return {name: kind for name, kind in found.items() if kind in elements.LOST}


def run(session: Any, names: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Run a session that has tensors of such types; give the outputs `names`. Raises what ONNX Runtime raises."""
    import onnxruntime

    special = lost(session)
    given: dict[str, Any] = {}
    held: list[NDArray[Any]] = []  # ONNX Runtime reads the memory of these
    for name, array in feed.items():
        if name not in special:
            given[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array).reshape(array.shape))
            continue
        bits = _bits(array, special[name])
        held.append(bits)
        number = onnx.TensorProto.DataType.Value(special[name].upper())
        given[name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)
    made = session.run_with_ort_values(list(names), given)
    return [_array(value, special.get(name)) for name, value in zip(names, made, strict=True)]


def _bits(array: NDArray[Any], kind: str) -> NDArray[Any]:
    """Give the bits of an array, in the array's shape; packed elements fill its beginning."""
    if elements.per_byte(kind) == 1:
        flat = np.ascontiguousarray(array).reshape(-1).view(elements.stored(kind))
        return flat.reshape(array.shape)
    bits = np.zeros(array.size, np.uint8)
    packed = elements.pack(np.ascontiguousarray(array).reshape(1, -1), kind).reshape(-1) if array.size else bits
    bits[: packed.size] = packed
    return bits.reshape(array.shape)


def _array(value: Any, kind: str | None) -> NDArray[Any]:
    """Give a value's elements as an array of its own."""
    if kind is None:
        plain: NDArray[Any] = value.numpy()
        return plain
    shape = tuple(value.shape())
    array = np.empty(shape, elements.in_memory(kind))
    share = elements.per_byte(kind)
    size = -(-math.prod(shape) // share) * elements.itemsize(kind)
    if size:
        raw = np.frombuffer(ctypes.string_at(value.data_ptr(), size), np.uint8)
        if share == 1:
            array[...] = raw.view(array.dtype).reshape(shape)
        else:
            whole = np.empty((1, math.prod(shape)), array.dtype)
            elements.unpack(raw.reshape(1, -1), kind, whole)
            array[...] = whole.reshape(shape)
    return array
