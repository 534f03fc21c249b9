"""Lists of names in the store: kept under the first part of a key, bounded, and never believed when damaged."""

import json

import pytest

from trtpipe import key as keys
from trtpipe.reads import MAX_LISTS, Names
from trtpipe.store import lists
from trtpipe.store.layout import Layout

FIRST, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "artifacts"))


def test_what_was_added_is_read_the_longest_first(layout):
    assert lists.read(layout, FIRST) == []
    lists.add(layout, FIRST, [Names(files=("a",))])
    lists.add(layout, FIRST, [Names(), Names(files=("a", "b"))])
    assert lists.read(layout, FIRST) == [Names(files=("a", "b")), Names(files=("a",)), Names()]
    assert lists.read(layout, OTHER) == []


def test_a_list_that_is_there_is_not_written_again(layout, tmp_path):
    lists.add(layout, FIRST, [Names(files=("a",))])
    path = tmp_path / "artifacts" / "reads" / "aa" / f"{FIRST}.json"
    before = path.stat().st_mtime_ns
    lists.add(layout, FIRST, [Names(files=("a",))])
    assert path.stat().st_mtime_ns == before


def test_of_too_many_lists_the_oldest_go(layout):
    for number in range(MAX_LISTS + 3):
        lists.add(layout, FIRST, [Names(files=(f"f{number:02}",))])
    left = {names.files[0] for names in lists.read(layout, FIRST)}
    assert left == {f"f{number:02}" for number in range(3, MAX_LISTS + 3)}


@pytest.mark.parametrize("how", ["half", "flipped", "of another key", "no JSON", "too many", "absolute"])
def test_damaged_lists_are_none(layout, tmp_path, how):
    lists.add(layout, FIRST, [Names(files=("a",))])
    path = tmp_path / "artifacts" / "reads" / "aa" / f"{FIRST}.json"
    text = path.read_text()
    value = json.loads(text)
    if how == "too many":
        value["lists"] = [{"files": [f"f{i}"]} for i in range(MAX_LISTS + 1)]
    if how == "absolute":
        value["lists"] = [{"files": ["/etc/passwd"]}]
    value["check"] = keys.digest({name: item for name, item in value.items() if name != "check"})
    path.write_text(
        {
            "half": text[: len(text) // 2],
            "flipped": text.replace('"a"', '"b"'),
            "of another key": text.replace(FIRST, OTHER),
            "no JSON": "[" * 100_000,
        }.get(how, json.dumps(value))
    )
    assert lists.read(layout, FIRST) == []
