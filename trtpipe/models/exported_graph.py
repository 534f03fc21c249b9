"""The graph that an exporter wrote, made what was asked for: its axes named, and no trace of the machine in it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from trtpipe.errors import StageFailed
from trtpipe.models import onnxgraph, signature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from trtpipe.models.torch_module import NamedModule


def name_axes(
    proto: onnx.ModelProto,
    named: NamedModule,
    dims: Mapping[str, Sequence[int | str]],
    reason: str,
) -> None:
    """Give inputs and outputs exactly the dims asked for; `dims` are those of the outputs.

    Raises StageFailed for other inputs or outputs than the module's, and for an axis that was baked in; `reason` is
    what the exporter said of it.
    """
    names = [value.name for value in proto.graph.input]
    outputs = [value.name for value in proto.graph.output]
    if outputs != list(named.outputs):
        raise StageFailed(f"the exported model's outputs are {', '.join(outputs)}, expected {', '.join(named.outputs)}")
    if sorted(names) != sorted(named.order):
        gone = sorted(set(named.order) - set(names))
        raise StageFailed(
            f"the exported model's inputs are {', '.join(names) or 'none'}, expected {', '.join(named.order)}"
            + (f": the module does not use {', '.join(gone)}" if gone else "")
        )
    for value in proto.graph.input:
        have = signature.input_dims(value) or []
        for axis, dim in enumerate(named.inputs[value.name].shape):
            if isinstance(dim, str) and axis < len(have) and isinstance(have[axis], int):
                raise StageFailed(
                    f"axis {dim} of input {value.name} was baked in as {have[axis]}: the module's code fixes it; "
                    f"write a number there, or change the code (often a len(), an int() or a shape kept in Python)"
                    + (f"\n{reason}" if reason else "")
                )
    for _, graph in onnxgraph.graphs(proto):
        graph.ClearField("value_info")
    for value in proto.graph.input:
        _set_shape(value, named.inputs[value.name].shape)
    for value in proto.graph.output:
        _set_shape(value, dims[value.name])


def _set_shape(value: onnx.ValueInfoProto, dims: Sequence[int | str]) -> None:
    shape = value.type.tensor_type.shape
    shape.ClearField("dim")
    shape.SetInParent()
    for dim in dims:
        if isinstance(dim, str):
            shape.dim.add(dim_param=dim)
        else:
            shape.dim.add(dim_value=dim)


def clean(proto: onnx.ModelProto, ir_version: int) -> None:
    """Drop what differs from machine to machine: stack traces, paths, versions (they are in the key).

    Raises StageFailed if the model needs a newer version of the file format than `ir_version`.
    """
    proto.ir_version = ir_version
    proto.producer_name = "pytorch"
    proto.graph.name = "main_graph"
    for field in ("producer_version", "domain", "model_version", "doc_string", "metadata_props"):
        proto.ClearField(field)
    for scope, graph in onnxgraph.graphs(proto):
        graph.ClearField("doc_string")
        _forget(graph)
        if hasattr(graph, "initializer"):
            for tensor in graph.initializer:
                tensor.ClearField("doc_string")
                _forget(tensor)
            for value in itertools.chain(graph.input, graph.output):
                value.ClearField("doc_string")
                _forget(value)
        elif proto.ir_version < 8:
            raise StageFailed(
                f"the model has functions ({scope}), which came with IR version 8; expected ir_version >= 8"
            )
    for found in onnxgraph.walk(proto):
        found.node.ClearField("doc_string")
        _forget(found.node)
    used = {found.node.domain for found in onnxgraph.walk(proto)} | {""}
    kept = [(o.domain, o.version) for o in proto.opset_import if o.domain in used]
    del proto.opset_import[:]
    for domain, version in sorted(kept):
        proto.opset_import.add(domain=domain, version=version)


def _forget(message: Any) -> None:
    if "metadata_props" in message.DESCRIPTOR.fields_by_name:
        message.ClearField("metadata_props")
