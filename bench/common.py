"""What the benchmarks share: a table, medians, and what machine it was."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROJECT = Path(__file__).resolve().parent.parent


def machine() -> str:
    """Give the machine in one line."""
    model = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        names = [
            line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {count} cores, {platform.system()}, Python {platform.python_version()}"


def io_threads(count: int | str | None) -> None:
    """Let trtpipe read with so many threads; None: with as many as it would take."""
    from trtpipe.data import parallel

    os.environ[parallel.THREADS] = str(count or "")
    parallel.threads.cache_clear()
    parallel.pool.cache_clear()


def versions(*names: str) -> str:
    """Give the versions of installed distributions."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def seconds(command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> float:
    """Give the wall time of a whole process. Raises CalledProcessError if it fails."""
    started = time.perf_counter()
    subprocess.run(command, cwd=cwd, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def interleaved(
    commands: Mapping[str, Sequence[str]], times: int, *, cwd: Path, env: Mapping[str, str] | None = None
) -> dict[str, list[float]]:
    """Time commands in turns, so that what else the machine does falls on all of them; one turn warms up."""
    found: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(times + 1):
        for name, command in commands.items():
            took = seconds(command, cwd=cwd, env=env)
            if turn:
                found[name].append(took)
    return found


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 0) -> str:
    """Give `median (lowest to highest)`."""
    shown = (statistics.median(values), min(values), max(values))
    middle, low, high = (f"{v * scale:.{digits}f}" for v in shown)
    return f"{middle} ({low} to {high})"


def show(title: str, rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """Print a table as Markdown."""
    print(f"### {title}\n")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for index, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if not index:
            print("| " + " | ".join("-" * width for width in widths) + " |")
    for note in notes:
        print(f"\n{note}")
    print()
    sys.stdout.flush()
