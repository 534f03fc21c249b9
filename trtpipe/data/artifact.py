"""The tensors of an artifact, as its tensors.json lists them: in parts, or whole as in format 1."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.data import elements, given, npy, parts
from trtpipe.data.arrays import Source
from trtpipe.data.ragged import Ragged
from trtpipe.data.stored import Files, in_files
from trtpipe.documents import files
from trtpipe.documents.tensors import Array, Tensors, WholeTensors
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtpipe.stage import Input

INDEX = Tensors.file


def listed(artifact: Input) -> dict[str, Source | Ragged]:
    """List the tensors of an artifact by name. Raises StageFailed where the index and the files do not agree."""
    label = f"input {artifact.name} ({artifact.label}): {INDEX}"
    index = files.read_either(artifact.path(INDEX), Tensors, WholeTensors, label)
    seen: set[str] = set()
    for entry in index.tensors:
        if entry.name in seen:
            raise StageFailed(f"{label}: found two tensors called {entry.name}, expected different names")
        seen.add(entry.name)
    if isinstance(index, WholeTensors):
        return dict(_whole(artifact, index))
    there = frozenset(artifact.files)
    return {entry.name: _parted(artifact, entry, there) for entry in index.tensors}


def _whole(artifact: Input, index: WholeTensors) -> Iterator[tuple[str, Source]]:
    """Open the arrays of an artifact of format 1, each in a file."""
    for array in index.tensors:
        source = given.array(artifact.path(array.file), array.name, f"{artifact.label}[{array.name}]")
        if source.shape != array.shape:
            said, have = list(array.shape), list(source.shape)
            raise StageFailed(f"{source.label}: {INDEX} says shape {said}, found {have}")
        yield array.name, source


def _parted(artifact: Input, entry: Array, there: frozenset[str]) -> Source | Ragged:
    """Open a tensor of an artifact of format 2."""
    label = f"{artifact.label}[{entry.name}]"
    try:
        element = elements.name(entry.dtype)
    except StageFailed as error:
        raise StageFailed(f"{label}: {INDEX}: {error}") from error
    pieces = _Pieces(artifact.folder, entry, there)
    sizes = [n for n in entry.shape if n is not None]
    if entry.form == "fixed":
        if len(sizes) < len(entry.shape):
            raise StageFailed(f"{label}: {INDEX} says fixed, and a shape with unknown sizes")
        return replace(pieces.rows(entry.file, label, element, tuple(sizes)), name=entry.name)
    if not entry.shape or entry.shape[0] is None or len(sizes) > 1:
        raise StageFailed(f"{label}: {INDEX} says ragged, and a shape with sizes other than that of axis 0")
    samples = entry.shape[0]

    def part(name: str) -> tuple[str, str]:
        return f"{entry.file}-{name}", f"{artifact.label}[{entry.name}.{name}]"

    ragged = Ragged(
        name=entry.name,
        label=label,
        offsets=pieces.rows(*part("offsets"), "int64", (samples + 1,)),
        shapes=pieces.rows(*part("shapes"), "int64", (samples, len(entry.shape) - 1)),
        values=pieces.values(*part("values"), element, samples),
    ).check()
    pieces.check_values(ragged)
    return ragged


class _Pieces:
    """The parts of one tensor."""

    def __init__(self, folder: Path, entry: Array, there: frozenset[str]) -> None:
        self._folder = folder
        self._entry = entry
        self._each = entry.rows_per_part
        self._there = there

    def _heads(self, file: str, label: str, element: str, rows: int) -> tuple[list[Path], list[npy.Head]]:
        """Read the heads of all parts. Raises StageFailed if one is missing, too many, or of another type."""
        count = parts.count(rows, self._each, label)
        names = [parts.file_name(file, number) for number in range(count)]
        for name in names:
            if name not in self._there:
                raise StageFailed(f"{label}: found no part {name}, expected {count} parts, as {INDEX} says")
        if (more := parts.file_name(file, count)) in self._there:
            raise StageFailed(f"{label}: found a part {more}, expected {count} parts, as {INDEX} says")
        paths = [self._folder / name for name in names]
        heads = [npy.of_file(path, f"{label}, part {path.name}") for path in paths]
        wanted = elements.stored(element)
        for path, head in zip(paths, heads, strict=True):
            if head.dtype != wanted:
                raise StageFailed(f"{label}, part {path.name}: found dtype {head.dtype}, expected {wanted}")
        return paths, heads

    def rows(self, file: str, label: str, element: str, shape: tuple[int, ...]) -> Source:
        """Open an array whose parts have a fixed number of rows."""
        stored = elements.stored_shape(element, shape)
        total = stored[0] if stored else 1
        paths, heads = self._heads(file, label, element, total)
        for number, (path, head) in enumerate(zip(paths, heads, strict=True)):
            wanted = (min(self._each, total - number * self._each), *stored[1:]) if stored else ()
            if head.shape != wanted:
                raise StageFailed(f"{label}, part {path.name}: found shape {list(head.shape)}, expected {list(wanted)}")
        return Source(name=file, element=element, shape=shape, label=label, data=in_files(paths, heads, label))

    def values(self, file: str, label: str, element: str, samples: int) -> Source:
        """Open the values of a ragged tensor, whose parts have a fixed number of samples."""
        paths, heads = self._heads(file, label, element, samples)
        for path, head in zip(paths, heads, strict=True):
            if len(head.shape) != 1:
                raise StageFailed(f"{label}, part {path.name}: found shape {list(head.shape)}, expected [n]")
        found, total = sum(head.shape[0] for head in heads), self._entry.values or 0
        if found != total:
            raise StageFailed(f"{label}: found {found} values in all parts, expected {total}, as {INDEX} says")
        return Source(name=file, element=element, shape=(total,), label=label, data=in_files(paths, heads, label))

    def check_values(self, ragged: Ragged) -> None:
        """Hold the parts of the values against the offsets."""
        data, label = ragged.values.data, ragged.values.label
        assert isinstance(data, Files)
        offset = np.empty(1, np.int64)
        with ragged.offsets.reader() as reader:
            for number, (begin, end) in enumerate(zip(data.rows, data.rows[1:], strict=False)):
                reader.fill_from(min((number + 1) * self._each, len(ragged)), offset)
                if end != offset[0]:
                    raise StageFailed(
                        f"{label}, part {data.paths[number].name}: found {end - begin} values, expected "
                        f"{offset[0] - begin}, as the offsets say"
                    )
