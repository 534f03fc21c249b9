"""An engine's first answer, held against ONNX Runtime's on the model as it was parsed.

A runtime can be wrong by itself: TensorRT-RTX 1.4 computes a bilinear GridSample as the nearest one, and no log says
so. Wherever an engine first runs, one sample goes through the parsed model in ONNX Runtime too, node by node.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trtpipe.data import elements
from trtpipe.documents.checks import Difference
from trtpipe.errors import EnvironmentMissing, GateFailed, StageFailed
from trtpipe.models import bisection, deviation, dtypes, onnxfile, onnxgraph, ort_cpu
from trtpipe.runtime import Pending
from trtpipe.store.files import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from trtpipe.documents.buffers import Buffers
    from trtpipe.documents.config import Config
    from trtpipe.documents.manifest import Manifest
    from trtpipe.runtime import Session
    from trtpipe.stage import Context

BOUNDS = {"model": 0.02, "fp32": 0.02, "tf32": 0.02, "fp16": 0.05, "bf16": 0.2}
"""Largest relative L2 by the precision that was asked for. Sound engines are far below, wrong ones far above."""
HELD = {"float16": 0.05, "bfloat16": 0.2}
"""The same where the model itself holds such types."""
QUANTISED = 0.2
"""The same for Q/DQ models: a value at the edge between two steps falls to either side."""
SLACK = 1.5
"""Of a tolerance that somebody gave in `configure`: how much more the engine may differ than the model in trial."""
OTHERS = 0.1
"""The largest share of whole numbers, or of truth values, that may be others where nothing is rounded."""
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
Arrays = dict[str, "NDArray[Any]"]


def bound(model: onnx.ModelProto, config: Config) -> float:
    """Give the largest relative L2 that an engine's outputs may have, by how it was configured."""
    limits = [BOUNDS[config.precision]]
    kinds = {dtypes.dtype_name(tensor.data_type) for tensor in onnxgraph.initializers(model)}
    kinds |= {dtypes.value_dtype(value) for value in (*model.graph.input, *model.graph.output)}
    limits += [limit for kind, limit in HELD.items() if kind in kinds]
    if any(found.node.op_type in ("QuantizeLinear", "DequantizeLinear") for found in onnxgraph.walk(model)):
        limits.append(QUANTISED)
    if change := config.rewrite or config.hold:
        limits.append(change.check.tolerance * SLACK)
    return max(limits)


def unchecked(model: onnx.ModelProto) -> str | None:
    """Say why a model has no answer to hold one against; None if it has."""
    local = {(f.domain, f.name) for f in model.functions}
    for found in onnxgraph.walk(model):
        node = found.node
        if node.op_type in RANDOM and node.domain in DOMAINS[:2]:
            return f"the model draws random numbers ({onnxgraph.node_label(found)} [{node.op_type}])"
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in local:
            return f"ONNX Runtime has no operator {node.domain}:{node.op_type}"
    return None


def check(
    ctx: Context,
    session: Session,
    manifest: Manifest,
    buffers: Buffers,
    feeds: Iterable[Mapping[str, NDArray[Any] | Pending]],
) -> None:
    """Hold an engine's answer to the first of `feeds` (batches) against ONNX Runtime's, and tell what came of it.

    Once for an engine and a profile. `ctx.params.check` is what the user wants. Raises GateFailed past the bound, with
    outputs and figures.
    """
    asked = ctx.params.check
    if asked == "off":
        ctx.note("unchecked: check is off")
        return
    if manifest.parsed is None or manifest.bound is None:
        return
    limit = manifest.bound if asked == "auto" else asked.relative_l2
    kept = ctx.shared / "checked" / f"{manifest.key}-{buffers.profile}.json"
    known = _kept(kept)
    if known is not None and not _problems(known, limit, manifest.precision):
        ctx.note(f"checked before against ONNX Runtime: {_text(known, limit)}")
        return
    path = ctx.inputs["engine"].path(manifest.parsed)
    whole = _read_first(feeds)
    try:
        wanted, found = _both(path, session, manifest, buffers, whole)
    except _Unchecked as why:
        ctx.note(f"unchecked: {why}")
        return
    figures = {name: deviation.compare(wanted[name], found[name]) for name in wanted}
    problems = _problems(figures, limit, manifest.precision)
    if problems:
        lines = "\n  ".join(problems)
        first = _first_wrong(ctx, manifest, path, whole, limit)
        raise GateFailed(
            f"{manifest.runtime} {manifest.runtime_version} answers otherwise than ONNX Runtime on the model as it was "
            f"parsed (one sample, bound {limit:g}):\n  {lines}\n{first}if this is meant so, write "
            "check: {relative_l2: …} or check: off in params of this stage"
        )
    ctx.note(f"checked against ONNX Runtime: {_text(figures, limit)}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_file(str(kept), msgspec.json.encode(figures))


class _Unchecked(Exception):
    """Why there is no answer to hold one against."""


def _both(path: Path, session: Session, manifest: Manifest, buffers: Buffers, whole: Arrays) -> tuple[Arrays, Arrays]:
    """Give ONNX Runtime's outputs and the engine's: of the first sample if the model takes it alone, else of all."""
    if why := unchecked(onnxfile.load(path)):
        raise _Unchecked(why)
    try:
        reference = ort_cpu.Session(path, plain=True)
    except EnvironmentMissing:
        raise _Unchecked("onnxruntime is not installed") from None
    except Exception as error:
        raise _Unchecked(f"ONNX Runtime cannot load the model ({_words(error)})") from error
    own = {b.name: elements.in_memory(b.model_dtype) for b in manifest.side("input") if b.model_dtype}
    given = {name: array.astype(own.get(name, array.dtype)) for name, array in whole.items()}
    made = {name: np.array(array) for name, array in session.run(whole).items()}
    axes = {b.name: b.batch_axis for b in buffers.bindings}
    dims = {b.name: b.dims for b in manifest.bindings}
    free = all(axis is None or isinstance(dims[name][axis], str) for name, axis in axes.items())
    alone = buffers.batch > 1 and free and all(axes[b.name] is not None for b in manifest.side("output"))
    why = ""
    for one in (True, False) if alone else (False,):
        try:
            wanted = reference({name: _first(array, axes[name]) if one else array for name, array in given.items()})
        except Exception as error:  # noqa: BLE001  whatever ONNX Runtime raises is why
            why = _words(error)
            continue
        found = {name: _first(array, axes[name]) if one else array for name, array in made.items()}
        return _plain(wanted), _plain(found)
    raise _Unchecked(f"ONNX Runtime cannot run the model ({why})")


def _first(array: NDArray[Any], axis: int | None) -> NDArray[Any]:
    return array if axis is None else np.ascontiguousarray(np.take(array, [0], axis=axis))


def _plain(arrays: Arrays) -> Arrays:
    """Give floats that NumPy lacks as float32, which holds each of them."""
    return {name: array.astype(np.float32) if array.dtype.kind == "V" else array for name, array in arrays.items()}


def _read_first(feeds: Iterable[Mapping[str, NDArray[Any] | Pending]]) -> Arrays:
    ordered = iter(feeds)  # held while the first one is read: the files are open as long
    return {name: _filled(given) for name, given in next(ordered).items()}


def _filled(given: NDArray[Any] | Pending) -> NDArray[Any]:
    if not isinstance(given, Pending):
        return given
    array = np.empty(given.shape, given.dtype)
    given.fill(array)
    return array


def _problems(figures: Mapping[str, Difference], limit: float, precision: str) -> list[str]:
    exact = precision in ("model", "fp32") and limit < HELD["float16"]
    found = []
    for name, one in figures.items():
        if one.not_finite:
            found.append(f"{name}: {one.not_finite} values are not finite, and are finite in ONNX Runtime")
        elif one.relative_l2 is not None and one.relative_l2 > limit:
            found.append(f"{name}: relative L2 {one.relative_l2:.3g}, largest difference {one.max_abs:.3g}")
        elif exact and one.differing is not None and one.differing > OTHERS:
            found.append(f"{name}: {one.differing:.1%} of its values are others")
        elif exact and one.shape_differs:
            found.append(f"{name}: its shape is another one")
    return found


def _text(figures: Mapping[str, Difference], limit: float) -> str:
    parts = []
    for name, one in figures.items():
        if one.relative_l2 is not None:
            parts.append(f"{name} {one.relative_l2:.1g}")
        elif one.shape_differs:
            parts.append(f"{name} has another shape")
        elif one.differing:
            parts.append(f"{name} {one.differing:.1%} others")
        else:
            parts.append(f"{name} equal")
    shown = parts if len(parts) <= 4 else [*parts[:4], f"{len(parts) - 4} more"]
    return f"relative L2 of one sample: {', '.join(shown)} (bound {limit:g})"


def _first_wrong(ctx: Context, manifest: Manifest, path: Path, feed: Arrays, limit: float) -> str:
    """Name the first node whose result is wrong, where the plan is a model itself; a line of its own, or nothing."""
    if manifest.runtime != "onnxruntime":
        return ""
    plan = ctx.inputs["engine"].path(manifest.plan)
    try:
        first = bisection.layers(path, plan, [feed], bound=limit, on="the first sample").first
    except StageFailed:
        return ""
    return f"the first wrong result is that of {first.node} [{first.op}]\n" if first else ""


def _kept(path: Path) -> dict[str, Difference] | None:
    try:
        return msgspec.convert(json.loads(path.read_bytes()), dict[str, Difference])
    except (OSError, ValueError, msgspec.ValidationError):
        return None


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + " …"
