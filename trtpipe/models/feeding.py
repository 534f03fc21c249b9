"""Inputs for a model that is checked or calibrated: seeded random values, or samples from disk."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trtpipe import batch as rule
from trtpipe.data import elements, laying, tensors
from trtpipe.errors import StageFailed
from trtpipe.models import lookups, ort_cpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from trtpipe.documents.config import Shapes, Values
    from trtpipe.documents.network import Tensor
    from trtpipe.stage import Input

SEED = 20240229
GUESSES = (1, 64, 224, 16, 320, 8)
"""Sizes tried for dynamic axes when there is no profile to take them from."""
Feed = dict[str, Any]


def random_feeds(
    model: onnx.ModelProto,
    inputs: Sequence[Tensor],
    profiles: Sequence[Mapping[str, Shapes | Values]] = (),
) -> list[Feed]:
    """Make two feeds of seeded random inputs: floats normal, then uniform in [0, 1); integers 0 or 1; masks ones.

    Whole numbers that the model looks up in a table are any of its rows (at most 1000).

    `profiles` are as configure's params have them: a shape input takes the first one's best values. Dynamic
    axes take the first profile's `opt`, with a batch of at most 2; without a profile, the first of GUESSES
    with which the model runs. Raises StageFailed if none does.
    """
    unknown = [entry.name for entry in inputs if entry.dims is None]
    if unknown:
        raise StageFailed(f"the model does not say how many axes {', '.join(unknown)} has; fix its shape in the model")
    profile = profiles[0] if profiles else {}
    batches = {*decide(inputs, (), {}).names, *(e.dims[0] for e in inputs if e.dims and isinstance(e.dims[0], str))}
    named: dict[str, int] = {}
    for entry in inputs:
        shapes = profile.get(entry.name)
        for axis, dim in enumerate(entry.dims or ()):
            if isinstance(dim, str) and shapes is not None:
                size = shapes.opt[axis]
                if axis == 0 or dim in batches:
                    size = max(shapes.min[axis], min(size, 2))
                named.setdefault(dim, size)
    missing = [d for e in inputs for d in e.dims or () if isinstance(d, str) and d not in named]
    if not missing:
        return _random(model, inputs, named, profile)
    said = ""
    for guess in GUESSES:
        sizes = {d: 1 if d in batches else guess for d in missing} | named
        feeds = _random(model, inputs, sizes, profile)
        try:
            ort_cpu.run(model.SerializeToString(), feeds[0])
        except Exception as error:  # noqa: BLE001 - each guess may fail in any way; the last one is told
            said = str(error)
        else:
            return feeds
    raise StageFailed(
        f"the changed model cannot be checked: no size of {', '.join(sorted(set(missing)))} out of "
        f"{', '.join(map(str, GUESSES))} runs in onnxruntime; give params.profiles or data ({said})"
    )


def told(model: onnx.ModelProto, inputs: Sequence[Tensor]) -> str:
    """Say how `random_feeds` makes inputs that are not simply random."""
    rows = lookups.table_sizes(model)
    parts = [f"{entry.name} of ones" for entry in inputs if lookups.is_mask(entry.name)]
    parts += [f"{name} below {min(size, lookups.MOST)}" for name, size in rows.items() if not lookups.is_mask(name)]
    return "seeded random inputs" + (f" ({', '.join(parts)})" if parts else "")


def _random(
    model: onnx.ModelProto,
    inputs: Sequence[Tensor],
    named: Mapping[str, int],
    profile: Mapping[str, Shapes | Values],
) -> list[Feed]:
    feeds = []
    bounds = lookups.table_sizes(model)
    for uniform in (False, True):
        random = np.random.default_rng(SEED)
        feed: Feed = {}
        for entry in inputs:
            shape = [named[d] if isinstance(d, str) else d for d in entry.dims or ()]
            dtype = elements.in_memory(entry.dtype)
            values: NDArray[Any]
            if entry.shape_input and entry.name in profile and entry.count() is not None:
                values = np.reshape(profile[entry.name].opt, shape)
            elif lookups.is_mask(entry.name):
                values = np.ones(shape)
            elif elements.is_float(dtype):
                values = random.random(shape) if uniform else random.standard_normal(shape)
            else:
                values = random.integers(0, min(bounds.get(entry.name, 2), lookups.MOST), shape)
            feed[entry.name] = np.asarray(values).astype(dtype)
        feeds.append(feed)
    return feeds


class _Fed(NamedTuple):
    name: str
    how: laying.How
    source: tensors.Source | tensors.Ragged
    axis: int | None


@dataclass(frozen=True)
class Samples:
    """Samples for a model's inputs, read from disk as they are asked for; iterating gives one feed a run.

    `count` samples are chosen evenly out of `total`; `rows` of them are fed at a time.
    """

    fed: tuple[_Fed, ...]
    total: int
    count: int
    rows: int
    label: str
    picked: tuple[int, ...] = ()
    """Instead of an even choice: these samples, in rising order."""
    filled: bool = False
    """Whether a last batch that is not full is fed, filled with its last sample."""
    batched: bool = False
    """Whether a feed has its samples along a batch axis."""

    @property
    def ragged(self) -> bool:
        """Whether samples have shapes of their own; each is fed alone then."""
        return any(isinstance(f.source, tensors.Ragged) for f in self.fed)

    @property
    def runs(self) -> int:
        """How many feeds there are."""
        return -(-self.count // self.rows)

    def __iter__(self) -> Iterator[Feed]:
        """Give the feeds; the arrays are their own."""
        still = {f.name: tensors.fixed(f.source).read() for f in self.fed if f.how == "constant"}
        moving = {f.name: f for f in self.fed if f.how != "constant"}
        if not moving and self.total:
            yield still
            return
        even = np.linspace(0, self.total - 1, self.count).round().astype(int).tolist()
        wanted = set(self.picked or even)
        waiting: list[Feed] = []
        for index, row in enumerate(tensors.one_by_one({n: f.source for n, f in moving.items()})):
            if index not in wanted:
                continue
            waiting.append(row)
            if self.filled and index == self.total - 1:
                waiting += waiting[-1:] * (self.rows - len(waiting))
            if len(waiting) == self.rows:
                feed = dict(still)
                for name, one in moving.items():
                    rows = [w[name] for w in waiting]
                    if one.how == "run":
                        feed[name] = np.asarray(rows[0][0])
                    else:
                        feed[name] = np.ascontiguousarray(np.moveaxis(np.concatenate(rows), 0, one.axis or 0))
                waiting = []
                yield feed

    def all(self) -> Samples:
        """Take every sample in order; an incomplete last batch is filled with the last sample."""
        return replace(self, picked=(), count=self.total, filled=True)

    def pick(self, indices: Sequence[int]) -> Samples:
        """Take only these samples; an incomplete fixed batch is filled with the first of the others."""
        inside = {i for i in indices if 0 <= i < self.total}
        if not inside:
            return self
        others = (i for i in range(self.total) if i not in inside)
        inside |= set(itertools.islice(others, -len(inside) % self.rows))
        # An incomplete last batch is left out, as it is without a pick.
        picked = tuple(sorted(inside)[: len(inside) // self.rows * self.rows])
        return replace(self, picked=picked, count=len(picked))

    def first(self, number: int) -> list[Feed]:
        """Give the first feeds, as a list."""
        found = []
        for feed in self:
            found.append(feed)
            if len(found) == number:
                break
        return found


def decide(inputs: Sequence[Tensor], outputs: Sequence[Tensor], said: Mapping[str, int | str]) -> rule.Batch:
    """Decide which axes are the batch where nothing says its length: a dynamic batch is one sample then."""
    return rule.find(inputs, outputs, said, {d: 1 for e in inputs for d in e.dims or () if isinstance(d, str)})


def samples(
    given: Input,
    inputs: Sequence[Tensor],
    *,
    names: Mapping[str, str] | None = None,
    batch_axis: Mapping[str, int | str] | None = None,
    outputs: Sequence[Tensor] = (),
    most: int = 128,
) -> Samples:
    """Match data with a model's inputs. `most` limits the samples; `batch.find` says what `batch_axis` is.

    `outputs` are only named in the line that a refusal proposes.

    Raises StageFailed that lists every mismatch with what was found and what was expected.
    """
    sources = tensors.open_input(given)
    names = names or {}
    known = [entry.name for entry in inputs]
    problems = [f"params.names.{n}: the model's inputs are {', '.join(known)}" for n in names if n not in known]
    batch = decide(inputs, (), {n: a for n, a in (batch_axis or {}).items() if n in known})
    problems += batch.problems
    fed: list[_Fed] = []
    rows = batch.size or 1
    for entry in inputs if batch.axes else ():
        name, dims, axis = entry.name, entry.dims, batch.axes[entry.name]
        if names.get(name, name) not in sources:
            problems.append(
                f"{given.label} has no {names.get(name, name)} for the input {name}; it has {', '.join(sources)}. "
                "params.names says which is which"
            )
            continue
        source = tensors.plain(sources[names.get(name, name)])
        if source.element != entry.dtype:
            problems.append(f"{source.label}: found {source.element}, expected {entry.dtype}")
            continue
        if dims is None:
            fed.append(_Fed(name, "batch", source, 0))
            continue
        if isinstance(source, tensors.Ragged):
            problems += _misfits(source, dims, axis, rows)
            fed.append(_Fed(name, "run" if axis is None else "batch", source, axis))
            continue
        # A dynamic axis without the batch's name takes what the data has: as a batch is one sample, that is no guess.
        if axis is None and dims and isinstance(dims[0], str) and rows == 1 and name not in (batch_axis or {}):
            axis = 0
        how = laying.how(source.shape, dims, axis, rows)
        if how is None:
            line = rule.line([*inputs, *outputs], dims[0] if dims and isinstance(dims[0], int) else None)
            hint = ""
            if axis is None and len(source.shape) == len(dims) and laying.fits(source.shape[1:], dims[1:]):
                hint = f"; {name} {rule.text(entry)} names no batch: if axis 0 is one, write params.{line}"
            problems.append(
                f"{source.label}: found shape {list(source.shape)}, expected {laying.expected(dims, axis)}{hint}"
            )
            continue
        fed.append(_Fed(name, how, source, axis if how == "batch" else None))
    if problems:
        raise StageFailed("\n".join(problems))
    counts = {f.source.label: tensors.count(f.source) for f in fed if f.how != "constant"}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{label} {count}" for label, count in counts.items())
        raise StageFailed(f"the tensors differ in their number of samples: {text}")
    total = next(iter(counts.values()), 1)
    hows = {f.how for f in fed}
    if "batch" not in hows:
        rows = 1
    elif "run" in hows and rows > 1:
        one = next(f for f in fed if f.how == "run")
        raise StageFailed(
            f"{one.source.label} has one value a sample, but input {one.name} takes one a batch, and the model's batch "
            f"is fixed at {rows}: give it once for all samples, or say which of its axes is the batch (batch_axis)"
        )
    if total and total < rows:
        raise StageFailed(f"{given.label}: found {total} samples, expected at least {rows}: the model's batch is fixed")
    count = min(most, total) // rows * rows or (rows if total else 0)
    return Samples(tuple(fed), total, count, rows, given.label, batched="batch" in hows)


def _misfits(source: tensors.Ragged, dims: Sequence[int | str], axis: int | None, rows: int) -> list[str]:
    """Say what is wrong with samples of many shapes for an input of these dims."""
    rest = dims if axis is None else [*dims[:axis], *dims[axis + 1 :]]
    wants = laying.expected(dims, axis)
    if rows > 1:
        found = f"{source.label}: found a ragged tensor, whose samples are fed one by one"
        return [f"{found}, expected {wants}: the model's batch is fixed at {rows}"]
    if source.rank != len(rest):
        return [f"{source.label}: found samples with {source.rank} axes, expected {wants}"]
    start = 0
    for shapes in source.all_shapes():
        for number, shape in enumerate(shapes.tolist(), start):
            if not laying.fits(shape, rest):
                return [f"{source.label}: found shape {shape} for sample {number}, expected {wants}"]
        start += len(shapes)
    return []
