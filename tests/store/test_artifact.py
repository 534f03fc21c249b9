"""An artifact is known by what it holds."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.helpers import a_key, commit, content_of
from trtpipe.store.artifact import Artifact
from trtpipe.store.state import State
from trtpipe.store.store import Store


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=20), min_size=1, max_size=4),
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=20), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=40)
def test_two_artifacts_have_one_digest_only_if_names_and_contents_agree(tmp_path_factory, one, two):
    folder = str(tmp_path_factory.mktemp("store"))
    with State(folder) as state:
        store = Store(folder, state)
        first, second = commit(store, one, a_key("1")), commit(store, two, a_key("2"))
        assert (first.digest == second.digest) == (one == two)
        for artifact, files in ((first, one), (second, two)):
            tree = store.tree(artifact)
            assert {n: content_of(os.path.join(tree, n)) for n in os.listdir(tree)} == files


def test_the_digest_of_an_artifact_does_not_depend_on_the_order_of_its_files():
    a, b = ("0" * 64, 1), ("1" * 64, 1)
    assert Artifact("k", {"x": a, "y": b}).digest == Artifact("k", {"y": b, "x": a}).digest
    assert Artifact("k", {"x": a}).digest != Artifact("l", {"x": a}).digest
