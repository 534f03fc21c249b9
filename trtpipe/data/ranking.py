"""Put candidates in the order of merit, and say of each why it lost: as sentences and as a table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import formatting, gates
from trtpipe.data.candidates import PLAN_BYTES, Candidate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trtpipe.documents.selection import Better

AIM = r"^\s*(min|max)\s+(\S+)\s*$"
WIDE = 78
"""Columns of a table: those of a terminal, less what an error message is indented by."""


def aim(text: str) -> tuple[Better, str]:
    """Split what is better, such as `min latency_p50_ms`, into (min or max, figure); `text` must fit AIM."""
    found = re.match(AIM, text)
    assert found is not None  # the schema has seen to it
    return "min" if found[1] == "min" else "max", found[2]


class Row(NamedTuple):
    """A candidate in the order of merit; `why` says why it lost, and is empty for the best.

    `tied`: it keeps every rule, and its objective is within the margin of the best one's.
    """

    candidate: Candidate
    passed: bool
    why: str
    tied: bool = False


def rank(
    found: Sequence[Candidate],
    objective: str,
    where: Mapping[str, str],
    *,
    margin: float = 0.0,
    then: tuple[Better, str] = ("min", PLAN_BYTES),
) -> list[Row]:
    """Order candidates: those that keep every rule first, best first.

    Those whose objective is within `margin` (a share) of the best one's tie: the best of `then` (min or max, and a
    figure) comes first, of equals the one with fewer plan bytes, then by their values. Nearness counts from the best
    objective, so that no chain of neighbours makes a tie of what is far apart.
    """
    goal, figure = aim(objective)
    broken = {one.label: list(_broken(one, figure, where)) for one in found}

    def merit(one: Candidate, goal: str, name: str) -> tuple[bool, float]:
        value = one.get(name)
        return (value is None, (value or 0.0) if goal == "min" else -(value or 0.0))

    kept = {one.label: value for one in found if not broken[one.label] and (value := one.get(figure)) is not None}
    lead = (min if goal == "min" else max)(kept.values(), default=0.0)
    tied = {label for label, value in kept.items() if abs(value - lead) <= margin * abs(lead)}

    def place(one: Candidate) -> tuple[Any, ...]:
        behind = (False, 0.0) if one.label in tied else merit(one, goal, figure)
        last = (one.get(PLAN_BYTES) or 0, one.order())
        return (bool(broken[one.label]), bool(one.failed), one.label not in tied, behind, merit(one, *then), *last)

    ordered = sorted(found, key=place)
    best = ordered[0]
    rows = []
    for one in ordered:
        why = "; ".join(broken[one.label])
        if not why and one is not best:
            why = _behind(one, best, margin, figure, then[1]) if one.label in tied else _less(one, best, figure)
        rows.append(Row(one, not broken[one.label], why, one.label in tied))
    return rows


def _behind(one: Candidate, best: Candidate, margin: float, figure: str, then: str) -> str:
    """Say why one that ties with the best comes after it."""
    equal = one.get(figure) == best.get(figure)
    tie = "as good as the best" if equal else f"as good within {percent(margin)}"
    if one.get(then) != best.get(then) and then != PLAN_BYTES:
        return f"{tie}, but {_less(one, best, then)}"
    same = one.get(PLAN_BYTES) == best.get(PLAN_BYTES)
    return f"{tie}, and after it by name" if same else f"{tie}, with a larger plan"


def _less(one: Candidate, best: Candidate, figure: str) -> str:
    value, wanted = one.get(figure), best.get(figure)
    if text(value) != text(wanted) or value is None or wanted is None:
        return f"{figure} {text(value)}, the best has {text(wanted)}"
    return f"{figure} {value!r}, the best has {wanted!r}"


def decider(tied: Sequence[Candidate], then: str) -> str:
    """Say what put the first of a tie before the second."""
    one, two = tied[:2]
    for name, says in ((then, f"{then} decides"), (PLAN_BYTES, "the smaller plan is chosen")):
        if one.get(name) != two.get(name):
            return says
    return "the first by name is chosen"


def percent(share: float) -> str:
    """Write a share: `3 %`."""
    return f"{share * 100:.4g} %"


def _broken(one: Candidate, objective: str, where: Mapping[str, str]) -> Iterable[str]:
    if one.failed:
        yield one.failed
        return
    for name, rule in sorted(where.items()):
        value = one.get(name)
        if value is None:
            yield f"{name} was not measured"
        elif not gates.holds(value, rule):
            # Rounded it may look as if it kept the rule.
            shown = text(value) if not gates.holds(float(text(value)), rule) else repr(value)
            yield f"{name} {shown}, expected {rule}"
    if one.get(objective) is None and objective not in where:
        yield f"{objective} was not measured"


def text(value: float | None) -> str:
    """Write a figure shortly; whole numbers whole."""
    if value is None:
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return str(int(value))
    short = f"{value:.4g}"
    return f"{value:.7g}" if float(short).is_integer() else short  # 0.999964 is not 1


def table(rows: Sequence[Row], figures: Sequence[str], best: str = "best") -> list[str]:
    """Lay all variants out, best first, with their figures and what became of them.

    What became of them stands at the lines' ends if that fits a terminal, else below each line.
    """
    cells = [["", "variant", *figures, ""]]
    for index, row in enumerate(rows):
        first = row.passed and index == 0
        values = [text(row.candidate.get(f)) for f in figures]
        cells.append(["*" if first else "", row.candidate.label, *values, best if first else row.why])
    numbers = range(2, 2 + len(figures))
    lines = formatting.table(cells, right=numbers)
    if max(map(len, lines)) <= WIDE:
        return lines
    short = formatting.table([row[:-1] for row in cells], right=numbers)
    return [
        said
        for line, row in zip(short, cells, strict=True)
        for said in (line, *([f"     {row[-1]}"] if row[-1] else []))
    ]
