"""The rule for the batch: which axis of which tensor it is, and how many samples it has.

The network says it by a name, or the document by `batch_axis`. A length that fits by chance says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Named(Protocol):
    """An input or an output as documents describe it."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def dims(self) -> Sequence[int | str] | None:
        """The size of each axis, or its name where it is dynamic."""
        ...

    @property
    def names(self) -> Sequence[str | None]:
        """The name of each axis, where a fixed one has a name too."""
        ...

    @property
    def shape_input(self) -> bool:
        """Whether its values are sizes; such an input belongs to a run, not to a sample."""
        ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What was decided. `size` is None where it is dynamic and nothing said how long it is."""

    names: tuple[str, ...]
    """What the inputs call the batch; none if nothing does."""
    size: int | None
    axes: Mapping[str, int | None]
    """The batch's axis of each tensor; None if the tensor has none."""
    problems: tuple[str, ...]
    """What is contradictory, each in one sentence."""
    undecided: tuple[str, ...]
    """Outputs of which neither the network nor the document says which axis is the batch."""


def find(
    inputs: Sequence[Named], outputs: Sequence[Named], said: Mapping[str, int | str], sizes: Mapping[str, int]
) -> Batch:
    """Decide which axes are the batch. `sizes` has the lengths of dynamic axes by their names, where they are known.

    The batch's name is the one of the axis that `said` gives for an input; else the first name with `batch` in it that
    an input's axis has (at axis 0 before others); else the name of the first axis of the first input whose first axis
    has one. An axis of fixed size without a name is the batch if `said` says so. Where a batch is one sample, a first
    axis of fixed size 1 is the sample's own: no two samples can be mixed up there.
    """
    known = {entry.name: entry for entry in (*inputs, *outputs)}
    problems = [
        f"batch_axis.{name}: found a tensor that is not there; there are {', '.join(known)}"
        for name in said
        if name not in known
    ]
    for name, axis in said.items():
        rank = len(known[name].dims or ()) if name in known else 0
        if name in known and known[name].dims is not None and isinstance(axis, int) and axis >= rank:
            problems.append(f"batch_axis.{name}: found {axis}, expected less than {rank}: {text(known[name])}")
    if problems:
        return Batch(names=(), size=1, axes={}, problems=tuple(problems), undecided=())
    names = _names(inputs, said)
    axes: dict[str, int | None] = {}
    unclear: list[str] = []
    for name, entry in known.items():
        own = axis_names(entry)
        if name in said:
            word = said[name]
            axes[name] = word if isinstance(word, int) else None
            continue
        places = [number for number, one in enumerate(own) if one in names]
        axes[name] = places[0] if places else None
        if len(places) > 1:
            unclear.append(name)
    lengths: dict[int, str] = {}
    for entry in inputs:
        place = axes[entry.name]
        if place is not None and entry.dims is not None:
            dim = entry.dims[place]
            size = dim if isinstance(dim, int) else sizes.get(dim)
            if size is not None:
                lengths.setdefault(size, f"axis {place} of {entry.name} is {size}")
    if len(lengths) > 1:
        problems.append(f"the batch has two sizes: {', '.join(lengths.values())}; batch_axis says which axes it is")
    batched = any(axes[entry.name] is not None for entry in inputs)
    length = next(iter(lengths), None if batched else 1)
    if length == 1:
        for name, entry in known.items():
            if axes[name] is None and name not in said and not entry.shape_input and (entry.dims or (0,))[0] == 1:
                axes[name] = 0
    undecided = [e.name for e in outputs if e.name not in said and (axes[e.name] is None or e.name in unclear)]
    return Batch(
        names=names, size=length, axes=axes, problems=tuple(problems),
        undecided=() if length in (0, 1) else tuple(undecided),
    )  # fmt: skip


def _names(inputs: Sequence[Named], said: Mapping[str, int | str]) -> tuple[str, ...]:
    chosen = []
    for entry in inputs:
        axis, own = said.get(entry.name), axis_names(entry)
        if isinstance(axis, int) and axis < len(own) and own[axis] is not None:
            chosen.append(own[axis])
    if any(isinstance(said.get(entry.name), int) for entry in inputs):
        return tuple(dict.fromkeys(name for name in chosen if name))
    left = [axis_names(entry) for entry in inputs if said.get(entry.name) != "none"]
    firsts = [own[0] for own in left if own and own[0]]
    called = [name for name in (*firsts, *(n for own in left for n in own)) if name and "batch" in name.lower()]
    return tuple([*called, *firsts][:1])


def axis_names(entry: Named) -> tuple[str | None, ...]:
    """Give the name of each axis, or None."""
    if entry.names:
        return tuple(entry.names)
    return tuple(dim if isinstance(dim, str) else None for dim in entry.dims or ())


def text(entry: Named) -> str:
    """Write a tensor's dims, such as `[batch, 3, 8=height]`, for messages."""
    return "[" + ", ".join(
        str(dim) if name is None or name == dim else f"{dim}={name}"
        for dim, name in zip(entry.dims or (), axis_names(entry), strict=True)
    ) + "]"  # fmt: skip


def line(tensors: Sequence[Named], size: int | None, axes: Mapping[str, int | None] | None = None) -> str:
    """Write the `batch_axis` that people may want: what is known, and for the others the axis of that size, if any.

    A proposal for a person, who knows the network: nothing else reads it.
    """
    parts = []
    for entry in tensors:
        known = (axes or {}).get(entry.name)
        dims = entry.dims or ()
        guess = next((axis for axis, dim in enumerate(dims) if isinstance(dim, str) or dim == size), None)
        axis = guess if known is None else known
        parts.append(f"{key(entry.name)}: {'none' if axis is None else axis}")
    return f"batch_axis: {{{', '.join(parts)}}}"


def key(name: str) -> str:
    """Write a name as a key of the document, in quotes where YAML needs them."""
    plain = name.replace("_", "").replace(".", "").replace("/", "").isalnum() and not name[0].isdigit()
    return name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
