"""The conversion to float16 or bfloat16: onnxruntime's float16 converter, and corrections of its result.

The converter clamps weights to float16's range. bfloat16 has float32's range, so for bfloat16 the weights are rounded
from the originals and only the converted graph is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, helper

from trtpipe.errors import StageFailed
from trtpipe.models import bfloat16, onnxgraph

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

FLOAT_OPS = {"fp16": (), "bf16": ("ConvTranspose", "HardSwish", "Mish")}
"""Ops that stay float32 in addition to those that onnxruntime's converter always keeps.
Source: each op tried alone on TensorRT-RTX 1.7.1; its parser or its builder refuses these in bfloat16."""


def float_ops(precision: str) -> tuple[str, ...]:
    """Name the ops that stay float32 in every model."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    return tuple(sorted({*DEFAULT_OP_BLOCK_LIST, *FLOAT_OPS[precision]}))


def convert(
    work: onnx.ModelProto, precision: str, keep: Collection[str], weights: Mapping[str, NDArray[Any]]
) -> onnx.ModelProto:
    """Convert a copy of `work`; the nodes in `keep` stay float32. `weights` is `onnxgraph.float_tensors(work)`."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnxgraph.copied(work)
    own = {found.node.name for found in onnxgraph.walk(work)}
    try:
        converted: onnx.ModelProto = convert_float_to_float16(
            copy, keep_io_types=True, op_block_list=list(float_ops(precision)), node_block_list=sorted(keep)
        )
    except Exception as error:
        raise StageFailed(
            f"precision: {precision}: onnxruntime's converter fails on this model "
            f"({type(error).__name__}: {error}); use precision: model, or export it in {precision}"
        ) from error
    _drop_round_trips(converted, own)
    if precision == "bf16":
        _retarget(converted, weights)
    for _, graph in onnxgraph.graphs(converted):
        graph.ClearField("value_info")
    onnxgraph.sort(converted.graph)
    return converted


def _cast_to(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "to"), 0) if node.op_type == "Cast" else 0


def _drop_round_trips(model: onnx.ModelProto, own: Collection[str]) -> None:
    """Pass float32 directly from one kept node to the next: the converter casts to float16 and back between them.

    `own` are the names of the model's own nodes; only other casts are touched. Beyond float16's range such a round
    trip would undo the range guard.
    """
    graph = model.graph

    def added(node: onnx.NodeProto) -> bool:
        return node.op_type == "Cast" and node.name not in own

    down = {n.output[0]: n.input[0] for n in graph.node if added(n) and _cast_to(n) == TensorProto.FLOAT16}
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    for node in graph.node:
        if added(node) and _cast_to(node) == TensorProto.FLOAT and node.input[0] in down:
            if node.output[0] in outputs:
                node.input[0] = down[node.input[0]]
            else:
                renamed[node.output[0]] = down[node.input[0]]
    for found in onnxgraph.walk(model):
        for place, name in enumerate(found.node.input):
            if name in renamed:
                found.node.input[place] = renamed[name]
    used = onnxgraph.read_names(model)
    # The converter gives two casts of one tensor to one type the same name: keep the first.
    seen: set[str] = set()
    kept = []
    for node in graph.node:
        if added(node) and (node.output[0] not in used or node.output[0] in seen):
            continue
        seen.update(node.output)
        kept.append(node)
    onnxgraph.refill(graph.node, kept)


def _retarget(model: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]) -> None:
    """Change float16, as the converter wrote it, to bfloat16, with the weights rounded from their float32 originals."""
    half, brain = TensorProto.FLOAT16, TensorProto.BFLOAT16

    def round_tensor(tensor: onnx.TensorProto, key: str) -> None:
        values = weights[key]
        name, dims = tensor.name, list(tensor.dims)
        tensor.Clear()
        tensor.name = name
        tensor.dims.extend(dims)
        tensor.data_type = brain
        tensor.raw_data = bfloat16.round_bfloat16(values).astype("<u2").tobytes()

    for tensor in onnxgraph.initializers(model):
        if tensor.data_type == half:
            round_tensor(tensor, tensor.name)
    for found in onnxgraph.walk(model):
        for attribute in found.node.attribute:
            if attribute.name in ("to", "dtype") and attribute.type == onnx.AttributeProto.INT and attribute.i == half:
                attribute.i = brain
            if attribute.HasField("t") and attribute.t.data_type == half:
                key = f"{found.node.name}.{attribute.name}"
                if key in weights:
                    round_tensor(attribute.t, key)
                else:  # a default that the converter wrote: ConstantOfShape's zero
                    attribute.t.CopyFrom(helper.make_tensor(attribute.t.name, brain, list(attribute.t.dims), [0.0]))
    for _, graph in onnxgraph.graphs(model):
        if isinstance(graph, onnx.GraphProto):
            for value in (*graph.input, *graph.output):
                if value.type.tensor_type.elem_type == half:
                    value.type.tensor_type.elem_type = brain
