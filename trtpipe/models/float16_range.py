"""The range guard: which nodes read or make values that float16 cannot hold. They stay float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from trtpipe.models import dtypes, kept_nodes, onnxgraph, ort_cpu

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from trtpipe.documents.config import Kept

LARGEST = 65504.0
"""The largest finite float16."""
SMALLEST = 5.96e-08
"""The smallest positive float16; the converter raises smaller weights to it."""
SMALLEST_NORMAL = 6.104e-05
"""The smallest float16 with full precision."""
HEADROOM = 2.0
"""An activation seen on random inputs within this factor of the largest float16 counts as overflowing."""
SCALES = ("Add", "BatchNormalization", "Div", "Mul", "Sub")
"""Ops that builders fold into the product before them, if all other operands are constants."""


def _largest(values: NDArray[Any]) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 0.0


def large_weights(model: onnx.ModelProto) -> list[Kept]:
    """List the nodes that read a weight beyond float16's range (an infinity is no problem: float16 has it too)."""
    large = {name: size for name, v in onnxgraph.float_tensors(model).items() if (size := _largest(v)) > LARGEST}
    kept = []
    for found in onnxgraph.walk(model):
        node = found.node
        names = [*node.input, *(f"{node.name}.{a.name}" for a in node.attribute)]
        for name in names:
            if name in large:
                why = f"its weight {name} holds {large[name]:.4g}, beyond float16's {LARGEST:g}"
                kept.append(kept_nodes.kept(node, why))
                break
    return kept


def folded_into(model: onnx.ModelProto, kept: Iterable[Kept]) -> list[Kept]:
    """List the products, and the scales between, into which a builder folds kept scales.

    TensorRT 8.6 folds a scale into the convolution before it, whatever type the scale is held in. If only the scale was
    held in float32, it would be computed in half precision all the same, with weights and results that may not fit.
    """
    producers = onnxgraph.producers(model)
    nodes = {node.name: node for node in model.graph.node}
    weights = {t.name for t in model.graph.initializer}
    more: dict[str, Kept] = {}
    for entry in kept:
        node = nodes.get(entry.node)
        while node is not None and node.op_type in SCALES:
            data = [name for name in node.input if name and name not in weights]
            node = producers.get(data[0]) if len(data) == 1 else None
            if node is not None and node.op_type in (*SCALES, *onnxgraph.PRODUCTS):
                more.setdefault(node.name, kept_nodes.kept(node, f"{entry.node} is folded into it"))
    return list(more.values())


def large_activations(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, NDArray[Any]]], on: str = ""
) -> list[Kept] | None:
    """List the nodes that make or read activations near or beyond float16's range on these inputs.

    Gives None if this could not be measured (shape inference or onnxruntime fails).
    """
    probe = onnxgraph.copied(model)
    tensors = [v.name for v in probe.graph.input] + [o for n in probe.graph.node for o in n.output if o]
    try:
        typed = onnx.shape_inference.infer_shapes(probe)
        values = (*typed.graph.input, *typed.graph.value_info, *typed.graph.output)
        kinds = {v.name: dtypes.value_dtype(v) for v in values}
    except Exception:  # noqa: BLE001 - inference of a foreign model may fail in any way
        return None
    watched = [t for t in tensors if kinds.get(t) == "float32"]
    del probe.graph.output[:]
    for index, name in enumerate(watched):
        # ReduceMax gives one number a tensor, so that memory does not grow with the network.
        probe.graph.node.append(helper.make_node("Abs", [name], [f"__abs_{index}"], name=f"__abs_{index}"))
        probe.graph.node.append(
            helper.make_node("ReduceMax", [f"__abs_{index}"], [f"__max_{index}"], name=f"__max_{index}", keepdims=0)
        )
        probe.graph.output.append(helper.make_tensor_value_info(f"__max_{index}", TensorProto.FLOAT, []))
    try:
        session = ort_cpu.Session(probe.SerializeToString())
        runs = [session(feed) for feed in feeds]
    except Exception:  # noqa: BLE001 - as above: the check that follows judges the result anyway
        return None
    limit = LARGEST / HEADROOM
    large = {name: max(float(r[f"__max_{index}"]) for r in runs) for index, name in enumerate(watched)}
    # Float16 has infinities too (an attention mask).
    large = {name: size for name, size in large.items() if limit < size < float("inf")}
    kept = []
    for node in model.graph.node:
        name = next((n for n in (*node.output, *node.input) if n in large), None)
        if name is not None:
            why = f"{name} reaches {large[name]:.2g} on {on or 'a random input'}, float16 ends at {LARGEST:g}"
            kept.append(kept_nodes.kept(node, why))
    return kept


def unseen(model: onnx.ModelProto) -> list[str]:
    """Name the If, Loop and Scan nodes whose bodies compute. Range guard and check do not see the values inside."""
    return [
        f"{node.name or node.op_type} [{node.op_type}]"
        for node in model.graph.node
        if any(n.op_type not in ("Constant", "Identity", "Cast") for g in onnxgraph.subgraphs(node) for n in g.node)
    ]
