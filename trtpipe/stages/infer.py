"""`infer`: feed data through an engine a batch at a time and write what comes out as it comes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from trtpipe import batch as rule
from trtpipe.documents.samples import Sample
from trtpipe.errors import StageFailed
from trtpipe.stage import Context, FirstCheck, Params, Port, StageType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.data.buckets import Padded
    from trtpipe.data.feeds import Batches, Feed
    from trtpipe.data.outputs import Outputs
    from trtpipe.data.tensors import Ragged, Source
    from trtpipe.documents.buffers import Buffers
    from trtpipe.documents.manifest import Manifest
    from trtpipe.runtime import Engine

PROGRESS_SECONDS = 0.2


class InferParams(Params, frozen=True, kw_only=True):
    """Params of `infer`."""

    names: Annotated[
        dict[str, str],
        Meta(description="Where they differ: the data's tensor name for an engine's input, by the input's name."),
    ] = msgspec.field(default_factory=dict)
    state: Annotated[
        dict[str, str],
        Meta(
            description="What the engine remembers: for an input, the output that is fed back as its next value. The "
            "data is sequences then, [samples, steps, …], and the engine runs once a step. A state begins as zeros, or "
            "as the tensor of its name in the data."
        ),
    ] = msgspec.field(default_factory=dict)
    pad: Annotated[
        dict[str, float],
        Meta(description="With buckets: the value with which an input is padded, by input; 0 where nothing is said."),
    ] = msgspec.field(default_factory=dict)
    mask: Annotated[
        str | None,
        Meta(
            description="With buckets: the input that is made: 1 where a sample has values, and 0 where it is padded."
        ),
    ] = None
    check: FirstCheck = "auto"
    allow_nan: Annotated[bool, Meta(description="Let NaN in the data pass; by default it is an error.")] = False


def run(ctx: Context) -> None:
    """Write a `tensors` artifact with the engine's outputs, one row a sample."""
    from trtpipe.backends import preflight
    from trtpipe.data import feeds as feeding
    from trtpipe.data import tensors
    from trtpipe.data.buckets import Padded, pad_problems
    from trtpipe.data.outputs import Outputs
    from trtpipe.models import first_answer

    params: InferParams = ctx.params
    data = ctx.inputs["data"]
    engine = preflight.engine(ctx)
    plan, manifest, buffers = engine
    sources = tensors.open_input(data)
    if params.state:
        _sequences(ctx, engine, sources)
        return
    named = {name: params.names.get(name, name) for name in (b.name for b in buffers.side("input"))}
    if problems := pad_problems(params, buffers, [name for name, own in named.items() if own in sources]):
        raise StageFailed("\n".join(problems))
    feeds = feeding.match(buffers, manifest, sources, params.names, data.label, made=params.mask)
    feeding.check_values(feeds, manifest, buffers.profile)
    feeding.tell_conversions(feeds, buffers, ctx.note)
    ignored = sorted(sources.keys() - {f.source.name for f in feeds})
    if ignored:
        ctx.note(f"{data.label} also holds {', '.join(ignored)}, which the engine does not read")
    total = next((f.samples for f in feeds if f.how != "constant"), 1)
    samples = None
    if Sample.file in data.files:
        samples = data.path(Sample.file)
        with samples.open("rb") as file:
            lines = sum(1 for line in file if line.strip())
        if lines != total:
            raise StageFailed(f"{data.label}: {Sample.file} has {lines} lines for {total} samples")
    still = [f for f in feeds if f.how == "constant"]
    whole = [f for f in still if (tensors.fixed(f.source).shape or (0,))[0] > 1]
    if whole and len(still) == len(feeds):
        line = rule.line(manifest.bindings, tensors.fixed(whole[0].source).shape[0])
        ctx.note(
            f"the data is one sample: {whole[0].source.label} has the shape of {whole[0].name}, which names no batch; "
            f"if axis 0 has samples, write {line} in params of allocate"
        )
    padded = _batches(params, feeds, manifest, buffers)
    cut = padded.cut(manifest) if isinstance(padded, Padded) else None
    session = ctx.backend().open(plan, manifest, buffers, ctx.note, ctx.shared)
    try:
        first = _batches(params, feeds, manifest, buffers)
        first_answer.check(ctx, session, engine, first)
        with tensors.Writer(ctx.out) as writer:
            batches = _batches(params, feeds, manifest, buffers)
            outputs = Outputs(
                writer, {b.name: b.batch_axis for b in buffers.side("output")}, total, batched=batches.batched,
                ragged=feeding.ragged_outputs(feeds, manifest, buffers), splits=buffers.splits,
                cut=cut,
            )  # fmt: skip
            stream(ctx, session, outputs, batches, total)
    finally:
        session.close()
    if samples is not None:
        (ctx.out / Sample.file).write_bytes(samples.read_bytes())


def _batches(params: InferParams, feeds: Sequence[Feed], manifest: Manifest, buffers: Buffers) -> Batches | Padded:
    from trtpipe.data import feeds as feeding
    from trtpipe.data.buckets import Padded

    if not buffers.buckets:
        return feeding.Batches(feeds, manifest, buffers, allow_nan=params.allow_nan)
    if buffers.splits:
        raise StageFailed("found split_by and several shapes in allocate, expected one of them")
    return Padded(feeds, manifest, buffers, params)


def _sequences(ctx: Context, engine: Engine, sources: Mapping[str, Source | Ragged]) -> None:
    """Run sequences step by step, with what is remembered."""
    from trtpipe.data import sequences, tensors
    from trtpipe.data.samples import lines_of
    from trtpipe.models import first_answer

    params, data = ctx.params, ctx.inputs["data"]
    plan, manifest, buffers = engine
    if buffers.splits or buffers.buckets:
        which = "split_by" if buffers.splits else "several shapes"
        raise StageFailed(f"found {which} in allocate and state here, expected one of them")
    fed = sequences.match(buffers, manifest, sources, params, data.label)
    runs = sequences.Sequences(fed, manifest, buffers, params.state, allow_nan=params.allow_nan)
    known = Sample.file in data.files
    if known:
        for _ in lines_of(data, runs.total):  # which refuses another number of lines
            pass
    session = ctx.backend().open(plan, manifest, buffers, ctx.note, ctx.shared)
    try:
        first_answer.check(ctx, session, engine, runs.first())
        with tensors.Writer(ctx.out) as writer:
            runs.run(session, writer, ctx.progress)
    finally:
        session.close()
    if known:
        (ctx.out / Sample.file).write_bytes(data.path(Sample.file).read_bytes())


def stream(ctx: Context, session: Any, outputs: Outputs, batches: Batches | Padded, total: int) -> None:
    """Run all batches and write what comes of them. Raises StageFailed, also if fewer samples come back."""
    last = time.monotonic()
    ctx.progress(0, total, "samples")
    for result in session.stream(batches):
        turn = batches.turns.popleft()
        outputs.write(result, turn.fed, turn.true, turn.lengths)
        if outputs.done == total or time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            ctx.progress(outputs.done, total, "samples")
    if outputs.done != total:
        raise StageFailed(f"{outputs.done} of {total} samples came back")


STAGE = StageType(
    name="infer",
    version=8,
    Params=InferParams,
    inputs={
        "engine": Port(kinds=("engine",), doc="The engine that runs."),
        "buffers": Port(kinds=("buffers",), doc="Its shapes and buffers."),
        "data": Port(
            kinds=("tensors",), doc="What is fed: a tensors artifact, a .npz file or a folder of .npy.", outside=True
        ),
    },
    output="tensors",
    doc="Feeds data through an engine in batches and writes what comes out as it comes.",
    run=run,
    backend=True,
    gpu_on=("tensorrt", "tensorrt_rtx"),
)
