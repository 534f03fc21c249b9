"""Move bytes with several threads: one core copies about 8 GB/s, and a GPU's link takes six times that."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from numpy.typing import NDArray

PIECE = 1 << 21
"""Bytes of one piece of work: it stays in a core's second-level cache while it is read, checked and written."""
MOST = 8


@lru_cache(maxsize=1)
def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST, cores - 1))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(_threads(), thread_name_prefix="move")


def pieces(size: int, work: Callable[[int, int], None]) -> None:
    """Call `work(begin, end)` for consecutive pieces of `size` bytes, on several threads if there are many.

    Pieces begin at multiples of PIECE. Raises what `work` raises.
    """
    if size <= 2 * PIECE or _threads() == 1:
        if size:
            work(0, size)
        return
    starts = range(0, size, PIECE)
    share = -(-len(starts) // _threads())
    # Neighbouring pieces go to one thread, so that each reads along.
    bounds = [(starts[i], min(size, starts[i] + share * PIECE)) for i in range(0, len(starts), share)]

    def along(begin: int, end: int) -> None:
        for start in range(begin, end, PIECE):
            work(start, min(end, start + PIECE))

    for done in [_pool().submit(along, *bound) for bound in bounds]:
        done.result()


def copy(target: NDArray[Any], source: NDArray[np.uint8]) -> None:
    """Copy bytes between arrays of uint8 of one size."""

    def work(begin: int, end: int) -> None:
        target[begin:end] = source[begin:end]

    pieces(source.size, work)
