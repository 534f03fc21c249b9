"""Tensors a batch at a time, so that memory does not grow with the data: what stages read and write.

The door to what reads them (`artifact`, `given`) and writes them (`writing`). Nothing is unpickled, ever.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import artifact, given
from trtpipe.data.arrays import Reader, Source
from trtpipe.data.ragged import Ragged, fixed, plain
from trtpipe.data.writing import ArrayWriter, RaggedWriter, Writer, write
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from trtpipe.stage import Input

__all__ = (
    "INDEX", "ArrayWriter", "Ragged", "RaggedWriter", "Reader", "Source", "Writer", "batches", "count", "fixed",
    "one_by_one", "open_input", "plain", "write",
)  # fmt: skip

INDEX = artifact.INDEX


def open_input(source: Input) -> dict[str, Source | Ragged]:
    """List the tensors of a stage's input by name, having read heads, and offsets and shapes of ragged ones.

    Takes a `tensors` artifact, a `.npz` file (stored or deflated), a `.npy` file or a folder of them, where an array is
    called after its file. There, NAME.values, NAME.offsets and NAME.shapes are one ragged tensor, and so are the files
    in a folder NAME.samples. `fixed` refuses what is ragged. Raises StageFailed for anything else, and for objects,
    Fortran order, foreign byte order, torn files, and arrays that do not fit each other.
    """
    if source.kind == "tensors" or INDEX in source.files:
        return artifact.listed(source)
    return given.listed(source)


def one_by_one(sources: Mapping[str, Source | Ragged]) -> Iterator[dict[str, NDArray[Any]]]:
    """Give each sample of all sources together, as arrays [1, …] of their own, whatever shapes the samples have.

    Raises StageFailed if the sources differ in their number of samples.
    """
    counts = {name: count(source) for name, source in sources.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{n} {c}" for n, c in counts.items())
        raise StageFailed(f"the tensors differ in their number of samples (axis 0): {found}")
    even = {name: source for name, source in sources.items() if isinstance(source, Source)}
    with ExitStack() as stack:
        readers = {
            name: stack.enter_context(source.reader()) for name, source in sources.items() if isinstance(source, Ragged)
        }
        rows = batches(even, 1) if even else ({} for _ in range(next(iter(counts.values()), 0)))
        for index, row in enumerate(rows):
            found_rows = {name: array.copy() for name, array in row.items()}
            yield found_rows | {name: reader.row(index)[None] for name, reader in readers.items()}


def count(source: Source | Ragged) -> int:
    """Give the number of samples."""
    return len(source) if isinstance(source, Ragged) else source.shape[0] if source.shape else 0


def batches(sources: Mapping[str, Source], size: int, *, copies: int = 1) -> Iterator[dict[str, NDArray[Any]]]:
    """Give rows of all sources together, `size` at a time; the last batch may be smaller.

    The arrays are C-contiguous views of `copies` sets of buffers that are used in turn: a batch is valid until
    `copies` more have been asked for. Raises StageFailed if the sources differ in their number of rows.
    """
    rows = {name: source.shape[0] if source.shape else 0 for name, source in sources.items()}
    if len(set(rows.values())) > 1:
        raise StageFailed(
            "the tensors differ in their number of samples (axis 0): " + ", ".join(f"{n} {r}" for n, r in rows.items())
        )
    total = next(iter(rows.values()), 0)
    sets = [
        {name: np.empty((min(size, total), *source.shape[1:]), source.dtype) for name, source in sources.items()}
        for _ in range(max(copies, 1))
    ]
    with ExitStack() as stack:
        readers = {name: stack.enter_context(source.reader()) for name, source in sources.items()}
        for turn, start in enumerate(range(0, total, size)):
            count = min(size, total - start)
            batch = {name: buffer[:count] for name, buffer in sets[turn % len(sets)].items()}
            for name, reader in readers.items():
                reader.fill(batch[name])
            yield batch
