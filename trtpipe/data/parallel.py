"""Read and copy bytes with several threads: one core copies about 8 GB/s, and a GPU's link takes six times that."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from numpy.typing import NDArray

PIECE = 1 << 20
"""Shares of work begin at multiples of so many bytes."""
LEAST = 4 << 20
"""Fewer bytes are not worth a thread: to hand a share over and to come back, Python's lock changes hands."""
MOST = 8
"""More threads than this gain nothing where the GPU is what is waited for, and are late where cores are shared.

Measured (docs/benchmarks/h100.md): of runs of 60 batches of 77 MB some fell behind the GPU, with 16 threads each of 3,
with 12 threads 5 of 14, with 8 threads 1 of 6.
"""
THREADS = "TRTPIPE_IO_THREADS"
"""The environment variable that says how many threads read, instead of three quarters of the cores up to MOST."""


@lru_cache(maxsize=1)
def threads() -> int:
    """Give how many threads move bytes."""
    asked = os.environ.get(THREADS, "")
    if asked.isdigit() and int(asked):
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST, cores * 3 // 4))


@lru_cache(maxsize=1)
def pool() -> ThreadPoolExecutor:
    """Give the threads that do it."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads(), thread_name_prefix="move")


def shares(size: int) -> int:
    """Give to how many threads so many bytes are shared out: each gets LEAST at least."""
    return max(1, min(threads(), size // LEAST))


def pieces(size: int, work: Callable[[int, int], None]) -> None:
    """Call `work(begin, end)` for consecutive shares of `size` bytes, one a thread and none smaller than LEAST.

    Shares begin at multiples of PIECE. Raises what `work` raises. Each thread gets one share only: Python's lock
    changes hands after each step, which cost more than smaller steps gained (measured: 10 ms against 3 ms for
    77 MB, read and checked by 10 threads in steps of 512 KiB and of 4 MiB).
    """
    count = shares(size)
    if count < 2:
        if size:
            work(0, size)
        return
    share = -(-size // (count * PIECE)) * PIECE
    for done in [pool().submit(work, begin, min(size, begin + share)) for begin in range(0, size, share)]:
        done.result()


def copy(target: NDArray[Any], source: NDArray[np.uint8]) -> None:
    """Copy bytes between arrays of uint8 of one size."""

    def work(begin: int, end: int) -> None:
        target[begin:end] = source[begin:end]

    pieces(source.size, work)
