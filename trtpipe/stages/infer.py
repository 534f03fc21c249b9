"""`infer`: feed data through an engine a batch at a time and write what comes out as it comes."""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from trtpipe.documents.samples import Sample
from trtpipe.errors import StageFailed
from trtpipe.runtime import batch_dim
from trtpipe.stage import Context, Params, Port, StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from trtpipe.data.tensors import ArrayWriter, Ragged, Reader, Source, Writer
    from trtpipe.documents.buffers import Buffers
    from trtpipe.documents.manifest import Manifest
    from trtpipe.runtime import Pending

PROGRESS_SECONDS = 0.2


class InferParams(Params, frozen=True, kw_only=True):
    """Params of `infer`."""

    names: Annotated[
        dict[str, str],
        Meta(description="Where they differ: the data's tensor name for an engine's input, by the input's name."),
    ] = msgspec.field(default_factory=dict)
    allow_nan: Annotated[bool, Meta(description="Let NaN in the data pass; by default it is an error.")] = False


class Feed(NamedTuple):
    """How one input is fed: `batch` (rows of axis 0), `run` (axis 0 is added for the samples) or `constant`."""

    name: str
    how: str
    source: Source


def run(ctx: Context) -> None:
    """Write a `tensors` artifact with the engine's outputs, one row a sample."""
    from trtpipe.backends import preflight
    from trtpipe.data import tensors

    params: InferParams = ctx.params
    data = ctx.inputs["data"]
    plan, manifest, buffers = preflight.engine(ctx)
    sources = tensors.open_input(data)
    feeds = match(buffers, manifest, sources, params.names, data.label)
    check_values(feeds, manifest, buffers.profile)
    tell_conversions(feeds, buffers, ctx.note)
    ignored = sorted(sources.keys() - {f.source.name for f in feeds})
    if ignored:
        ctx.note(f"{data.label} also holds {', '.join(ignored)}, which the engine does not read")
    total = next((f.source.shape[0] for f in feeds if f.how != "constant"), 1)
    samples = None
    if Sample.file in data.files:
        samples = data.path(Sample.file)
        with samples.open("rb") as stream:
            lines = sum(1 for line in stream if line.strip())
        if lines != total:
            raise StageFailed(f"{data.label}: {Sample.file} has {lines} lines for {total} samples")
    session = ctx.backend().open(plan, manifest, buffers, ctx.note, ctx.shared)
    try:
        with tensors.Writer(ctx.out) as writer:
            _stream(ctx, session, writer, Batches(feeds, manifest, buffers, allow_nan=params.allow_nan), total)
    finally:
        session.close()
    if samples is not None:
        (ctx.out / Sample.file).write_bytes(samples.read_bytes())


def match(
    buffers: Buffers,
    manifest: Manifest,
    sources: Mapping[str, Source | Ragged],
    names: Mapping[str, str],
    label: str,
) -> list[Feed]:
    """Match the data with the engine's inputs. Raises StageFailed that lists every mismatch: found, expected."""
    from trtpipe.data import conversion, tensors

    shapes = {b.name: b for b in buffers.side("input")}
    inputs = {b.name: b for b in manifest.side("input")}
    problems = [
        f"params.names.{name}: the engine's inputs are {', '.join(shapes)}" for name in names if name not in shapes
    ]
    feeds: list[Feed] = []
    for name, b in shapes.items():
        wanted = names.get(name, name)
        if wanted not in sources and name in buffers.values:
            feeds.append(Feed(name, "constant", _values(name, b.dtype, b.shape, buffers.values[name])))
            continue
        if wanted not in sources:
            problems.append(f"{label}: found tensors {', '.join(sources) or 'none'}, expected {wanted}")
            continue
        source = tensors.fixed(sources[wanted])
        other = inputs[name].model_dtype
        if source.element != b.dtype and not conversion.possible(source.element, b.dtype, other):
            problems.append(f"{source.label}: found dtype {source.element}, expected {b.dtype}")
            continue
        shape = b.shape
        if b.batch_axis == 0 and source.shape[1:] == shape[1:] and len(source.shape) == len(shape):
            feeds.append(Feed(name, "batch", source))
        elif source.shape[1:] == shape and len(source.shape) == len(shape) + 1:
            feeds.append(Feed(name, "run", source))
        elif b.batch_axis is None and source.shape == shape:
            feeds.append(Feed(name, "constant", source))
        else:
            expected = ["samples", *(shape[1:] if b.batch_axis == 0 else shape)]
            found = list(source.shape)
            rank = "" if len(found) == len(expected) else f"rank {len(found)}, "
            wants = f"rank {len(expected)}, " if rank else ""
            own, hint = next(iter(inputs[name].dims), None), ""
            if b.batch_axis is None and isinstance(own, str) and source.shape[1:] == shape[1:]:
                batch = batch_dim(inputs.values())
                hint = f"; its first axis is {own} and the batch {batch}: give them one name in parse's params.dims"
            elif rank == "" and b.batch_axis == 0:
                hint = _as_planned(name, inputs[name].dims, shape, found)
            problems.append(
                f"{source.label}: found {rank}shape {found}, "
                f"expected {wants}shape [{', '.join(str(n) for n in expected)}]{hint}"
            )
    if problems:
        raise StageFailed("\n".join(problems))
    hows = {f.how for f in feeds}
    if {"batch", "run"} <= hows and buffers.batch != 1:
        one = next(f for f in feeds if f.how == "run")
        raise StageFailed(
            f"{one.source.label} has one value a sample, but input {one.name} takes one a batch, and a batch is "
            f"{buffers.batch} samples; allocate a batch of 1"
        )
    rows = {f.source.label: f.source.shape[0] for f in feeds if f.how != "constant"}
    if len(set(rows.values())) > 1:
        text = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise StageFailed(f"the tensors differ in their number of samples: {text}")
    if 0 in rows.values():
        raise StageFailed(f"{label} holds no samples; expected at least one")
    return feeds


def _as_planned(name: str, dims: Sequence[int | str], shape: Sequence[int | None], found: Sequence[int]) -> str:
    """Say who has decided on the shape of an input that does not fit: `buffers`, or the model."""
    fixed = [axis for axis in range(1, len(shape)) if shape[axis] != found[axis] and isinstance(dims[axis], int)]
    if fixed:
        return f"; the model fixes axis {fixed[0]} at {shape[fixed[0]]}"
    asked = ", ".join(map(str, [shape[0], *found[1:]]))
    return f"; that is as `buffers` has planned it: in that stage write params: {{shapes: {{{name}: [{asked}]}}}}"


def _values(name: str, dtype: str, shape: Sequence[int | None], values: Sequence[int]) -> Source:
    """Give the values that `allocate` was given for a shape input, as if the data had them."""
    import numpy as np

    from trtpipe.data.arrays import Source
    from trtpipe.data.stored import Memory

    array = np.asarray(values, np.dtype(dtype)).reshape([size or 0 for size in shape])
    return Source(
        name=name, element=dtype, shape=array.shape, label=f"allocate's values.{name}",
        data=Memory(data=memoryview(array.tobytes())),
    )  # fmt: skip


def check_values(feeds: Sequence[Feed], manifest: Manifest, profile: int) -> None:
    """Hold the values of shape inputs against the engine's profile before anything runs.

    Raises StageFailed with the sample, what was found and what the profile takes.
    """
    if not manifest.profile_values:
        return
    problems = []
    for feed in feeds:
        known = manifest.profile_values[profile].get(feed.name)
        if known is None:
            continue
        rows = feed.source.read().reshape(-1, len(known.min))
        for number, row in enumerate(rows):
            if problem := manifest.values_outside(profile, feed.name, [int(v) for v in row]):
                where = f", sample {number}" if feed.how == "run" else ""
                problems.append(f"{feed.source.label}{where}: {problem}")
                break
    if problems:
        raise StageFailed("\n".join(problems))


def tell_conversions(feeds: Sequence[Feed], buffers: Buffers, note: Callable[[str], None]) -> None:
    """Say which inputs are fed in another type than their data has."""
    kinds = {b.name: b.dtype for b in buffers.side("input")}
    for feed in feeds:
        if feed.source.element != kinds[feed.name]:
            how = "rounded" if "float" in feed.source.element else "as whole numbers that fit"
            note(f"{feed.source.label} is {feed.source.element} and is fed as {kinds[feed.name]}, {how}")


class Batches:
    """The feeds of an engine in order, each with the number of its true rows; the rest of it is padding."""

    def __init__(self, feeds: Sequence[Feed], manifest: Manifest, buffers: Buffers, *, allow_nan: bool) -> None:
        from trtpipe.data import elements

        self._feeds = feeds
        self._kinds = {b.name: b.dtype for b in buffers.side("input")}
        self._floats = {f.name for f in feeds if elements.is_float(f.source.dtype)}
        self._allow_nan = allow_nan
        self.batched = any(f.how == "batch" for f in feeds)
        self.size = buffers.batch if self.batched else 1
        self.counts: deque[tuple[int, int]] = deque()
        """For each feed on its way: rows fed, true rows."""
        dims = {b.name: b.dims for b in manifest.bindings}
        profile = manifest.profiles[buffers.profile] if manifest.profiles else {}
        batched = [f.name for f in feeds if f.how == "batch"]
        self.dynamic = all(isinstance(dims[n][0], str) for n in batched)
        self._smallest = max((profile[n].min[0] for n in batched if n in profile), default=1)

    def __iter__(self) -> Iterator[dict[str, NDArray[Any] | Pending]]:
        """Give the feeds, to be read by whoever runs them. Filling raises StageFailed where NaN is found."""
        import numpy as np

        from trtpipe.data import elements
        from trtpipe.runtime import Pending

        moving = {f.name: f for f in self._feeds if f.how != "constant"}
        still = {f.name: f.source.read() for f in self._feeds if f.how == "constant"}
        for name, array in still.items():
            self._check(name, array, None, np)
        still = {f.name: self._converted(f, still[f.name]) for f in self._feeds if f.how == "constant"}
        if not moving:
            self.counts.append((1, 1))
            yield dict(still)
            return
        total = next(iter(moving.values())).source.shape[0]
        with ExitStack() as stack:
            readers = {name: stack.enter_context(feed.source.reader()) for name, feed in moving.items()}
            for start in range(0, total, self.size):
                count = min(self.size, total - start)
                fed = count if self.dynamic and count >= self._smallest else self.size
                feed: dict[str, NDArray[Any] | Pending] = dict(still)
                for name, one in moving.items():
                    rest = one.source.shape[1:]
                    shape = rest if one.how == "run" else (fed, *rest)
                    fill = partial(self._fill, name, readers[name], count, start)
                    feed[name] = Pending(
                        shape=shape,
                        dtype=elements.in_memory(self._kinds[name]),
                        fill=fill,
                        ordered=not readers[name].anywhere,
                    )
                self.counts.append((fed, count))
                yield feed

    def _fill(self, name: str, reader: Reader, count: int, start: int, into: NDArray[Any]) -> None:
        """Read the next rows into an array, repeat the last one for padding, and look for NaN on the way."""
        import numpy as np

        rows = into[None] if into.ndim < len(reader.shape) else into
        if reader.dtype != into.dtype:
            given = np.empty(rows.shape, reader.dtype)
            self._fill(name, reader, count, start, given)
            feed = next(f for f in self._feeds if f.name == name)
            rows[...] = self._converted(feed, given)
            return
        found: list[bool] = []
        checked = not self._allow_nan and name in self._floats

        def check(piece: NDArray[Any]) -> None:
            with np.errstate(invalid="ignore"):
                if np.isnan(np.min(piece)):  # a minimum carries NaN along and needs no second array
                    found.append(True)

        if reader.anywhere:
            reader.fill_from(start, rows[:count], check if checked else None)
        else:
            reader.fill(rows[:count], check if checked else None)
        if found:
            self._check(name, rows[:count], start, np)
        if count < rows.shape[0]:
            rows[count:] = rows[count - 1]

    def _converted(self, feed: Feed, values: NDArray[Any]) -> NDArray[Any]:
        from trtpipe.data import conversion

        wanted = self._kinds[feed.name]
        return values if feed.source.element == wanted else conversion.converted(values, wanted, feed.source.label)

    def _check(self, name: str, array: NDArray[Any], start: int | None, np: Any) -> None:
        if self._allow_nan or name not in self._floats or not array.size:
            return
        with np.errstate(invalid="ignore"):
            if not np.isnan(np.min(array)):
                return
        label = next(f.source.label for f in self._feeds if f.name == name)
        bad = np.argwhere(np.isnan(array))
        where = "" if start is None else f" in sample {start + int(bad[0][0])}"
        raise StageFailed(
            f"{label}: found NaN{where} ({len(bad)} of {array.size} values in this batch), expected numbers; "
            "params.allow_nan lets them pass"
        )


def _stream(ctx: Context, session: Any, writer: Writer, batches: Batches, total: int) -> None:
    outputs: dict[str, ArrayWriter] = {}
    fixed = {b.name: b.dims[0] if b.dims else None for b in session.bindings if b.mode == "output"}
    done, last = 0, time.monotonic()
    ctx.progress(0, total, "samples")
    for result in session.stream(batches):
        fed, count = batches.counts.popleft()
        for name, dim in fixed.items():
            # A fixed axis may be as long as the batch by chance.
            chance = fed > 1 and batches.dynamic and dim == fed
            rows = _rows(name, result[name], fed, count, batched=batches.batched and not chance)
            if name not in outputs:
                outputs[name] = writer.add(name, rows.dtype, (total, *rows.shape[1:]))
            if rows.shape[1:] != outputs[name].shape[1:]:
                raise StageFailed(
                    f"output {name} is {list(outputs[name].shape[1:])} for the first samples and "
                    f"{list(rows.shape[1:])} for sample {done}; an array holds one shape only"
                )
            outputs[name].write(rows)
        done += count
        if done == total or time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            ctx.progress(done, total, "samples")
    if done != total:
        raise StageFailed(f"{done} of {total} samples came back")


def _rows(name: str, array: NDArray[Any], fed: int, count: int, *, batched: bool) -> NDArray[Any]:
    """Give an output's rows, one a sample, without padding."""
    if batched and array.ndim and array.shape[0] == fed:
        return array[:count]
    if fed == 1:
        return array[None]
    raise StageFailed(
        f"output {name} has shape {list(array.shape)} for a batch of {fed}: its first axis is not the batch, so that "
        "rows cannot be told apart; allocate a batch of 1"
    )


STAGE = StageType(
    name="infer",
    version=4,
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
