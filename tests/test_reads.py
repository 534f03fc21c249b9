"""Lists of names: what may stand in them, and the order in which they are tried."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe import reads
from trtpipe.reads import KINDS, Names

NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: not text.startswith("/")
)
LISTS = st.builds(Names, *(st.sets(NAME, max_size=5).map(lambda names: tuple(sorted(names))) for _ in KINDS))


@given(LISTS)
def test_a_list_survives_being_written_and_read(names):
    assert reads.parse(names.record) == names


@given(st.lists(LISTS, max_size=6), st.randoms())
def test_the_order_does_not_depend_on_who_wrote_which_list_when(lists, random):
    other = [*lists]
    random.shuffle(other)
    assert reads.in_order(other) == reads.in_order(lists)
    assert sorted((n.number for n in lists), reverse=True) == [n.number for n in reads.in_order(lists)]


@given(LISTS)
def test_the_reads_of_a_key_tell_where_to_look(names):
    held = {kind: dict.fromkeys(found, "0" * 64) for kind, found in zip(KINDS, names, strict=True) if found}
    assert reads.of(held) == names


@pytest.mark.parametrize(
    "record",
    [
        [], {"file": ["a"]}, {"files": "a"}, {"files": [1]}, {"files": [""]}, {"files": ["/etc/passwd"]},
        {"files": ["a\0b"]}, {"variables": [None]}, {"files": ["x" * 5000]},
    ],
)  # fmt: skip
def test_what_is_no_list_of_names_is_refused(record):
    with pytest.raises(ValueError, match="found an entry that is not a valid name|other fields"):
        reads.parse(record)


def test_a_list_has_a_bound():
    with pytest.raises(ValueError, match="more than 100000 names"):
        reads.parse({"files": [f"f{i}" for i in range(100_001)]})


@pytest.mark.parametrize("held", [[], {"files": 1}, {"files": {1: "a"}}, None])
def test_reads_that_no_key_holds_are_refused(held):
    with pytest.raises(ValueError, match=r"no mapping|not a valid name"):
        reads.of(held)
