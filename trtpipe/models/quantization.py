"""Write a float32 ONNX model anew with Q/DQ nodes, in the form that TensorRT fuses into int8 kernels.

onnxruntime's static quantiser calibrates the ranges and places the Q/DQ nodes. Before it, the model is converted to an
opset that has per-channel Q/DQ, and its BatchNormalizations are folded (TensorRT cannot fold one behind a quantised
weight). Only the inputs of chosen nodes (`quantizable`) are quantised, so that the runtime chooses the type of their
outputs. Of a residual addition only the plain branch is quantised, so that the runtime can fuse the addition into the
convolution at the end of the other branch. Afterwards every scale is checked (`qdq`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import onnx

from trtpipe.documents.quantisation import Opset, Quantised
from trtpipe.errors import GateFailed, StageFailed
from trtpipe.models import (
    calibration,
    deviation,
    dtypes,
    feeding,
    folding,
    onnxfile,
    onnxgraph,
    ort_cpu,
    qdq,
    quantizable,
)
from trtpipe.models.opset import RAISED_TOLERANCE, raise_opset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

OPSET = 13
"""The first opset in which Q/DQ nodes have an axis, which per-channel scales need."""
CHECKED = 8
"""Calibration runs that the result is compared on."""
TOLERANCE = 0.5
"""Largest relative L2 difference of an output, unless a tolerance is given. Beyond it the model is of little use."""
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


def int8(
    path: Path,
    out: Path,
    scratch: Path,
    samples: feeding.Samples,
    *,
    method: str = "minmax",
    percentile: float = 99.99,
    per_channel: bool = True,
    ops: Sequence[str] = (),
    exclude: Sequence[str] = (),
    opset: int | None = None,
    progress: Any = lambda *_: None,
) -> Quantised:
    """Write the model at `path` with int8 Q/DQ nodes to `out` (a file). Gives what was done.

    Raises PipelineInvalid for what cannot be quantised, StageFailed for scales that are missing or wrong.
    """
    original = onnxfile.whole(path)
    quantizable.refuse_quantised(original, path.name)
    work, before = raise_opset(onnxgraph.copied(original), max(OPSET, opset or 0))
    onnxgraph.constants_are_no_inputs(work)
    onnxgraph.name_nodes(work)
    onnxgraph.hoist_constants(work)
    for node in work.graph.node:
        if node.op_type == "Sum" and len(node.input) == 2 and not node.domain:
            node.op_type = quantizable.RESIDUAL  # the same operation; only Add has a Q/DQ form
    _plain_gemms(work)
    feeds = samples.first(CHECKED)
    if before is not None and (why := _changed(path, work, scratch, feeds, f"raising it to opset {OPSET}")):
        raise GateFailed(
            f"{path.name} is of opset {before}, and ONNX's converter changes its results on the way to "
            f"{onnxgraph.opsets(work)['ai.onnx']}: {why}; export it with opset {OPSET} or later"
        )
    named = onnxgraph.copied(work)
    work, unfolded = folding.fold(work, scratch)
    if unfolded is None and (why := _changed(path, work, scratch, feeds, "folding")):
        work, unfolded = onnxgraph.copied(named), f"it would change the results: {why}"
    onnxgraph.name_nodes(work)
    onnxgraph.hoist_constants(work)
    choice = quantizable.choose(work, named, ops=ops, exclude=exclude)
    _own_biases(work, choice.weighted)
    wanted = [*choice.weighted, *choice.residual]
    types = sorted({*choice.weighted.values(), *([quantizable.RESIDUAL] if choice.residual else [])})
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
            # Histograms need whole tensors, so calibrate one run at a time. minmax keeps two numbers a tensor anyway.
            **({} if method == "minmax" else {"CalibStridedMinMax": 1}),
        },
    }
    result = _quantise(work, scratch, calibration.Reader(samples, progress), method, settings)
    _only_chosen(result, choice)
    _sweep(result)
    for _, graph in onnxgraph.graphs(result):
        graph.ClearField("value_info")
    onnxgraph.sort(result.graph)
    imports = [i for i in result.opset_import if i.domain in ("", *(d.domain for d in work.opset_import))]
    result.ClearField("opset_import")
    result.opset_import.extend(imports)
    onnxgraph.restore(result, original)
    idle = qdq.check_scales(result, choice.weighted)
    onnxfile.save(onnxgraph.copied(result), out)
    quantised = Counter([*choice.weighted.values(), *(quantizable.RESIDUAL for _ in choice.residual)])
    return Quantised(
        mode="int8",
        method=method,
        percentile=percentile if method == "percentile" else None,
        per_channel=per_channel,
        opset=Opset(
            before=before or onnxgraph.opsets(original).get("ai.onnx"),
            after=onnxgraph.opsets(result).get("ai.onnx"),
        ),
        folded=unfolded is None,
        not_folded=unfolded or None,
        quantized=dict(sorted(quantised.items())),
        nodes=tuple(sorted(wanted)),
        left=tuple(choice.left),
        never_active=tuple(idle),
    )


def _plain_gemms(model: onnx.ModelProto) -> None:
    """Set every Gemm's beta to 1 and scale its bias by beta before it: onnxruntime's quantiser ignores beta."""
    constants = {t.name: t for t in model.graph.initializer}
    taken = {*constants, *onnxgraph.read_names(model), *(o for f in onnxgraph.walk(model) for o in f.node.output)}
    nodes = []
    for node in model.graph.node:
        beta = next((a for a in node.attribute if a.name == "beta"), None)
        if node.op_type == "Gemm" and not node.domain and beta is not None and beta.f != 1:
            node.attribute.remove(beta)
            bias = node.input[2] if len(node.input) > 2 else ""
            if bias and not beta.f:
                del node.input[2]
            elif bias:  # folding turns it into one constant, if possible
                kind = next((constants[i].data_type for i in node.input if i in constants), onnx.TensorProto.FLOAT)
                by, node.input[2] = onnxgraph.fresh(f"{bias}_beta", taken), onnxgraph.fresh(f"{bias}_scaled", taken)
                model.graph.initializer.append(onnx.helper.make_tensor(by, kind, [], [beta.f]))
                nodes.append(onnx.helper.make_node("Mul", [bias, by], [node.input[2]], name=node.input[2]))
        nodes.append(node)
    onnxgraph.refill(model.graph.node, nodes)


def _changed(
    original: Path, changed: onnx.ModelProto, scratch: Path, feeds: Sequence[feeding.Feed], what: str
) -> str | None:
    """Say how a prepared model's results differ from the original's; None if they do not."""
    path = scratch / "prepared.onnx"
    onnxfile.save(onnxgraph.copied(changed), path)
    try:
        problems = deviation.beyond(deviation.against(original, path, feeds, what=what), RAISED_TOLERANCE)
    except StageFailed as error:
        return str(error)
    return "; ".join(problems) or None


def _own_biases(model: onnx.ModelProto, weighted: Mapping[str, str]) -> None:
    """Give nodes that share a bias one copy each. The quantiser would do so too, but under names that may be in use."""
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
            copy.name = node.input[2] = onnxgraph.fresh(name, taken, "__")
        seen.add(name)


def _quantise(
    model: onnx.ModelProto, scratch: Path, reader: calibration.Reader, method: str, settings: Mapping[str, Any]
) -> onnx.ModelProto:
    """Run onnxruntime's static quantiser without its output and warnings."""
    ort_cpu.onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    source, target = scratch / "float.onnx", scratch / "quantised.onnx"
    large = sum(dtypes.tensor_bytes(t) for t in onnxgraph.initializers(model)) > onnxfile.INLINE_LIMIT
    onnxfile.save(onnxgraph.copied(model), source)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # on the root logger it recommends steps that are done already
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), calibration.taught():
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
        return onnxfile.whole(target)
    except StageFailed:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise StageFailed(f"onnxruntime's quantiser fails on this model ({type(error).__name__}: {text})") from error
    finally:
        root.setLevel(level)


def _only_chosen(model: onnx.ModelProto, choice: quantizable.Choice) -> None:
    """Remove the Q/DQ pairs from inputs that were not chosen.

    The quantiser puts one before every reader of a tensor that one chosen node reads. It also puts one before both
    branches of a residual addition, where only the plain branch must have one.
    """
    producers = onnxgraph.producers(model)
    for node in model.graph.node:
        if node.name in choice.weighted or node.op_type in qdq.MARKS:
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
        read = onnxgraph.read_names(model)
        kept = [n for n in graph.node if any(o in read for o in n.output)]
        if len(kept) == len(graph.node):
            break
        onnxgraph.refill(graph.node, kept)
    weights = [t for t in graph.initializer if t.name in read]
    if len(weights) != len(graph.initializer):
        onnxgraph.refill(graph.initializer, weights)
