"""The ground truth: what evaluate knows to be right of each sample.

The stage's input `labels` is one file, with a value for each sample by its position or by its id.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trtpipe.stage import Input

SUFFIXES = (".npy", ".npz", ".txt", ".csv", ".json", ".jsonl")
COLUMNS = ("label", "text", "class")


def read(source: Input, ids: Sequence[str]) -> list[Any]:
    """Give each sample's truth in the order of `ids`: a whole number, a text, or a mapping (of JSON objects).

    `.npy` (one array of whole numbers) and `.txt` (a line each) go by position and must have as many as there are
    samples; `.csv` (a header with `id` and label, text or class), `.jsonl` (an object with `id` a line) and `.json`
    (a list of such objects, or a mapping of ids to values) go by id, and must have the same ids.
    Raises StageFailed for everything else.
    """
    found = [f for f in source.files if PurePosixPath(f).suffix in SUFFIXES]
    if len(found) != 1:
        raise StageFailed(
            f"input {source.name} ({source.label}): expected one file of {', '.join(SUFFIXES)}, "
            f"found {', '.join(found or source.files) or 'none'}"
        )
    suffix = PurePosixPath(found[0]).suffix
    where = f"input {source.name} ({source.label})"
    if suffix in (".npy", ".npz"):
        return _by_position(_integers(source, where), ids, where)
    try:
        text = source.path(found[0]).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageFailed(f"{where} is not UTF-8: byte {error.start}") from error
    if suffix == ".txt":
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        return _by_position(lines[:-1] if not lines[-1] else lines, ids, where)
    return _by_id(_csv(text, where) if suffix == ".csv" else _json(text, suffix, where), ids, where)


def _integers(source: Input, where: str) -> list[int]:
    from trtpipe.data import tensors

    arrays = list(tensors.open_input(source).values())
    if len(arrays) != 1:
        raise StageFailed(f"{where}: found {len(arrays)} arrays, expected one of whole numbers")
    array = tensors.fixed(arrays[0])
    if array.dtype.kind not in "iu" or len(array.shape) != 1:
        raise StageFailed(
            f"{where}: found {array.dtype} {list(array.shape)}, expected whole numbers [samples], a class each"
        )
    found: list[int] = array.read().tolist()
    return found


def _by_position(values: Sequence[Any], ids: Sequence[str], where: str) -> list[Any]:
    if len(values) != len(ids):
        raise StageFailed(f"{where} has {len(values)} labels for {len(ids)} samples")
    return list(values)


def _csv(text: str, where: str) -> list[tuple[str, Any]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    columns = rows.fieldnames or []
    column = next((c for c in COLUMNS if c in columns), None)
    if "id" not in columns or column is None:
        raise StageFailed(
            f"{where}: found the columns {', '.join(columns) or 'none'}, expected id and one of {', '.join(COLUMNS)}"
        )
    found = []
    for row in rows:
        if row["id"] is None or row[column] is None:
            raise StageFailed(f"{where}:{rows.line_num}: found a short line, expected {', '.join(columns)}")
        found.append((row["id"], row[column]))
    return found


def _json(text: str, suffix: str, where: str) -> list[tuple[str, Any]]:
    items: Any
    try:
        if suffix == ".jsonl":
            items = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            items = json.loads(text)
    except RecursionError:
        raise StageFailed(f"{where} is nested too deeply") from None
    except ValueError as error:
        raise StageFailed(f"{where} is no {suffix[1:]}: {error}") from error
    if isinstance(items, dict):
        return list(items.items())
    if not isinstance(items, list) or not all(isinstance(i, dict) and isinstance(i.get("id"), str) for i in items):
        raise StageFailed(f"{where}: expected objects, each with an `id` that is a text")
    return [(item["id"], item) for item in items]


def _by_id(pairs: Sequence[tuple[str, Any]], ids: Sequence[str], where: str) -> list[Any]:
    known = dict(pairs)
    if len(known) != len(pairs):
        seen: set[str] = set()
        twice = next(i for i, _ in pairs if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise StageFailed(f"{where} has the id {twice} twice")
    if missing := [i for i in ids if i not in known]:
        near = difflib.get_close_matches(missing[0], known, 1)
        raise StageFailed(
            f"{where} has no label for {len(missing)} of {len(ids)} samples, first {missing[0]}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    if len(known) > len(ids):
        there = set(ids)
        extra = [i for i in known if i not in there]
        raise StageFailed(f"{where} has labels for {len(extra)} ids that no sample has, first {extra[0]}")
    return [known[i] for i in ids]


def each_label(source: Input, ids: Sequence[str], *what: str) -> list[Any]:
    """Give the right number or text for each sample. Raises StageFailed as `read` does, and where `label` raises."""
    return _each(source, ids, label, what)


def each_boxes(source: Input, ids: Sequence[str]) -> list[tuple[list[list[float]], list[Any], str | None]]:
    """Give the true boxes of each sample. Raises StageFailed as `read` does, and where `boxes` raises."""
    return _each(source, ids, boxes)


def _each(source: Input, ids: Sequence[str], function: Callable[..., Any], *args: Any) -> list[Any]:
    found = []
    for identity, value in zip(ids, read(source, ids), strict=True):
        try:
            found.append(function(value, *args))
        except ValueError as error:
            raise StageFailed(f"input {source.name} ({source.label}), {identity}: {error}") from error
    return found


def label(value: Any, what: Sequence[str]) -> Any:
    """Give the number or text of one sample's truth: of a mapping, the first name in `what` that it has.

    Raises ValueError if it has none, or if that is neither a whole number nor a text.
    """
    if isinstance(value, dict):
        name = next((n for n in what if n in value), None)
        if name is None:
            raise ValueError(f"found {', '.join(value) or 'nothing'}, expected {' or '.join(what)}")
        value = value[name]
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"found {value!r}, expected a whole number or a text")  # noqa: TRY004  it is about a file
    return value


def boxes(value: Any) -> tuple[list[list[float]], list[Any], str | None]:
    """Give one sample's true boxes, as (boxes, their classes or labels, which: `class`, `label` or None).

    Reads {boxes: [{box: [4 numbers], class or label}]}, or a list of such; a box may be 4 numbers alone.
    Raises ValueError for anything else.
    """
    items = value.get("boxes") if isinstance(value, dict) else value
    if not isinstance(items, list):
        wanted = "expected [{box: [left, top, right, bottom], class or label}]"
        raise ValueError(f"found no list `boxes`, {wanted}")  # noqa: TRY004  it is about a file
    found, names, kinds = [], [], set()
    for each in items:
        item = each if isinstance(each, dict) else {"box": each}
        box = item.get("box")
        if not (isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)):
            raise ValueError(f"found the box {box!r}, expected [left, top, right, bottom]")
        if box[2] <= box[0] or box[3] <= box[1]:
            raise ValueError(f"found the box {box}, expected right > left and bottom > top")
        kind = next((k for k in ("label", "class") if k in item), None)
        found.append([float(v) for v in box])
        names.append(item[kind] if kind else 0)
        kinds.add(kind)
    if len(kinds) > 1:
        raise ValueError("found boxes with and without a class or label, expected one kind for all")
    return found, names, next(iter(kinds), None)
