"""Names and sizes of ONNX's element types."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPECIAL = {"FLOAT": "float32", "DOUBLE": "float64", "UNDEFINED": "undefined"}
BITS = {
    "float32": 32, "float64": 64, "float16": 16, "bfloat16": 16, "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64, "bool": 8, "complex64": 64, "complex128": 128,
    "int4": 4, "uint4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2,
    "float8e4m3fn": 8, "float8e4m3fnuz": 8, "float8e5m2": 8, "float8e5m2fnuz": 8, "float8e8m0": 8,
}  # fmt: skip
"""Bits of one element, by dtype; strings have no fixed size."""


def dtype_name(element_type: int) -> str:
    """Give NumPy's name of an ONNX element type (`bfloat16`, `float8e4m3fn`, `string` where NumPy has none)."""
    try:
        name: str = onnx.TensorProto.DataType.Name(element_type)
    except ValueError:
        return f"type_{element_type}"
    return _SPECIAL.get(name, name.lower())


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Give the bytes that a tensor's values take, from its shape and type; 0 for strings."""
    bits = BITS.get(dtype_name(tensor.data_type), 0)
    return -(-int(math.prod(tensor.dims)) * bits // 8)


def value_dtype(value: onnx.ValueInfoProto) -> str:
    """Give the dtype of an input or output; `sequence`, `map`, `optional` or `sparse_tensor` if it is no tensor."""
    kind = value.type.WhichOneof("value")
    if kind == "tensor_type":
        return dtype_name(value.type.tensor_type.elem_type)
    return str(kind or "unknown").removesuffix("_type")


def float_values(tensor: onnx.TensorProto) -> NDArray[Any]:
    """Give a tensor's values in float32, whatever float type it has."""
    values: NDArray[Any] = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)
    return values
