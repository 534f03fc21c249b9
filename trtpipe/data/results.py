"""The files of a results artifact: postprocess writes them from a working set, evaluate reads them.

`results.jsonl` has a record a line for each sample: its `id`, and the fields that were decided. The table is for people
(see `readable`). Tensors that were asked for whole lie beside them as in a tensors artifact.
"""

from __future__ import annotations

import difflib
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.documents import files
from trtpipe.documents.samples import Result
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtpipe.data import tensors
    from trtpipe.data.working_set import WorkingSet
    from trtpipe.stage import Input

RESULTS, TABLE = Result.file, "table.txt"


def read(source: Input) -> list[dict[str, Any]]:
    """Give the records of results.jsonl. Raises StageFailed if it is not there or empty."""
    where = f"input {source.name} ({source.label}): {RESULTS}"
    records = [fields for _, fields in files.read_lines(source.path(RESULTS), Result, where)]
    if not records:
        raise StageFailed(f"input {source.name} ({source.label}) has no samples")
    return records


def column(records: Sequence[dict[str, Any]], field: str) -> tuple[list[str], list[Any]]:
    """Give a field of all records, as (ids, values). Raises StageFailed if one has no such field."""
    known = list(dict.fromkeys(name for record in records for name in record))
    for record in records:
        if field not in record:
            near = difflib.get_close_matches(field, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise StageFailed(f"found no field {field} in the results, expected one of {', '.join(known)}{hint}")
    return [record["id"] for record in records], [record[field] for record in records]


def fields(work: WorkingSet, keep: Sequence[str], exclude: Sequence[str]) -> tuple[list[str], list[str]]:
    """Choose what becomes fields, as (chosen, left out for their size).

    `keep` and `exclude` are the params of postprocess. Raises StageFailed for a name that nothing has.
    """
    for name in (*keep, *exclude):
        work.get(name)
    chosen = list(keep) or [name for name in work.fields if name not in exclude]
    if "id" in chosen:
        raise StageFailed("found a field called id, which is the sample's own; expected another `output`")
    large = [] if keep else [name for name in chosen if not work.is_small(name)]
    return [name for name in chosen if name not in large], large


def records(work: WorkingSet, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Give the record of each sample in the batch. Raises StageFailed for a value that JSON cannot hold."""
    for index, sample in enumerate(work.samples):
        record: dict[str, Any] = {"id": sample.id}
        for name in fields:
            try:
                record[name] = json_value(work.values[name][index])
            except (ValueError, TypeError) as error:
                raise StageFailed(f"field {name} of {sample.id}: {error}") from error
        yield record


def json_value(value: Any) -> Any:
    """Give a value that JSON can hold; float32 and float16 become the shortest text that reads back as the same.

    Raises ValueError for NaN and infinities, which JSON cannot hold, and TypeError for other things than
    None, booleans, numbers, text, arrays, and lists and mappings (with text for names) of them.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind == "f":
            if not np.isfinite(value).all():
                raise ValueError("found NaN or infinity, which JSON cannot hold")
            if value.dtype.itemsize < 8:
                return _shortest(value)
        if value.dtype.kind not in "biufU":
            raise TypeError(f"found dtype {value.dtype}, expected numbers, booleans or text")
        return value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("found NaN or infinity, which JSON cannot hold")
    if isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, dict):
        if wrong := [name for name in value if not isinstance(name, str)]:
            raise TypeError(f"found the name {wrong[0]!r}, expected text")
        return {name: json_value(item) for name, item in value.items()}
    raise TypeError(f"found a {type(value).__name__}, expected numbers, text, or lists and mappings of them")


def _shortest(value: Any) -> Any:
    if value.ndim:
        return [_shortest(item) for item in value]
    return float(np.format_float_positional(value, unique=True))


def json_line(record: Mapping[str, Any]) -> str:
    """Give a record as a line of JSON, with its end; no reader's idea of a line's end breaks it."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    for end in "\x85\u2028\u2029":
        line = line.replace(end, f"\\u{ord(end):04x}")
    return line + "\n"


class Arrays:
    """Whole tensors of `total` samples, which are written batch by batch."""

    def __init__(self, writer: tensors.Writer, total: int, *, ragged: bool = False) -> None:
        """Write tensors of one shape a sample, or `ragged` ones."""
        self._writer = writer
        self._total = total
        self._wants_ragged = ragged
        self._arrays: dict[str, tensors.ArrayWriter] = {}
        self._ragged: dict[str, tensors.RaggedWriter] = {}

    def append(self, name: str, value: Any) -> None:
        """Append the rows of a batch. Raises StageFailed if they are no numbers, or of another dtype or shape."""
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            raise StageFailed(f"arrays: {name} is no tensor of numbers, expected one with the samples on axis 0")
        if self._wants_ragged:
            if name not in self._ragged:
                self._ragged[name] = self._writer.add_ragged(name, value.dtype, self._total, value.ndim - 1)
            if (value.dtype, value.ndim - 1) != (self._ragged[name].dtype, self._ragged[name].rank):
                raise StageFailed(f"arrays: {name} changes its dtype or rank between samples, expected one of each")
            self._ragged[name].write([np.ascontiguousarray(row) for row in value])
            return
        if name not in self._arrays:
            self._arrays[name] = self._writer.add(name, value.dtype, (self._total, *value.shape[1:]))
        array = self._arrays[name]
        if value.dtype != array.dtype or value.shape[1:] != array.shape[1:]:
            raise StageFailed(
                f"arrays: {name} changes from {array.dtype} {list(array.shape[1:])} a sample "
                f"to {value.dtype} {list(value.shape[1:])}, expected one shape"
            )
        array.write(np.ascontiguousarray(value))
