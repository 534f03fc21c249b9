"""Rules such as `>= 0.97` that a figure must meet: one grammar for every stage that has `require`."""

from __future__ import annotations

import difflib
import operator
import re
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from trtpipe.documents.base import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

RULE = r"^\s*(>=|>|<=|<|==)\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*$"
OPERATORS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq}

Rule = Annotated[str, Meta(pattern=RULE, description="What the figure must be: >=, >, <=, < or ==, and a number.")]


class Verdict(Part, frozen=True, kw_only=True):
    """A rule, the figure to which it applies, and whether the figure meets it."""

    rule: Annotated[str, Meta(description="What the figure must be, such as `>= 0.97`.")]
    value: Annotated[float, Meta(description="The figure.")]
    passed: Annotated[bool, Meta(description="Whether it meets the rule.")]


def holds(value: float, rule: str) -> bool:
    """Tell whether a value meets a rule such as `>= 0.97`; NaN meets none. Raises ValueError for a malformed rule."""
    parts = re.match(RULE, rule)
    if parts is None:
        raise ValueError(f'found {rule!r}, expected an operator and a number, such as ">= 0.97"')
    return bool(OPERATORS[parts[1]](value, float(parts[2])))


def judge(figures: Mapping[str, float], require: Mapping[str, str]) -> dict[str, Verdict]:
    """Apply each rule to its figure. Raises KeyError for a rule about a missing figure."""
    return {
        name: Verdict(rule=rule, value=figures[name], passed=holds(figures[name], rule))
        for name, rule in require.items()
    }


def tell(
    figures: Mapping[str, float],
    verdicts: Mapping[str, Verdict],
    figure: Callable[[str, float, str, bool | None], None],
) -> None:
    """Tell each figure, with its rule and whether it meets it, if there is one."""
    for name, value in figures.items():
        verdict = verdicts.get(name)
        figure(name, value, verdict.rule if verdict else "", verdict.passed if verdict else None)


def unknown(name: str, names: Sequence[str]) -> str:
    """Give the message for a rule about a figure that no stage makes."""
    near = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"found {name}, expected one of {', '.join(names)}{hint}"


def malformed(require: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Give (path, message) for each malformed rule."""
    for name, rule in require.items():
        if not re.match(RULE, rule):
            yield f"require.{name}", f'found {rule!r}, expected an operator and a number, such as ">= 0.97"'
