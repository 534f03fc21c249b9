import pytest

from trtpipe.data import readable


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.123456, "0.1235"),
        (123456.7, "123457"),
        (1e-9, "1e-09"),
        (3, "3"),
        (True, "yes"),
        (None, "-"),
        ("a\nb", r"a\nb"),
        ([], "none"),
        ([1.0, [2, 3]], "[1 [2 3]]"),
        ([{"class": 3, "score": 0.98123}], "3 0.9812"),
        ([{"class": 3, "score": 0.5, "label": "cat", "box": [1.25, 2.0, 3.0, 1234.5]}], "cat 0.5 [1.25 2 3 1234]"),
        ([{"class": i, "score": 0.5} for i in range(5)], "0 0.5, 1 0.5, 2 0.5 (+2)"),
        ({"x": 1, "y": "z"}, "x=1 y=z"),
    ],
)
def test_values_in_one_line(value, expected):
    assert readable.text(value) == expected


def test_amounts_in_words():
    words = [readable.count(1, "box"), readable.count(2, "box"), readable.count(0, "sample")]
    assert words == ["1 box", "2 boxes", "0 samples"]


def test_a_table_is_aligned_and_says_what_it_leaves_out():
    records = [{"id": "a", "n": 5, "t": "\u4f60\u597d"}, {"id": "bcd", "n": 1000, "t": "x", "u": 1.0}]
    assert readable.table(records, total=9).splitlines() == [
        "id      n  t     u",
        "---  ----  ----  -",
        "a       5  \u4f60\u597d  -",
        "bcd  1000  x     1",
        "… and 7 more",
    ]


def test_long_cells_are_cut():
    line = readable.table([{"id": "x" * 500}], total=1).splitlines()[2]
    assert line == "x" * 59 + "…"
