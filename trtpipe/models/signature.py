"""The names, dtypes and dims of a model's inputs and outputs, and its description for network.json."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import onnx

from trtpipe import batch
from trtpipe.documents.network import Network, Tensor
from trtpipe.errors import StageFailed
from trtpipe.models import dtypes, external_data, onnxgraph

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from trtpipe.documents.base import Runtime

Dim = int | str
LENGTHS = (5, 7)
"""Two lengths that say together which axis is the batch."""
SHAPE_LIKE = 4096
"""Initialisers up to this many bytes take part in shape inference; larger ones are weights, not shapes."""


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Give the inputs that a caller must feed: those without an initialiser of the same name (IR < 4 lists both)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _dims(value: onnx.ValueInfoProto) -> list[Dim | None] | None:
    if value.type.WhichOneof("value") != "tensor_type" or not value.type.tensor_type.HasField("shape"):
        return None
    found: list[Dim | None] = []
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param:
            found.append(dim.dim_param)
        elif dim.HasField("dim_value") and dim.dim_value >= 0:
            found.append(dim.dim_value)
        else:
            found.append(None)
    return found


def input_dims(value: onnx.ValueInfoProto) -> list[Dim] | None:
    """Give an input's dims; a dynamic axis without a name is called `<input>_<axis>`. None: unknown rank."""
    dims = _dims(value)
    return None if dims is None else [f"{value.name}_{axis}" if d is None else d for axis, d in enumerate(dims)]


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without weights, with named input axes and with outputs that have no shapes."""
    light = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = "g"
    light.graph.node.extend(model.graph.node)
    for value in graph_inputs(model):
        copy = light.graph.input.add()
        copy.CopyFrom(value)
        for dim, name in zip(copy.type.tensor_type.shape.dim, input_dims(value) or (), strict=False):
            if isinstance(name, str):
                dim.dim_param = name
    for tensor in model.graph.initializer:
        if external_data.is_external(tensor) or dtypes.tensor_bytes(tensor) > SHAPE_LIKE:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
        else:
            light.graph.initializer.append(tensor)
    for value in model.graph.output:
        copy = light.graph.output.add(name=value.name)
        if value.type.WhichOneof("value") == "tensor_type":
            copy.type.tensor_type.elem_type = value.type.tensor_type.elem_type
    return light


def of(model: onnx.ModelProto) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Describe inputs and outputs.

    An output's axis is named after an input's axis where ONNX shape inference shows that they are the same one:
    exporters often write meaningless names there. An axis that stays unknown is called `<output>_<axis>`.
    """
    inputs = tuple(_tensor(v, input_dims(v)) for v in graph_inputs(model))
    known = {d for entry in inputs for d in entry.dims or () if isinstance(d, str)}
    skeleton = _skeleton(model)
    inferred = _inferred(skeleton)
    outputs = tuple(
        _tensor(value, _merge(value.name, _dims(value), inferred.get(value.name), known))
        for value in model.graph.output
    )
    return inputs, _with_batch(skeleton, inputs, outputs, known)


def _inferred(skeleton: onnx.ModelProto) -> dict[str, list[Dim | None] | None]:
    """Infer the outputs' dims; none at all where inference fails: such a model may still run."""
    try:
        found = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph.output
    except Exception:  # noqa: BLE001
        return {}
    return {value.name: _dims(value) for value in found}


def _with_batch(
    skeleton: onnx.ModelProto, inputs: Sequence[Tensor], outputs: tuple[Tensor, ...], known: Collection[str]
) -> tuple[Tensor, ...]:
    """Name the batch's axis in outputs where names are lost on the way, as in a Reshape, and numbers are not.

    The shapes are inferred for two batches of LENGTHS: an axis that has the length of each is the batch's.
    """
    names = batch.find(inputs, (), {}, {}).names
    open_ended = [e.name for e in outputs if any(isinstance(d, str) and d not in known for d in e.dims or ())]
    if not names or not open_ended or any(names[0] in (e.dims or ()) for e in outputs if e.name in open_ended):
        return outputs
    sized = []
    for length in LENGTHS:
        copy = onnx.ModelProto()
        copy.CopyFrom(skeleton)
        for value in copy.graph.input:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param == names[0]:
                    dim.dim_value = length
        sized.append(_inferred(copy))
    found = []
    for entry in outputs:
        one, other = (dims.get(entry.name) or () for dims in sized)
        whole = entry.dims or ()
        if entry.name in open_ended and len(one) == len(other) == len(whole):
            whole = tuple(
                names[0] if (a, b) == LENGTHS and isinstance(d, str) else d
                for d, a, b in zip(whole, one, other, strict=True)
            )
            entry = msgspec.structs.replace(entry, dims=whole)  # noqa: PLW2901
        found.append(entry)
    return tuple(found)


def _tensor(value: onnx.ValueInfoProto, dims: Sequence[Dim] | None) -> Tensor:
    kept = None if dims is None else tuple(dims)
    return Tensor(name=value.name, dtype=dtypes.value_dtype(value), dims=kept, names=_names(value, kept))


def _names(value: onnx.ValueInfoProto, dims: Sequence[Dim] | None) -> tuple[str | None, ...]:
    """Give the name of each axis where a fixed one has a name: as declared, or kept when it was frozen (`set_dims`)."""
    if dims is None or value.type.WhichOneof("value") != "tensor_type":
        return ()
    said = [d.dim_param or d.denotation or None for d in value.type.tensor_type.shape.dim]
    if len(said) != len(dims):
        return ()
    names = tuple(d if isinstance(d, str) else name for d, name in zip(dims, said, strict=True))
    return names if any(isinstance(d, int) and n for d, n in zip(dims, names, strict=True)) else ()


def _merge(
    name: str, declared: Sequence[Dim | None] | None, seen: Sequence[Dim | None] | None, known: Collection[str]
) -> list[Dim] | None:
    rank = len(seen) if seen is not None else None if declared is None else len(declared)
    if rank is None:
        return None
    if declared is None or len(declared) != rank:
        declared = [None] * rank
    if seen is None:
        seen = [None] * rank
    merged: list[Dim] = []
    for axis, (said, found) in enumerate(zip(declared, seen, strict=True)):
        if found is not None and (isinstance(found, int) or found in known):
            merged.append(found)
        elif said is not None:
            merged.append(said)
        else:
            merged.append(f"{name}_{axis}")
    return merged


def set_dims(model: onnx.ModelProto, dims: Mapping[str, Sequence[Dim]], *, label: str) -> None:
    """Set the dims of inputs in place; shapes that depended on the old ones are inferred again.

    Raises StageFailed for an unknown input or a rank that differs.
    """
    inputs = {value.name: value for value in graph_inputs(model)}
    problems = []
    for name, wanted in dims.items():
        value = inputs.get(name)
        if value is None:
            problems.append(f"{label} has no input {name!r}; it has {', '.join(inputs) or 'none'}")
            continue
        have = _dims(value)
        if have is not None and len(have) != len(wanted):
            problems.append(f"{label}: input {name} has {len(have)} axes, found {len(wanted)} dims: {list(wanted)}")
            continue
    if problems:
        raise StageFailed("\n".join(problems))
    before = {entry.name: entry for side in of(model) for entry in side}
    for name, wanted in dims.items():
        shape = inputs[name].type.tensor_type.shape
        shape.ClearField("dim")
        for axis, dim in enumerate(wanted):
            if isinstance(dim, str):
                shape.dim.add(dim_param=dim)
            else:
                shape.dim.add(dim_value=dim, denotation=_former(before[name], axis))
    for _, graph in onnxgraph.graphs(model):
        graph.ClearField("value_info")
    ranks = {value.name: _dims(value) for value in model.graph.output}
    for value in model.graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
    _write_output_dims(model, ranks, before)


def _former(before: Tensor, axis: int) -> str | None:
    """Give the name that an axis had, which it keeps where it is frozen; a name of two axes says nothing."""
    names = before.names or before.dims or ()
    name = names[axis] if axis < len(names) else None
    return name if isinstance(name, str) and names.count(name) == 1 else None


def _write_output_dims(
    model: onnx.ModelProto, ranks: Mapping[str, Sequence[Any] | None], before: Mapping[str, Tensor]
) -> None:
    """Write the inferred dims into outputs that have none; an axis that inference cannot determine stays dynamic."""
    _, outputs = of(model)
    for value, found in zip(model.graph.output, outputs, strict=True):
        rank = ranks[value.name]
        dims: Sequence[Dim] | None = found.dims
        if dims is None and rank is not None:
            dims = [f"{value.name}_{a}" for a in range(len(rank))]
        if dims is None or value.type.WhichOneof("value") != "tensor_type":
            continue
        shape = value.type.tensor_type.shape
        for axis, dim in enumerate(dims):
            if isinstance(dim, int):
                shape.dim.add(dim_value=dim, denotation=_former(before[value.name], axis))
            elif dim == f"{value.name}_{axis}":
                shape.dim.add()
            else:
                shape.dim.add(dim_param=dim)
        if not dims:
            shape.SetInParent()


def describe(model: onnx.ModelProto, *, layers: dict[str, int], runtime: Runtime, runtime_version: str) -> Network:
    """Describe a model; `layers` are those that the runtime's parser makes of it, by type."""
    inputs, outputs = of(model)
    sizes: Counter[str] = Counter()
    count = 0
    for _, tensor in onnxgraph.constants(model):  # some exporters keep all weights in Constant nodes
        sizes[dtypes.dtype_name(tensor.data_type)] += dtypes.tensor_bytes(tensor)
        count += math.prod(tensor.dims)
    nodes: Counter[str] = Counter()
    for found in onnxgraph.walk(model):
        node = found.node
        nodes[node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}"] += 1
    return Network(
        inputs=inputs,
        outputs=outputs,
        nodes=dict(sorted(nodes.items())),
        opset=onnxgraph.opsets(model),
        ir_version=model.ir_version,
        producer=" ".join(p for p in (model.producer_name, model.producer_version) if p),
        parameters=count,
        parameter_bytes=sum(sizes.values()),
        dtypes=dict(sorted(sizes.items())),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        layers=layers,
        runtime=runtime,
        runtime_version=runtime_version,
    )
