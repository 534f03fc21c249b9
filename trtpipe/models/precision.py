"""Make a float32 ONNX model half precision: rewrite it, or find the nodes that a runtime must hold in float32.

`rewrite` is for runtimes that compute in the model's own types (strongly typed). The range guard finds the nodes that
would overflow float16; they stay float32. The rest is converted, and the result is checked against the original in
onnxruntime. If outputs are beyond the tolerance, a search can find more nodes to keep in float32. `hold` is for
runtimes that choose types by themselves: it finds the nodes whose layers need a precision constraint.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto

from trtpipe.documents.checks import Check
from trtpipe.documents.config import Hold, Kept, Rewrite, WeightChanges
from trtpipe.errors import GateFailed, StageFailed
from trtpipe.models import (
    deviation,
    feeding,
    float16_range,
    half_conversion,
    kept_nodes,
    modelopt,
    onnxfile,
    onnxgraph,
    opset,
    ort_cpu,
    precision_check,
    qdq,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from trtpipe.documents.checks import Difference
    from trtpipe.documents.config import Shapes, Values
    from trtpipe.documents.network import Tensor

HALF_SCALES = 19
"""The first opset in which QuantizeLinear takes half precision."""
QUANTISED_TOLERANCE = 0.2
"""The tolerance for a Q/DQ model: a value in half precision may round to the next step of an 8-bit scale."""
CHECKED = 8
"""Calibration runs that the range guard and the check use."""
TOLERANCES = {"fp16": 5e-2, "bf16": 2e-1}
"""Largest relative L2 difference between original and rewritten outputs, unless a tolerance is given."""
NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4,
          TensorProto.UINT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)  # fmt: skip
"""Types of weights with less than 32 bits."""


def rewrite(
    path: Path,
    out: Path,
    precision: Literal["fp16", "bf16"],
    *,
    inputs: Sequence[Tensor],
    profiles: Sequence[Mapping[str, Shapes | Values]] = (),
    keep: Sequence[str] = (),
    tolerance: float | None = None,
    samples: feeding.Samples | None = None,
    method: Literal["onnxruntime", "autocast"] = "onnxruntime",
    meet_tolerance: bool = False,
    folded: bool = False,
    on_cpu: bool = True,
    figure: Callable[[str, float, str, bool | None], None] = lambda *_: None,
) -> Rewrite:
    """Write the model at `path` in `precision` (fp16 or bf16) to `out` (a file), and check it.

    Inputs and outputs keep their types. `inputs` are the model's; shapes for the check come from the first
    profile's `opt`, with a batch (axis 0, if dynamic) of at most 2. With `samples`, range guard and check use
    these instead of random inputs. `method` is onnxruntime (its converter) or autocast (modelopt's). With
    `meet_tolerance`, outputs beyond the tolerance keep more and more nodes in float32 until they are within it.
    With `on_cpu`, the result must run in onnxruntime, which lacks kernels that TensorRT has.
    With `folded`, a scale that is kept keeps the product before it too, into which builders fold it. `figure` is told
    each output's difference, its rule, and whether it meets it, also where the check fails.
    A Q/DQ model is converted to opset 19, where scales may be half precision too. Gives what was
    done to the model.

    Raises StageFailed if the model cannot be converted, GateFailed if the result differs more than the tolerance or
    is not finite, EnvironmentMissing without onnxruntime.
    """
    ort_cpu.onnxruntime()
    original = onnxfile.whole(path)
    if precision == "bf16" and (half := onnxgraph.has_half(original)):
        raise StageFailed(
            f"precision: bf16: the model holds float16 already ({half[0]}); "
            "use precision: model, or export it in float32"
        )
    quantised = qdq.is_quantised(original)
    raised, before = opset.raise_opset(original, HALF_SCALES) if quantised else (original, None)
    work = _named(raised)
    kept = [
        Kept(node=n, op=_op(work, n), why=f"keep_fp32: {p}") for n, p in onnxgraph.matching_nodes(work, keep).items()
    ]
    feeds = feeding.random_feeds(original, inputs, profiles) if samples is None else samples.first(CHECKED)
    if before is not None and (problems := _moved(original, raised, feeds)):
        raise GateFailed(
            f"the model is of opset {before}, and ONNX's converter changes its results on the way to {HALF_SCALES} "
            f"(where scales may be half precision): {'; '.join(problems)}; export it with opset {HALF_SCALES}"
        )
    measured = None
    if precision == "fp16" and method == "onnxruntime":
        kept += float16_range.large_weights(work)
        measured = float16_range.large_activations(work, feeds, on="calibration data" if samples else "")
        kept += measured or ()
    if folded:
        kept += float16_range.folded_into(work, kept)
    elif method == "onnxruntime":
        kept += half_conversion.stays(work, precision)
    unique: dict[str, Kept] = {}
    for entry in kept:
        unique.setdefault(entry.node, entry)
    weights = onnxgraph.float_tensors(work)
    default = QUANTISED_TOLERANCE if quantised else TOLERANCES[precision]
    limit = default if tolerance is None else tolerance
    how = feeding.told(original, inputs) if samples is None else f"{len(feeds)} runs of {samples.label}"
    judge = precision_check.Judge(original, precision, feeds, plain=quantised, drawn=samples is None)

    def attempt(names: Collection[str]) -> tuple[dict[str, Difference], list[str]]:
        if method == "autocast":
            converted = _autocast(work, out.parent, precision, sorted(names), feeds[0] if samples else None)
        else:
            converted = half_conversion.convert(work, precision, names)
        onnxfile.save(converted, out)
        return judge(out, limit)

    outputs, problems = attempt(unique)
    if problems and meet_tolerance:
        searched = _search(work, unique, attempt, limit)
        for node in searched:
            unique.setdefault(
                node, Kept(node=node, op=_op(work, node), why=f"so that outputs stay within tolerance {limit:g}")
            )
        outputs, problems = attempt(unique)
    deviation.tell(outputs, limit, figure)
    if problems:
        raise GateFailed(
            f"precision: {precision} changes the model's results too much (on {how.replace('seeded ', '')}):\n  "
            + "\n  ".join(dict.fromkeys(problems))
            + "\nName the nodes that need float32 in keep_fp32, raise tolerance, set meet_tolerance, "
            "or choose another precision"
        )
    judge.runs(out, must=on_cpu)
    floats = half_conversion.float_ops(precision) if method == "onnxruntime" else ()
    stayed = sorted(unique.values(), key=lambda one: one.node)
    if method == "autocast":
        stayed += _left_float(out, unique, "AutoCast's own rules")
    return Rewrite(
        precision=precision,
        method=method,
        kept=tuple(stayed),
        ops_kept=tuple(sorted({f.node.op_type for f in onnxgraph.walk(original)} & set(floats))),
        activations_measured=measured is not None if precision == "fp16" else None,
        narrow=round(_narrow(onnxfile.load(out), len(unique)), 4),
        weights=_changes(weights, precision),
        check=Check(
            how=f"onnxruntime on the CPU, {how}{judge.remark}",
            shapes={name: tuple(np.shape(value)) for name, value in feeds[0].items()},
            tolerance=limit,
            outputs=outputs,
            seed=feeding.SEED if samples is None else None,
        ),
    )


def _moved(original: onnx.ModelProto, raised: onnx.ModelProto, feeds: Sequence[feeding.Feed]) -> list[str]:
    """Say how a newer opset changes a Q/DQ model's results (without fusions); nothing if it does not run."""
    models = original.SerializeToString(), raised.SerializeToString()
    try:
        figures = deviation.against(*models, feeds, what=f"opset {HALF_SCALES}", plain=True, both=True)
    except StageFailed:
        return []  # the check of the result, which follows, reports it
    return deviation.beyond(figures, opset.RAISED_TOLERANCE)


def hold(path: Path, out: Path, precision: Literal["fp16", "bf16"], **how: Any) -> Hold:
    """Find the nodes that must stay float32 where a runtime chooses types itself, and check the rest in half precision.

    `rewrite` does both: `how` are its arguments, and its errors are raised. The model that it writes is deleted. If any
    node must stay float32, the model at `path` is written to `out` (a file) with a name for every node, by which a
    layer can be held in float32.
    """
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        done = rewrite(path, Path(folder) / out.name, precision, folded=True, **how)
    if done.kept:
        onnxfile.save(_named(onnxfile.whole(path)), out)
    return Hold(**{name: getattr(done, name) for name in Hold.__struct_fields__})


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give a copy of a model in which every node has a unique name and every weight is an initialiser."""
    work = onnxgraph.copied(model)
    if work.functions:
        work = onnx.inliner.inline_local_functions(work)
    # Old models list their weights among the inputs; the converter would leave those float32 and cast them.
    onnxgraph.constants_are_no_inputs(work)
    onnxgraph.name_nodes(work)
    onnxgraph.hoist_constants(work)
    return work


def _autocast(
    work: onnx.ModelProto, folder: Path, precision: str, keep: Sequence[str], feed: feeding.Feed | None
) -> onnx.ModelProto:
    """Run modelopt's AutoCast, which reads and writes files, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source = Path(name) / "model.onnx"
        onnxfile.save(onnxgraph.copied(work), source)
        return modelopt.autocast(source, Path(name), precision, keep=keep, feed=feed)


def _left_float(path: Path, known: Collection[str], why: str) -> list[Kept]:
    """List the nodes that compute in float32 in a rewritten model, beyond those that are known."""
    try:
        typed = onnx.shape_inference.infer_shapes(onnxfile.whole(path))
    except Exception:  # noqa: BLE001 - then the record lacks these nodes
        return []
    single = {v.name for v in typed.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return [
        kept_nodes.kept(n, why)
        for n in typed.graph.node
        if n.op_type not in ("Cast", "Constant") and n.name not in known and any(o in single for o in n.output)
    ]


def _search(
    work: onnx.ModelProto,
    kept: Collection[str],
    attempt: Callable[[Collection[str]], tuple[dict[str, Difference], list[str]]],
    limit: float,
) -> list[str]:
    """Find the fewest nodes, from the model's start or from its end, that must stay float32 for the tolerance.

    Rounding errors that begin early grow through all nodes that follow; large values near the end need no float32 in
    the nodes before them. Both directions are bisected to a 32nd of the nodes, with a tenth of the tolerance as margin.
    """
    names = [n.name for n in work.graph.node if n.op_type != "Constant"]
    step = max(1, len(names) // 32)
    best = names
    for reverse in (False, True):
        order = names[::-1] if reverse else names
        low, high = 0, len(order)
        while high - low > step:
            middle = (low + high) // 2
            outputs, problems = attempt({*kept, *order[:middle]})
            worst = max((f.relative_l2 or 0.0 for f in outputs.values()), default=0.0)
            if problems or worst > 0.9 * limit:
                low = middle
            else:
                high = middle
        if high < len(best):
            best = order[:high]
    return list(best)


def _op(model: onnx.ModelProto, name: str) -> str:
    return next(str(f.node.op_type) for f in onnxgraph.walk(model) if f.node.name == name)


def _narrow(model: onnx.ModelProto, kept: int) -> float:
    """Give the share of the weights with less than 32 bits; without weights, the share of nodes not kept."""
    wide = narrow = 0
    for _, tensor in onnxgraph.constants(model):
        size = math.prod(tensor.dims)
        if tensor.data_type == TensorProto.FLOAT:
            wide += size
        elif tensor.data_type in NARROW:
            narrow += size
    if wide + narrow:
        return narrow / (wide + narrow)
    nodes = sum(1 for found in onnxgraph.walk(model) if found.node.op_type not in ("Cast", "Constant"))
    return 1 - min(kept, nodes) / max(nodes, 1)


def _changes(weights: Mapping[str, NDArray[Any]], precision: str) -> WeightChanges:
    """Count the weights that the narrower type cannot hold as they are."""
    total = sum(v.size for v in weights.values())
    if precision == "bf16":
        return WeightChanges(values=total)
    tiny = subnormal = 0
    for values in weights.values():
        size = np.abs(values[values != 0])
        tiny += int((size < float16_range.SMALLEST).sum())
        subnormal += int(((size >= float16_range.SMALLEST) & (size < float16_range.SMALLEST_NORMAL)).sum())
    return WeightChanges(values=total, raised_to_smallest=tiny, subnormal=subnormal)
