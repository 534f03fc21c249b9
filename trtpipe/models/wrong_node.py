"""The first node that a runtime computes wrongly, once an engine's answer is known to be wrong."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from msgspec.structs import replace

from trtpipe.documents.buffers import Buffer, Buffers, Totals
from trtpipe.documents.config import Asked, Config
from trtpipe.models import bisection, deviation, onnxfile, onnxgraph, ort_cpu, signature

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from trtpipe.documents.manifest import Manifest
    from trtpipe.runtime import Engine
    from trtpipe.stage import Context

    Arrays = Mapping[str, NDArray[Any]]

CHUNK = 48
"""Inner tensors that one engine has as outputs."""
SECONDS = 120
"""After so long no further engine is built to look for the node."""
WIDEST = 8
"""Bytes of the widest type that a tensor may have."""
AS_PARSED = ("model", "fp32", "tf32")
"""Precisions under which the engine was built of the model as it was parsed."""


def first(ctx: Context, engine: Engine, whole: Arrays, given: Arrays, *, bound: float) -> str:
    """Name the first node whose result is wrong, in a sentence; if it cannot be told, say why.

    `whole` is the feed of the engine, and `given` the same in the model's own types. With ONNX Runtime the plan is a
    model, whose inner tensors are compared. With TensorRT engines are built that have inner tensors as outputs.
    """
    parsed = engine.plan.parent / str(engine.manifest.parsed)
    ctx.doing("looking for the first node whose result is wrong")
    try:
        if engine.manifest.runtime == "onnxruntime":
            found = bisection.layers(parsed, engine.plan, [dict(given)], bound=bound, on="the first batch").first
            if found is None:
                return "no inner tensor that both models have differs so much over the whole batch"
            return f"the first wrong result is that of {found.node} [{found.op}]"
        if engine.manifest.precision not in AS_PARSED:
            return f"the first wrong node is not looked for under precision {engine.manifest.precision}"
        return _on_engine(ctx, engine, whole, given, bound=bound)
    except Exception as error:  # noqa: BLE001  what is known already must be told, whatever this meets
        text = " ".join(str(error).split())
        return f"the first wrong node cannot be told ({text[:200]})"


def _on_engine(ctx: Context, engine: Engine, whole: Arrays, given: Arrays, *, bound: float) -> str:
    model = onnxfile.whole(engine.plan.parent / str(engine.manifest.parsed))
    onnxgraph.name_nodes(model)
    makers = {o: node for node in model.graph.node if node.op_type != "Constant" for o in node.output if o}
    began = time.monotonic()
    for number, part in enumerate(_parts(list(makers))):
        if time.monotonic() - began > SECONDS:
            return f"the first wrong node is not among the first {number * CHUNK} of {len(makers)} results"
        wanted = ort_cpu.Session(bisection.marked(model, part), plain=True)(dict(given))
        wanted = {name: array for name, array in wanted.items() if array.dtype.kind == "f" and array.size}
        if not wanted:
            continue
        path = ctx.scratch / f"marked-{number}" / onnxfile.MODEL
        path.parent.mkdir()
        onnx.save(with_outputs(model, wanted), path)
        for name, array in _run(ctx, engine, path, whole, wanted).items():
            one = deviation.compare(wanted[name], array.astype(wanted[name].dtype))
            if one.shape_differs or one.not_finite or (one.relative_l2 or 0) > bound:
                return f"the first wrong result is that of {makers[name].name} [{makers[name].op_type}]"
    return "an engine that has its inner tensors as outputs answers right: the fault lies in how nodes are fused"


def _parts(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]


def with_outputs(model: onnx.ModelProto, made: Arrays) -> onnx.ModelProto:
    """Give the model with these inner tensors as its outputs, of the types that the arrays have."""
    copy = onnxgraph.copied(model)
    copy.graph.ClearField("output")
    for name, array in made.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return copy


def asked(manifest: Manifest) -> Asked:
    """Give what `configure` asks for an engine like this one."""
    return Asked(
        precision=manifest.precision, keep_fp32=(), workspace=None, profiles=manifest.profiles,
        profile_values=manifest.profile_values, optimization_level=None, timing_cache="off",
        version_compatible=False, hardware_compatibility="none", compute_capabilities=None, sparse_weights=False,
        strip_plan=False, refit=False, weight_streaming=False, verbosity="names_only", strongly_typed=None,
    )  # fmt: skip


def _run(ctx: Context, engine: Engine, path: Path, whole: Arrays, wanted: Arrays) -> dict[str, NDArray[Any]]:
    """Build an engine of a model and run it on a feed; give its outputs in the model's order."""
    backend, manifest = ctx.backend(), engine.manifest
    for plugin in manifest.plugins:
        target = path.parent / plugin
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(engine.plan.parent / plugin)
    described = signature.describe(
        onnxfile.load(path), layers={}, runtime=backend.name, runtime_version=backend.version
    )  # fmt: skip
    known = {b.name: b.shape_input for b in manifest.side("input")}
    inputs = tuple(replace(entry, shape_input=known.get(entry.name, False)) for entry in described.inputs)
    wish = asked(manifest)
    settled = backend.configure(wish, replace(described, inputs=inputs))
    config = Config(
        **{name: getattr(wish, name) for name in wish.__struct_fields__ if name != "strongly_typed"},
        strongly_typed=settled.strongly_typed, flags=settled.flags, not_applicable=settled.not_applicable,
        rewrite=None, hold=None, runtime=backend.name, runtime_version=backend.version,
    )  # fmt: skip
    plan = path.parent / manifest.plan
    built = backend.build(path, config, plan, ctx.scratch, lambda _: None)
    mine = replace(manifest, bindings=built.bindings, plan_bytes=plan.stat().st_size, version_compatible=False)
    session = backend.open(plan, mine, _buffers(mine, engine.buffers, whole, wanted), lambda _: None)
    try:
        made = session.run(dict(whole))
        return {name: np.array(made[name]) for name in wanted}
    finally:
        session.close()


def _buffers(manifest: Manifest, like: Buffers, whole: Arrays, wanted: Arrays) -> Buffers:
    """Plan one slot for exactly this feed and these results."""
    shapes = {b.name: (whole if b.mode == "input" else wanted)[b.name].shape for b in manifest.bindings}
    bindings = tuple(
        Buffer(
            name=b.name, mode=b.mode, dtype=b.dtype, shape=shapes[b.name], bytes=math.prod(shapes[b.name]) * WIDEST,
            size="known", batch_axis=None, host="pageable", device="cuda:0",
        )
        for b in manifest.bindings
    )  # fmt: skip
    size = sum(b.bytes or 0 for b in bindings)
    totals = Totals(host=size, device=size)
    return replace(like, bindings=bindings, slots=1, totals=totals, unknown=(), buckets=(), splits=())
