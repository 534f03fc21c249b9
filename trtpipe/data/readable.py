"""Text that people read: a value of the results in one line, amounts in words, records as an aligned table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtpipe.escaping import inline
from trtpipe.formatting import width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENTRIES = 3
WIDTH = 60


def text(value: Any) -> str:
    """Give a JSON value in one line: floats with 4 digits, entries such as {class, score, label, box} in short."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return inline(value)
    if isinstance(value, dict):
        return entry(value)
    if isinstance(value, list):
        if not value:
            return "none"
        if isinstance(value[0], dict):
            more = f" (+{len(value) - ENTRIES})" if len(value) > ENTRIES else ""
            return ", ".join(entry(item) for item in value[:ENTRIES]) + more
        return "[" + " ".join(text(item) for item in value) + "]"
    return str(value)


def count(amount: int, noun: str) -> str:
    """Give an amount of things in words, such as `1 sample`, `2 boxes`."""
    ending = "" if amount == 1 else "es" if noun.endswith("x") else "s"
    return f"{amount} {noun}{ending}"


def number(value: float) -> str:
    """Give a number with 4 significant digits, or all that are before the point."""
    return f"{value:.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:.4g}"


def entry(value: Mapping[str, Any]) -> str:
    """Give one decision, such as `cat 0.98 [10 20 30 40]`, or `name=value` pairs of any other mapping."""
    if "score" not in value and "class" not in value:
        return " ".join(f"{inline(name)}={text(item)}" for name, item in value.items())
    known = [value.get("label", value.get("class")), value.get("score"), value.get("box")]
    return " ".join(text(item) for item in known if item is not None)


def table(records: Sequence[Mapping[str, Any]], *, total: int) -> str:
    """Give records of results.jsonl as an aligned table, a line each; says how many of `total` are not shown."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    cells = [[text(record.get(name)) for name in columns] for record in records]
    numeric = [
        all(isinstance(r.get(c), int | float) and not isinstance(r.get(c), bool) for r in records) for c in columns
    ]
    rows = [[inline(name) for name in columns], *([_cut(cell) for cell in row] for row in cells)]
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * wide for wide in widths])
    lines = []
    for row in rows:
        padded = [
            " " * (wide - width(cell)) + cell if right else cell + " " * (wide - width(cell))
            for cell, wide, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    if total > len(records):
        lines.append(f"… and {total - len(records)} more")
    return "\n".join(lines) + "\n"


def _cut(cell: str) -> str:
    if width(cell) <= WIDTH:
        return cell
    while width(cell) >= WIDTH:
        cell = cell[:-1]
    return cell + "…"
