"""What a run lost, and what it did not."""

from types import SimpleNamespace

import pytest

from tests.run.test_standing import stage
from trtpipe.errors import StageFailed
from trtpipe.pipeline.graph import Pipeline
from trtpipe.run.work import Work


@pytest.mark.parametrize(
    ("stopped", "targets", "lost"),
    [
        ({"c": "a", "d": "a"}, [], ()),  # both cost it, though it says that it was skipped for one of them
        ({}, [], ("a", "b")),
        ({}, ["a"], ("b",)),
        ({"c": "b", "d": "b"}, ["b", "d"], ()),
    ],
)
def test_a_failure_is_no_loss_only_if_nothing_that_was_asked_for_is_missing(stopped, targets, lost):
    stages = {s.name: s for s in (stage("a"), stage("b"), stage("c", x="a", y="b"), stage("d", x="c"))}
    pipeline = Pipeline("p", "auto", "p.yaml", stages)
    lookup = SimpleNamespace(pipeline=pipeline, store=None)
    work = Work(lookup, tuple(stages), forced=(), jobs=1, strict=False, emit=lambda _: None, exchange=None)
    work.failures = {name: StageFailed("no") for name in "ab"}
    work.standing.stopped = {"a": "a", "b": "b", **stopped}
    assert work.lost(targets) == lost
