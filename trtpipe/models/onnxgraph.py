"""An ONNX graph in memory: walk over nodes, list tensors, match and give names, sort, change in place."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from trtpipe.errors import PipelineInvalid, StageFailed
from trtpipe.models import dtypes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Ops that multiply an activation by weights."""


class Located(NamedTuple):
    """A node and the graph that holds it; `scope` is empty for the main graph, else like `if_1/then_branch`."""

    node: onnx.NodeProto
    scope: str
    graph: onnx.GraphProto | onnx.FunctionProto


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give a copy of a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def refill(field: Any, kept: Iterable[Any]) -> None:
    """Reduce a repeated field to these of its own items, in this order."""
    # Copy first: clearing the field frees its items.
    copies = [type(item).FromString(item.SerializeToString()) for item in kept]
    del field[:]
    field.extend(copies)


def graphs(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.GraphProto | onnx.FunctionProto]]:
    """Give the main graph, every subgraph below it and every function, each with its scope."""

    def below(scope: str, graph: Any) -> Iterator[tuple[str, Any]]:
        yield scope, graph
        for index, node in enumerate(graph.node):
            for attribute in node.attribute:
                inner = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
                for part in inner:
                    here = f"{node.name or f'{node.op_type}_{index}'}/{attribute.name}"
                    yield from below(f"{scope}/{here}" if scope else here, part)

    yield from below("", model.graph)
    for function in model.functions:
        yield from below(f"function {function.domain}:{function.name}", function)


def walk(model: onnx.ModelProto) -> Iterator[Located]:
    """Give every node of the model, also those of subgraphs and functions."""
    for scope, graph in graphs(model):
        for node in graph.node:
            yield Located(node, scope, graph)


def read_names(model: onnx.ModelProto) -> set[str]:
    """Name every tensor that is read: by a node anywhere, or as the output of a graph."""
    names = {name for found in walk(model) for name in found.node.input}
    for _, graph in graphs(model):
        names |= {one.name if isinstance(one, onnx.ValueInfoProto) else one for one in graph.output}
    return names


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Give the node of the main graph that makes each tensor; inputs and initialisers have none."""
    return {name: node for node in model.graph.node for name in node.output}


def node_label(found: Located) -> str:
    """Give a node's label for messages: its name if it has one, else its outputs."""
    node = found.node
    name = node.name or f"(unnamed, makes {', '.join(o for o in node.output if o) or 'nothing'})"
    return f"{name} in {found.scope}" if found.scope else name


def initializers(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Give every initialiser of the model and its subgraphs."""
    for _, graph in graphs(model):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer


def constants(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Give every tensor that the file holds, with its name: initialisers and the values of Constant nodes."""
    for tensor in initializers(model):
        yield tensor.name, tensor
    for found in walk(model):
        for attribute in found.node.attribute:
            if attribute.HasField("t"):
                yield f"{node_label(found)}.{attribute.name}", attribute.t
            for tensor in attribute.tensors:
                yield f"{node_label(found)}.{attribute.name}", tensor


def opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Give the opset version of each domain; ONNX's own is `ai.onnx`."""
    return {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a unique name, by which converters and runtimes identify it. Existing unique names stay."""
    taken = {found.node.name for found in walk(model)}
    seen: set[str] = set()
    for index, found in enumerate(walk(model)):
        node = found.node
        if not node.name or node.name in seen:
            node.name = fresh(node.name or f"{node.op_type}_{index}", taken)
        seen.add(node.name)


def fresh(base: str, taken: set[str], joint: str = "_") -> str:
    """Give a name that is not in `taken`, `base` if possible, and add it to `taken`."""
    name, number = base, 1
    while name in taken:
        name, number = f"{base}{joint}{number}", number + 1
    taken.add(name)
    return name


def _matches(node: onnx.NodeProto, pattern: str) -> bool:
    """Tell whether a keep_fp32 pattern (shell wildcards) fits a node's name or op."""
    # Compare first: a name may hold brackets, which in a pattern are a set of characters.
    return node.name == pattern or fnmatchcase(node.name, pattern) or fnmatchcase(node.op_type, pattern)


def matching_nodes(model: onnx.ModelProto, patterns: Iterable[str], param: str = "keep_fp32") -> dict[str, str]:
    """Give the named nodes that patterns fit, each with its pattern. Raises PipelineInvalid for one that fits none."""
    nodes = [found.node for found in walk(model)]
    chosen: dict[str, str] = {}
    for pattern in patterns:
        fitting = [n.name for n in nodes if n.name and _matches(n, pattern)]
        if not fitting:
            known = sorted({n.name for n in nodes if n.name} | {n.op_type for n in nodes})
            close = difflib.get_close_matches(pattern, known, 3)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise PipelineInvalid(f"{param}: {pattern!r} fits no node's name or op{hint}")
        for name in fitting:
            chosen.setdefault(name, pattern)
    return chosen


def has_half(model: onnx.ModelProto) -> list[str]:
    """Name the float16 weights, inputs and outputs of a model."""
    values = (*model.graph.input, *model.graph.output)
    half = [name for name, t in constants(model) if t.data_type == TensorProto.FLOAT16]
    return half + [v.name for v in values if dtypes.value_dtype(v) == "float16"]


def constants_are_no_inputs(model: onnx.ModelProto) -> None:
    """Remove weights from the graph's inputs, where old models (IR < 4) list them: as inputs they cannot be folded."""
    weights = {t.name for t in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in weights]
    model.graph.ClearField("input")
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)


def hoist_constants(model: onnx.ModelProto) -> None:
    """Turn float Constant nodes into initialisers, so that all weights are found in one place."""
    for _, graph in graphs(model):
        if not isinstance(graph, onnx.GraphProto):
            continue
        outputs = {value.name for value in graph.output}
        for node in [n for n in graph.node if n.op_type == "Constant" and n.domain in ("", "ai.onnx")]:
            attribute = node.attribute[0]
            if attribute.name == "value":
                tensor = onnx.TensorProto()
                tensor.CopyFrom(attribute.t)
            elif attribute.name in ("value_float", "value_floats"):
                value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = numpy_helper.from_array(np.array(value, np.float32))
            else:
                continue
            if tensor.data_type != TensorProto.FLOAT or node.output[0] in outputs:
                continue
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            graph.node.remove(node)


def float_tensors(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Give the float32 values of all initialisers, and of tensors in attributes as `node.attribute`."""
    found = {t.name: numpy_helper.to_array(t) for t in initializers(model) if t.data_type == TensorProto.FLOAT}
    for located in walk(model):
        for attribute in located.node.attribute:
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                found[f"{located.node.name}.{attribute.name}"] = numpy_helper.to_array(attribute.t)
    return found


def sort(graph: onnx.GraphProto) -> None:
    """Sort the nodes topologically: each one comes after those whose outputs it reads.

    The sort is stable. Raises StageFailed for a cycle.
    """
    made = {name for node in graph.node for name in node.output if name}
    waiting = []
    for node in graph.node:
        needs = set(node.input)
        for inner in subgraphs(node):
            needs |= {name for found in inner.node for name in _reads(found)}
        waiting.append((node, needs & made - set(node.output)))
    ready: set[str] = set()
    order: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node, needs in waiting:
            if needs <= ready:
                order.append(node)
                ready.update(node.output)
            else:
                later.append((node, needs))
        if len(later) == len(waiting):
            raise StageFailed("the rewritten model has a cycle; this is a fault of the conversion")
        waiting = later
    refill(graph.node, order)


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Give the bodies of an If, Loop or Scan node."""
    return [g for a in node.attribute for g in (*a.graphs, *([a.g] if a.HasField("g") else []))]


def _reads(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for inner in subgraphs(node):
        names |= {name for found in inner.node for name in _reads(found)}
    return names


def restore(changed: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Copy from `model` what converters lose: metadata, producer, and the types and shapes of inputs and outputs."""
    changed.ClearField("metadata_props")
    changed.metadata_props.extend(model.metadata_props)
    for name in ("producer_name", "producer_version", "domain", "doc_string"):
        setattr(changed, name, getattr(model, name))
    for mine, theirs in ((changed.graph.input, model.graph.input), (changed.graph.output, model.graph.output)):
        known = {v.name: v for v in theirs}
        for value in mine:
            if value.name in known:
                value.CopyFrom(known[value.name])
