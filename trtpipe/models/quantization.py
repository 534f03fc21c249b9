"""Write a float32 ONNX model anew with Q/DQ nodes, in the form that TensorRT fuses into int8 kernels.

The ranges and the Q/DQ nodes are onnxruntime's static quantiser's. Around it: the model is brought to an opset that
has per-channel Q/DQ and its BatchNormalizations are folded (TensorRT cannot fold one behind a quantised weight);
only what gains is quantised, and only on the input side, so that the runtime chooses what a layer writes; of a
residual addition only the branch that no convolution ends in is quantised, so that the other one's convolution can
take the addition in. Afterwards every scale is checked, and the result is compared with the original.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from trtpipe.errors import GateFailed, PipelineInvalid, StageFailed
from trtpipe.models import onnxfile, precision, trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

OPSET = 13
"""The first opset in which Q/DQ have an axis."""
WEIGHTED = precision.PRODUCTS
"""What is quantised: products with constant weights."""
RESIDUAL = "Add"
OPS = (*WEIGHTED, RESIDUAL)
MARKS = ("QuantizeLinear", "DequantizeLinear")
INTEGER = re.compile(
    r"^(QLinear.*|DynamicQuantize.*|MatMulInteger|ConvInteger|MatMulNBits|QGemm|DynamicQuantizeLinear)$"
)
LEAST = 2
"""Fewer calibration samples than this say nothing of a range."""
FEW = 16
"""With fewer calibration samples than this the stage says so."""
CHECKED = 8
"""Calibration runs that the result is compared on."""
TOLERANCE = 0.5
"""Largest relative L2 difference of an output, unless a tolerance is given: beyond it little of the model is left."""
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


class Left(NamedTuple):
    """A node that stays in float32 though a model's time may go there, and why."""

    node: str
    op: str
    why: str


class Choice(NamedTuple):
    """What is quantised: weighted nodes, residual additions (each with the place of its plain branch), what is left."""

    weighted: dict[str, str]
    residual: dict[str, int]
    left: list[Left]


def refuse_quantised(model: onnx.ModelProto, label: str) -> None:
    """Raise PipelineInvalid for a model that holds quantised or half-precision parts already."""
    marks = [f for f in onnxfile.walk(model) if f.node.op_type in MARKS or INTEGER.match(f.node.op_type)]
    if marks:
        kinds = ", ".join(f"{n} {op}" for op, n in sorted(Counter(f.node.op_type for f in marks).items()))
        raise PipelineInvalid(
            f"{label} is quantised already ({kinds}; first {onnxfile.node_label(marks[0])}); "
            "give the float32 model that it was made of, or leave this stage out"
        )
    half = [
        name for name, t in onnxfile.constants(model) if onnxfile.dtype_name(t.data_type) in ("float16", "bfloat16")
    ]
    if half:
        raise PipelineInvalid(
            f"{label} holds half-precision weights ({half[0]}); quantise the float32 model: "
            "precision: fp16 in configure makes the rest half afterwards"
        )


def fold(model: onnx.ModelProto, scratch: Path, *, batch_norms: bool = True) -> tuple[onnx.ModelProto, str | None]:
    """Fold constants and BatchNormalizations with onnxruntime's basic level, which stays within ONNX's operators.

    Gives (model, why it was left alone). Files go to `scratch`, a folder.
    """
    module = trial.onnxruntime()
    source, target = scratch / "folding.onnx", scratch / "folded.onnx"
    plain = onnxfile.copied(model)
    precision.constants_are_no_inputs(plain)  # else they could be overridden, and would not be folded
    onnxfile.save(plain, source)
    options = module.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = module.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    disabled = [] if batch_norms else ["ConvBNFusion", "ConvMulFusion", "ConvAddFusion"]
    try:
        module.InferenceSession(str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
        folded = trial.whole(target)
    except Exception as error:  # noqa: BLE001  a model that it cannot load is judged where it is checked
        return model, " ".join(str(error).split())
    before = {(n.domain or "ai.onnx", n.op_type) for n in (f.node for f in onnxfile.walk(model))}
    domains = {domain for domain, _ in before}
    foreign = sorted({f.node.op_type for f in onnxfile.walk(folded) if (f.node.domain or "ai.onnx") not in domains})
    if foreign:
        return model, f"folding would bring in {', '.join(foreign)}, which only onnxruntime knows"
    used = {f.node.domain or "" for f in onnxfile.walk(folded)} | {""}
    imports = [i for i in folded.opset_import if (i.domain if i.domain != "ai.onnx" else "") in used]
    folded.ClearField("opset_import")
    folded.opset_import.extend(imports)
    folded.ir_version = model.ir_version
    restore(folded, model)
    return folded, None


def restore(changed: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Keep what belongs to the model and not to its nodes: metadata, names and shapes of inputs and outputs."""
    changed.ClearField("metadata_props")
    changed.metadata_props.extend(model.metadata_props)
    for name in ("producer_name", "producer_version", "domain", "doc_string"):
        setattr(changed, name, getattr(model, name))
    for mine, theirs in ((changed.graph.input, model.graph.input), (changed.graph.output, model.graph.output)):
        known = {v.name: v for v in theirs}
        for value in mine:
            if value.name in known:
                value.CopyFrom(known[value.name])


# -- what is quantised -------------------------------------------------------------------------------------------


def choose(
    model: onnx.ModelProto, original: onnx.ModelProto, *, ops: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Choice:
    """Choose the nodes to quantise. `original` is the model before folding: patterns are about its names.

    Raises PipelineInvalid for a pattern that fits nothing, an op that has no Q/DQ form, and if nothing is left.
    """
    present = Counter(f.node.op_type for f in onnxfile.walk(original))
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
    patterns = precision.matching_nodes(original, exclude, "exclude")
    # Folding may have given a node another name; what it makes has kept its own.
    makes = {
        o: patterns[f.node.name] for f in onnxfile.walk(original) if f.node.name in patterns for o in f.node.output
    }
    constants = {t.name: t for t in model.graph.initializer}
    producers = onnxfile.producers(model)
    readers = Counter(i for n in model.graph.node for i in n.input)
    readers.update(v.name for v in model.graph.output)
    weighted: dict[str, str] = {}
    left: list[Left] = []
    for node in model.graph.node:
        pattern = patterns.get(node.name) or next((makes[o] for o in node.output if o in makes), None)
        if node.op_type not in WEIGHTED:
            if node.op_type in ("LSTM", "GRU", "RNN", "Attention"):
                left.append(Left(node.name, node.op_type, "has no Q/DQ form"))
            continue
        if pattern is not None:
            left.append(Left(node.name, node.op_type, f"exclude: {pattern}"))
        elif node.op_type not in wanted:
            left.append(Left(node.name, node.op_type, "not among params.ops"))
        elif why := _unfit(node, constants):
            left.append(Left(node.name, node.op_type, why))
        else:
            weighted[node.name] = node.op_type
    for scope, graph in onnxfile.graphs(model):
        if scope:
            left += [Left(n.name, n.op_type, f"inside {scope}") for n in graph.node if n.op_type in WEIGHTED]
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
    weight = constants.get(node.input[1])
    if weight is None and node.op_type == "MatMul" and node.input[0] in constants:
        return "its constant stands on the left, where a runtime expects the activation"
    if weight is None:
        return "its weights are no constants"
    if weight.data_type != TensorProto.FLOAT:
        return f"its weights are {onnxfile.dtype_name(weight.data_type)}"
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
    """Give which input of a residual addition is the plain branch; None if the addition is none.

    The other one must be made by a quantised convolution that nothing else reads: that one takes the addition in.
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


def nothing(present: Mapping[str, int], left: Sequence[Left]) -> str:
    """Say why nothing can be quantised."""
    head = "nothing here can be quantised: "
    if left:
        whys = Counter((entry.op, entry.why) for entry in left)
        return head + "; ".join(f"{n} {op}: {why}" for (op, why), n in sorted(whys.items()))
    return (
        f"{head}the model has {counts(present)}, and only {', '.join(WEIGHTED)} (and a residual {RESIDUAL}) have a "
        "Q/DQ form that a runtime computes in int8"
    )


# -- calibration -------------------------------------------------------------------------------------------------


def check_samples(samples: trial.Samples) -> list[str]:
    """Look at calibration data before minutes are spent on it. Gives remarks.

    Raises PipelineInvalid for none or too few samples, NaN or infinities, and for inputs that never change.
    """
    if samples.total and samples.count < LEAST:
        raise PipelineInvalid(
            f"{samples.label}: found {samples.count} sample, expected at least {LEAST}: "
            "one sample says nothing of a range"
        )
    if not check_values(samples):
        raise PipelineInvalid(
            f"{samples.label}: all {samples.count} samples are the same one; calibration needs data like what the "
            "model will see"
        )
    if samples.count < FEW:
        return [f"only {samples.count} calibration samples: ranges may be too narrow (a few hundred are usual)"]
    return []


def check_values(samples: trial.Samples) -> bool:
    """Look at the values of calibration data. Tells whether any two samples differ.

    Raises PipelineInvalid for no samples, NaN or infinities, and for inputs that have one value alone.
    """
    if not samples.total:
        raise PipelineInvalid(
            f"{samples.label} holds no samples; calibration needs at least {LEAST}, a few hundred are usual"
        )
    moved = False
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    first: dict[str, NDArray[Any]] = {}
    for number, feed in enumerate(samples):
        for name, array in feed.items():
            if array.dtype.kind == "f":
                bad = int((~np.isfinite(array)).sum())
                if bad:
                    raise PipelineInvalid(
                        f"{samples.label}[{name}]: found {bad} value{'s that are' if bad > 1 else ' that is'} NaN or "
                        f"infinite in calibration run {number}, expected numbers"
                    )
            if array.size:
                lowest[name] = min(lowest.get(name, np.inf), float(array.min()))
                highest[name] = max(highest.get(name, -np.inf), float(array.max()))
            moved = moved or (name in first and not np.array_equal(first[name], array))
            if samples.rows > 1 and array.ndim and len(array) > 1:
                moved = moved or bool((array[1:] != array[:1]).any())
            first.setdefault(name, array)
    still = {f.name for f in samples.fed if f.how == "constant"}
    floats = sorted(n for n in lowest if n not in still and first[n].dtype.kind == "f")
    flat = [n for n in floats if lowest[n] == highest[n]]
    if flat and flat == floats:  # one among others may be a factor that is always 1
        raise PipelineInvalid(
            f"{samples.label}: every value of {', '.join(f'{n} is {lowest[n]:g}' for n in flat)}; calibration needs "
            "data like what the model will see"
        )
    return moved


class _Reader:
    """Feeds onnxruntime's calibrator, one run a stride, so that memory does not grow with the data."""

    def __init__(self, samples: trial.Samples, progress: Any) -> None:
        self._samples, self._progress = samples, progress
        self._feeds: Iterator[trial.Feed] = iter(samples)
        self._left = samples.runs
        self._done = 0

    def __len__(self) -> int:
        return self._samples.runs

    def set_range(self, start_index: int, end_index: int) -> None:
        """Let so many runs through; they come in order."""
        self._left = end_index - start_index

    def get_next(self) -> trial.Feed | None:
        """Give the next feed, or None at the end of the range."""
        if not self._left:
            return None
        self._left -= 1
        self._done += 1
        self._progress(self._done, self._samples.runs, "calibration runs")
        return next(self._feeds, None)

    def __iter__(self) -> Iterator[trial.Feed]:
        return self

    def __next__(self) -> trial.Feed:
        feed = self.get_next()
        if feed is None:
            raise StopIteration
        return feed


# -- int8 --------------------------------------------------------------------------------------------------------


def int8(
    path: Path,
    out: Path,
    scratch: Path,
    samples: trial.Samples,
    *,
    method: str = "minmax",
    percentile: float = 99.99,
    per_channel: bool = True,
    ops: Sequence[str] = (),
    exclude: Sequence[str] = (),
    opset: int | None = None,
    progress: Any = lambda *_: None,
) -> dict[str, Any]:
    """Write the model at `path` with int8 Q/DQ nodes to `out` (a file). Gives the record for quantize.json.

    Raises PipelineInvalid for what cannot be quantised, StageFailed for scales that are missing or wrong.
    """
    original = trial.whole(path)
    refuse_quantised(original, path.name)
    work, before = precision.raise_opset(onnxfile.copied(original), max(OPSET, opset or 0))
    precision.constants_are_no_inputs(work)
    onnxfile.name_nodes(work)
    precision.hoist_constants(work)
    for node in work.graph.node:
        if node.op_type == "Sum" and len(node.input) == 2 and not node.domain:
            node.op_type = RESIDUAL  # the same thing; only Add has a Q/DQ form
    _plain_gemms(work)
    feeds = samples.first(CHECKED)
    if before is not None and (why := _changed(path, work, scratch, feeds, f"raising it to opset {OPSET}")):
        raise GateFailed(
            f"{path.name} is of opset {before}, and ONNX's converter changes its results on the way to "
            f"{onnxfile.opsets(work)['ai.onnx']}: {why}; export it with opset {OPSET} or later"
        )
    named = onnxfile.copied(work)
    work, unfolded = fold(work, scratch)
    if unfolded is None and (why := _changed(path, work, scratch, feeds, "folding")):
        work, unfolded = onnxfile.copied(named), f"it would change the results: {why}"
    onnxfile.name_nodes(work)
    precision.hoist_constants(work)
    choice = choose(work, named, ops=ops, exclude=exclude)
    _own_biases(work, choice.weighted)
    wanted = [*choice.weighted, *choice.residual]
    types = sorted({*choice.weighted.values(), *([RESIDUAL] if choice.residual else [])})
    settings = {
        "op_types_to_quantize": types,
        "nodes_to_quantize": list(wanted),
        "per_channel": per_channel,
        "extra_options": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "DedicatedQDQPair": True,
            "QuantizeBias": False,
            "QDQDisableWeightAdjustForInt32Bias": True,
            "OpTypesToExcludeOutputQuantization": types,
            "CalibPercentile": percentile,
            # Histograms need whole tensors: one run at a time. For minmax two numbers a tensor come back anyway.
            **({} if method == "minmax" else {"CalibStridedMinMax": 1}),
        },
    }
    result = _quantise(work, scratch, _Reader(samples, progress), method, settings)
    _only_chosen(result, choice)
    _sweep(result)
    for _, graph in onnxfile.graphs(result):
        graph.ClearField("value_info")
    precision.sort(result.graph)
    imports = [i for i in result.opset_import if i.domain in ("", *(d.domain for d in work.opset_import))]
    result.ClearField("opset_import")
    result.opset_import.extend(imports)
    restore(result, original)
    idle = check_scales(result, choice)
    onnxfile.save(onnxfile.copied(result), out)
    return {
        "mode": "int8",
        "method": method,
        **({"percentile": percentile} if method == "percentile" else {}),
        "per_channel": per_channel,
        "opset": {"before": before or onnxfile.opsets(original).get("ai.onnx"),
                  "after": onnxfile.opsets(result).get("ai.onnx")},
        "folded": unfolded is None,
        **({"not_folded": unfolded} if unfolded else {}),
        "quantized": dict(sorted(Counter([*choice.weighted.values(), *(RESIDUAL for _ in choice.residual)]).items())),
        "nodes": sorted(wanted),
        "left": [entry._asdict() for entry in choice.left],
        "never_active": idle,
    }  # fmt: skip


def _plain_gemms(model: onnx.ModelProto) -> None:
    """Give every Gemm a beta of 1, with the bias scaled before it: onnxruntime's quantiser drops beta."""
    constants = {t.name: t for t in model.graph.initializer}
    taken = {*constants, *onnxfile.read_names(model), *(o for f in onnxfile.walk(model) for o in f.node.output)}
    nodes = []
    for node in model.graph.node:
        beta = next((a for a in node.attribute if a.name == "beta"), None)
        if node.op_type == "Gemm" and not node.domain and beta is not None and beta.f != 1:
            node.attribute.remove(beta)
            bias = node.input[2] if len(node.input) > 2 else ""
            if bias and not beta.f:
                del node.input[2]
            elif bias:  # folding makes one constant of it, if it can
                kind = next((constants[i].data_type for i in node.input if i in constants), onnx.TensorProto.FLOAT)
                by, node.input[2] = onnxfile.fresh(f"{bias}_beta", taken), onnxfile.fresh(f"{bias}_scaled", taken)
                model.graph.initializer.append(onnx.helper.make_tensor(by, kind, [], [beta.f]))
                nodes.append(onnx.helper.make_node("Mul", [bias, by], [node.input[2]], name=node.input[2]))
        nodes.append(node)
    onnxfile.refill(model.graph.node, nodes)


def _changed(
    original: Path, changed: onnx.ModelProto, scratch: Path, feeds: Sequence[trial.Feed], what: str
) -> str | None:
    """Say how a model that was prepared differs from the original; None if it does not."""
    path = scratch / "prepared.onnx"
    onnxfile.save(onnxfile.copied(changed), path)
    try:
        problems = trial.beyond(trial.against(original, path, feeds, what=what), precision.RAISED_TOLERANCE)
    except StageFailed as error:
        return str(error)
    return "; ".join(problems) or None


def _own_biases(model: onnx.ModelProto, weighted: Mapping[str, str]) -> None:
    """Give nodes that share a bias one each: the quantiser would, under names that may be taken."""
    taken = {t.name for t in model.graph.initializer} | {v.name for v in model.graph.input}
    taken |= {o for n in model.graph.node for o in n.output}
    constants = {t.name: t for t in model.graph.initializer}
    seen: set[str] = set()
    for node in model.graph.node:
        if node.name not in weighted or len(node.input) < 3 or node.input[2] not in constants:
            continue
        name = node.input[2]
        if name in seen:
            copy = model.graph.initializer.add()
            copy.CopyFrom(constants[name])
            copy.name = node.input[2] = onnxfile.fresh(name, taken, "__")
        seen.add(name)


def _quantise(
    model: onnx.ModelProto, scratch: Path, reader: _Reader, method: str, settings: Mapping[str, Any]
) -> onnx.ModelProto:
    """Run onnxruntime's static quantiser, quietly."""
    trial.onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    source, target = scratch / "float.onnx", scratch / "quantised.onnx"
    large = sum(onnxfile.tensor_bytes(t) for t in onnxfile.initializers(model)) > onnxfile.INLINE_LIMIT
    onnxfile.save(onnxfile.copied(model), source)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends what has been done, and says so on the root logger
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            quantize_static(
                str(source),
                str(target),
                reader,
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=getattr(CalibrationMethod, METHODS[method]),
                use_external_data_format=large,
                **settings,
            )
        return trial.whole(target)
    except StageFailed:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise StageFailed(f"onnxruntime's quantiser fails on this model ({type(error).__name__}: {text})") from error
    finally:
        root.setLevel(level)


def _only_chosen(model: onnx.ModelProto, choice: Choice) -> None:
    """Take the Q/DQ pairs off what was not chosen.

    The quantiser puts one before every reader of a tensor that one chosen node reads; and before both branches of a
    residual addition, of which the one that ends in a convolution shall have none.
    """
    producers = onnxfile.producers(model)
    for node in model.graph.node:
        if node.name in choice.weighted or node.op_type in MARKS:
            continue
        keeps = choice.residual.get(node.name)
        for place, name in enumerate(node.input):
            dequantize = producers.get(name)
            if place == keeps or dequantize is None or dequantize.op_type != "DequantizeLinear":
                continue
            quantize = producers.get(dequantize.input[0])
            if quantize is not None and quantize.op_type == "QuantizeLinear":
                node.input[place] = quantize.input[0]


def _sweep(model: onnx.ModelProto) -> None:
    """Drop nodes and initialisers that nothing reads any more."""
    graph = model.graph
    while True:
        read = onnxfile.read_names(model)
        kept = [n for n in graph.node if any(o in read for o in n.output)]
        if len(kept) == len(graph.node):
            break
        onnxfile.refill(graph.node, kept)
    weights = [t for t in graph.initializer if t.name in read]
    if len(weights) != len(graph.initializer):
        onnxfile.refill(graph.initializer, weights)


def check_scales(model: onnx.ModelProto, choice: Choice | None = None) -> list[str]:
    """Check every Q/DQ node's scale and zero point, and that what was chosen is quantised on both sides.

    Gives the tensors that were 0 in every calibration run. Raises StageFailed that lists scales that are missing,
    not positive, different within one pair, or different for one tensor.
    """
    constants = {t.name: t for t in model.graph.initializer}
    for found in onnxfile.walk(model):
        if found.node.op_type == "Constant" and found.node.attribute[0].name == "value":
            constants[found.node.output[0]] = found.node.attribute[0].t
    producers = onnxfile.producers(model)
    problems: list[str] = []
    scales: dict[str, tuple[str, NDArray[Any]]] = {}
    idle: list[str] = []
    for node in model.graph.node:
        if node.op_type not in MARKS:
            continue
        tensor = node.input[0]
        scale = constants.get(node.input[1]) if len(node.input) > 1 else None
        if scale is None:
            problems.append(f"{node.name} ({node.op_type} of {tensor}): its scale is missing")
            continue
        values = precision.float_values(scale)
        if not values.size or not np.isfinite(values).all() or (values <= 0).any():
            problems.append(f"{node.name} ({node.op_type} of {tensor}): its scale is {values.ravel()[:3].tolist()}")
            continue
        if node.op_type == "QuantizeLinear":
            if tensor in scales and not np.array_equal(scales[tensor][1], values):
                problems.append(f"{tensor} has two different scales, in {scales[tensor][0]} and {node.name}")
            scales.setdefault(tensor, (node.name, values))
            zero = constants.get(node.input[2]) if len(node.input) > 2 else None
            if zero is not None and zero.data_type == TensorProto.INT8 and numpy_helper.to_array(zero).any():
                problems.append(f"{node.name}: its zero point is not 0, TensorRT takes symmetric ranges only")
        else:
            maker = producers.get(tensor)
            if maker is not None and maker.op_type == "QuantizeLinear" and maker.input[1] != node.input[1]:
                theirs = constants.get(maker.input[1])
                if theirs is None or not np.array_equal(precision.float_values(theirs), values):
                    problems.append(f"{maker.name} and {node.name} are one pair with two different scales")
    if choice is not None:
        nodes = {n.name: n for n in model.graph.node}
        for name, op in choice.weighted.items():
            sides = [producers.get(i) for i in nodes[name].input[:2]] if name in nodes else [None]
            if any(side is None or side.op_type != "DequantizeLinear" for side in sides):
                problems.append(f"{name} ({op}): the quantiser gave it no scale on both sides")
            else:
                quantize = producers.get(sides[0].input[0]) if sides[0] is not None else None
                if quantize is not None and float(scales[quantize.input[0]][1].max()) < np.finfo(np.float32).tiny * 1e6:
                    idle.append(quantize.input[0])
    if problems:
        raise StageFailed("the quantised model's scales are not right:\n  " + "\n  ".join(problems))
    return sorted(set(idle))
