"""Write a float32 ONNX model anew in float16 or bfloat16, for runtimes whose precision is what the model says.

The conversion is onnxruntime's float16 converter; around it stand a range guard (what overflows float16 stays
float32), repairs of what the converter leaves behind, and a check of the result against the original in
onnxruntime on seeded random inputs. bfloat16 has float32's range: there only the converter's structure is used,
and the weights are rounded anew from the originals.
"""

from __future__ import annotations

import difflib
import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtpipe.errors import GateFailed, PipelineInvalid, StageFailed
from trtpipe.models import onnxfile, trial

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

LARGEST = 65504.0
"""The largest finite float16."""
SMALLEST = 5.96e-08
"""The smallest positive float16, and with it the converter's clamp for smaller weights."""
SMALLEST_NORMAL = 6.104e-05
RAISED_TOLERANCE = 1e-3
"""How far (relative L2) a newer opset may move a model."""
HALF_SCALES = 19
"""The first opset in which QuantizeLinear takes half precision."""
QUANTISED_TOLERANCE = 0.2
"""Of a Q/DQ model: what half precision rounds may fall on the next step of an 8-bit scale."""
CHECKED = 8
"""Calibration runs that the range guard and the check see."""
HEADROOM = 2.0
"""An activation seen on random inputs within this factor of the largest float16 counts as overflowing."""
TOLERANCES = {"fp16": 5e-2, "bf16": 2e-1}
"""Largest relative L2 difference between original and rewritten outputs, unless a tolerance is given."""
FLOAT_OPS = {"fp16": (), "bf16": ("ConvTranspose", "HardSwish", "Mish")}
"""Ops that stay float32 beside those that onnxruntime's converter always keeps.
Source: each op tried alone on TensorRT-RTX 1.7.1; its parser or its builder refuses these in bfloat16."""


NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4,
          TensorProto.UINT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)  # fmt: skip
"""Types of weights that are of less than 32 bits."""
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Ops that multiply by weights."""
SCALES = ("Add", "BatchNormalization", "Div", "Mul", "Sub")
"""Ops that, beside one constant operand, builders fold into the product before them."""
TOLD = 5
"""Nodes left in float32 that are told one by one."""


class Kept(NamedTuple):
    """A node that stays in float32, and why."""

    node: str
    op: str
    why: str


def tell_kept(kept: Sequence[Mapping[str, str]], record: str, note: Callable[[str], None]) -> None:
    """Tell which nodes stay float32 and why: a few one by one, the rest as a number; `record` is the file with all."""
    for entry in kept[:TOLD]:
        note(f"stays float32: {entry['node']} [{entry['op']}], {entry['why']}")
    if len(kept) > TOLD:
        note(f"{len(kept) - TOLD} further nodes stay float32; {record} lists all, with the reasons")


def float_values(tensor: onnx.TensorProto) -> NDArray[Any]:
    """Give a tensor's values in float32, whatever float type it has."""
    values: NDArray[Any] = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)
    return values


def round_bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Round float32 to bfloat16 (nearest, ties to even), given as its 16 bits. NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Give the float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def matches(node: onnx.NodeProto, pattern: str) -> bool:
    """Tell whether a keep_fp32 pattern (shell wildcards) fits a node's name or op."""
    # A name may hold brackets, which a pattern takes for a choice of letters.
    return node.name == pattern or fnmatchcase(node.name, pattern) or fnmatchcase(node.op_type, pattern)


def matching_nodes(model: onnx.ModelProto, patterns: Iterable[str], param: str = "keep_fp32") -> dict[str, str]:
    """Give the named nodes that patterns fit, each with its pattern. Raises PipelineInvalid for one that fits none."""
    nodes = [found.node for found in onnxfile.walk(model)]
    chosen: dict[str, str] = {}
    for pattern in patterns:
        fitting = [n.name for n in nodes if n.name and matches(n, pattern)]
        if not fitting:
            known = sorted({n.name for n in nodes if n.name} | {n.op_type for n in nodes})
            close = difflib.get_close_matches(pattern, known, 3)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise PipelineInvalid(f"{param}: {pattern!r} fits no node's name or op{hint}")
        for name in fitting:
            chosen.setdefault(name, pattern)
    return chosen


def rewrite(
    path: Path,
    out: Path,
    precision: str,
    *,
    network: Mapping[str, Any],
    profiles: Sequence[Mapping[str, Mapping[str, Sequence[int]]]] = (),
    keep: Sequence[str] = (),
    tolerance: float | None = None,
    samples: trial.Samples | None = None,
    method: str = "onnxruntime",
    meet_tolerance: bool = False,
    folded: bool = False,
) -> dict[str, Any]:
    """Write the model at `path` in `precision` (fp16 or bf16) to `out` (a file), and check it.

    Inputs and outputs keep their types. `network` is network.json's record; shapes for the check come from the
    first profile's `opt`, with a batch (axis 0, if dynamic) of at most 2; with `samples` range guard and check use
    these instead of random inputs. `method` is onnxruntime (its converter) or autocast (modelopt's). With
    `meet_tolerance`, outputs beyond the tolerance keep more and more nodes in float32 until they are within it.
    With `folded`, what is kept because of its range takes the product before it along, into which builders fold it.
    A Q/DQ model is raised to opset 19, where scales may be half precision too. Gives the record for config.json:
    what stayed float32 and why, how much did not (`narrow`, a share of the weights), what was clamped, and the
    differences per output.

    Raises StageFailed if the model cannot be converted, GateFailed if the result differs more than the tolerance or
    is not finite, EnvironmentMissing without onnxruntime.
    """
    trial.onnxruntime()
    original = trial.whole(path)
    if precision == "bf16" and (half := has_half(original)):
        raise StageFailed(
            f"precision: bf16: the model holds float16 already ({half[0]}); "
            "use precision: model, or export it in float32"
        )
    quantised = is_quantised(original)
    raised, before = raise_opset(original, HALF_SCALES) if quantised else (original, None)
    work = _named(raised)
    kept = [Kept(n, _op(work, n), f"keep_fp32: {p}") for n, p in matching_nodes(work, keep).items()]
    feeds = trial.random_feeds(original, network["inputs"], profiles) if samples is None else samples.first(CHECKED)
    if before is not None and (problems := _moved(original, raised, feeds)):
        raise GateFailed(
            f"the model is of opset {before}, and ONNX's converter changes its results on the way to {HALF_SCALES} "
            f"(where scales may be half precision): {'; '.join(problems)}; export it with opset {HALF_SCALES}"
        )
    measured = None
    if precision == "fp16" and method == "onnxruntime":
        kept += _large_weights(work)
        measured = _large_activations(work, feeds if samples else feeds[:1], on="calibration data" if samples else "")
        kept += measured or ()
    if folded:
        kept += _folded_into(work, kept)
    unique: dict[str, Kept] = {}
    for entry in kept:
        unique.setdefault(entry.node, entry)
    weights = _float_tensors(work)
    default = QUANTISED_TOLERANCE if quantised else TOLERANCES[precision]
    limit = default if tolerance is None else tolerance
    how = "seeded random inputs" if samples is None else f"{len(feeds)} runs of {samples.label}"
    judge = _Judge(original, precision, feeds, plain=quantised)

    def attempt(names: Collection[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
        if method == "autocast":
            converted = _autocast(work, out.parent, precision, sorted(names), feeds[0] if samples else None)
        else:
            converted = _convert(work, precision, names, weights)
        onnxfile.save(converted, out)
        return judge(out, limit)

    outputs, problems = attempt(unique)
    if problems and meet_tolerance:
        searched = _search(work, unique, attempt, limit)
        for node in searched:
            unique.setdefault(node, Kept(node, _op(work, node), f"so that outputs stay within tolerance {limit:g}"))
        outputs, problems = attempt(unique)
    if problems:
        raise GateFailed(
            f"precision: {precision} changes the model's results too much (on {how.replace('seeded ', '')}):\n  "
            + "\n  ".join(dict.fromkeys(problems))
            + "\nName the nodes that need float32 in keep_fp32, raise tolerance, set meet_tolerance, "
            "or choose another precision"
        )
    judge.runs(out)
    floats = float_ops(precision) if method == "onnxruntime" else ()
    report: dict[str, Any] = {
        "precision": precision,
        "method": method,
        "kept": [entry._asdict() for entry in sorted(unique.values())],
        "ops_kept": sorted({f.node.op_type for f in onnxfile.walk(original)} & set(floats)),
        "activations_measured": measured is not None if precision == "fp16" else None,
        "narrow": round(_narrow(onnxfile.load(out), len(unique)), 4),
        "weights": _changes(weights, precision),
        "check": {
            "how": f"onnxruntime on the CPU, {how}{judge.remark}",
            "shapes": {name: list(np.shape(value)) for name, value in feeds[0].items()},
            "tolerance": limit,
            "outputs": outputs,
        },
    }
    if samples is None:
        report["check"]["seed"] = trial.SEED
    if method == "autocast":
        report["kept"] += [e._asdict() for e in _left_float(out, unique, "AutoCast's own rules")]
    return report


def _moved(original: onnx.ModelProto, raised: onnx.ModelProto, feeds: Sequence[trial.Feed]) -> list[str]:
    """Say how a newer opset changes a Q/DQ model's results, both without fusions; nothing if it does not run."""
    models = original.SerializeToString(), raised.SerializeToString()
    try:
        figures = trial.against(*models, feeds, what=f"opset {HALF_SCALES}", plain=True, both=True)
    except StageFailed:
        return []  # the check of the result that follows says so
    return trial.beyond(figures, RAISED_TOLERANCE)


def hold(path: Path, out: Path, precision: str, **how: Any) -> dict[str, Any]:
    """Find what must stay float32 where a runtime picks types by itself, and check that the rest may be half.

    `rewrite` tells both, takes the same (`how`) and raises the same; what it wrote is thrown away. If anything must
    stay, the model at `path` is written to `out` (a file) with a name for every node, by which a layer can be held in
    float32. Gives `rewrite`'s record.
    """
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        record = rewrite(path, Path(folder) / out.name, precision, folded=True, **how)
    if record["kept"]:
        onnxfile.save(_named(trial.whole(path)), out)
    return {name: record[name] for name in ("precision", "kept", "activations_measured", "narrow", "check")}


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give a copy of a model in which every node has a name of its own and every weight is an initialiser."""
    work = onnxfile.copied(model)
    # Old models list their weights among the inputs; the converter would leave those float32 and cast them.
    constants_are_no_inputs(work)
    onnxfile.name_nodes(work)
    hoist_constants(work)
    return work


def float_ops(precision: str) -> tuple[str, ...]:
    """Name the ops that stay float32 in every model."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    return tuple(sorted({*DEFAULT_OP_BLOCK_LIST, *FLOAT_OPS[precision]}))


def is_quantised(model: onnx.ModelProto) -> bool:
    """Tell whether a model has Q/DQ nodes."""
    return any(f.node.op_type in ("QuantizeLinear", "DequantizeLinear") for f in onnxfile.walk(model))


def has_half(model: onnx.ModelProto) -> list[str]:
    """Name the float16 weights, inputs and outputs of a model."""
    values = (*model.graph.input, *model.graph.output)
    half = [name for name, t in onnxfile.constants(model) if t.data_type == TensorProto.FLOAT16]
    return half + [v.name for v in values if onnxfile.value_dtype(v) == "float16"]


def _convert(
    work: onnx.ModelProto, precision: str, keep: Collection[str], weights: Mapping[str, NDArray[Any]]
) -> onnx.ModelProto:
    """Run onnxruntime's converter on a copy and repair what it leaves."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnxfile.copied(work)
    own = {found.node.name for found in onnxfile.walk(work)}
    try:
        converted: onnx.ModelProto = convert_float_to_float16(
            copy, keep_io_types=True, op_block_list=list(float_ops(precision)), node_block_list=sorted(keep)
        )
    except Exception as error:
        raise StageFailed(
            f"precision: {precision}: onnxruntime's converter fails on this model "
            f"({type(error).__name__}: {error}); use precision: model, or export it in {precision}"
        ) from error
    _drop_round_trips(converted, own)
    if precision == "bf16":
        _retarget(converted, weights)
    for _, graph in onnxfile.graphs(converted):
        graph.ClearField("value_info")
    sort(converted.graph)
    return converted


def _autocast(
    work: onnx.ModelProto, folder: Path, precision: str, keep: Sequence[str], feed: trial.Feed | None
) -> onnx.ModelProto:
    """Run modelopt's AutoCast, which reads and writes files, in a folder of its own."""
    import tempfile
    from pathlib import Path

    from trtpipe.models import modelopt

    with tempfile.TemporaryDirectory(dir=folder) as name:
        source = Path(name) / "model.onnx"
        onnxfile.save(onnxfile.copied(work), source)
        return modelopt.autocast(source, Path(name), precision, keep=keep, feed=feed)


def _left_float(path: Path, known: Collection[str], why: str) -> list[Kept]:
    """List the nodes that compute in float32 in a rewritten model, beyond those that are known."""
    try:
        typed = onnx.shape_inference.infer_shapes(trial.whole(path))
    except Exception:  # noqa: BLE001 - then the record says less
        return []
    single = {v.name for v in typed.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return [
        Kept(n.name, n.op_type, why)
        for n in typed.graph.node
        if n.op_type not in ("Cast", "Constant") and n.name not in known and any(o in single for o in n.output)
    ]


def _search(
    work: onnx.ModelProto,
    kept: Collection[str],
    attempt: Callable[[Collection[str]], tuple[dict[str, dict[str, Any]], list[str]]],
    limit: float,
) -> list[str]:
    """Find the fewest nodes, from the model's start or from its end, that must stay float32 for the tolerance.

    Rounding errors that begin early grow through all that follows; large values near the end have no need of
    float32 before them. Both are tried by halving, to a 32nd of the nodes, with a margin of a tenth.
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
            worst = max((f.get("relative_l2", 0.0) for f in outputs.values()), default=0.0)
            if problems or worst > 0.9 * limit:
                low = middle
            else:
                high = middle
        if high < len(best):
            best = order[:high]
    return list(best)


# -- before the conversion ---------------------------------------------------------------------------------------


def _op(model: onnx.ModelProto, name: str) -> str:
    return next(str(f.node.op_type) for f in onnxfile.walk(model) if f.node.name == name)


def raise_opset(model: onnx.ModelProto, least: int) -> tuple[onnx.ModelProto, int | None]:
    """Bring a model to an opset with ONNX's own converter. Gives (model, the opset before, None if none was needed).

    Raises StageFailed if the converter cannot.
    """
    before = onnxfile.opsets(model).get("ai.onnx", 0)
    if before >= least:
        return model, None
    copy = onnxfile.copied(model)
    copy.ir_version = max(copy.ir_version, 8)
    constants_are_no_inputs(copy)
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(copy, least)
    except Exception as error:
        text = " ".join(str(error).split())
        raise StageFailed(
            f"the model is of opset {before}, and ONNX's converter cannot raise it to {least}: {text}; "
            f"export it with opset {least} or later"
        ) from error
    for located in onnxfile.walk(converted):  # the converter leaves trailing inputs without a name
        while located.node.input and not located.node.input[-1]:
            located.node.input.pop()
    return converted, before


def constants_are_no_inputs(model: onnx.ModelProto) -> None:
    """Take the weights out of the inputs, where old models list them: they could not be folded or converted there."""
    weights = {t.name for t in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in weights]
    model.graph.ClearField("input")
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)


def hoist_constants(model: onnx.ModelProto) -> None:
    """Make initialisers of float Constant nodes, so that guard and converter see all weights in one way."""
    for _, graph in onnxfile.graphs(model):
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


def _float_tensors(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Give the float32 values of all initialisers, and of tensors in attributes as `node.attribute`."""
    found = {t.name: numpy_helper.to_array(t) for t in onnxfile.initializers(model) if t.data_type == TensorProto.FLOAT}
    for located in onnxfile.walk(model):
        for attribute in located.node.attribute:
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                found[f"{located.node.name}.{attribute.name}"] = numpy_helper.to_array(attribute.t)
    return found


def _largest(values: NDArray[Any]) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 0.0


def _large_weights(model: onnx.ModelProto) -> list[Kept]:
    """List the nodes that read a weight beyond float16 (an infinity is one in float16 too)."""
    large = {name: size for name, v in _float_tensors(model).items() if (size := _largest(v)) > LARGEST}
    kept = []
    for found in onnxfile.walk(model):
        node = found.node
        names = [*node.input, *(f"{node.name}.{a.name}" for a in node.attribute)]
        for name in names:
            if name in large:
                why = f"its weight {name} holds {large[name]:.4g}, beyond float16's {LARGEST:g}"
                kept.append(Kept(node.name, node.op_type, why))
                break
    return kept


def _folded_into(model: onnx.ModelProto, kept: Iterable[Kept]) -> list[Kept]:
    """List the products, and the scales between, into which a builder folds kept scales.

    TensorRT 8.6 folds a scale into the convolution before it whatever type the scale is to have: alone in float32, it
    would be computed in half precision all the same, with weights and results that may not fit.
    """
    producers = onnxfile.producers(model)
    nodes = {node.name: node for node in model.graph.node}
    weights = {t.name for t in model.graph.initializer}
    more: dict[str, Kept] = {}
    for entry in kept:
        node = nodes.get(entry.node)
        while node is not None and node.op_type in SCALES:
            data = [name for name in node.input if name and name not in weights]
            node = producers.get(data[0]) if len(data) == 1 else None
            if node is not None and node.op_type in (*SCALES, *PRODUCTS):
                more.setdefault(node.name, Kept(node.name, node.op_type, f"{entry.node} is folded into it"))
    return list(more.values())


def _large_activations(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, NDArray[Any]]], on: str = ""
) -> list[Kept] | None:
    """List the nodes that make or read activations near or beyond float16's end on these inputs.

    Gives None if this could not be measured (an op that cannot be observed so).
    """
    probe = onnxfile.copied(model)
    tensors = [v.name for v in probe.graph.input] + [o for n in probe.graph.node for o in n.output if o]
    try:
        typed = onnx.shape_inference.infer_shapes(probe)
        values = (*typed.graph.input, *typed.graph.value_info, *typed.graph.output)
        kinds = {v.name: onnxfile.value_dtype(v) for v in values}
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
        session = trial.Trial(probe.SerializeToString())
        runs = [session(feed) for feed in feeds]
    except Exception:  # noqa: BLE001 - as above: the check that follows judges the result anyway
        return None
    limit = LARGEST / HEADROOM
    large = {name: max(float(r[f"__max_{index}"]) for r in runs) for index, name in enumerate(watched)}
    # An infinity (an attention mask) is one in float16 too.
    large = {name: size for name, size in large.items() if limit < size < float("inf")}
    kept = []
    for node in model.graph.node:
        name = next((n for n in (*node.output, *node.input) if n in large), None)
        if name is not None:
            why = f"{name} reaches {large[name]:.2g} on {on or 'a random input'}, float16 ends at {LARGEST:g}"
            kept.append(Kept(node.name, node.op_type, why))
    return kept


def unseen(model: onnx.ModelProto) -> list[str]:
    """Name the If, Loop and Scan nodes whose bodies compute: neither range guard nor check look at values in there."""
    return [
        f"{node.name or node.op_type} [{node.op_type}]"
        for node in model.graph.node
        if any(n.op_type not in ("Constant", "Identity", "Cast") for g in _subgraphs(node) for n in g.node)
    ]


# -- after the conversion ----------------------------------------------------------------------------------------


def _cast_to(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "to"), 0) if node.op_type == "Cast" else 0


def _drop_round_trips(model: onnx.ModelProto, own: Collection[str]) -> None:
    """Hand float32 straight from one kept node to the next: the converter casts to float16 and back between them.

    `own` are the names of the model's own nodes; only other casts are touched. Beyond float16's range such a round
    trip would undo the range guard.
    """
    graph = model.graph

    def added(node: onnx.NodeProto) -> bool:
        return node.op_type == "Cast" and node.name not in own

    down = {n.output[0]: n.input[0] for n in graph.node if added(n) and _cast_to(n) == TensorProto.FLOAT16}
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    for node in graph.node:
        if added(node) and _cast_to(node) == TensorProto.FLOAT and node.input[0] in down:
            if node.output[0] in outputs:
                node.input[0] = down[node.input[0]]
            else:
                renamed[node.output[0]] = down[node.input[0]]
    for found in onnxfile.walk(model):
        for place, name in enumerate(found.node.input):
            if name in renamed:
                found.node.input[place] = renamed[name]
    used = onnxfile.read_names(model)
    # Two casts of one tensor to one type have one name in the converter: keep the first.
    seen: set[str] = set()
    kept = []
    for node in graph.node:
        if added(node) and (node.output[0] not in used or node.output[0] in seen):
            continue
        seen.update(node.output)
        kept.append(node)
    onnxfile.refill(graph.node, kept)


def _retarget(model: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]) -> None:
    """Turn what the converter made float16 into bfloat16, with the weights rounded from their float32 originals."""
    half, brain = TensorProto.FLOAT16, TensorProto.BFLOAT16

    def round_tensor(tensor: onnx.TensorProto, key: str) -> None:
        values = weights[key]
        name, dims = tensor.name, list(tensor.dims)
        tensor.Clear()
        tensor.name = name
        tensor.dims.extend(dims)
        tensor.data_type = brain
        tensor.raw_data = round_bfloat16(values).astype("<u2").tobytes()

    for tensor in onnxfile.initializers(model):
        if tensor.data_type == half:
            round_tensor(tensor, tensor.name)
    for found in onnxfile.walk(model):
        for attribute in found.node.attribute:
            if attribute.name in ("to", "dtype") and attribute.type == onnx.AttributeProto.INT and attribute.i == half:
                attribute.i = brain
            if attribute.HasField("t") and attribute.t.data_type == half:
                key = f"{found.node.name}.{attribute.name}"
                if key in weights:
                    round_tensor(attribute.t, key)
                else:  # a default that the converter spelled out: ConstantOfShape's zero
                    attribute.t.CopyFrom(helper.make_tensor(attribute.t.name, brain, list(attribute.t.dims), [0.0]))
    for _, graph in onnxfile.graphs(model):
        if isinstance(graph, onnx.GraphProto):
            for value in (*graph.input, *graph.output):
                if value.type.tensor_type.elem_type == half:
                    value.type.tensor_type.elem_type = brain


def sort(graph: onnx.GraphProto) -> None:
    """Put the nodes into an order in which each comes after what it reads; the converter appends its casts.

    Stable: nodes that do not wait for each other keep their order.
    """
    made = {name for node in graph.node for name in node.output if name}
    waiting = []
    for node in graph.node:
        needs = set(node.input)
        for inner in _subgraphs(node):
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
    onnxfile.refill(graph.node, order)


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [g for a in node.attribute for g in (*a.graphs, *([a.g] if a.HasField("g") else []))]


def _reads(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for inner in _subgraphs(node):
        names |= {name for found in inner.node for name in _reads(found)}
    return names


def _narrow(model: onnx.ModelProto, kept: int) -> float:
    """Give the share of a model's weights that are of less than 32 bits, or of its nodes where it has no weights."""
    wide = narrow = 0
    for _, tensor in onnxfile.constants(model):
        size = math.prod(tensor.dims)
        if tensor.data_type == TensorProto.FLOAT:
            wide += size
        elif tensor.data_type in NARROW:
            narrow += size
    if wide + narrow:
        return narrow / (wide + narrow)
    nodes = sum(1 for found in onnxfile.walk(model) if found.node.op_type not in ("Cast", "Constant"))
    return 1 - min(kept, nodes) / max(nodes, 1)


def _changes(weights: Mapping[str, NDArray[Any]], precision: str) -> dict[str, Any]:
    """Count the weights that the narrower type cannot hold as they are."""
    total = sum(v.size for v in weights.values())
    if precision == "bf16":
        return {"values": total}
    tiny = subnormal = 0
    for values in weights.values():
        size = np.abs(values[values != 0])
        tiny += int((size < SMALLEST).sum())
        subnormal += int(((size >= SMALLEST) & (size < SMALLEST_NORMAL)).sum())
    return {"values": total, "raised_to_smallest": tiny, "subnormal": subnormal}


# -- the check ---------------------------------------------------------------------------------------------------


def emulated(path: Path, narrow_type: int = TensorProto.BFLOAT16) -> tuple[bytes, bool]:
    """Give a half-precision model in float32, with its weights rounded, and whether activations are too.

    onnxruntime's CPU kernels cannot compute in bfloat16, and many have no float16 either: it then lets whole runs of
    nodes compute in float32, and their errors do not show. A cast to the narrow type and back rounds what each node
    makes. Casts know bfloat16 from opset 13 on.
    """
    model = trial.whole(path)
    single = TensorProto.FLOAT
    narrow: set[str] = set()
    if narrow_type == TensorProto.FLOAT16 or onnxfile.opsets(model).get("ai.onnx", 0) >= 13:
        try:
            typed = onnx.shape_inference.infer_shapes(model)
        except Exception:  # noqa: BLE001 - then the weights alone are rounded, and the record says so
            typed = onnx.ModelProto()
        narrow = {v.name for v in typed.graph.value_info if v.type.tensor_type.elem_type == narrow_type}
    for tensor in onnxfile.initializers(model):
        if tensor.data_type == narrow_type:
            tensor.CopyFrom(numpy_helper.from_array(_widened(tensor), tensor.name))
    for found in onnxfile.walk(model):
        for attribute in found.node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == narrow_type:
                attribute.i = single
            if attribute.HasField("t") and attribute.t.data_type == narrow_type:
                attribute.t.CopyFrom(numpy_helper.from_array(_widened(attribute.t)))
    for node in list(model.graph.node):
        for place, name in enumerate(node.output):
            if name in narrow:
                node.output[place] = f"{name}__exact"
                model.graph.node.append(helper.make_node("Cast", [f"{name}__exact"], [f"{name}__bits"], to=narrow_type))
                model.graph.node.append(helper.make_node("Cast", [f"{name}__bits"], [name], to=single))
    for _, graph in onnxfile.graphs(model):
        graph.ClearField("value_info")  # which says the old types; AutoCast leaves it
        if isinstance(graph, onnx.GraphProto):
            for value in (*graph.input, *graph.output):
                if value.type.tensor_type.elem_type == narrow_type:
                    value.type.tensor_type.elem_type = single
    sort(model.graph)
    return model.SerializeToString(deterministic=True), bool(narrow)


def _widened(tensor: onnx.TensorProto) -> NDArray[Any]:
    if tensor.data_type == TensorProto.BFLOAT16 and tensor.HasField("raw_data"):
        return from_bfloat16(np.frombuffer(tensor.raw_data, "<u2")).reshape(list(tensor.dims))
    return float_values(tensor)


class _Judge:
    """Compares a rewritten model's outputs with the original's, which are computed once."""

    def __init__(
        self, original: onnx.ModelProto, precision: str, feeds: Sequence[Mapping[str, NDArray[Any]]], *, plain: bool
    ) -> None:
        self._precision, self._feeds, self._plain = precision, feeds, plain
        self._type, self._name = {
            "fp16": (TensorProto.FLOAT16, "float16"), "bf16": (TensorProto.BFLOAT16, "bfloat16"),
        }[precision]  # fmt: skip
        # What was float16 before is as exact as it can be: there is nothing to round, and its inputs stay float16.
        self._emulates = precision == "bf16" or not has_half(original)
        self.remark = ""
        try:
            session = trial.Trial(original.SerializeToString(), plain=plain)
            self._expected = [session(feed) for feed in feeds]
        except Exception as error:
            raise StageFailed(f"onnxruntime cannot run the original model to check against: {error}") from error

    def __call__(self, path: Path, limit: float) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Give the differences an output, and what is wrong with them. Raises StageFailed if it does not run."""
        target: bytes | str = str(path)
        if self._emulates:
            target, activations = emulated(path, self._type)
            rounded = "weights and activations" if activations else "weights (activations are not)"
            self.remark = f"; {self._name} is emulated: float32 with rounded {rounded}"
        outputs: dict[str, dict[str, Any]] = {}
        problems = []
        found_all = self._run(target, self._feeds)
        for expected, found in zip(self._expected, found_all, strict=True):
            for name, wanted in expected.items():
                figures = trial.compare(wanted, found[name])
                before = outputs.setdefault(name, figures)
                for key, value in figures.items():
                    before[key] = max(before[key], value) if key in before else value
                if figures.get("shape_differs"):
                    problems.append(f"{name}: its shape changed")
                elif not figures.get("finite", True):
                    problems.append(f"{name}: not finite where the original is")
        problems += trial.beyond(outputs, limit)
        return outputs, problems

    def runs(self, path: Path) -> None:
        """Run the rewritten model itself once. Raises StageFailed if it does not run."""
        if self._emulates and self._precision == "fp16":  # the CPU has no kernels for bfloat16
            self._run(str(path), self._feeds[:1])

    def _run(self, model: bytes | str, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, NDArray[Any]]]:
        try:
            session = trial.Trial(model, plain=self._plain)
            return [session(feed) for feed in feeds]
        except Exception as error:
            raise StageFailed(
                f"precision: {self._precision}: onnxruntime cannot run the rewritten model ({error}); "
                "use precision: model, or name nodes in keep_fp32"
            ) from error
