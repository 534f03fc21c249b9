"""Keys: the one text of a record, and that everything in it counts."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe import key
from trtpipe.key import Key, canonical, difference, digest

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
names = st.text(min_size=1, max_size=8)
keys = st.builds(
    Key,
    type=names,
    version=st.integers(1, 9),
    params=st.dictionaries(names, values, max_size=3),
    inputs=st.dictionaries(names, names, max_size=3),
    sources=st.dictionaries(names, names, max_size=3),
    environment=st.dictionaries(names, names, max_size=3),
)


@given(values)
def test_canonical_text_reads_back_as_the_same_value(value):
    again = json.loads(canonical(value))
    assert canonical(again) == canonical(value)


@given(st.dictionaries(st.text(), scalars, min_size=2))
def test_the_order_of_names_does_not_count(value):
    assert canonical(dict(reversed(list(value.items())))) == canonical(value)


@given(keys, keys)
def test_two_keys_have_one_digest_only_if_nothing_differs(one, other):
    assert (one.digest == other.digest) == (not difference(one.record, other.record))


def test_a_name_that_is_null_is_told_from_one_that_is_not_there():
    assert difference({"a": {}}, {"a": {"b": None}}) == [("a.b", None, None)]


@given(keys, st.sampled_from(["type", "params", "inputs", "sources", "environment"]))
def test_every_part_of_a_key_counts(one, part):
    changed = getattr(one, part) + "x" if part == "type" else {**getattr(one, part), "new": "x"}
    other = one._replace(**{part: changed})
    if getattr(one, part) != changed:
        assert other.digest != one.digest
        assert difference(one.record, other.record)


def test_the_type_version_counts():
    one = Key("parse", 1, {}, {}, {}, {})
    assert one._replace(version=2).digest != one.digest


def test_values_that_python_calls_equal_are_not():
    alike = (True, 1, 1.0, "1", None, [1], 0, False, "")
    assert len({digest(value) for value in alike}) == len(alike)


@pytest.mark.parametrize("value", [object(), b"x", {1: 2}, {1, 2}, [object()], {"a": b"x"}])
def test_an_unknown_type_in_a_key_is_an_error_never_a_constant(value):
    with pytest.raises(TypeError, match="key"):
        canonical(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_hold_is_an_error(value):
    with pytest.raises(ValueError, match="."):
        canonical([value])


@given(st.binary(max_size=100), st.integers(0, 3))
def test_a_files_digest_is_that_of_its_content(tmp_path_factory, data, chunks):
    path = tmp_path_factory.mktemp("digest") / "file"
    content = data + b"\0" * key.CHUNK * chunks
    path.write_bytes(content)
    assert key.digest_file(str(path)) == hashlib.sha256(content).hexdigest()


def test_a_difference_names_the_field_and_both_values():
    old = {"params": {"precision": "fp32", "profiles": [{"x": 1}]}, "version": 1}
    new = {"params": {"precision": "fp16", "profiles": [{"x": 2}]}, "version": 1, "extra": True}
    assert difference(old, new) == [
        ("extra", None, True),
        ("params.precision", "fp32", "fp16"),
        ("params.profiles[0].x", 1, 2),
    ]
