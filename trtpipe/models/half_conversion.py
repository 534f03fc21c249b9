"""The conversion to float16 or bfloat16: of the main graph's nodes, where ONNX defines the op for that type.

Each node either computes in half precision or stays as it is, and casts stand between the two. Inputs and outputs of
the model keep their types. What stays: nodes that are kept, ops of a list, ops that ONNX defines for no such type at
the model's opset, those of other domains, and everything inside the bodies of If, Loop and Scan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtpipe.models import bfloat16, kept_nodes, onnxgraph

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from numpy.typing import NDArray

    from trtpipe.documents.config import Kept

FLOAT_OPS = {
    "fp16": ("MeanVarianceNormalization",),
    "bf16": ("ConvTranspose", "HardSwish", "MeanVarianceNormalization", "Mish"),
}
"""Ops that stay float32 in addition to those that onnxruntime's own converter always keeps.
Source: each op tried alone on TensorRT-RTX 1.7.1; its parser or its builder refuses these in the narrow type."""
PEEPHOLES = 7
"""The input of an LSTM with which TensorRT-RTX 1.7.1 refuses it in half precision."""
BITS = ("BitCast",)
"""Ops that read the bits of a value: in another type they are others."""
NARROW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
HALF = "tensor(float16)"
"""What an op's definition must allow, for bfloat16 too: older opsets name that for few ops, and TensorRT takes it."""
SINGLE = TensorProto.FLOAT
SMALLEST, LARGEST = 5.96e-08, 65504.0
"""What smaller and larger float16 weights become; an infinity stays one."""
OTHER = -1
"""The type of what is no tensor: sequences, optionals, maps."""


class _Places(NamedTuple):
    """The places of a node's inputs and outputs that are to be half precision."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


STAYS = _Places((), ())


def float_ops(precision: str) -> tuple[str, ...]:
    """Name the ops that stay float32 in every model."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    return tuple(sorted({*DEFAULT_OP_BLOCK_LIST, *FLOAT_OPS[precision]}))


def stays(work: onnx.ModelProto, precision: str) -> list[Kept]:
    """List the nodes that cannot be converted, with the reason, beside those whose op is in `float_ops`."""
    kinds = _kinds(work, onnx.shape_inference.infer_shapes(work).graph)
    floats, versions = set(float_ops(precision)), onnxgraph.opsets(work)
    found = []
    for node in work.graph.node:
        if node.op_type == "Constant" or node.op_type in floats:
            continue
        names = [name for name in (*node.input, *node.output) if name]
        inside = onnxgraph.subgraphs(node)
        if _places(node, kinds, floats, versions) != STAYS or not (
            inside or any(kinds.get(n) == SINGLE for n in names)
        ):
            continue
        unknown = [name for name in names if kinds.get(name, OTHER) in (OTHER, 0)]
        why = f"ONNX defines it for float32 only at opset {versions.get('ai.onnx', 0)}"
        if _peeps(node):
            why = "TensorRT-RTX refuses an LSTM with peepholes in half precision"
        elif node.op_type in BITS:
            why = "it reads the bits of a float32"
        elif inside:
            why = "its bodies stay float32"
        elif node.domain not in ("", "ai.onnx"):
            why = f"it is an operator of {node.domain}"
        elif unknown:
            why = f"the type of {unknown[0]} is not known, or is no tensor"
        found.append(kept_nodes.kept(node, why))
    return found


def convert(work: onnx.ModelProto, precision: str, keep: Collection[str]) -> onnx.ModelProto:
    """Convert a copy of `work`, whose nodes have names; the nodes in `keep` stay float32."""
    model = onnxgraph.copied(work)
    graph, narrow = model.graph, NARROW[precision]
    typed = onnx.shape_inference.infer_shapes(work).graph
    kinds, floats, versions = _kinds(work, typed), set(float_ops(precision)), onnxgraph.opsets(work)
    known = {value.name: value for value in typed.output}
    for value in graph.output:  # one without a shape gets what is known of it
        value.CopyFrom(known[value.name])
    places = {node.name: STAYS if node.name in keep else _places(node, kinds, floats, versions) for node in graph.node}
    makers = {name: places[n.name] != STAYS and i in places[n.name].outputs for n in graph.node
              for i, name in enumerate(n.output) if name}  # fmt: skip
    outside = {value.name for value in graph.output}
    outside |= {name for node in graph.node for body in onnxgraph.subgraphs(node) for name in _outer(body)}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {t.name for t in graph.initializer}
    taken |= {node.name for node in graph.node}
    read = outside | {name for n in graph.node for i, name in enumerate(n.input) if i not in places[n.name].inputs}
    # Under its own name a tensor is of the type that its maker gives it, unless others than nodes read it as float32.
    half = {name: name if made and name not in outside else "" for name, made in makers.items() if made}
    single: dict[str, str] = {name: name for name in outside}
    casts: list[onnx.NodeProto] = []

    def cast(source: str, target: str, kind: int) -> None:
        casts.append(
            helper.make_node("Cast", [source], [target], name=onnxgraph.fresh(f"{target}_cast", taken), to=kind)
        )

    def as_half(name: str) -> str:
        if not half.get(name):
            half[name] = onnxgraph.fresh(f"{name}__half", taken)
            if name in weights and name not in read:
                half[name] = name
                weights[name].CopyFrom(_rounded(weights[name], name, precision))
            elif name in weights:
                graph.initializer.append(_rounded(weights[name], half[name], precision))
            elif not makers.get(name):
                cast(name, half[name], narrow)
        return half[name]

    def as_single(name: str) -> str:
        if not makers.get(name):
            return name
        if name not in single:
            single[name] = onnxgraph.fresh(f"{name}__float32", taken)
            cast(half[name], single[name], SINGLE)
        return single[name]

    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == SINGLE}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if not name or kinds.get(name) != SINGLE:
                continue
            if place in places[node.name].inputs:
                node.input[place] = as_half(name)
            elif node.op_type == "Cast" and makers.get(name) and name not in keep:
                node.input[place] = as_half(name)  # it takes what there is
            else:
                node.input[place] = as_single(name)
    for node in graph.node:
        for place, name in enumerate(node.output):
            if makers.get(name):
                node.output[place] = as_half(name)
                if name in outside:
                    cast(half[name], name, SINGLE)
        if places[node.name].outputs:
            _retype(node, narrow, precision)
    graph.node.extend(casts)
    used = onnxgraph.read_names(model)
    onnxgraph.refill(graph.initializer, [t for t in graph.initializer if t.name in used])
    for _, one in onnxgraph.graphs(model):
        one.ClearField("value_info")
    onnxgraph.sort(graph)
    return model


def _kinds(model: onnx.ModelProto, typed: onnx.GraphProto) -> dict[str, int]:
    """Give the element type of each tensor of the main graph, as far as shape inference (`typed`) knows it."""
    found: dict[str, int] = {t.name: t.data_type for t in model.graph.initializer}
    for value in (*typed.input, *typed.value_info, *typed.output):
        if value.type.HasField("tensor_type"):
            found[value.name] = value.type.tensor_type.elem_type
        elif value.type.WhichOneof("value") is not None:
            found[value.name] = OTHER
    return found


def _places(
    node: onnx.NodeProto, kinds: Mapping[str, int], floats: Collection[str], versions: Mapping[str, int]
) -> _Places:
    """Give the inputs and outputs of a node that ONNX defines for the narrow type too; none if it must stay."""
    if node.domain not in ("", "ai.onnx") or node.op_type in floats or node.op_type in ("Constant", *BITS):
        return STAYS
    if (
        _peeps(node)
        or onnxgraph.subgraphs(node)
        or any(kinds.get(n, OTHER) in (OTHER, 0) for n in (*node.input, *node.output) if n)
    ):
        return STAYS
    try:
        schema = onnx.defs.get_schema(node.op_type, versions["ai.onnx"], "")
    except (onnx.defs.SchemaError, KeyError):
        return STAYS
    allowed = {one.type_param_str: set(one.allowed_type_strs) for one in schema.type_constraints}

    def fitting(names: Iterable[str], formal: Any) -> tuple[int, ...]:
        found = []
        for place, name in enumerate(names):
            if not name or kinds[name] != SINGLE or not formal:
                continue
            kind = _type_text(formal[min(place, len(formal) - 1)])
            if HALF in allowed.get(kind, {kind}):
                found.append(place)
        return tuple(found)

    inputs, outputs = fitting(node.input, schema.inputs), fitting(node.output, schema.outputs)
    if node.op_type == "Cast":
        inputs = ()
    return _Places(inputs, outputs)


def _peeps(node: onnx.NodeProto) -> bool:
    return node.op_type == "LSTM" and len(node.input) > PEEPHOLES and bool(node.input[PEEPHOLES])


def _type_text(formal: Any) -> str:
    """Give a formal parameter's type; onnx has renamed the property."""
    return str(formal.type_str if hasattr(formal, "type_str") else formal.typeStr)


def _outer(body: onnx.GraphProto) -> set[str]:
    """Name what a body takes from outside, by names that it does not make itself."""
    made = {value.name for value in body.input} | {t.name for t in body.initializer}
    made |= {name for node in body.node for name in node.output}
    read = {name for node in body.node for name in node.input} | {value.name for value in body.output}
    read |= {name for node in body.node for inner in onnxgraph.subgraphs(node) for name in _outer(inner)}
    return {name for name in read - made if name}


def _retype(node: onnx.NodeProto, narrow: int, precision: str) -> None:
    """Change what an op's attributes say of its output's type."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype", "output_dtype") and attribute.i == SINGLE:
            attribute.i = narrow
        elif attribute.name == "value" and attribute.t.data_type == SINGLE:
            attribute.t.CopyFrom(_rounded(attribute.t, attribute.t.name, precision))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(
            helper.make_attribute("value", helper.make_tensor("", narrow, [1], [0.0]))
        )  # fmt: skip


def _rounded(tensor: onnx.TensorProto, name: str, precision: str) -> onnx.TensorProto:
    """Give a weight in the narrow type: of float16 within its range, of bfloat16 rounded to nearest."""
    values = numpy_helper.to_array(tensor)
    if precision == "bf16":
        made = onnx.TensorProto(name=name, data_type=TensorProto.BFLOAT16, dims=tensor.dims)
        made.raw_data = bfloat16.round_bfloat16(values).astype("<u2").tobytes()
        return made
    return numpy_helper.from_array(_within(values).astype(np.float16), name)


def _within(values: NDArray[Any]) -> NDArray[Any]:
    size = np.abs(values)
    values = np.where((size > 0) & (size < SMALLEST), np.copysign(np.float32(SMALLEST), values), values)
    return np.where((size > LARGEST) & np.isfinite(values), np.copysign(np.float32(LARGEST), values), values)
