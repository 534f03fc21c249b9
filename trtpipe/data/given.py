"""Tensors as people give them: `.npy` files, `.npz` archives, and what is ragged among them."""

from __future__ import annotations

import math
import zipfile
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import elements, npy, parts
from trtpipe.data.arrays import Source
from trtpipe.data.ragged import Ragged
from trtpipe.data.stored import Files, Member, Memory, in_files
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trtpipe.stage import Input

SAMPLES = ".samples"
"""A folder called NAME.samples in a folder of data holds a `.npy` file for each sample of the ragged tensor NAME."""
TRIPLE = ("values", "offsets", "shapes")


def listed(given: Input) -> dict[str, Source | Ragged]:
    """List the tensors of a file or a folder by name. Raises StageFailed, as `tensors.open_input` says."""
    arrays = [f for f in given.files if PurePosixPath(f).suffix in (".npy", ".npz")]
    if given.kind == "file" and len(given.files) == 1 and arrays:
        path = given.path(arrays[0])
        if path.suffix == ".npz":
            return _with_triples(_npz(path, given.label), given.label)
        return {path.stem: array(path, path.stem, given.label)}
    if given.kind == "folder":
        plain = [f for f in arrays if f.endswith(".npy") and "/" not in f]
        found = {f[:-4]: array(given.folder / f, f[:-4], f"{given.label}/{f}") for f in plain}
        tensors = _with_triples(found, given.label)
        for name, samples in _samples(given).items():
            if name in tensors:
                raise StageFailed(
                    f"{given.label}: found the array {name} and the folder {name}{SAMPLES}, expected one of them"
                )
            tensors[name] = samples
        if tensors:
            return tensors
    raise StageFailed(
        f"input {given.name} ({given.label}): expected a .npz file, a folder of .npy files or a tensors artifact, "
        f"found {', '.join(given.files[:8]) or 'nothing'}"
        + (
            f"; samples in files of their own lie in a folder NAME{SAMPLES}"
            if given.kind == "folder" and arrays
            else ""
        )
    )


def array(path: Path, name: str, label: str) -> Source:
    """Read the head of a file that holds one array."""
    head = npy.of_file(path, label)
    return _source(name, label, head, in_files([path], [head], label))


def _source(name: str, label: str, head: npy.Head, data: Files | Member) -> Source:
    """Describe an array that somebody gave."""
    element = head.dtype.name if head.dtype.name in elements.PLAIN else head.dtype.str
    source = Source(name=parts.check_name(name, label), element=element, shape=head.shape, label=label, data=data)
    if head.shape:
        parts.count(head.shape[0], parts.rows_per_part(source.row_bytes), label)
    return source


def _npz(path: Path, label: str) -> dict[str, Source]:
    try:
        with zipfile.ZipFile(path) as archive:
            found: dict[str, Source] = {}
            for info in archive.infolist():
                name = parts.check_name(info.filename.removesuffix(".npy"), label)
                if name in found:
                    raise StageFailed(f"{label} has two arrays called {name}")
                if info.flag_bits & 1:
                    raise StageFailed(f"{label} is encrypted")
                where = f"{label}[{name}]"
                try:
                    with archive.open(info.filename) as stream:
                        head = npy.read(stream, where, info.file_size)
                except (zipfile.BadZipFile, NotImplementedError) as error:
                    raise StageFailed(f"{where} is damaged: {error}") from error
                data = Member(archive=path, name=info.filename, start=head.start, label=where)
                found[name] = _source(name, where, head, data)
            return found
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise StageFailed(f"{label} is no .npz file, or a torn one: {error}") from error


def _with_triples(found: Mapping[str, Source], label: str) -> dict[str, Source | Ragged]:
    """Make a ragged tensor of each three arrays NAME.values, NAME.offsets and NAME.shapes."""
    tensors: dict[str, Source | Ragged] = {}
    stems = {name.rpartition(".")[0] for name in found if name.rpartition(".")[2] in TRIPLE and "." in name}
    ragged = {}
    for stem in sorted(stems):
        there = [suffix for suffix in TRIPLE if f"{stem}.{suffix}" in found]
        if len(there) == len(TRIPLE):
            ragged[stem] = [found[f"{stem}.{suffix}"] for suffix in TRIPLE]
        elif len(there) > 1:
            missing = next(suffix for suffix in TRIPLE if suffix not in there)
            raise StageFailed(
                f"{label}: found {stem}.{there[0]} and {stem}.{there[1]} without {stem}.{missing}; a ragged tensor has "
                f"all three, and arrays that are none need other names"
            )
    taken = {f"{stem}.{suffix}": stem for stem in ragged for suffix in TRIPLE}
    for name, source in found.items():
        stem = taken.get(name, name)
        if stem in ragged and name in (stem, f"{stem}.values"):
            if stem in found:
                raise StageFailed(f"{label}: found the array {stem} and the ragged tensor {stem}, expected one of them")
            values, offsets, shapes = ragged[stem]
            tensors[stem] = Ragged(
                name=stem, label=f"{label}[{stem}]", values=values, offsets=offsets, shapes=shapes
            ).check()
        elif name not in taken:
            tensors[name] = source
    return tensors


def _samples(given: Input) -> dict[str, Ragged]:
    """Make a ragged tensor of each folder NAME.samples."""
    folders: dict[str, list[str]] = {}
    for file in sorted(given.files):
        folder, _, rest = file.partition("/")
        if rest and folder.endswith(SAMPLES) and folder != SAMPLES:
            if "/" in rest or not rest.endswith(".npy"):
                raise StageFailed(f"{given.label}: found {file}, expected only .npy files in {folder}, a sample each")
            folders.setdefault(folder, []).append(rest[:-4])
    return {folder[: -len(SAMPLES)]: _sampled(given, folder, names) for folder, names in folders.items()}


def _sampled(given: Input, folder: str, names: Sequence[str]) -> Ragged:
    label = f"{given.label}/{folder}"
    numbers = [name for name in names if name.isdecimal()]
    if len({len(name) for name in numbers}) > 1:
        short, long = min(numbers, key=len), max(numbers, key=len)
        raise StageFailed(
            f"{label}: found {short}.npy and {long}.npy, whose order by name is not that of their numbers; expected as "
            f"many digits in each ({short.zfill(len(long))}.npy)"
        )
    parts.count(len(names), parts.STEP, label)
    paths = [given.folder / folder / f"{name}.npy" for name in names]
    heads = [npy.of_file(path, f"{label}/{path.name}") for path in paths]
    first = heads[0]
    for path, head in zip(paths, heads, strict=True):
        if head.dtype != first.dtype or len(head.shape) != len(first.shape):
            raise StageFailed(
                f"{label}/{path.name}: found {head.dtype} of rank {len(head.shape)}, expected {first.dtype} of rank "
                f"{len(first.shape)}, as {paths[0].name} has"
            )
    sizes = [math.prod(head.shape) for head in heads]
    flat = [npy.Head(head.dtype, (size,), head.start) for head, size in zip(heads, sizes, strict=True)]
    values = _source(folder, label, npy.Head(first.dtype, (sum(sizes),), 0), in_files(paths, flat, label))
    shapes = np.array([head.shape for head in heads], np.int64).reshape(len(heads), len(first.shape))
    return Ragged(
        name=folder[: -len(SAMPLES)],
        label=label,
        values=values,
        offsets=_in_memory(np.array(list(accumulate(sizes, initial=0)), np.int64), label),
        shapes=_in_memory(shapes, label),
    ).check()


def _in_memory(array: NDArray[Any], label: str) -> Source:
    data = Memory(data=array.reshape(-1).view(np.uint8).data if array.size else memoryview(b""))
    return Source(name=label, element=array.dtype.name, shape=array.shape, label=label, data=data)
