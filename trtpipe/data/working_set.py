"""The working set of postprocess: the tensors and decisions of one batch by name, which the steps read and write."""

from __future__ import annotations

import difflib
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import steps
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtpipe.data.samples import Line

NUMBERS = 64
"""An array with more numbers a sample goes into results.jsonl only if `keep` asks for it."""


class WorkingSet:
    """Values of one batch by name: arrays with the samples on axis 0, or lists with an item a sample.

    `samples` are what is known of each sample, `lines` the same as users' code gets it. `fields` are the names that
    steps decided, in order: they become results. `latest` is the tensor that a transform made last, `decided` the
    newest decision with classes: what the next step reads unless it says otherwise.
    """

    def __init__(self, values: Mapping[str, Any], lines: Sequence[Line], given: Sequence[str]) -> None:
        self.values: dict[str, Any] = dict(values)
        self.samples = [line.sample for line in lines]
        self.lines = [line.fields for line in lines]
        self.fields: list[str] = []
        self.decided: str | None = None
        self.latest: str | None = given[0] if len(given) == 1 else None
        self._given = given

    def get(self, name: str) -> Any:
        """Give a value. Raises StageFailed with a near name if there is none."""
        if name not in self.values:
            known = list(dict.fromkeys([*self._given, *self.values]))
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise StageFailed(f"found no tensor {name}, expected one of {', '.join(known)}{hint}")
        return self.values[name]

    def tensor(self, name: str | None) -> tuple[str, Any]:
        """Give (name, array) of a tensor without NaN; by default what a transform made last, or the only one.

        Raises StageFailed if it is no array, holds NaN or is not numbers.
        """
        if name is None:
            if self.latest is None:
                names = ", ".join(self._given)
                raise StageFailed(f"found {len(self._given)} tensors ({names}), expected `tensor`: which one")
            name = self.latest
        value = self.get(name)
        if not isinstance(value, np.ndarray):
            raise StageFailed(f"found {name}, which is a list of decisions, expected a tensor")
        if value.dtype.kind not in "biuf":
            raise StageFailed(f"tensor {name}: found dtype {value.dtype}, expected numbers")
        self.refuse_nan(name, value)
        return name, value

    @contextmanager
    def about(self, name: str, value: Any) -> Iterator[None]:
        """Turn a ValueError of the block into StageFailed that names the tensor, its dtype and its shape."""
        try:
            yield
        except ValueError as error:
            shape = ", ".join(["n", *map(str, value.shape[1:])])
            raise StageFailed(f"tensor {name} ({value.dtype} [{shape}]): {error}") from error

    def rows(self, name: str) -> list[Any]:
        """Give a value as one array a sample: of an array its rows, of a list (from a python step) its items."""
        value = self.get(name)
        if isinstance(value, np.ndarray):
            return list(self.tensor(name)[1])
        found = []
        for item, sample in zip(value, self.samples, strict=True):
            row = np.asarray(item)
            if row.dtype.kind not in "biuf":
                kind = type(item).__name__
                raise StageFailed(f"{name} of {sample.id}: found a {kind}, expected an array of numbers")
            if row.dtype.kind == "f" and np.isnan(row).any():
                raise StageFailed(f"{name} of {sample.id} has NaN")
            found.append(row)
        return found

    def refuse_nan(self, name: str, value: Any) -> None:
        """Raise StageFailed that names the first sample whose values are not numbers."""
        bad = steps.unusable(value)
        if bad.size:
            first = self.samples[int(bad[0])].id
            raise StageFailed(
                f"tensor {name} has NaN in {bad.size} of the {len(value)} samples of a batch, first in {first}; "
                f"where a model overflows in fp16, precision: fp32 or bf16 helps"
            )

    def transform(self, name: str, value: Any) -> None:
        """Store a tensor; the next step reads it by default."""
        self.values[name] = value
        self.latest = name

    def decide(self, name: str, value: Any, *, classes: bool = False) -> None:
        """Store a decision: it becomes a field of the results."""
        self.values[name] = value
        if name not in self.fields:
            self.fields.append(name)
        if classes:
            self.decided = name

    def adopt(self, made: Any) -> None:
        """Store what a python step gave. Raises StageFailed if it is not a mapping of names to one value a sample."""
        count = len(self.samples)
        if not isinstance(made, dict):
            raise StageFailed(f"gave a {type(made).__name__}, expected a mapping of names to arrays or lists")
        for name, value in made.items():
            if not isinstance(name, str):
                raise StageFailed(f"gave the name {name!r}, expected text")
            if not isinstance(value, np.ndarray | list) or (isinstance(value, np.ndarray) and not value.ndim):
                raise StageFailed(f"gave a {type(value).__name__} for {name}, expected an array or a list")
            if len(value) != count:
                raise StageFailed(f"gave {len(value)} rows for {name}, expected {count}, one a sample")
            self.decide(name, value)

    def is_small(self, name: str) -> bool:
        """Tell whether a value is short enough to be a field without having been asked for."""
        value = self.values[name]
        if isinstance(value, np.ndarray):
            return int(math.prod(value.shape[1:])) <= NUMBERS
        return not any(isinstance(item, np.ndarray) for item in value)
