"""Rows behave as NamedTuples do."""

from __future__ import annotations

import copy
import pickle
from typing import NamedTuple

import pytest

from trtpipe.row import Row


class Usual(NamedTuple):
    a: int
    b: str
    c: tuple[str, ...] = ()
    d: int | None = None

    @property
    def twice(self):
        return 2 * self.a


class Ours(Row):
    a: int
    b: str
    c: tuple[str, ...] = ()
    d: int | None = None

    @property
    def twice(self):
        return 2 * self.a


BOTH = pytest.mark.parametrize("kind", [Usual, Ours])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((1, "x"), {}),
        ((1, "x", ("y",), 4), {}),
        ((1,), {"b": "x", "d": 3}),
        ((), {"d": 3, "b": "x", "a": 1}),
        ((1, "x"), {"c": ("z",)}),
    ],
)
def test_a_row_holds_what_a_named_tuple_holds(given, named):
    usual, ours = Usual(*given, **named), Ours(*given, **named)
    assert ours == usual
    assert tuple(ours) == tuple(usual)
    assert hash(ours) == hash(usual)
    assert ours.a == usual.a
    assert ours.c == usual.c
    assert ours.twice == usual.twice
    assert ours._asdict() == usual._asdict()
    assert ours._replace(b="q") == usual._replace(b="q")
    assert repr(ours) == repr(usual).replace("Usual", "Ours")
    assert copy.deepcopy(ours) == usual
    assert pickle.loads(pickle.dumps(ours)) == usual


@BOTH
@pytest.mark.parametrize(
    ("given", "named"),
    [((), {}), ((1,), {}), ((1, "x", (), 1, 2), {}), ((1, "x"), {"e": 1}), ((1, "x"), {"a": 1}), ((), {"b": "x"})],
)
def test_fields_that_are_missing_unknown_or_given_twice_are_refused(kind, given, named):
    with pytest.raises(TypeError):
        kind(*given, **named)


@BOTH
def test_a_row_cannot_be_changed(kind):
    one = kind(1, "x")
    with pytest.raises(AttributeError):
        one.a = 2
    with pytest.raises(AttributeError):
        one.other = 2


@BOTH
def test_a_row_is_taken_apart_by_place_and_by_name(kind):
    a, b, *_ = kind(1, "x")
    assert (a, b) == (1, "x")
    match kind(1, "x", d=7):
        case Usual(a, b, c, d) | Ours(a, b, c, d):
            assert (a, b, c, d) == (1, "x", (), 7)
    assert kind._fields == ("a", "b", "c", "d")
