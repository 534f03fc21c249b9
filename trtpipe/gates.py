"""Rules such as `>= 0.97` that a figure must keep: one grammar for every stage that has `require`."""

from __future__ import annotations

import difflib
import operator
import re
from typing import TYPE_CHECKING, Annotated, NamedTuple

from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RULE = r"^\s*(>=|>|<=|<|==)\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*$"
OPERATORS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq}

Rule = Annotated[str, Meta(pattern=RULE, description="What the figure must be: >=, >, <=, < or ==, and a number.")]


class Verdict(NamedTuple):
    """A rule, the figure that it was asked of, and whether the figure keeps it."""

    rule: str
    value: float
    passed: bool


def holds(value: float, rule: str) -> bool:
    """Tell whether a value keeps a rule such as `>= 0.97`; NaN keeps none. Raises ValueError for what is no rule."""
    parts = re.match(RULE, rule)
    if parts is None:
        raise ValueError(f'found {rule!r}, expected an operator and a number, such as ">= 0.97"')
    return bool(OPERATORS[parts[1]](value, float(parts[2])))


def judge(figures: Mapping[str, float], require: Mapping[str, str]) -> dict[str, Verdict]:
    """Ask each rule of its figure. Raises KeyError for a rule about a figure that is not there."""
    return {name: Verdict(rule, figures[name], holds(figures[name], rule)) for name, rule in require.items()}


def unknown(name: str, names: Sequence[str]) -> str:
    """Say that a rule is about a figure that nothing makes."""
    near = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"found {name}, expected one of {', '.join(names)}{hint}"


def malformed(require: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Give (path, what is wrong) for rules that are none."""
    for name, rule in require.items():
        if not re.match(RULE, rule):
            yield f"require.{name}", f'found {rule!r}, expected an operator and a number, such as ">= 0.97"'
