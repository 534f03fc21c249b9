"""Data types: TensorRT's names for them, NumPy's, and how values pass from one to the other.

Types that NumPy lacks, such as bfloat16, are ml_dtypes' on our side.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import elements
from trtpipe.errors import StageFailed
from trtpipe.models.bfloat16 import round_bfloat16

if TYPE_CHECKING:
    from trtpipe.documents.manifest import Binding

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "BOOL": "bool", "FP8": "float8e4m3fn", "INT4": "int4", "FP4": "float4e2m1",
    "E8M0": "float8e8m0",
}  # fmt: skip
"""TensorRT's names of data types → ours, which are NumPy's where NumPy has the type."""


def dtype_name(native: Any) -> str:
    """Give our name of a TensorRT `DataType`."""
    name: str = native.name
    return DTYPES.get(name, name.lower())


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Give the type of that name in memory. Raises EnvironmentMissing if it is of ml_dtypes, and that is not here."""
    return elements.in_memory(dtype)


def itemsize(dtype: str) -> int:
    """Give the bytes of one element in the engine's type."""
    return elements.itemsize(dtype)


def to_engine(b: Binding, array: Array) -> Array:
    """Give an input's values in the engine's type.

    Raises StageFailed unless they have that type already or fit it exactly (int64 into int32); float32 is rounded
    to bfloat16.
    """
    if array.dtype == numpy_dtype(b.dtype):
        return array
    if b.dtype == "bfloat16":
        if array.dtype == np.float32:
            return round_bfloat16(array)
    elif b.dtype == "int32" and array.dtype == np.int64:
        # TensorRT before 10 has no int64: its parser makes such inputs int32.
        limits = np.iinfo(np.int32)
        if not array.size or (array.min() >= limits.min and array.max() <= limits.max):
            return array.astype(np.int32)
        raise StageFailed(f"{b.name}: int64 values up to {array.max()} do not fit the engine's int32")
    expected = "float32 (the engine rounds it to bfloat16)" if b.dtype == "bfloat16" else b.dtype
    raise StageFailed(f"{b.name}: found {array.dtype}, expected {expected}")


def from_engine(b: Binding, host: Array, shape: tuple[int, ...]) -> Array:
    """View an output's bytes (uint8, at the start of `host`) as an array of that shape."""
    data = host[: math.prod(shape) * itemsize(b.dtype)]
    return data.view(numpy_dtype(b.dtype)).reshape(shape)
