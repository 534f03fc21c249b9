"""Bring a graph from ONNX opset 18 down to 17, or refuse.

PyTorch's dynamo exporter writes opset 18; TensorRT 8.6 reads 17. ONNX's own converter and onnxscript's leave
ReduceMean, Pad and Mish at 18. Between the two opsets few operators changed
(https://github.com/onnx/onnx/blob/main/docs/Changelog.md, "Version 18"), and most uses can be said in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trtpipe.errors import StageFailed
from trtpipe.models import onnxfile

if TYPE_CHECKING:
    from collections.abc import Callable

REDUCE = {
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
}  # fmt: skip


class _Refused(Exception):
    """A node says what opset 17 cannot."""


def to_opset_17(model: onnx.ModelProto) -> None:
    """Rewrite a model of opset 18 in place, subgraphs included; the rewritten graph computes the same values.

    Raises StageFailed that lists every node that cannot be said in opset 17, with its reason.
    """
    if onnxfile.opsets(model).get("ai.onnx") != 18:
        raise StageFailed(f"expected a model of opset 18, found {onnxfile.opsets(model)}")
    values: dict[str, Any] = {}
    for _, graph in onnxfile.graphs(model):
        if isinstance(graph, onnx.GraphProto):
            values.update({t.name: t for t in graph.initializer})
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                values[node.output[0]] = node.attribute[0].t

    def constant(name: str) -> list[int]:
        if name not in values:
            raise _Refused(f"its input {name} is computed; opset 17 wants a constant there")
        return [int(v) for v in np.atleast_1d(numpy_helper.to_array(values[name]))]

    problems: list[str] = []
    # Innermost first: nodes are copied, and a copy must hold the subgraphs as they have become.
    for scope, graph in reversed(list(onnxfile.graphs(model))):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            try:
                nodes += _lower(node, constant)
            except _Refused as reason:
                label = onnxfile.node_label(onnxfile.Located(node, scope, graph))
                problems.append(f"{label} ({node.op_type}): {reason}")
        onnxfile.refill(graph.node, nodes)
    if problems:
        raise StageFailed("these nodes cannot be said in opset 17:\n" + "\n".join(f"  {p}" for p in problems))
    for imported in [*model.opset_import, *(i for f in model.functions for i in f.opset_import)]:
        if imported.domain in ("", "ai.onnx"):
            imported.version = 17
    _drop_unused(model)


def _lower(node: onnx.NodeProto, constant: Callable[[str], list[int]]) -> list[onnx.NodeProto]:
    if node.domain not in ("", "ai.onnx"):
        return [node]
    op = node.op_type
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if op in REDUCE:
        return _reduce(node, attributes, constant)
    if op == "Pad":
        if len(node.input) > 3 and node.input[3]:
            raise _Refused("it pads chosen axes")
        if attributes.get("mode") == b"wrap":
            raise _Refused("it pads by wrapping round, which came with opset 19")
        return [node]
    if op == "Mish":
        soft, tanh = (f"{node.output[0]}_{part}" for part in ("softplus", "tanh"))
        return [
            helper.make_node("Softplus", [node.input[0]], [soft], name=f"{node.name}_softplus"),
            helper.make_node("Tanh", [soft], [tanh], name=f"{node.name}_tanh"),
            helper.make_node("Mul", [node.input[0], tanh], list(node.output), name=node.name),
        ]
    if op == "Split":
        return _split(node, attributes)
    if op == "Resize":
        if attributes.get("antialias", 0) or attributes.get("axes"):
            raise _Refused("it resizes with antialias, or chosen axes")
        if attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
            raise _Refused("it keeps the aspect ratio")
        _drop(node, "antialias", "keep_aspect_ratio_policy")
        return [node]
    if op in ("ScatterElements", "ScatterND"):
        if attributes.get("reduction", b"none") not in (b"none", b"add", b"mul"):
            raise _Refused(f"its reduction is {attributes['reduction'].decode()}")
        return [node]
    if op == "LpPool":
        if attributes.get("ceil_mode", 0) or any(d != 1 for d in attributes.get("dilations", ())):
            raise _Refused("it pools with ceil_mode or dilations")
        _drop(node, "ceil_mode", "dilations")
        return [node]
    try:
        since = onnx.defs.get_schema(op, 18, "").since_version
    except onnx.defs.SchemaError:
        raise _Refused("ONNX has no such operator") from None
    if since > 17:
        raise _Refused("the operator came with opset 18")
    return [node]


def _reduce(
    node: onnx.NodeProto, attributes: dict[str, Any], constant: Callable[[str], list[int]]
) -> list[onnx.NodeProto]:
    axes = constant(node.input[1]) if len(node.input) > 1 and node.input[1] else []
    if not axes and attributes.get("noop_with_empty_axes", 0):
        return [helper.make_node("Identity", [node.input[0]], list(node.output), name=node.name)]
    lowered = helper.make_node(
        node.op_type, [node.input[0]], list(node.output), name=node.name, keepdims=attributes.get("keepdims", 1)
    )
    if axes:
        lowered.attribute.append(helper.make_attribute("axes", axes))
    return [lowered]


def _split(node: onnx.NodeProto, attributes: dict[str, Any]) -> list[onnx.NodeProto]:
    if "num_outputs" not in attributes:
        return [node]
    # Opset 13 splits evenly when it is told nothing, and a runtime refuses at run time what is not even; opset 18
    # makes the last part smaller. Whoever exports the model compares it with the original, so this shows.
    if attributes["num_outputs"] != len(node.output):
        raise _Refused("it has fewer outputs than num_outputs")
    _drop(node, "num_outputs")
    return [node]


def _drop(node: onnx.NodeProto, *names: str) -> None:
    kept = [a for a in node.attribute if a.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _drop_unused(model: onnx.ModelProto) -> None:
    """Remove constants that nothing reads any more, such as the axes of reductions."""
    used = onnxfile.read_names(model)
    for _, graph in reversed(list(onnxfile.graphs(model))):
        nodes = [n for n in graph.node if n.op_type != "Constant" or any(o in used for o in n.output)]
        if len(nodes) != len(graph.node):
            onnxfile.refill(graph.node, nodes)
        if isinstance(graph, onnx.GraphProto):
            weights = [t for t in graph.initializer if t.name in used]
            if len(weights) != len(graph.initializer):
                onnxfile.refill(graph.initializer, weights)
