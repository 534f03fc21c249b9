"""What an engine is fed: data matched with its inputs, and batches in order, read by whoever runs them."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trtpipe import batch as rule
from trtpipe.data import conversion, elements, laying, tensors
from trtpipe.data.ragged import Ragged, RaggedReader
from trtpipe.data.stored import Memory
from trtpipe.data.tensors import Source
from trtpipe.errors import StageFailed
from trtpipe.runtime import Pending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from trtpipe.data.tensors import Reader
    from trtpipe.documents.buffers import Buffer, Buffers
    from trtpipe.documents.manifest import Binding, Manifest


class Feed(NamedTuple):
    """How one input is fed; see `laying.How`. `axis` is its batch axis."""

    name: str
    how: laying.How
    source: Source | Ragged
    axis: int | None = None

    @property
    def samples(self) -> int:
        """How many samples the data has; of a constant, none."""
        return len(self.source) if isinstance(self.source, Ragged) else self.source.shape[0]


def match(
    buffers: Buffers,
    manifest: Manifest,
    sources: Mapping[str, Source | Ragged],
    names: Mapping[str, str],
    label: str,
    *,
    made: str | None = None,
) -> list[Feed]:
    """Match the data with the engine's inputs; one that is `made` may be missing in the data.

    Raises StageFailed that lists every mismatch: found, expected.
    """
    wanted = {b.name: b for b in buffers.side("input")}
    problems = [
        f"params.names.{name}: the engine's inputs are {', '.join(wanted)}" for name in names if name not in wanted
    ]
    feeds: list[Feed] = []
    for name, b in wanted.items():
        own = names.get(name, name)
        if own not in sources and name in buffers.values:
            feeds.append(Feed(name, "constant", _values(name, b.dtype, b.shape, buffers.values[name])))
            continue
        if own not in sources and name == made:
            continue
        if own not in sources:
            problems.append(f"{label}: found tensors {', '.join(sources) or 'none'}, expected {own}")
            continue
        source = sources[own]
        other = next(one for one in manifest.side("input") if one.name == name).model_dtype
        if source.element != b.dtype and not conversion.possible(source.element, b.dtype, other):
            problems.append(f"{source.label}: found dtype {source.element}, expected {b.dtype}")
            continue
        if isinstance(source, Ragged):
            open_ended = [binding for binding in manifest.side("input") if binding.name == name]
            problems += _ragged_problems(source, b, open_ended[0], manifest, buffers)
            feeds.append(Feed(name, "run" if b.batch_axis is None else "batch", source, b.batch_axis))
            continue
        dims: Sequence[int | str | None] = b.shape
        if buffers.buckets:
            dims = next(one for one in manifest.side("input") if one.name == name).dims
        how = laying.how(source.shape, dims, b.batch_axis, buffers.batch)
        if how is None:
            problems.append(_misfit(source, b, buffers, manifest))
        else:
            feeds.append(Feed(name, how, source, b.batch_axis))
    if problems:
        raise StageFailed("\n".join(problems))
    hows = {f.how for f in feeds}
    if "batch" in hows and not buffers.batch:
        raise StageFailed("shapes in params of allocate: found a batch of 0 samples, expected at least 1")
    alone = any(isinstance(f.source, Ragged) for f in feeds)
    if {"batch", "run"} <= hows and buffers.batch != 1 and not alone:
        raise StageFailed(_mixed(feeds, buffers, manifest))
    rows = {f.source.label: f.samples for f in feeds if f.how != "constant"}
    if len(set(rows.values())) > 1:
        text = ", ".join(f"{name} {count}" for name, count in rows.items())
        same = [f.name for f in feeds if f.how == "batch" and f.samples == 1 == buffers.batch]
        hint = f"; batch_axis: {{{same[0]}: none}} in params of allocate feeds {same[0]} whole to all" if same else ""
        raise StageFailed(f"the tensors differ in their number of samples: {text}{hint}")
    if 0 in rows.values():
        raise StageFailed(f"{label} holds no samples; expected at least one")
    return feeds


def _ragged_problems(source: Ragged, b: Buffer, own: Binding, manifest: Manifest, buffers: Buffers) -> list[str]:
    """Give what is wrong with samples of many shapes: each is fed alone, within what was allocated and the profile."""
    axis, bucketed = b.batch_axis, bool(buffers.buckets)
    rank = len(b.shape) - (axis is not None)
    if source.rank != rank:
        wants = laying.expected(own.dims, axis)
        return [f"{source.label}: found samples with {source.rank} axes, expected {rank} axes each: {wants}"]
    if axis is not None and isinstance(own.dims[axis], int) and own.dims[axis] != 1 and not bucketed:
        whole = f"axis {axis} of {own.name} is fixed at {own.dims[axis]}: {rule.text(own)}"
        found = "found a ragged tensor, whose samples are fed one by one"
        return [f"{source.label}: {found}, but {whole}; expected samples of one shape"]
    known = manifest.profiles[buffers.profile].get(own.name) if manifest.profiles else None
    free = known is None or bucketed  # what is shorter than a profile takes is padded
    low = [0 if isinstance(d, str) else d for d in own.dims] if known is None or free else list(known.min)
    high = [size or 0 for size in b.shape]
    if axis is not None and low[axis] > 1 and not bucketed:
        return [f"{source.label}: found a ragged tensor, but the profile's smallest batch of {own.name} is {low[axis]}"]
    least, most = (np.array([*x[:axis], *x[axis + 1 :]] if axis is not None else x, np.int64) for x in (low, high))
    start = 0
    for shapes in source.all_shapes():
        outside = ((shapes < least) | (shapes > most)).any(axis=1)
        if outside.any():
            at = int(np.flatnonzero(outside)[0])
            rest = [d for place, d in enumerate(own.dims) if place != axis]
            if any(isinstance(d, int) and d != n for d, n in zip(rest, shapes[at].tolist(), strict=True)):
                wants = laying.expected(own.dims, axis)
                return [f"{source.label}: found shape {shapes[at].tolist()} for sample {start + at}, expected {wants}"]
            largest = np.maximum(shapes.max(axis=0), 1).tolist()
            asked = laying.shape(largest, axis, 1)
            wants = f"{least.tolist()} to {most.tolist()}"
            planned = f"write shapes: {{{own.name}: {list(asked)}}} in its params, within the profile"
            found = f"found shape {shapes[at].tolist()} for sample {start + at}, expected {wants}"
            return [f"{source.label}: {found}: what allocate planned is the largest that is fed; {planned}"]
        start += len(shapes)
    return []


def _values(name: str, dtype: str, shape: Sequence[int | None], values: Sequence[int]) -> Source:
    """Give the values that `allocate` was given for a shape input, as if the data had them."""
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
        rows = tensors.fixed(feed.source).read().reshape(-1, len(known.min))
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


def _misfit(source: Source, b: Buffer, buffers: Buffers, manifest: Manifest) -> str:
    """Say what was found, what was expected, and the line that would make it fit."""
    found, rank = list(source.shape), len(b.shape) + (b.batch_axis is None)
    says = (f"rank {len(found)}, ", f"rank {rank}, ") if len(found) != rank else ("", "")
    wants = laying.expected(b.shape, b.batch_axis)
    hint = ""
    own = next(one for one in manifest.side("input") if one.name == b.name)
    first = own.dims[0] if own.dims else None
    carried = next((one for one in buffers.side("input") if one.batch_axis is not None and one.batch_axis >= 0), None)
    if b.batch_axis is None:
        wants += f", or {list(b.shape)} for all samples"
        if len(found) == len(b.shape) and laying.fits(found[1:], b.shape[1:]):
            if isinstance(first, str) and carried is not None:
                batch = _dim(manifest, carried)
                hint = (
                    f"; its first axis is {first} and the batch {batch}: give them one name in parse's params.dims, "
                    f"or write batch_axis: {{{b.name}: 0}} in params of allocate"
                )
            else:
                line = rule.line(manifest.bindings, b.shape[0])
                hint = (
                    f"; {b.name} {rule.text(own)} names no batch: if axis 0 is one, write {line} in params of allocate"
                )
    elif len(found) == len(b.shape) and b.batch_axis == 0:
        hint = _as_planned(own, b.shape, found)
    elif len(found) == len(b.shape):
        hint = f"; the samples come first, the engine has them on axis {b.batch_axis}: {rule.text(own)}"
    return f"{source.label}: found {says[0]}shape {found}, expected {says[1]}shape {wants}{hint}"


def _as_planned(own: Binding, shape: Sequence[int | None], found: Sequence[int]) -> str:
    """Say who has decided on the shape of an input that does not fit: `buffers`, or the model."""
    fixed = [axis for axis in range(1, len(shape)) if shape[axis] != found[axis] and isinstance(own.dims[axis], int)]
    if fixed:
        return f"; the model fixes axis {fixed[0]} at {shape[fixed[0]]}"
    asked = ", ".join(map(str, [shape[0], *found[1:]]))
    return f"; that is as `buffers` has planned it: in that stage write params: {{shapes: {{{own.name}: [{asked}]}}}}"


def _dim(manifest: Manifest, b: Buffer) -> str:
    own = next(one for one in manifest.side("input") if one.name == b.name)
    axis = b.batch_axis or 0
    return str(rule.axis_names(own)[axis] or own.dims[axis])


def _mixed(feeds: Sequence[Feed], buffers: Buffers, manifest: Manifest) -> str:
    """Say which input has one value a sample where a batch takes one for all, and what would help."""
    one = next(f for f in feeds if f.how == "run")
    own: Binding = next(b for b in manifest.side("input") if b.name == one.name)
    ways = []
    if buffers.batch in (next(b for b in buffers.bindings if b.name == one.name).shape):
        ways.append(f"{rule.line([own], buffers.batch)} in params of allocate, with its samples first in the data")
    batched = [next(b for b in manifest.side("input") if b.name == f.name) for f in feeds if f.how == "batch"]
    fixed = [
        b for b, f in zip(batched, (f for f in feeds if f.how == "batch"), strict=True)
        if isinstance(b.dims[f.axis or 0], int)
    ]  # fmt: skip
    ways.append(
        f"a model whose batch is not fixed, and a batch of 1 (params.dims of parse may name it: {rule.text(fixed[0])})"
        if fixed
        else "allocate a batch of 1"
    )
    ways.append(f"give {own.name} once for all samples, as {rule.text(own)}")
    return (
        f"{one.source.label} has one value a sample, but input {one.name} takes one a batch, and a batch is "
        f"{buffers.batch} samples; {'; or '.join(ways)}"
    )


def ragged_outputs(feeds: Sequence[Feed], manifest: Manifest, buffers: Buffers) -> set[str]:
    """Name the outputs whose size differs from sample to sample: by themselves, or as the inputs do."""
    found = {b.name for b in buffers.side("output") if None in b.shape}
    if any(isinstance(f.source, Ragged) for f in feeds):
        axes = {b.name: b.batch_axis for b in buffers.bindings}
        for b in manifest.side("output"):
            if any(isinstance(dim, str) for axis, dim in enumerate(b.dims) if axis != axes[b.name]):
                found.add(b.name)
    return found


class Turn(NamedTuple):
    """One batch on its way: how many rows are fed, and how many of them are true."""

    fed: int
    true: int
    lengths: tuple[dict[str, int], ...] = ()


class Batches:
    """The feeds of an engine in order, each with the number of its true rows; the rest of it is padding."""

    def __init__(self, feeds: Sequence[Feed], manifest: Manifest, buffers: Buffers, *, allow_nan: bool) -> None:
        self._feeds = feeds
        self._kinds = {b.name: b.dtype for b in buffers.side("input")}
        self._floats = {f.name for f in feeds if elements.is_float(f.source.dtype)}
        self._allow_nan = allow_nan
        self.batched = any(f.how == "batch" for f in feeds)
        self._ragged = any(isinstance(f.source, Ragged) for f in feeds)
        self.size = buffers.batch if self.batched and not self._ragged else 1
        self.turns: deque[Turn] = deque()
        """The batches on their way."""
        dims = {b.name: b.dims for b in manifest.bindings}
        profile = manifest.profiles[buffers.profile] if manifest.profiles else {}
        batched = [(f.name, f.axis or 0) for f in feeds if f.how == "batch"]
        self._dynamic = all(isinstance(dims[n][axis], str) for n, axis in batched)
        self._smallest = max((profile[n].min[axis] for n, axis in batched if n in profile), default=1)

    def __iter__(self) -> Iterator[dict[str, NDArray[Any] | Pending]]:
        """Give the feeds, to be read by whoever runs them. Filling raises StageFailed where NaN is found."""
        moving = {f.name: f for f in self._feeds if f.how != "constant"}
        still = {f.name: tensors.fixed(f.source).read() for f in self._feeds if f.how == "constant"}
        for name, array in still.items():
            self._check(name, array, None)
        still = {f.name: self._converted(f, still[f.name]) for f in self._feeds if f.how == "constant"}
        if not moving:
            self.turns.append(Turn(1, 1))
            yield dict(still)
            return
        total = next(iter(moving.values())).samples
        with ExitStack() as stack:
            readers: dict[str, Reader] = {}
            ragged: dict[str, RaggedReader] = {}
            for name, one in moving.items():
                if isinstance(one.source, Ragged):
                    ragged[name] = stack.enter_context(one.source.reader())
                else:
                    readers[name] = stack.enter_context(one.source.reader())
            for start in range(0, total, self.size):
                count = min(self.size, total - start)
                fed = count if self._dynamic and count >= self._smallest else self.size
                feed: dict[str, NDArray[Any] | Pending] = dict(still)
                for name, one in moving.items():
                    axis = one.axis if one.how == "batch" else None
                    if isinstance(one.source, Ragged):
                        feed[name] = self._sample(one, ragged[name].row(start), start)
                        continue
                    reader = readers[name]
                    shape = laying.shape(one.source.shape[1:], axis, fed)
                    fill = partial(self._fill, name, reader, (start, count), axis)
                    feed[name] = Pending(
                        shape=shape, dtype=elements.in_memory(self._kinds[name]), fill=fill,
                        ordered=not reader.anywhere,
                    )  # fmt: skip
                self.turns.append(Turn(fed, count))
                yield feed

    def _sample(self, one: Feed, row: NDArray[Any], index: int) -> NDArray[Any]:
        """Give one sample of a ragged tensor as the engine takes it."""
        self._check(one.name, row[None], index)
        whole = row if one.how == "run" or one.axis is None else np.expand_dims(row, one.axis)
        return np.ascontiguousarray(self._converted(one, whole))

    def _fill(self, name: str, reader: Reader, taken: tuple[int, int], axis: int | None, into: NDArray[Any]) -> None:
        """Read so many rows from a start into an array, repeat the last for padding, and look for NaN on the way."""
        start, count = taken
        whole = into[None] if axis is None else laying.rows(into, axis)
        rows = whole[:count]
        # Rows of another type, or that do not lie one after the other, are read apart and then put where they belong.
        direct = rows.flags.c_contiguous and reader.dtype == into.dtype
        plain = rows if direct else np.empty(rows.shape, reader.dtype)
        found: list[bool] = []
        checked = not self._allow_nan and name in self._floats

        def check(piece: NDArray[Any]) -> None:
            with np.errstate(invalid="ignore"):
                if np.isnan(np.min(piece)):  # a minimum carries NaN along and needs no second array
                    found.append(True)

        if reader.anywhere:
            reader.fill_from(start, plain, check if checked else None)
        else:
            reader.fill(plain, check if checked else None)
        if found:
            self._check(name, plain, start)
        if not direct:
            rows[...] = self._converted(next(f for f in self._feeds if f.name == name), plain)
        if count < whole.shape[0]:
            whole[count:] = whole[count - 1]

    def _converted(self, feed: Feed, values: NDArray[Any]) -> NDArray[Any]:
        wanted = self._kinds[feed.name]
        return values if feed.source.element == wanted else conversion.converted(values, wanted, feed.source.label)

    def _check(self, name: str, array: NDArray[Any], start: int | None) -> None:
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
