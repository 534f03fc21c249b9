"""Buckets: samples of many lengths are padded to the next of a few shapes, and their results are cut back."""

from __future__ import annotations

import math
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from trtpipe import batch as rule
from trtpipe.data import conversion, elements, laying, tensors
from trtpipe.data.ragged import Ragged, RaggedReader
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from trtpipe.data.feeds import Feed
    from trtpipe.data.tensors import Reader
    from trtpipe.documents.buffers import Buffers
    from trtpipe.documents.manifest import Manifest


class Asked(Protocol):
    """What the params of `infer` say of padding."""

    @property
    def pad(self) -> Mapping[str, float]:
        """The value with which an input is padded, by input."""
        ...

    @property
    def mask(self) -> str | None:
        """The input that is 1 where a sample has values."""
        ...

    @property
    def allow_nan(self) -> bool:
        """Whether NaN in the data may pass."""
        ...


def pad_problems(asked: Asked, buffers: Buffers, given: Collection[str]) -> list[str]:
    """Give what is wrong with `pad` and `mask`; `given` are the inputs that the data has."""
    kinds = {b.name: b.dtype for b in buffers.side("input")}
    words = [*asked.pad, *([asked.mask] if asked.mask else [])]
    if (words or asked.mask) and not buffers.buckets:
        return ["pad and mask: found no buckets, expected several shapes in params of allocate"]
    if wrong := [name for name in words if name not in kinds]:
        return [f"pad and mask: found {wrong[0]}, expected an input; they are {', '.join(kinds)}"]
    problems = []
    if asked.mask in given:
        problems.append(f"mask: found {asked.mask} in the data too, expected it there or here")
    if asked.mask in asked.pad:
        problems.append(f"pad: found {asked.mask}, which is the mask and is 0 where a sample is padded; leave it out")
    for name, value in asked.pad.items():
        dtype = elements.in_memory(kinds[name])
        whole = not elements.is_float(dtype)
        if whole and not (_low(dtype) <= value <= _high(dtype) and value == int(value)):
            problems.append(f"pad.{name}: found {value:g}, expected a value of {kinds[name]}")
    return problems


def _low(dtype: np.dtype[Any]) -> int:
    return 0 if dtype.kind == "b" else int(np.iinfo(dtype).min)


def _high(dtype: np.dtype[Any]) -> int:
    return 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)


class Turn(NamedTuple):
    """One batch on its way: rows fed, true rows, and each true row's lengths by the names of their axes."""

    fed: int
    true: int
    lengths: tuple[dict[str, int], ...]


class Padded:
    """The feeds of an engine in order, each padded to the smallest bucket that holds it."""

    def __init__(self, feeds: Sequence[Feed], manifest: Manifest, buffers: Buffers, asked: Asked) -> None:
        self._feeds = feeds
        self._pad = asked.pad
        self._mask = asked.mask
        self._allow_nan = asked.allow_nan
        self._buckets = sorted(buffers.buckets, key=lambda one: sum(math.prod(shape) for shape in one.values()))
        self._dims = {b.name: b.dims for b in manifest.bindings}
        self._axes = {b.name: b.batch_axis for b in buffers.bindings}
        self._kinds = {b.name: b.dtype for b in buffers.side("input")}
        self.batched = any(f.how == "batch" for f in feeds)
        self._size = buffers.batch if self.batched else 1
        self.turns: deque[Turn] = deque()
        """The batches on their way."""

    def lengths(self) -> set[str]:
        """Name the axes that are padded."""
        return {d for f in self._feeds if f.how != "constant" for d in self._rest(f.name) if isinstance(d, str)}

    def cut(self, manifest: Manifest) -> dict[str, tuple[int | str, ...]]:
        """Give the dims of each output's rows. Raises StageFailed for an output that cannot be cut back."""
        known, problems, rows = self.lengths(), [], {}
        for b in manifest.side("output"):
            rows[b.name] = self._rest(b.name)
            if unclear := [d for d in rows[b.name] if isinstance(d, str) and d not in known]:
                problems.append(
                    f"output {b.name} {rule.text(b)}: nothing says how {', '.join(unclear)} follows from what is "
                    f"padded ({', '.join(sorted(known))}), so that it cannot be cut back; allocate one shape, or leave "
                    "the output out with outputs of parse"
                )
        if problems:
            raise StageFailed("\n".join(problems))
        return rows

    def _rest(self, name: str) -> tuple[int | str, ...]:
        return tuple(d for axis, d in enumerate(self._dims[name]) if axis != self._axes[name])

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Give the padded feeds. Raises StageFailed for a sample that no bucket holds."""
        moving = [f for f in self._feeds if f.how != "constant"]
        still = {f.name: self._typed(f, tensors.fixed(f.source).read()) for f in self._feeds if f.how == "constant"}
        total = moving[0].samples if moving else 1
        with ExitStack() as stack:
            readers: dict[str, Reader | RaggedReader] = {}
            for f in moving:
                if isinstance(f.source, Ragged):
                    readers[f.name] = stack.enter_context(f.source.reader())
                else:
                    readers[f.name] = stack.enter_context(f.source.reader())
            for start in range(0, total, self._size):
                count = min(self._size, total - start)
                rows = {f.name: self._read(f, readers[f.name], start, count) for f in moving}
                yield still | self._padded(moving, rows, start, count)

    def _read(self, f: Feed, reader: Reader | RaggedReader, start: int, count: int) -> list[NDArray[Any]]:
        if isinstance(reader, RaggedReader):
            found = reader.rows(start, start + count)
        else:
            whole = np.empty((count, *reader.shape[1:]), reader.dtype)
            reader.fill_from(start, whole)
            found = list(whole)
        for number, row in enumerate(found):
            if not self._allow_nan and elements.is_float(row.dtype) and np.isnan(row).any():
                raise StageFailed(
                    f"{f.source.label}: found NaN in sample {start + number}, expected numbers; params.allow_nan lets "
                    "them pass"
                )
        return [self._typed(f, row) for row in found]

    def _typed(self, f: Feed, values: NDArray[Any]) -> NDArray[Any]:
        kind = self._kinds[f.name]
        return values if f.source.element == kind else conversion.converted(values, kind, f.source.label)

    def _padded(
        self, moving: Sequence[Feed], rows: Mapping[str, list[NDArray[Any]]], start: int, count: int
    ) -> dict[str, NDArray[Any]]:
        lengths: list[dict[str, int]] = [{} for _ in range(count)]
        for f in moving:
            for number, row in enumerate(rows[f.name]):
                for dim, size in zip(self._rest(f.name), row.shape, strict=True):
                    if isinstance(dim, str) and lengths[number].setdefault(dim, size) != size:
                        raise StageFailed(
                            f"{f.source.label}: found {dim} {size} in sample {start + number}, and "
                            f"{lengths[number][dim]} in another input: it is one axis"
                        )
        bucket = next((one for one in self._buckets if self._holds(one, lengths)), None)
        if bucket is None:
            most = {dim: max(one[dim] for one in lengths) for dim in lengths[0]}
            text = ", ".join(f"{dim} {size}" for dim, size in most.items())
            shapes = "; ".join(str({name: list(shape) for name, shape in one.items()}) for one in self._buckets)
            raise StageFailed(
                f"samples {start} to {start + count - 1}: found {text}, expected a bucket of allocate that holds them: "
                f"{shapes}"
            )
        feed, fed = {}, 1
        for f in moving:
            feed[f.name], fed = self._fill(f.name, rows[f.name], bucket, self._pad.get(f.name, 0))
        if self._mask is not None and self._mask not in rows:
            kind = elements.in_memory(self._kinds[self._mask])
            true = [
                np.ones([one.get(d, 1) if isinstance(d, str) else d for d in self._rest(self._mask)], kind)
                for one in lengths
            ]
            feed[self._mask], fed = self._fill(self._mask, true, bucket, 0)
        self.turns.append(Turn(fed, count, tuple(lengths)))
        return feed

    def _holds(self, bucket: Mapping[str, Sequence[int]], lengths: Sequence[Mapping[str, int]]) -> bool:
        for name, shape in bucket.items():
            for axis, (dim, size) in enumerate(zip(self._dims[name], shape, strict=True)):
                if axis == self._axes[name]:
                    if size < len(lengths):
                        return False
                elif any(one.get(str(dim), 0) > size for one in lengths):
                    return False
        return True

    def _fill(
        self, name: str, rows: Sequence[NDArray[Any]], bucket: Mapping[str, Sequence[int]], value: float
    ) -> tuple[NDArray[Any], int]:
        """Put rows into an array of the bucket's shape; the last one is repeated up to its batch."""
        whole = np.full(tuple(bucket[name]), value, rows[0].dtype)
        axis = self._axes[name]
        view = whole[None] if axis is None else laying.rows(whole, axis)
        for number in range(len(view)):
            row = rows[min(number, len(rows) - 1)]
            view[number][tuple(slice(size) for size in row.shape)] = row
        return whole, len(view)
