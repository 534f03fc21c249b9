"""Names of element types."""

from __future__ import annotations

from onnx import TensorProto

from trtpipe.models import (
    dtypes,
)


def test_dtypes_have_numpys_names():
    assert dtypes.dtype_name(TensorProto.FLOAT) == "float32"
    assert dtypes.dtype_name(TensorProto.BFLOAT16) == "bfloat16"
    assert dtypes.dtype_name(TensorProto.INT64) == "int64"
    assert dtypes.dtype_name(TensorProto.STRING) == "string"
