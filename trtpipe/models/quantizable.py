"""Which models and which nodes can be quantised, and why the others cannot."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from trtpipe.errors import PipelineInvalid
from trtpipe.models import dtypes, kept_nodes, onnxgraph, qdq

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.documents.config import Kept

WEIGHTED = onnxgraph.PRODUCTS
"""What is quantised: products with constant weights."""
RESIDUAL = "Add"
"""A residual addition: of its two branches only the plain one, which ends in no convolution, gets Q/DQ nodes."""
OPS = (*WEIGHTED, RESIDUAL)
INTEGER = re.compile(
    r"^(QLinear.*|DynamicQuantize.*|MatMulInteger|ConvInteger|MatMulNBits|QGemm|DynamicQuantizeLinear)$"
)
"""Ops of models that are quantised in another form than Q/DQ."""


class Choice(NamedTuple):
    """What is quantised: weighted nodes (name: op), residual additions (name: index of the plain branch), the rest."""

    weighted: dict[str, str]
    residual: dict[str, int]
    left: list[Kept]


def refuse_quantised(model: onnx.ModelProto, label: str) -> None:
    """Raise PipelineInvalid for a model that holds quantised or half-precision parts already."""
    marks = [f for f in onnxgraph.walk(model) if f.node.op_type in qdq.MARKS or INTEGER.match(f.node.op_type)]
    if marks:
        kinds = ", ".join(f"{n} {op}" for op, n in sorted(Counter(f.node.op_type for f in marks).items()))
        raise PipelineInvalid(
            f"{label} is quantised already ({kinds}; first {onnxgraph.node_label(marks[0])}); "
            "give the float32 model that it was made of, or leave this stage out"
        )
    half = [name for name, t in onnxgraph.constants(model) if dtypes.dtype_name(t.data_type) in ("float16", "bfloat16")]
    if half:
        raise PipelineInvalid(
            f"{label} holds half-precision weights ({half[0]}); quantise the float32 model: "
            "precision: fp16 in configure makes the rest half afterwards"
        )


def choose(
    model: onnx.ModelProto, original: onnx.ModelProto, *, ops: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Choice:
    """Choose the nodes to quantise. `original` is the model before folding: `exclude` patterns refer to its names.

    Raises PipelineInvalid for a pattern that fits nothing, an op that has no Q/DQ form, and if nothing is left.
    """
    present = Counter(f.node.op_type for f in onnxgraph.walk(original))
    no_form = [op for op in ops if op not in OPS]
    if no_form:
        raise PipelineInvalid(
            f"params.ops: {', '.join(no_form)} has no Q/DQ form here: a runtime has int8 kernels for products with "
            f"constant weights ({', '.join(WEIGHTED)}) and residual additions ({RESIDUAL})"
        )
    absent = [op for op in ops if not present[op]]
    if absent:
        raise PipelineInvalid(f"params.ops: the model has no {', '.join(absent)}; it has {counts(present)}")
    wanted = set(ops or OPS)
    patterns = onnxgraph.matching_nodes(original, exclude, "exclude")
    # Folding may have given a node another name; its outputs have kept theirs.
    makes = {
        o: patterns[f.node.name] for f in onnxgraph.walk(original) if f.node.name in patterns for o in f.node.output
    }
    constants = {t.name: t for t in model.graph.initializer}
    producers = onnxgraph.producers(model)
    readers = Counter(i for n in model.graph.node for i in n.input)
    readers.update(v.name for v in model.graph.output)
    weighted: dict[str, str] = {}
    left: list[Kept] = []
    for node in model.graph.node:
        pattern = patterns.get(node.name) or next((makes[o] for o in node.output if o in makes), None)
        if node.op_type not in WEIGHTED:
            if node.op_type in ("LSTM", "GRU", "RNN", "Attention"):
                left.append(kept_nodes.kept(node, "has no Q/DQ form"))
            continue
        if pattern is not None:
            left.append(kept_nodes.kept(node, f"exclude: {pattern}"))
        elif node.op_type not in wanted:
            left.append(kept_nodes.kept(node, "not among params.ops"))
        elif why := _unfit(node, constants):
            left.append(kept_nodes.kept(node, why))
        else:
            weighted[node.name] = node.op_type
    for scope, graph in onnxgraph.graphs(model):
        if scope:
            left += [kept_nodes.kept(n, f"inside {scope}") for n in graph.node if n.op_type in WEIGHTED]
    residual: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type != RESIDUAL or RESIDUAL not in wanted:
            continue
        if patterns.get(node.name) or any(o in makes for o in node.output):
            continue
        place = _plain_branch(node, constants, producers, readers, weighted)
        if place is not None:
            residual[node.name] = place
    if not weighted:
        raise PipelineInvalid(nothing(present, left))
    return Choice(weighted, residual, left)


def _unfit(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> str | None:
    """Say why a weighted node cannot be quantised; None if it can."""
    weight = constants.get(node.input[1])
    if weight is None and node.op_type == "MatMul" and node.input[0] in constants:
        return "its constant stands on the left, where a runtime expects the activation"
    if weight is None:
        return "its weights are no constants"
    if weight.data_type != TensorProto.FLOAT:
        return f"its weights are {dtypes.dtype_name(weight.data_type)}"
    values = numpy_helper.to_array(weight)
    if not values.size or not np.isfinite(values).all():
        return "its weights are not finite" if values.size else "its weights are empty"
    if node.op_type in ("MatMul", "Gemm") and values.ndim != 2:
        return f"its weights have {values.ndim} axes, a runtime expects 2"
    return None


def _plain_branch(
    node: onnx.NodeProto,
    constants: Mapping[str, TensorProto],
    producers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, int],
    weighted: Mapping[str, str],
) -> int | None:
    """Give the index of a residual addition's input that is the plain branch; None if the addition is no residual one.

    The other input must come from a quantised convolution whose output nothing else reads: the runtime fuses the
    addition into that convolution.
    """
    if any(i in constants for i in node.input) or len(node.input) != 2 or node.input[0] == node.input[1]:
        return None
    ends = [
        bool((made := producers.get(i)) is not None and made.name in weighted and made.op_type == "Conv")
        and readers[i] == 1
        for i in node.input
    ]
    if ends[0] and ends[1]:  # a projection: the deeper branch ends in the later convolution
        order = {name: place for place, name in enumerate(weighted)}
        later = [order[producers[i].name] for i in node.input]
        return 0 if later[0] < later[1] else 1
    if ends[0] or ends[1]:
        return 1 if ends[0] else 0
    return None


def counts(ops: Mapping[str, int]) -> str:
    """Say how many nodes of each op there are, most first."""
    return ", ".join(f"{n} {op}" for op, n in sorted(ops.items(), key=lambda item: (-item[1], item[0])))


def nothing(present: Mapping[str, int], left: Sequence[Kept]) -> str:
    """Say why nothing can be quantised."""
    head = "nothing here can be quantised: "
    if left:
        whys = Counter((entry.op, entry.why) for entry in left)
        return head + "; ".join(f"{n} {op}: {why}" for (op, why), n in sorted(whys.items()))
    return (
        f"{head}the model has {counts(present)}, and only {', '.join(WEIGHTED)} (and a residual {RESIDUAL}) have a "
        "Q/DQ form that a runtime computes in int8"
    )
