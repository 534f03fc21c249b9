"""One array on disk, read in rows: whatever it is stored in, and as bounded in memory as its reader asks."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import elements, parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from trtpipe.data.stored import Bytes, Opened


@dataclass(frozen=True, kw_only=True)
class Source:
    """One array on disk. `shape` is whole, axis 0 first; `label` says where it lies, for messages.

    `element` names the type of its elements as documents do; see `elements`.
    """

    name: str
    element: str
    shape: tuple[int, ...]
    label: str
    data: Bytes

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Its type in memory. Raises EnvironmentMissing if NumPy has none and ml_dtypes is not installed."""
        return elements.in_memory(self.element)

    @property
    def row_bytes(self) -> int:
        """Bytes of one step along axis 0, in memory."""
        return int(math.prod(self.shape[1:])) * elements.itemsize(self.element)

    @property
    def stored_row_bytes(self) -> int:
        """Bytes of one step along axis 0, on disk."""
        shape = elements.stored_shape(self.element, self.shape)
        return int(math.prod(shape[1:])) * elements.stored(self.element).itemsize

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Open the array for one pass from its start."""
        with self.data.open() as opened:
            yield Reader(self, opened)

    def read(self) -> NDArray[Any]:
        """Read the whole array; for small ones."""
        whole = np.empty(self.shape, self.dtype)
        with self.reader() as reader:
            reader.fill(whole)
        return whole


class Reader:
    """One pass over an array's rows."""

    def __init__(self, source: Source, opened: Opened) -> None:
        self._source = source
        self._opened = opened
        self._row = 0
        self._row_bytes = source.stored_row_bytes
        self._packed = elements.per_byte(source.element) > 1
        self._shared = opened.anywhere and not self._packed and parallel.PIECE % source.dtype.itemsize == 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole array's shape."""
        return self._source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements in memory."""
        return self._source.dtype

    @property
    def anywhere(self) -> bool:
        """Whether `fill_from` can be called from several threads, and costs no more than reading along."""
        return self._opened.anywhere

    def fill(self, into: NDArray[Any], check: Callable[[NDArray[Any]], None] | None = None) -> None:
        """Fill a C-contiguous array with the next rows; as `fill_from` does."""
        row, self._row = self._row, self._row + (into.shape[0] if into.ndim else 1)
        self.fill_from(row, into, check)

    def fill_from(self, row: int, into: NDArray[Any], check: Callable[[NDArray[Any]], None] | None = None) -> None:
        """Fill a C-contiguous array with the rows from `row` on, on several threads where that can be.

        `check` is called with the new values, a flat piece at a time, maybe on several threads too. Raises
        StageFailed if the data end before, or are damaged.
        """
        flat = into.reshape(-1)
        if self._packed:
            self._unpack(row, into)
        elif into.size:
            view: memoryview = flat.view(np.uint8).data
            place = row * self._row_bytes
            if self._shared and parallel.shares(len(view)) > 1:
                self._fill_shared(place, view, flat, check)
                return
            self._opened.read_at(place, view)
        if check is not None and flat.size:
            check(flat)

    def _fill_shared(
        self, place: int, view: memoryview, flat: NDArray[Any], check: Callable[[NDArray[Any]], None] | None
    ) -> None:
        read_at, itemsize = self._opened.read_at, flat.itemsize

        def work(begin: int, end: int) -> None:
            read_at(place + begin, view[begin:end])
            if check is not None:
                check(flat[begin // itemsize : end // itemsize])

        parallel.pieces(len(view), work)

    def _unpack(self, row: int, into: NDArray[Any]) -> None:
        raw = np.empty(elements.stored_shape(self._source.element, into.shape), np.uint8)
        if raw.size:
            self._opened.read_at(row * self._row_bytes, raw.reshape(-1).data)
        elements.unpack(raw, self._source.element, into)
