"""Emulate half precision in float32, because most of onnxruntime's CPU kernels cannot compute in half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtpipe.models import bfloat16, dtypes, onnxfile, onnxgraph

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def emulated(path: Path, narrow_type: int = TensorProto.BFLOAT16) -> tuple[bytes, bool]:
    """Give (a half-precision model in float32 with rounded weights, whether its activations are rounded too).

    onnxruntime's CPU kernels cannot compute in bfloat16, and many have no float16 either: it then
    computes whole chains of nodes in float32, and their rounding errors do not show. Here a cast to the narrow type and
    back rounds each node's output. Cast takes bfloat16 from opset 13 on.
    """
    model = onnxfile.whole(path)
    single = TensorProto.FLOAT
    narrow: set[str] = set()
    if narrow_type == TensorProto.FLOAT16 or onnxgraph.opsets(model).get("ai.onnx", 0) >= 13:
        try:
            typed = onnx.shape_inference.infer_shapes(model)
        except Exception:  # noqa: BLE001 - then only the weights are rounded, and the record says so
            typed = onnx.ModelProto()
        narrow = {v.name for v in typed.graph.value_info if v.type.tensor_type.elem_type == narrow_type}
    for tensor in onnxgraph.initializers(model):
        if tensor.data_type == narrow_type:
            tensor.CopyFrom(numpy_helper.from_array(_widened(tensor), tensor.name))
    for found in onnxgraph.walk(model):
        for attribute in found.node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == narrow_type:
                attribute.i = single
            if attribute.HasField("t") and attribute.t.data_type == narrow_type:
                attribute.t.CopyFrom(numpy_helper.from_array(_widened(attribute.t)))
    for node in list(model.graph.node):
        for place, name in enumerate(node.output):
            if name in narrow:
                node.output[place] = f"{name}__exact"
                model.graph.node.append(helper.make_node("Cast", [f"{name}__exact"], [f"{name}__bits"], to=narrow_type))
                model.graph.node.append(helper.make_node("Cast", [f"{name}__bits"], [name], to=single))
    for _, graph in onnxgraph.graphs(model):
        graph.ClearField("value_info")  # it holds the old types; AutoCast does not remove it
        if isinstance(graph, onnx.GraphProto):
            for value in (*graph.input, *graph.output):
                if value.type.tensor_type.elem_type == narrow_type:
                    value.type.tensor_type.elem_type = single
    onnxgraph.sort(model.graph)
    return model.SerializeToString(deterministic=True), bool(narrow)


def _widened(tensor: onnx.TensorProto) -> NDArray[Any]:
    if tensor.data_type == TensorProto.BFLOAT16 and tensor.HasField("raw_data"):
        return bfloat16.from_bfloat16(np.frombuffer(tensor.raw_data, "<u2")).reshape(list(tensor.dims))
    return dtypes.float_values(tensor)
