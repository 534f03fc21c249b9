"""The action record: written, read and checked by hand; the schema beside it says the same."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe import key as keys
from trtpipe.documents import action
from trtpipe.documents.action import About, Action, Figure, Read

KEY = keys.Key("parse", 2, {"a": 1}, {"model": "0" * 64}, {}, {"onnx": "1"}, {"files": {"x": None}}).record
TEXT = st.text(max_size=20).filter(lambda text: "\0" not in text)


def made(files, about):
    content = {"kind": "engine", "files": {name: sha for name, (sha, _) in files.items()}}
    return Action(KEY, "engine", keys.digest(content), files, about)


FILES = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}", fullmatch=True),
    st.tuples(st.from_regex(r"[0-9a-f]{64}", fullmatch=True), st.integers(0, 2**50)),
    max_size=4,
)
ABOUTS = st.builds(
    About,
    seconds=st.floats(0, 1e9),
    stage=TEXT,
    pipeline=TEXT,
    finished=TEXT,
    notes=st.lists(TEXT, max_size=3).map(tuple),
    environment=st.dictionaries(TEXT, TEXT, max_size=2),
    inputs=st.dictionaries(TEXT, st.builds(Read, TEXT, st.dictionaries(TEXT, TEXT, max_size=2)), max_size=2),
    figures=st.lists(
        st.builds(Figure, TEXT, st.floats(-9, 9) | TEXT, TEXT, st.none() | st.booleans()),
        max_size=2,
    ).map(tuple),
    signed=st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
)


@given(FILES, ABOUTS)
def test_a_record_survives_being_written_and_read_and_fits_the_schema(files, about):
    record = made(files, about)
    value = json.loads(json.dumps(record.to_json()))
    jsonschema.Draft202012Validator(action.SCHEMA).validate(value)
    assert action.parse(value, keys.digest(KEY)) == record


ONE = made({"a.txt": ("1" * 64, 3)}, About(seconds=1.0, inputs={"model": Read("m.onnx", {"m.onnx": "2" * 64})}))


@pytest.mark.parametrize(
    "harm",
    [
        lambda _: [], lambda _: {}, lambda v: v | {"format": 2}, lambda v: v | {"key": {**KEY, "version": 3}},
        lambda v: v | {"seconds": "1"}, lambda v: v | {"stage": "other"}, lambda v: v | {"check": "0" * 64},
        lambda v: v | {"artifact": {**v["artifact"], "digest": "0" * 64}},
        lambda v: v | {"artifact": {**v["artifact"], "files": {"../a": ["1" * 64, 3]}}},
        lambda v: v | {"artifact": {**v["artifact"], "files": {"a.txt": ["../" * 21 + "1", 3]}}},
        lambda v: v | {"artifact": {**v["artifact"], "files": {"a.txt": ["1" * 64, True]}}},
        lambda v: v | {"artifact": {**v["artifact"], "files": {"a.txt": ["1" * 64]}}},
        lambda v: v | {"inputs": {"model": {}}}, lambda v: v | {"inputs": []}, lambda v: v | {"environment": "x"},
    ],
)  # fmt: skip
def test_what_is_not_whole_is_no_record(harm):
    for checked in (True, False):
        value = harm(ONE.to_json())
        if not checked and isinstance(value, dict):
            value.pop("check", None)
            if value == {n: v for n, v in ONE.to_json().items() if n != "check"} or value.get("stage") == "other":
                continue  # only the check could have seen it
        with pytest.raises(ValueError, match=r"^its? "):
            action.parse(value, keys.digest(KEY))


def test_the_record_of_another_key_is_none():
    with pytest.raises(ValueError, match="another key"):
        action.parse(ONE.to_json(), "0" * 64)


def test_a_record_of_before_that_had_no_format_number_is_read():
    value = {name: item for name, item in ONE.to_json().items() if name not in ("format", "check")}
    assert action.parse(value, keys.digest(KEY)) == ONE


def test_a_signature_that_a_record_came_with_changes_nothing_of_what_is_checked():
    signed = ONE._replace(about=ONE.about._replace(signed={"signer": "ci"}))
    assert signed.to_json()["check"] == ONE.to_json()["check"]
