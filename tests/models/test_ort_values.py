"""Tensors of types that NumPy lacks, through the real ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from trtpipe.models import ort_cpu

KINDS = {
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
    TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    TensorProto.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    TensorProto.INT4: ml_dtypes.int4,
    TensorProto.UINT4: ml_dtypes.uint4,
}


def casting(kind, shape):
    """Give narrow = x and wide = z, with another type between."""
    nodes = [helper.make_node("Cast", ["x"], ["narrow"], to=kind), helper.make_node("Cast", ["z"], ["wide"], to=1)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", 1, shape), value("z", kind, shape)],
        [value("narrow", kind, shape), value("wide", 1, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("shape", [[3], [2, 3], [3, 1, 5], [], [0, 4]])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_of_such_a_type_goes_in_and_comes_out(kind, shape):
    x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape) % 7
    made = ort_cpu.run(casting(kind, shape).SerializeToString(), {"x": x, "z": x.astype(KINDS[kind])})
    assert made["narrow"].dtype == KINDS[kind]
    np.testing.assert_array_equal(made["narrow"].astype(np.float32), x)
    np.testing.assert_array_equal(made["wide"], x)
