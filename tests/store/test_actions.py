"""Action records: one that does not say what it should counts as none."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.helpers import a_key, commit, content_of
from trtpipe.errors import UnknownReference
from trtpipe.store import actions
from trtpipe.store.artifact import Miss
from trtpipe.store.state import State
from trtpipe.store.store import Store


def tampered(record, how):
    if how == "params":
        record["key"]["params"]["name"] = "y"
    elif how == "digest":
        record["artifact"]["digest"] = "0" * 64
    elif how == "path":
        record["artifact"]["files"] = {"../../evil": next(iter(record["artifact"]["files"].values()))}
    elif how == "size":
        record["artifact"]["files"]["a.txt"][1] = "7"
    elif how == "sha":
        record["artifact"]["files"]["a.txt"][0] = "../" * 20 + "a" * 4
    elif how == "seconds":
        del record["seconds"]
    elif how == "notes":
        record["notes"] = ["hallo"]
    if how != "notes":
        del record["check"]  # it would notice all of these
    return record


@pytest.mark.parametrize("how", ["params", "digest", "path", "size", "sha", "seconds", "notes"])
def test_an_action_record_that_does_not_say_what_it_should_is_a_miss(store, how):
    commit(store, {"a.txt": b"content"})
    path = store.action_path(a_key().digest)
    record = json.loads(content_of(path))
    with open(path, "w") as stream:
        json.dump(tampered(record, how), stream)
    miss = store.lookup(a_key().digest)
    assert isinstance(miss, Miss)
    assert "action record is damaged" in miss.damage


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(max_size=5),
       lambda i: st.lists(i, max_size=3) | st.dictionaries(st.text(max_size=5), i, max_size=3)).map(
           lambda v: json.dumps(v).encode()))  # fmt: skip
@settings(deadline=None)
def test_any_bytes_in_place_of_a_record_are_a_miss(tmp_path_factory, data):
    folder = str(tmp_path_factory.mktemp("store"))
    with State(folder) as state:
        store = Store(folder, state)
        path = store.action_path(a_key().digest)
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as stream:
            stream.write(data)
        assert isinstance(store.lookup(a_key().digest), Miss)


def test_records_are_found_by_the_first_digits_of_a_key_or_an_artifact(store):
    one, two = commit(store, {"a": b"1"}, a_key("1")), commit(store, {"a": b"2"}, a_key("2"))
    assert [a.artifact for a in actions.find(store.layout, [a_key("2").digest[:6], one.digest[:12]])] == [two, one]
    for unknown in ("0" * 64, a_key("1").digest[:5]):
        with pytest.raises(UnknownReference, match="no key or artifact in the store begins with it"):
            actions.find(store.layout, [unknown])


def test_all_records_come_with_the_damaged_apart_and_the_longest_unused_first(store):
    for number in (3, 1, 2):
        commit(store, {"a": b"1"}, a_key(str(number)))
        os.utime(store.action_path(a_key(str(number)).digest), (number, number))
    with open(store.action_path(a_key("2").digest), "w") as stream:
        stream.write("{}")
    good, bad = actions.read_all(store.layout)
    assert [(a.key, a.used) for a in good] == [(a_key("1").digest, 1), (a_key("3").digest, 3)]
    assert bad == [store.action_path(a_key("2").digest)]
    assert os.stat(store.action_path(a_key("1").digest)).st_mtime == 1  # to list is not to use
