"""Leave outputs out of a model, with all that only they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.errors import StageFailed
from trtpipe.models import onnxgraph, signature

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx


def keep_outputs(model: onnx.ModelProto, names: Sequence[str], *, label: str) -> list[str]:
    """Keep these outputs of a model, in this order, and drop in place what only the others need.

    An inner tensor may be named too, if its type is known: it becomes an output. Gives the names of the inputs that
    went too. Inputs that nothing read before stay. Raises StageFailed for a name of no tensor.
    """
    known = {value.name: value for value in model.graph.output}
    before = _read(model.graph.node, known)
    known |= _inner(model, [name for name in names if name not in known])
    if unknown := [name for name in names if name not in known]:
        listed = ", ".join(value.name for value in model.graph.output)
        raise StageFailed(
            f"{label}: outputs: found {', '.join(unknown)}, expected some of the model's outputs {listed}, or inner "
            "tensors of a known type"
        )
    needed, nodes = set(names), []
    for node in reversed(model.graph.node):
        if any(output in needed for output in node.output):
            nodes.append(node)
            needed |= _inputs(node)
    onnxgraph.refill(model.graph.node, reversed(nodes))
    onnxgraph.refill(model.graph.output, [known[name] for name in names])
    gone = [v.name for v in signature.graph_inputs(model) if v.name in before and v.name not in needed]
    dropped = (before - needed) & {tensor.name for tensor in model.graph.initializer} | set(gone)
    onnxgraph.refill(model.graph.input, [v for v in model.graph.input if v.name not in dropped])
    onnxgraph.refill(model.graph.initializer, [t for t in model.graph.initializer if t.name not in dropped])
    made = {output for node in nodes for output in node.output}
    onnxgraph.refill(model.graph.value_info, [v for v in model.graph.value_info if v.name in made])
    return gone


def _inner(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, onnx.ValueInfoProto]:
    """Describe inner tensors, as far as shape inference knows their types."""
    if not names:
        return {}
    import onnx

    made = {output for node in model.graph.node for output in node.output}
    inferred = onnx.shape_inference.infer_shapes(onnxgraph.copied(model))
    return {
        value.name: value
        for value in inferred.graph.value_info
        if value.name in names and value.name in made and value.type.tensor_type.elem_type
    }


def _inputs(node: onnx.NodeProto) -> set[str]:
    """Name what a node reads, also inside its bodies (where some of the names are the bodies' own)."""
    found = set(node.input)
    for attribute in node.attribute:
        for body in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            found |= _read(body.node, [value.name for value in body.output])
    return found


def _read(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> set[str]:
    return {name for node in nodes for name in _inputs(node)} | set(outputs)
