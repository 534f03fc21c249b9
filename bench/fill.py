"""Fill a batch of floats from a tensors artifact in the page cache, as `infer` does, against other ways to do it.

Peers, each with the same number of threads: one read call a thread, a copy from a memory map, and a copy from memory,
which is the ceiling. The target is page-locked where there is a GPU, and page-aligned everywhere. Goal: `infer`,
without looking for NaN, takes no longer than 1.25 times the copy from memory.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np

sys.path.insert(0, str(common.PROJECT))
from trtpipe import environment
from trtpipe.data import parallel, tensors
from trtpipe.stage import Input

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

GOAL = 1.25
SIDE = 224


def target(size: int) -> Any:
    """Give memory to fill: page-locked where that can be had."""
    if environment.gpus():
        from trtpipe.backends.trt.cuda import Runtime

        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(Runtime().malloc_host(size)))
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


def write(folder: Path, batch: int, batches: int, *, mapped: bool) -> tuple[Path, int]:
    """Write the data as the stages do, or through a memory map; give the file and the offset of its first byte."""
    shape = (batch * batches, 3, SIDE, SIDE)
    made = (np.random.default_rng(n).standard_normal((batch, *shape[1:]), np.float32) for n in range(batches))
    if mapped:
        whole = np.lib.format.open_memmap(folder / "image.npy", "w+", np.float32, shape)
        for index, rows in enumerate(made):
            whole[index * batch : (index + 1) * batch] = rows
        whole.flush()
    else:
        with tensors.Writer(folder) as writer:
            array = writer.add("image", np.float32, shape)
            for rows in made:
                array.write(rows)
    (path,) = folder.glob("*.npy")  # so few rows are one part
    return path, path.stat().st_size - int(np.prod(shape)) * 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--mapped", action="store_true", help="write the data through a memory map: in small pages")
    parser.add_argument("--threads", help="numbers of threads, with commas between; default: what infer takes here")
    args = parser.parse_args()
    print(common.machine())
    with tempfile.TemporaryDirectory() as folder:
        path, start = write(Path(folder), args.batch, args.batches, mapped=args.mapped)
        for count in (args.threads or str(parallel.threads())).split(","):
            common.io_threads(count)
            report(measured(path, start, args), args.batch * 3 * SIDE * SIDE * 4)


def measured(path: Path, start: int, args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Give (seconds, CPU seconds) a batch of every way, medians."""
    size = args.batch * 3 * SIDE * SIDE * 4
    into, other = target(size), np.ones(size, np.uint8)
    batch = into.view(np.float32).reshape(args.batch, 3, SIDE, SIDE)
    files = tuple(p.name for p in path.parent.iterdir())
    image = tensors.open_input(Input(name="data", kind="folder", folder=path.parent, files=files, label="data"))[
        "image"
    ]

    def look(piece: NDArray[Any]) -> None:
        np.isnan(np.min(piece))

    def look_only(begin: int, end: int) -> None:
        look(into[begin:end].view(np.float32))

    seconds: dict[str, list[tuple[float, float]]] = {}
    with path.open("rb") as stream, tensors.fixed(image).reader() as reader:
        whole = np.frombuffer(mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ), np.uint8)

        def read(index: int) -> None:
            def work(begin: int, end: int) -> None:
                while begin < end:
                    begin += os.preadv(stream.fileno(), [into.data[begin:end]], start + index * size + begin)

            parallel.pieces(size, work)

        ways: dict[str, Callable[[int], None]] = {
            "infer": lambda i: reader.fill_from(i * args.batch, batch),
            "infer, looking for NaN": lambda i: reader.fill_from(i * args.batch, batch, look),
            "looking for NaN only": lambda _: parallel.pieces(size, look_only),
            "preadv": read,
            "copy from the map": lambda i: parallel.copy(into, whole[start + i * size : start + (i + 1) * size]),
            "copy from memory": lambda _: parallel.copy(into, other),
        }
        for _ in range(args.times):
            for name, way in ways.items():
                begun, used = time.perf_counter(), time.process_time()
                for index in range(args.batches):
                    way(index)
                taken = time.perf_counter() - begun, time.process_time() - used
                seconds.setdefault(name, []).append((taken[0] / args.batches, taken[1] / args.batches))
    return {
        name: (statistics.median(a for a, _ in v), statistics.median(b for _, b in v)) for name, v in seconds.items()
    }


def report(found: dict[str, tuple[float, float]], size: int) -> None:
    """Print a table and the ratio."""
    print(f"{size / 1e6:.0f} MB a batch, {parallel.threads()} threads")
    for name, (wall, used) in found.items():
        print(f"  {name:24}{wall * 1000:7.2f} ms {size / wall / 1e9:7.1f} GB/s   CPU {used * 1000:7.2f} ms")
    ratio = found["infer"][0] / found["copy from memory"][0]
    print(f"  infer takes {ratio:.2f} times a copy from memory (goal {GOAL}: {'met' if ratio <= GOAL else 'MISSED'})")


if __name__ == "__main__":
    main()
