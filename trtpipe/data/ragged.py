"""Ragged tensors: samples of one type and rank, each of a shape of its own, read in rows."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import elements, readable
from trtpipe.data.parts import STEP
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from trtpipe.data.arrays import Reader, Source

BLOCK = 1 << 16
"""Samples whose offsets and shapes are checked at a time."""
LARGEST = 2.0**62
"""More elements than this overflow int64."""


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """A ragged tensor on disk: the elements of all samples one after the other, where each begins, and its shape.

    `values` has one axis; `offsets` (samples + 1 whole numbers) begins with 0 and ends with the number of values;
    `shapes` is samples × rank. `check` has been called, unless it is being made.
    """

    name: str
    label: str
    values: Source
    offsets: Source
    shapes: Source

    @property
    def element(self) -> str:
        """The name of its elements' type."""
        return self.values.element

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its type in memory. Raises EnvironmentMissing if NumPy has none and ml_dtypes is not installed."""
        return self.values.dtype

    @property
    def rank(self) -> int:
        """How many axes each sample has."""
        return self.shapes.shape[1]

    def __len__(self) -> int:
        """Give the number of samples."""
        return self.shapes.shape[0]

    @contextmanager
    def reader(self) -> Iterator[RaggedReader]:
        """Open the tensor; samples are read in order most quickly, and from archives only so."""
        with ExitStack() as stack:
            yield RaggedReader(
                self, *(stack.enter_context(one.reader()) for one in (self.values, self.offsets, self.shapes))
            )

    def all_shapes(self) -> Iterator[NDArray[np.int64]]:
        """Give the shapes of all samples, in order, BLOCK samples at a time."""
        with self.shapes.reader() as reader:
            for start in range(0, len(self), BLOCK):
                found = np.empty((min(BLOCK, len(self) - start), self.rank), self.shapes.dtype)
                reader.fill(found)
                yield found.astype(np.int64)

    def check(self) -> Ragged:
        """Give the tensor again if its three arrays fit each other. Raises StageFailed that says where they do not."""
        for one, rank, axes in ((self.values, 1, "[n]"), (self.offsets, 1, "[samples + 1]"),
                                (self.shapes, 2, "[samples, axes]")):  # fmt: skip
            if len(one.shape) != rank:
                raise StageFailed(f"{one.label}: found shape {list(one.shape)}, expected {axes}")
            if one is not self.values and one.dtype.kind not in "iu":
                raise StageFailed(f"{one.label}: found dtype {one.element}, expected int64 (whole numbers)")
        if self.offsets.shape[0] != len(self) + 1:
            raise StageFailed(
                f"{self.offsets.label}: found {self.offsets.shape[0]} offsets for {len(self)} samples, "
                f"expected {len(self) + 1}, one more than samples"
            )
        with self.reader() as reader:
            end = reader.check()
        if end != self.values.shape[0]:
            raise StageFailed(
                f"{self.offsets.label}: found {end} as the last offset, expected {self.values.shape[0]}, "
                f"the number of values"
            )
        return self


class RaggedReader:
    """The rows of a ragged tensor."""

    def __init__(self, ragged: Ragged, values: Reader, offsets: Reader, shapes: Reader) -> None:
        self._ragged = ragged
        self._values = values
        self._offsets = offsets
        self._shapes = shapes
        self._edge: tuple[int, int] | None = None
        """The sample that would come next along, and its offset: an archive cannot give an offset twice."""

    def row(self, index: int) -> NDArray[Any]:
        """Give one sample."""
        return self.rows(index, index + 1)[0]

    def rows(self, start: int, stop: int) -> list[NDArray[Any]]:
        """Give some samples in order, each C-contiguous, all in memory at once."""
        if not 0 <= start <= stop <= len(self._ragged):
            raise IndexError(f"samples {start} to {stop} of {len(self._ragged)}")
        return self._cut(*self._spans(start, stop))

    def blocks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[list[NDArray[Any]]]:
        """Give samples in order, so many at a time that they have no more than `size` bytes; at least one."""
        most = size // self._ragged.dtype.itemsize
        stop = len(self._ragged) if stop is None else stop
        for begin in range(start, stop, STEP):
            offsets, shapes = self._spans(begin, min(begin + STEP, stop))
            at = 0
            while at < len(shapes):
                end = max(at + 1, int(np.searchsorted(offsets, offsets[at] + most, "right")) - 1)
                yield self._cut(offsets[at : end + 1], shapes[at:end])
                at = end

    def check(self) -> int:
        """Hold offsets and shapes against each other; give the last offset. Raises StageFailed."""
        last = 0
        for start in range(0, len(self._ragged) or 1, BLOCK):
            offsets, shapes = self._spans(start, min(start + BLOCK, len(self._ragged)))
            if not start and offsets[0]:
                raise StageFailed(f"{self._ragged.offsets.label}: found {offsets[0]} as the first offset, expected 0")
            lengths = np.diff(offsets)
            if (bad := np.flatnonzero(lengths < 0)).size:
                at = int(bad[0])
                raise StageFailed(
                    f"{self._ragged.offsets.label}: found offset {offsets[at + 1]} after {offsets[at]} "
                    f"(sample {start + at}), expected offsets that rise"
                )
            counts = np.prod(shapes, axis=1, dtype=np.int64)
            # Sizes whose product overflows, where no axis is 0, would come out as any number.
            vast = np.prod(np.maximum(shapes, 1), axis=1, dtype=np.float64) > LARGEST
            if (bad := np.flatnonzero(vast | (shapes < 0).any(axis=1) | (counts != lengths))).size:
                at = int(bad[0])
                raise StageFailed(
                    f"{self._ragged.shapes.label}: found shape {shapes[at].tolist()} for sample {start + at}, "
                    f"expected one of {lengths[at]} elements, as the offsets say"
                )
            last = int(offsets[-1])
        return last

    def _spans(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the offsets of some samples, with the end of the last, and their shapes."""
        known = self._edge is not None and self._edge[0] == start
        offsets = np.empty(stop - start + 1, self._ragged.offsets.dtype)
        shapes = np.empty((stop - start, self._ragged.rank), self._ragged.shapes.dtype)
        self._offsets.fill_from(start + known, offsets[known:])
        self._shapes.fill_from(start, shapes)
        whole = offsets.astype(np.int64)
        if self._edge is not None and known:
            whole[0] = self._edge[1]
        self._edge = (stop, int(whole[-1]))
        return whole, shapes.astype(np.int64)

    def _cut(self, offsets: NDArray[np.int64], shapes: NDArray[np.int64]) -> list[NDArray[Any]]:
        first = int(offsets[0])
        values = np.empty(int(offsets[-1]) - first, self._ragged.dtype)
        self._values.fill_from(first, values)
        begins = (offsets - first).tolist()
        return [
            values[begin:end].reshape(shape)
            for begin, end, shape in zip(begins, begins[1:], shapes.tolist(), strict=False)
        ]


def fixed(source: Source | Ragged) -> Source:
    """Give a tensor whose samples have one shape. Raises StageFailed for a ragged one whose samples differ."""
    found = plain(source)
    if not isinstance(found, Ragged):
        return found
    samples = readable.count(len(found), "sample")
    raise StageFailed(
        f"{source.label}: found a ragged tensor ({samples}, each of a shape of its own), expected one of fixed "
        f"shape; pad its samples to one shape and stack them, or leave the tensor out"
    )


def plain(source: Source | Ragged) -> Source | Ragged:
    """Give a ragged tensor whose samples all have one shape as what it is: an array; and all others as they are."""
    shape = _one_shape(source) if isinstance(source, Ragged) else None
    if not isinstance(source, Ragged) or shape is None or elements.per_byte(source.element) > 1:
        return source
    # The samples lie one after the other, as the rows of an array do.
    return replace(source.values, name=source.name, label=source.label, shape=(len(source), *shape))


def _one_shape(ragged: Ragged) -> tuple[int, ...] | None:
    """Give the shape that all samples have; None if they differ, or if there are none."""
    shape: tuple[int, ...] | None = None
    for found in ragged.all_shapes():
        if not len(found):
            continue
        first = tuple(int(n) for n in found[0])
        if (found != found[0]).any() or first != (shape or first):
            return None
        shape = first
    return shape
