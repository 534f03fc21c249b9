import pytest

from trtpipe.data import ranking
from trtpipe.data.candidates import PLAN_BYTES, Candidate


def candidate(name, *, plan=1, failed="", **figures):
    measured = {("m", figure): value for figure, value in figures.items()}
    return Candidate({"v": name}, "engine", None, {("engine", PLAN_BYTES): plan, **measured}, failed)


def ranked(*found, objective="min ms", where=(), **how):
    return [
        (row.candidate.values["v"], row.passed, row.why) for row in ranking.rank(found, objective, dict(where), **how)
    ]


def test_the_best_of_those_that_keep_every_rule_is_first_and_each_other_one_has_a_reason():
    rows = ranked(
        candidate("a", ms=3.0, top1=0.9), candidate("b", ms=2.0, top1=0.9), candidate("c", ms=1.0, top1=0.5),
        candidate("d", failed="d cannot be built"), candidate("e", ms=0.5),
        where={"top1": ">= 0.8"},
    )  # fmt: skip
    assert rows == [
        ("b", True, ""),
        ("a", True, "ms 3, the best has 2"),
        ("e", False, "top1 was not measured"),
        ("c", False, "top1 0.5, expected >= 0.8"),
        ("d", False, "d cannot be built"),
    ]


def test_within_the_margin_another_figure_decides_and_then_the_plan():
    found = [
        candidate("a", ms=1.0, top1=0.8),
        candidate("b", ms=1.02, top1=0.9),
        candidate("c", ms=1.01, top1=0.9, plan=2),
    ]
    assert ranked(*found, margin=0.03, then=("max", "top1")) == [
        ("b", True, ""),
        ("c", True, "as good within 3 %, with a larger plan"),
        ("a", True, "as good within 3 %, but top1 0.8, the best has 0.9"),
    ]
    assert [name for name, _, _ in ranked(*found)] == ["a", "c", "b"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (3.0, "3"), (1234567.0, "1234567"), (0.123456, "0.1235"), (0.999964, "0.999964")],
)
def test_figures_are_written_shortly_but_never_as_a_whole_number_that_they_are_not(value, expected):
    assert ranking.text(value) == expected


def test_an_aim_is_split_into_its_two_words():
    assert ranking.aim(" max  m.top1 ") == ("max", "m.top1")
