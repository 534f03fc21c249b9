"""Texts that mean more than their letters: read, refused, and written in one spelling."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe import texts

PARTS = st.lists(st.sampled_from(["a", "b.py", "..", ".", "", "ü"]), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("h.py", "h.py"), ("./h.py", "h.py"), ("././h.py", "h.py"), ("a//b/./c/", "a/b/c"), ("../h.py", "../h.py"),
        ("./../h.py", "../h.py"), ("a/../h.py", "a/../h.py"), ("/a//b", "/a/b"), ("//a", "/a"), ("/", "/"), ("./", "."),
        ("...", "..."),
    ],
)  # fmt: skip
def test_a_path_has_one_spelling_and_keeps_its_steps_up(given, plain):
    assert texts.plain_path(given) == plain


@given(PARTS, st.booleans())
def test_the_one_spelling_of_a_path_stays_as_it_is_and_has_the_same_steps(parts, absolute):
    path = ("/" if absolute else "") + "/".join(parts)
    plain = texts.plain_path(path)
    assert texts.plain_path(plain) == plain
    assert [p for p in plain.split("/") if p not in ("", ".")] == [p for p in parts if p not in ("", ".")]
    assert plain.startswith("/") == path.startswith("/")


@given(st.integers(0, 2**50))
def test_sizes_of_the_same_bytes_have_one_spelling(count):
    spellings = [f"{count // n}{unit}" for unit, n in texts.UNITS.items() if count % n == 0]
    assert len({texts.plain_size(one) for one in spellings}) == 1
    assert texts.size_in_bytes(texts.plain_size(f"{count}B")) == count


def test_a_size_is_written_with_its_largest_unit():
    assert [texts.plain_size(s) for s in ("1024MiB", "1536MiB", "0GiB", "1000B")] == ["1GiB", "1536MiB", "0B", "1000B"]


@pytest.mark.parametrize("text", ["1G", "1.5GiB", "", "-1B", "01B", "GiB", "1 GiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="expected a whole number and B, KiB, MiB or GiB"):
        texts.size_in_bytes(text)


def test_durations_are_seconds_minutes_or_hours():
    assert [texts.duration_in_seconds(d) for d in ("90s", "15min", "2h", "999999h")] == [90, 900, 7200, 3599996400]


def test_a_duration_is_written_with_its_largest_unit():
    assert [texts.plain_duration(s) for s in (1, 90, 900, 7200, 86401)] == ["1s", "90s", "15min", "2h", "86401s"]


@pytest.mark.parametrize("text", ["0s", "90", "1.5h", "1h30min", "5m", "2 h", "", "-1s", "1000000s", "1d"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="expected a whole number and s, min or h"):
        texts.duration_in_seconds(text)
    assert not re.search(texts.DURATION_PATTERN, text)


def test_the_file_of_an_entrypoint_has_one_spelling_and_a_module_is_left_alone():
    assert texts.plain_entrypoint("./a//m.py:Model.load") == "a/m.py:Model.load"
    assert texts.plain_entrypoint("pack.age:load") == "pack.age:load"


@pytest.mark.parametrize(
    ("path", "folder", "moved"),
    [
        ("h.py", "recipes", "recipes/h.py"), ("../h.py", "recipes", "recipes/../h.py"), ("h.py", "..", "../h.py"),
        ("./h.py", "./a/", "a/h.py"), ("h.py", ".", "h.py"), ("/abs/h.py", "recipes", "/abs/h.py"),
        ("h.py", "/team", "/team/h.py"),
    ],
)  # fmt: skip
def test_a_path_of_a_folder_is_written_from_where_the_folder_is_named(path, folder, moved):
    assert texts.moved_path(path, folder) == moved
    assert texts.moved_entrypoint(f"{path}:f", folder) == f"{moved}:f"


def test_a_module_is_where_it_was_after_a_move():
    assert texts.moved_entrypoint("pack.age:f", "recipes") == "pack.age:f"


def test_a_moved_path_leads_to_the_same_file_even_through_a_link(tmp_path):
    (tmp_path / "far/team/deep").mkdir(parents=True)
    (tmp_path / "far/team/h.py").write_text("right")
    (tmp_path / "h.py").write_text("wrong")
    (tmp_path / "recipes").symlink_to(tmp_path / "far/team/deep")
    assert (tmp_path / texts.moved_path("../h.py", "recipes")).read_text() == "right"
