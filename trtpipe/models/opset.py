"""Opset conversion: to a newer opset with ONNX's own converter, and from opset 18 to 17.

PyTorch's dynamo exporter writes opset 18; TensorRT 8.6 reads 17. ONNX's own converter and onnxscript's leave
ReduceMean, Pad and Mish at 18. Between the two opsets few operators changed
(https://github.com/onnx/onnx/blob/main/docs/Changelog.md, "Version 18"), and most uses can be written in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trtpipe.errors import StageFailed
from trtpipe.models import onnxgraph

if TYPE_CHECKING:
    from collections.abc import Callable

RAISED_TOLERANCE = 1e-3
"""The largest relative L2 difference of an output that the conversion to a newer opset may cause."""
REDUCE = {
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
}  # fmt: skip


def raise_opset(model: onnx.ModelProto, least: int) -> tuple[onnx.ModelProto, int | None]:
    """Convert a model to opset `least` if its own is older. Gives (model, the old opset or None if nothing was done).

    Raises StageFailed if the converter cannot.
    """
    before = onnxgraph.opsets(model).get("ai.onnx", 0)
    if before >= least:
        return model, None
    copy = onnxgraph.copied(model)
    copy.ir_version = max(copy.ir_version, 8)
    onnxgraph.constants_are_no_inputs(copy)
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(copy, least)
    except Exception as error:
        text = " ".join(str(error).split())
        raise StageFailed(
            f"the model is of opset {before}, and ONNX's converter cannot raise it to {least}: {text}; "
            f"export it with opset {least} or later"
        ) from error
    for located in onnxgraph.walk(converted):  # the converter leaves trailing inputs with empty names
        while located.node.input and not located.node.input[-1]:
            located.node.input.pop()
    return converted, before


class _Refused(Exception):
    """A node that has no equivalent in opset 17; the text is the reason."""


def to_opset_17(model: onnx.ModelProto) -> None:
    """Rewrite a model of opset 18 in place, subgraphs included; the rewritten graph computes the same values.

    Raises StageFailed that lists every node that has no equivalent in opset 17, with the reason.
    """
    if onnxgraph.opsets(model).get("ai.onnx") != 18:
        raise StageFailed(f"expected a model of opset 18, found {onnxgraph.opsets(model)}")
    values: dict[str, Any] = {}
    for _, graph in onnxgraph.graphs(model):
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
    # Innermost first: nodes are copied, and a copy must hold the converted subgraphs.
    for scope, graph in reversed(list(onnxgraph.graphs(model))):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            try:
                nodes += _converted(node, constant)
            except _Refused as reason:
                label = onnxgraph.node_label(onnxgraph.Located(node, scope, graph))
                problems.append(f"{label} ({node.op_type}): {reason}")
        onnxgraph.refill(graph.node, nodes)
    if problems:
        raise StageFailed("these nodes cannot be said in opset 17:\n" + "\n".join(f"  {p}" for p in problems))
    for imported in [*model.opset_import, *(i for f in model.functions for i in f.opset_import)]:
        if imported.domain in ("", "ai.onnx"):
            imported.version = 17
    _drop_unused(model)


def _converted(node: onnx.NodeProto, constant: Callable[[str], list[int]]) -> list[onnx.NodeProto]:
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
    reduced = helper.make_node(
        node.op_type, [node.input[0]], list(node.output), name=node.name, keepdims=attributes.get("keepdims", 1)
    )
    if axes:
        reduced.attribute.append(helper.make_attribute("axes", axes))
    return [reduced]


def _split(node: onnx.NodeProto, attributes: dict[str, Any]) -> list[onnx.NodeProto]:
    if "num_outputs" not in attributes:
        return [node]
    # Without sizes, opset 13 splits evenly, and a runtime fails on an uneven split; opset 18 makes the last part
    # smaller. The export stage compares the result with the original model, so that this is found.
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
    used = onnxgraph.read_names(model)
    for _, graph in reversed(list(onnxgraph.graphs(model))):
        nodes = [n for n in graph.node if n.op_type != "Constant" or any(o in used for o in n.output)]
        if len(nodes) != len(graph.node):
            onnxgraph.refill(graph.node, nodes)
        if isinstance(graph, onnx.GraphProto):
            weights = [t for t in graph.initializer if t.name in used]
            if len(weights) != len(graph.initializer):
                onnxgraph.refill(graph.initializer, weights)
