"""Texts for people: rows as aligned columns, sizes, durations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.escaping import inline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def width(text: str) -> int:
    """Give the columns that a text takes on a terminal: wide East Asian characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table(
    rows: Sequence[Sequence[str]],
    *,
    right: Iterable[int] = (),
    gap: str = "  ",
    room: int | None = None,
    spare: Iterable[int] = (),
) -> list[str]:
    """Lay rows out in columns, each cell in one line; those in `right` are aligned to the right.

    Where the lines are wider than `room`, the columns in `spare` are left out, the first one first, until they fit.
    """
    if not rows:
        return []
    cells = [[inline(cell) for cell in row] for row in rows]
    widths = [max(width(row[i]) for row in cells) for i in range(len(cells[0]))]
    kept = list(range(len(widths)))
    for one in spare:
        if room is None or sum(widths[i] for i in kept) + len(gap) * (len(kept) - 1) <= room:
            break
        kept.remove(one)
    on_right = set(right)
    lines = []
    for row in cells:
        padded = [(row[i], " " * (widths[i] - width(row[i])), i in on_right) for i in kept]
        lines.append(gap.join(space + c if to_right else c + space for c, space, to_right in padded).rstrip())
    return lines


def size_text(size: int) -> str:
    """Write a number of bytes for people, such as `1.5 MiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def seconds_text(seconds: float) -> str:
    """Write seconds for people, such as `2 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def clock_text(seconds: float) -> str:
    """Write a time that runs as a clock does: `0:07`, `12:30`, `1:05:00`."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def number_text(value: float | str) -> str:
    """Write a figure with the digits that people compare: six significant ones at most."""
    return value if isinstance(value, str) else f"{value:.6g}"
