"""An engine's first answer, held against ONNX Runtime's on the model as it was parsed.

A runtime can be wrong by itself: TensorRT-RTX 1.4 computes a bilinear GridSample as the nearest one, and no log says
so. Wherever an engine first runs, its first batch goes through the parsed model in ONNX Runtime too, node by node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trtpipe.data import elements
from trtpipe.documents.checks import Difference  # noqa: TC001 — msgspec reads it
from trtpipe.errors import EnvironmentMissing, GateFailed
from trtpipe.models import deviation, dtypes, onnxfile, onnxgraph, ort_cpu, wrong_node
from trtpipe.runtime import Pending
from trtpipe.store.files import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from trtpipe.documents.config import Config
    from trtpipe.runtime import Engine, Session
    from trtpipe.stage import Context

BOUNDS = {"model": 0.02, "fp32": 0.02, "tf32": 0.02, "fp16": 0.05, "bf16": 0.2}
"""Largest relative L2 by the precision that was asked for. Sound engines are far below, wrong ones far above."""
HELD = {"float16": 0.05, "bfloat16": 0.2}
"""The same where the model itself holds such types."""
QUANTISED = 0.3
"""The same for Q/DQ models: a value at the edge between two steps falls to either side, and the int8 kernels of older
processors saturate."""
EACH = 3
"""How many times the bound a single sample of a batch may differ: a wrong one must not be lost among many."""
SLACK = 1.5
"""Of a tolerance that somebody gave in `configure`: how much more the engine may differ than the model in trial."""
OTHERS = 0.1
"""The largest share of whole numbers, or of truth values, that may be others where nothing is rounded."""
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
Arrays = dict[str, "NDArray[Any]"]


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was found, as it is kept: the difference of each output over so many samples, and its worst sample."""

    samples: int
    outputs: dict[str, Difference]
    worst: dict[str, tuple[int, float]]
    """Of outputs whose samples can be told apart: the sample with the largest relative L2, and that."""


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
    engine: Engine,
    feeds: Iterable[Mapping[str, NDArray[Any] | Pending]],
) -> None:
    """Hold an engine's answer to the first of `feeds` (batches) against ONNX Runtime's, and tell what came of it.

    The batch must be within the bound, and each of its samples within EACH times the bound. Once for an engine and a
    profile. `ctx.params.check` is what the user wants. Raises GateFailed past the bound, with outputs and figures.
    """
    asked, manifest = ctx.params.check, engine.manifest
    if asked == "off":
        ctx.note("unchecked: check is off")
        return
    if manifest.parsed is None or manifest.bound is None:
        return
    limit = manifest.bound if asked == "auto" else asked.relative_l2
    kept = ctx.shared / "checked" / f"{manifest.key}-{engine.buffers.profile}.json"
    known = _kept(kept)
    if known is not None and not _problems(known, limit, manifest.precision):
        ctx.note(f"checked before against ONNX Runtime: {_text(known, limit)}")
        return
    model = onnxfile.load(engine.plan.parent / manifest.parsed)
    if why := unchecked(model):
        ctx.note(f"unchecked: {why}")
        return
    whole = _read_first(feeds)
    own = {b.name: elements.in_memory(b.model_dtype) for b in manifest.side("input") if b.model_dtype}
    given = {name: array.astype(own.get(name, array.dtype)) for name, array in whole.items()}
    try:
        answer = _answer(session, engine, whole, given)
    except _Unchecked as why:
        ctx.note(f"unchecked: {why}")
        return
    problems = _problems(answer, limit, manifest.precision)
    if problems:
        lines = "\n  ".join(problems)
        first = wrong_node.first(ctx, engine, whole, given, bound=limit)
        raise GateFailed(
            f"{manifest.runtime} {manifest.runtime_version} answers otherwise than ONNX Runtime on the model as it was "
            f"parsed ({_samples(answer)}, bound {limit:g}):\n  {lines}\n{first}\nif this is meant so, write "
            "check: {relative_l2: …} or check: off in params of this stage"
        )
    ctx.note(f"checked against ONNX Runtime: {_text(answer, limit)}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_file(str(kept), msgspec.json.encode(answer))


class _Unchecked(Exception):
    """Why there is no answer to hold one against."""


def _answer(session: Session, engine: Engine, whole: Arrays, given: Arrays) -> Answer:
    """Compare ONNX Runtime's outputs with the engine's: of all samples, or of the first if the model takes it alone."""
    manifest, buffers = engine.manifest, engine.buffers
    try:
        reference = ort_cpu.Session(engine.plan.parent / str(manifest.parsed), plain=True)
    except EnvironmentMissing:
        raise _Unchecked("onnxruntime is not installed") from None
    except Exception as error:
        raise _Unchecked(f"ONNX Runtime cannot load the model ({_words(error)})") from error
    made = {name: np.array(array) for name, array in session.run(whole).items()}
    axes = {b.name: b.batch_axis for b in buffers.bindings}
    dims = {b.name: b.dims for b in manifest.bindings}
    free = all(axis is None or isinstance(dims[name][axis], str) for name, axis in axes.items())
    alone = free and all(axes[b.name] is not None for b in manifest.side("output"))
    why = ""
    for one in (False, True) if alone and buffers.batch > 1 else (False,):
        try:
            wanted = reference({name: _first(array, axes[name]) if one else array for name, array in given.items()})
        except Exception as error:  # noqa: BLE001  whatever ONNX Runtime raises is why
            why = _words(error)
            continue
        found = {name: _first(array, axes[name]) if one else array for name, array in made.items()}
        rows = [array.shape[axis] for name, array in given.items() if (axis := axes[name]) is not None]
        open_ended = {b.name for b in buffers.side("output") if len(b.shape) == 2 and b.shape[0] is None}
        pairs = {name: (_plain(wanted[name]), _plain(found[name])) for name in wanted}
        pairs |= {name: (_sorted(one), _sorted(other)) for name, (one, other) in pairs.items() if name in open_ended}
        figures = {name: deviation.compare(*pair) for name, pair in pairs.items()}
        worst = {name: sample for name, pair in pairs.items() if (sample := _worst(*pair, axes[name])) is not None}
        return Answer(samples=1 if one else max(rows, default=1), outputs=figures, worst=worst)
    raise _Unchecked(f"ONNX Runtime cannot run the model ({why})")


def _worst(wanted: NDArray[Any], found: NDArray[Any], axis: int | None) -> tuple[int, float] | None:
    """Give the sample that differs most, and its relative L2."""
    if axis is None or wanted.shape != found.shape or not wanted.size or wanted.dtype.kind != "f":
        return None
    samples = zip(np.moveaxis(wanted, axis, 0), np.moveaxis(found, axis, 0), strict=True)
    figures = [deviation.compare(one, other).relative_l2 or 0.0 for one, other in samples]
    index = int(np.argmax(figures))
    return index, figures[index]


def _first(array: NDArray[Any], axis: int | None) -> NDArray[Any]:
    return array if axis is None else np.ascontiguousarray(np.take(array, [0], axis=axis))


def _sorted(array: NDArray[Any]) -> NDArray[Any]:
    """Sort the rows of a table of whole numbers: what a network selects has no order that ONNX says."""
    return array[np.lexsort(array.T[::-1])] if array.dtype.kind in "iu" and array.ndim == 2 and array.size else array


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Give floats that NumPy lacks as float32, which holds each of them."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _read_first(feeds: Iterable[Mapping[str, NDArray[Any] | Pending]]) -> Arrays:
    ordered = iter(feeds)  # held while the first one is read: the files are open as long
    return {name: _filled(given) for name, given in next(ordered).items()}


def _filled(given: NDArray[Any] | Pending) -> NDArray[Any]:
    if not isinstance(given, Pending):
        return given
    array = np.empty(given.shape, given.dtype)
    given.fill(array)
    return array


def _problems(answer: Answer, limit: float, precision: str) -> list[str]:
    exact = precision in ("model", "fp32") and limit < HELD["float16"]
    found = []
    for name, one in answer.outputs.items():
        if one.not_finite:
            found.append(f"{name}: {one.not_finite} values are not finite, and are finite in ONNX Runtime")
        elif one.relative_l2 is not None and one.relative_l2 > limit:
            found.append(f"{name}: relative L2 {one.relative_l2:.3g}, largest difference {one.max_abs:.3g}")
        elif name in answer.worst and answer.worst[name][1] > EACH * limit:
            sample, figure = answer.worst[name]
            found.append(
                f"{name}: relative L2 {figure:.3g} in sample {sample} alone, expected at most {EACH * limit:g}"
            )
        elif exact and one.differing is not None and one.differing > OTHERS:
            found.append(f"{name}: {one.differing:.1%} of its values are others")
        elif exact and one.shape_differs:
            found.append(f"{name}: its shape is another one")
    return found


def _samples(answer: Answer) -> str:
    return "one sample" if answer.samples == 1 else f"{answer.samples} samples"


def _text(answer: Answer, limit: float) -> str:
    parts = []
    for name, one in answer.outputs.items():
        if one.relative_l2 is not None:
            parts.append(f"{name} {one.relative_l2:.1g}")
        elif one.shape_differs:
            parts.append(f"{name} has another shape")
        elif one.differing:
            parts.append(f"{name} {one.differing:.1%} others")
        else:
            parts.append(f"{name} equal")
    shown = parts if len(parts) <= 4 else [*parts[:4], f"{len(parts) - 4} more"]
    return f"relative L2 of {_samples(answer)}: {', '.join(shown)} (bound {limit:g})"


def _kept(path: Path) -> Answer | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Answer)
    except (OSError, ValueError, msgspec.ValidationError):
        return None


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + " …"
