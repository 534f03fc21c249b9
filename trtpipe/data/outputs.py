"""What comes out of an engine: batches cut into samples, and written as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import laying
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from trtpipe.data.tensors import ArrayWriter, Writer


class Outputs:
    """Writes an engine's outputs, one row a sample."""

    def __init__(self, writer: Writer, axes: Mapping[str, int | None], total: int, *, batched: bool) -> None:
        """Take each output's batch axis by name; if a run is not `batched`, it is one sample as a whole."""
        self._writer = writer
        self._total = total
        self._batched = batched
        self._axes = axes
        self._arrays: dict[str, ArrayWriter] = {}
        self.done = 0
        """Samples written."""

    def write(self, result: Mapping[str, NDArray[Any]], fed: int, count: int) -> None:
        """Write the first `count` samples of a batch of `fed`. Raises StageFailed if an output is not as allocated."""
        for name in self._axes:
            rows = self._rows(name, result[name], fed, count)
            if name not in self._arrays:
                self._arrays[name] = self._writer.add(name, rows.dtype, (self._total, *rows.shape[1:]))
            array = self._arrays[name]
            if rows.shape[1:] != array.shape[1:]:
                raise StageFailed(
                    f"output {name} is {list(array.shape[1:])} for the first samples and "
                    f"{list(rows.shape[1:])} for sample {self.done}; an array holds one shape only"
                )
            array.write(rows)
        self.done += count

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
