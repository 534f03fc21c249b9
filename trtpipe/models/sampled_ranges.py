"""Profiles from data: how long each dynamic axis is in samples, rounded outward, so that more of the same data fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trtpipe import batch as rule
from trtpipe.data import laying, tensors
from trtpipe.documents.config import Shapes
from trtpipe.errors import StageFailed
from trtpipe.models import feeding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trtpipe.data.tensors import Ragged, Source
    from trtpipe.documents.network import Tensor
    from trtpipe.stage import Input


class Sizes(NamedTuple):
    """The smallest, best and largest length of an axis."""

    min: int
    opt: int
    max: int


class Found(NamedTuple):
    """A profile from samples, and what was measured for it, for people."""

    profile: dict[str, Shapes]
    told: str


def profile(
    given: Input,
    inputs: Sequence[Tensor],
    *,
    names: Mapping[str, str],
    batch_axis: Mapping[str, int | str],
    axes: Mapping[str, Sizes],
    multiple_of: int | None,
) -> Found:
    """Make the profile of samples: of each dynamic input the smallest, best and largest shape.

    The lengths of an axis in the samples give its smallest and largest size; the best one is the median. All are
    rounded outward, to powers of two or to multiples of `multiple_of`. `axes` gives sizes by the name of an axis, and
    they are taken as they are. Inputs with values (`shape_input`) are left out.

    Raises StageFailed that lists what is wrong: no samples, data that does not fit an input, axes that no data has.
    """
    sources = tensors.open_input(given)
    known = {entry.name: entry for entry in inputs}
    problems = [f"params.names.{n}: the model's inputs are {', '.join(known)}" for n in names if n not in known]
    batch = feeding.decide(inputs, (), {n: axis for n, axis in batch_axis.items() if n in known})
    problems += batch.problems
    dynamic = [e for e in inputs if not _valued(e) and any(isinstance(d, str) for d in e.dims or ())]
    named = list(dict.fromkeys(d for e in dynamic for d in e.dims or () if isinstance(d, str)))
    if wrong := [name for name in axes if name not in named]:
        problems.append(
            f"profiles.axes: found {', '.join(wrong)}, expected dynamic axes; they are {', '.join(named) or 'none'}"
        )
    for name, one in axes.items():
        if not 0 <= one.min <= one.opt <= one.max:
            text = f"min {one.min}, opt {one.opt}, max {one.max}"
            problems.append(f"profiles.axes.{name}: found {text}; expected 0 ≤ min ≤ opt ≤ max")
    lengths: dict[str, NDArray[np.int64]] = {}
    samples: dict[str, int] = {}
    for entry in dynamic if batch.axes else ():
        source = sources.get(names.get(entry.name, entry.name))
        if source is None:
            continue
        rest, found = _measured(source, entry, batch.axes[entry.name])
        if found is None:
            wants = laying.expected(entry.dims or (), batch.axes[entry.name])
            problems.append(f"{source.label}: found {_found(source)}, expected {wants}")
            continue
        samples[entry.name] = len(found)
        for place, dim in enumerate(rest):
            if isinstance(dim, str):
                lengths[dim] = np.concatenate([lengths.get(dim, found[:0, place]), found[:, place]])
    if any(not count for count in samples.values()):
        problems.append(f"{given.label}: found no samples, expected at least one")
    if problems:
        raise StageFailed("\n".join(problems))
    measured = {dim: _rounded(found, multiple_of) for dim, found in lengths.items() if dim not in axes}
    sizes = {**measured, **axes}
    if lacking := [dim for dim in named if dim not in sizes]:
        lines = ", ".join(f"{rule.key(dim)}: {{min: 1, opt: 8, max: 8}}" for dim in lacking)
        batched = [dim for dim in lacking if dim in batch.names]
        why = " (how many samples a batch has is no property of the data)" if batched else ""
        raise StageFailed(
            f"profiles: {given.label} ({', '.join(sources)}) does not say how long {', '.join(lacking)} is{why}; "
            f"expected in profiles, with sizes of your own: axes: {{{lines}}}"
        )
    made = {
        entry.name: Shapes(**{
            which: tuple(d if isinstance(d, int) else getattr(sizes[d], which) for d in entry.dims or ())
            for which in ("min", "opt", "max")
        })
        for entry in dynamic
    }  # fmt: skip
    told = "; ".join(
        f"{dim} {one.min} to {one.max}, best {one.opt} (lengths {int(lengths[dim].min())} to {int(lengths[dim].max())})"
        for dim, one in measured.items()
    )
    return Found(made, told and f"profile from {given.label}: {told}")


def _valued(entry: Tensor) -> bool:
    return entry.shape_input and entry.count() is not None


def _measured(
    source: Source | Ragged, entry: Tensor, axis: int | None
) -> tuple[list[int | str], NDArray[np.int64] | None]:
    """Give the dims that a sample has, and the shape of each sample; None if the data does not fit."""
    dims = list(entry.dims or ())
    rest = dims if axis is None else [*dims[:axis], *dims[axis + 1 :]]
    if isinstance(source, tensors.Ragged):
        if source.rank != len(rest):
            return rest, None
        found = np.concatenate([np.zeros((0, source.rank), np.int64), *source.all_shapes()])
    else:
        how = laying.how(source.shape, dims, axis, 1)
        if how is None:
            return rest, None
        if how == "constant":
            rest, shapes, count = dims, source.shape, 1
        else:
            rest, shapes, count = (rest if how == "batch" else dims), source.shape[1:], source.shape[0]
        found = np.tile(np.array(shapes, np.int64), (count, 1)).reshape(count, len(rest))
    fixed = [(place, d) for place, d in enumerate(rest) if isinstance(d, int)]
    return rest, None if any((found[:, place] != d).any() for place, d in fixed) else found


def _found(source: Source | Ragged) -> str:
    if not isinstance(source, tensors.Ragged):
        return f"shape {list(source.shape)}"
    shapes = next(source.all_shapes(), np.zeros((0, source.rank)))
    return f"samples with {source.rank} axes" + (f", the first {shapes[0].tolist()}" if len(shapes) else "")


def _rounded(found: NDArray[np.int64], multiple_of: int | None) -> Sizes:
    middle = int(np.sort(found)[len(found) // 2])
    return Sizes(_down(int(found.min()), multiple_of), _up(middle, multiple_of), _up(int(found.max()), multiple_of))


def _down(size: int, multiple_of: int | None) -> int:
    """Give the next power of two, or multiple, that is not more; 1 rather than 0, which no sample was."""
    if not size:
        return 0
    return max(1, size // multiple_of * multiple_of) if multiple_of else 1 << (size.bit_length() - 1)


def _up(size: int, multiple_of: int | None) -> int:
    if not size:
        return 0
    return -(-size // multiple_of) * multiple_of if multiple_of else 1 << (size - 1).bit_length()
