"""Join shards of tensors: one artifact of all their samples in order, byte by byte as if it had been written whole.

A part of a shard that lies in the whole as it is becomes a hard link: all parts do, if shards are cut at rows at which
parts begin. What does not fit is copied, with a few MiB in memory: the last parts of shards that are cut elsewhere, and
the offsets of ragged tensors, which count from the first sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from trtpipe.data.parts import STEP
from trtpipe.data.ragged import Ragged
from trtpipe.data.stored import Files
from trtpipe.data.tensors import open_input
from trtpipe.data.writing import Writer
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from trtpipe.data.arrays import Source
    from trtpipe.data.writing import ArrayWriter, RaggedWriter
    from trtpipe.stage import Input

BLOCK = 8 << 20
"""Bytes that are copied at a time."""


def join(out: Path, shards: Sequence[Input]) -> None:
    """Write the tensors of all shards, in order, as one `tensors` artifact into a folder.

    The shards must be artifacts of the store: their files are linked, and nobody may write into them later. Raises
    StageFailed if they do not have the same tensors of the same type and shape.
    """
    opened = [open_input(shard) for shard in shards]
    with Writer(out) as writer:
        for name, first in opened[0].items():
            found = []
            for shard, tensors in zip(shards, opened, strict=True):
                if list(tensors) != list(opened[0]):
                    raise StageFailed(f"{shard.label}: found tensors {_listed(tensors)}, expected {_listed(opened[0])}")
                if _form(tensors[name]) != _form(first):
                    raise StageFailed(f"{tensors[name].label}: found {_form(tensors[name])}, expected {_form(first)}")
                found.append(tensors[name])
            if isinstance(first, Ragged):
                ragged = cast("list[Ragged]", found)
                _ragged(writer.add_ragged(name, first.element, sum(map(len, ragged)), first.rank), ragged)
            else:
                fixed = cast("list[Source]", found)
                rows = sum(source.shape[0] for source in fixed)
                _fixed(writer.add(name, first.element, (rows, *first.shape[1:])), fixed)


def _listed(tensors: dict[str, Source | Ragged]) -> str:
    return ", ".join(tensors) or "none"


def _form(tensor: Source | Ragged) -> str:
    """Say what must be alike in all shards."""
    if isinstance(tensor, Ragged):
        return f"a ragged tensor of {tensor.element} and rank {tensor.rank}"
    if not tensor.shape:
        raise StageFailed(f"{tensor.label}: found a tensor without axes, expected samples on axis 0")
    return f"{tensor.element} [samples, {', '.join(map(str, tensor.shape[1:]))}]"


def _parts(source: Source) -> Iterator[tuple[Path | None, int, int]]:
    """Give the files of an array, each with the rows where it begins and ends; none where it lies in an archive."""
    if isinstance(source.data, Files):
        yield from zip(source.data.paths, source.data.rows, source.data.rows[1:], strict=False)
    else:
        yield None, 0, source.shape[0]


def _fixed(writer: ArrayWriter, sources: Sequence[Source]) -> None:
    for source in sources:
        rows = max(1, BLOCK // max(1, source.row_bytes))
        with source.reader() as reader:
            for path, begin, end in _parts(source):
                if path is not None and writer.link(path, end - begin):
                    continue
                buffer = np.empty((min(rows, end - begin), *source.shape[1:]), source.dtype)
                for start in range(begin, end, rows):
                    block = buffer[: min(rows, end - start)]
                    reader.fill_from(start, block)
                    writer.write(block)


def _ragged(writer: RaggedWriter, tensors: Sequence[Ragged]) -> None:
    for ragged in tensors:
        with ragged.reader() as reader, ragged.shapes.reader() as shapes:
            paths = [path for path, _, _ in _parts(ragged.values)]
            for number, start in enumerate(range(0, len(ragged), STEP)):
                stop = min(start + STEP, len(ragged))
                own = np.empty((stop - start, ragged.rank), np.int64)
                shapes.fill_from(start, own)
                path = paths[number] if len(paths) == -(-len(ragged) // STEP) else None
                if path is None or not writer.link(path, own):
                    for block in reader.blocks(BLOCK, start, stop):
                        writer.write(block)
