"""What comes out of an engine: batches cut into samples, and written as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import laying
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from trtpipe.data.tensors import ArrayWriter, RaggedWriter, Writer
    from trtpipe.documents.buffers import Split

    Rows = NDArray[Any] | list[NDArray[Any]]
    """Samples: rows of one array, or arrays of shapes of their own."""


class Outputs:
    """Writes an engine's outputs, one row a sample."""

    def __init__(
        self,
        writer: Writer,
        axes: Mapping[str, int | None],
        total: int,
        *,
        batched: bool,
        ragged: Collection[str] = (),
        splits: Sequence[Split] = (),
        cut: Mapping[str, Sequence[int | str]] | None = None,
    ) -> None:
        """Take each output's batch axis by name; if a run is not `batched`, it is one sample as a whole.

        `ragged` are those whose size differs from sample to sample, as `splits` do. `cut` has the dims of each output's
        rows: an axis with the name of one that was padded is cut back.
        """
        self._cut = cut
        self._writer = writer
        self._total = total
        self._batched = batched
        self._axes = axes
        self._splits = splits
        self._ragged = {*ragged, *(name for one in splits for name in (one.tensor, *one.also))}
        self._fixed: dict[str, ArrayWriter] = {}
        self._open: dict[str, RaggedWriter] = {}
        self.done = 0
        """Samples written."""

    def write(
        self, result: Mapping[str, NDArray[Any]], fed: int, count: int, lengths: Sequence[Mapping[str, int]] = ()
    ) -> None:
        """Write the first `count` samples of a batch of `fed`, cut to their `lengths` if they were padded.

        Raises StageFailed if an output is not as allocated.
        """
        split = {name: rows for one in self._splits for name, rows in _split(one, result, fed, count).items()}
        for name in self._axes:
            rows: Rows = split[name] if name in split else self._rows(name, result[name], fed, count)
            if self._cut is not None:
                rows = [
                    row[tuple(slice(own.get(str(dim))) for dim in self._cut[name])]
                    for row, own in zip(rows, lengths, strict=True)
                ]
            if name in self._ragged:
                self._write_ragged(name, list(rows))
            else:
                self._write_fixed(name, np.asarray(rows))
        self.done += count

    def _write_fixed(self, name: str, rows: NDArray[Any]) -> None:
        if name not in self._fixed:
            self._fixed[name] = self._writer.add(name, rows.dtype, (self._total, *rows.shape[1:]))
        array = self._fixed[name]
        if rows.shape[1:] != array.shape[1:]:
            raise StageFailed(
                f"output {name} is {list(array.shape[1:])} for the first samples and "
                f"{list(rows.shape[1:])} for sample {self.done}; by its dims it is of one shape"
            )
        array.write(rows)

    def _write_ragged(self, name: str, rows: list[NDArray[Any]]) -> None:
        if name not in self._open:
            self._open[name] = self._writer.add_ragged(name, rows[0].dtype, self._total, rows[0].ndim)
        ragged = self._open[name]
        if rows[0].ndim != ragged.rank:
            raise StageFailed(
                f"output {name} has {ragged.rank} axes for the first samples and {rows[0].ndim} for sample {self.done}"
            )
        ragged.write(rows)

    def _rows(self, name: str, array: NDArray[Any], fed: int, count: int) -> NDArray[Any]:
        """Give an output's rows, one a sample, without padding."""
        axis = self._axes[name]
        if not self._batched:  # each run is one sample, whatever its axes are
            return array[None]
        if axis is None:
            return np.broadcast_to(array, (count, *array.shape))
        if array.ndim <= axis or array.shape[axis] != fed:
            raise StageFailed(
                f"output {name} has shape {list(array.shape)} for a batch of {fed}; expected {fed} on axis {axis}, "
                "which is the batch by the network's names or batch_axis: what the model computes is of another size"
            )
        return np.ascontiguousarray(laying.rows(array, axis)[:count])


def _split(split: Split, result: Mapping[str, NDArray[Any]], fed: int, count: int) -> dict[str, list[NDArray[Any]]]:
    """Give each sample's rows of outputs that are split by a column, which becomes 0: a sample of a batch of its own.

    Raises StageFailed for a number that is no sample of the batch, and for outputs with unlike numbers of rows.
    """
    table = result[split.tensor]
    numbers = table[:, split.column] if table.ndim == 2 else table
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < fed:
        wrong = numbers[(numbers < 0) | (numbers >= fed)]
        raise StageFailed(
            f"output {split.tensor}: found {wrong[0]} in column {split.column}, expected the number of a sample in the "
            f"batch, 0 to {fed - 1}"
        )
    cut: dict[str, list[NDArray[Any]]] = {}
    for name in (split.tensor, *split.also):
        array = result[name]
        if not array.ndim or array.shape[0] != numbers.shape[0]:
            raise StageFailed(
                f"output {name} has shape {list(array.shape)}, expected {numbers.shape[0]} rows as {split.tensor} has, "
                "by which it is split"
            )
        cut[name] = [np.array(array[numbers == sample]) for sample in range(count)]
    for rows in cut[split.tensor]:
        (rows[:, split.column] if table.ndim == 2 else rows)[...] = 0
    return cut
