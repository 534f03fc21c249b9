"""How data lies for a network's inputs: samples along axis 0, whatever axis the network has its batch on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

How = Literal["batch", "run", "constant"]
"""`batch`: rows of axis 0 are put together along the batch's axis. `run`: each row is the whole input of a run.
`constant`: the array is the input of every run."""


def how(found: Sequence[int], dims: Sequence[int | str | None], axis: int | None, size: int | None) -> How | None:
    """Say how an array of shape `found` is fed to an input of these dims; None if it does not fit.

    `axis` is the input's batch axis and `size` the samples in a batch. Dims that are no numbers take any length.
    """
    whole = list(dims)
    if axis is not None:
        rest = [*whole[:axis], *whole[axis + 1 :]]
        if len(found) == len(whole) and fits(found[1:], rest):
            return "batch"
    elif fits(found, whole):
        return "constant"
    if found and fits(found[1:], whole):
        return "run"
    # One value for all samples, which lies as the network has it.
    return "constant" if axis and size == 1 and fits(found, [*whole[:axis], 1, *whole[axis + 1 :]]) else None


def fits(found: Sequence[int], dims: Sequence[int | str | None]) -> bool:
    """Tell whether a shape is one of these dims."""
    return len(found) == len(dims) and all(not isinstance(d, int) or d == n for n, d in zip(found, dims, strict=True))


def expected(dims: Sequence[int | str | None], axis: int | None) -> str:
    """Write the shape that data has for an input, for messages: `[samples, 3, 8, 8]`."""
    rest = dims if axis is None else [*dims[:axis], *dims[axis + 1 :]]
    return f"[{', '.join(['samples', *('?' if d is None else str(d) for d in rest)])}]"


def shape(row: Sequence[int], axis: int | None, count: int) -> tuple[int, ...]:
    """Give the shape of a batch of so many samples of this shape."""
    return tuple(row) if axis is None else (*row[:axis], count, *row[axis:])


def rows(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """View a batch with its samples along axis 0."""
    return np.moveaxis(array, axis, 0)
