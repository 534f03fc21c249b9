"""Find the first node of a changed ONNX model whose result is wrong: compare all tensors of both models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from msgspec.structs import asdict

from trtpipe.documents.comparison import Bisect, Inner
from trtpipe.errors import StageFailed
from trtpipe.models import deviation, emulation, feeding, onnxfile, onnxgraph, ort_cpu

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CHUNK = 64
"""Tensors that are held in memory at a time."""
SHOWN = 20


def marked(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """Give the model with these tensors as its outputs."""
    copy = onnxgraph.copied(model)
    copy.graph.ClearField("output")
    known = {v.name: v for v in (*model.graph.output, *model.graph.value_info)}
    for name in names:
        # onnxruntime infers the type of an output that has none.
        copy.graph.output.append(known.get(name, onnx.ValueInfoProto(name=name)))
    return bytes(copy.SerializeToString())


def _candidate(path: Path) -> onnx.ModelProto:
    """Load a changed model; half precision inside it is emulated."""
    model = onnxfile.whole(path)
    outside = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    for narrow in (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16):
        if narrow not in outside and any(t.data_type == narrow for t in onnxgraph.initializers(model)):
            return onnx.load_model_from_string(emulation.emulated(path, narrow)[0])
    return model


def layers(reference: Path, candidate: Path, feeds: Sequence[feeding.Feed], *, bound: float, on: str) -> Bisect:
    """Compare every tensor that both models make, in the reference's order.

    A node is named first if its relative L2 error exceeds `bound`; `on` says what `feeds` are. Raises StageFailed if
    the models share no tensor or do not run.
    """
    right, wrong = onnxfile.whole(reference), _candidate(candidate)
    onnxgraph.name_nodes(right)
    made = {o for n in wrong.graph.node for o in n.output}
    order = {o: n for n in right.graph.node if n.op_type != "Constant" for o in n.output if o and o in made}
    if not order:
        raise StageFailed("the two models share no tensor by name: the bisect compares a model with its own rewrite")
    found: list[Inner] = []
    names = list(order)
    for start in range(0, len(names), CHUNK):
        part = names[start : start + CHUNK]
        try:
            # Fusions would change the inner tensors, and the int8 kernels of some CPUs saturate.
            one, other = (ort_cpu.Session(marked(m, part), plain=True) for m in (right, wrong))
            differences = deviation.Differences()
            for feed in feeds:
                differences.add(one(feed), other(feed))
        except Exception as error:
            text = " ".join(str(error).split())
            raise StageFailed(
                f"the bisect cannot run the models with their inner tensors as outputs: {text}"
            ) from error
        figures = differences.figures()
        for name in part:
            difference = figures.get(name)
            if difference is not None and difference.relative_l2 is not None:
                node = order[name]
                found.append(Inner(tensor=name, node=node.name, op=node.op_type, **asdict(difference)))
    first = next((inner for inner in found if inner.relative_l2 > bound or inner.not_finite), None)
    errors = {inner.tensor: inner.relative_l2 for inner in found}
    jump, growth = None, 0.0
    for inner in found:
        before = max((errors.get(i, 0.0) for i in order[inner.tensor].input), default=0.0)
        if inner.relative_l2 - before > growth:
            jump, growth = inner, inner.relative_l2 - before
    worst = sorted(found, key=lambda inner: -inner.relative_l2)[:SHOWN]
    return Bisect(on=on, bound=bound, compared=len(found), first=first, jump=jump, layers=tuple(worst))
