"""Who is stopped by whom, and what a tolerant stage goes on with."""

import pytest

from trtpipe.pipeline.graph import Stage
from trtpipe.run.standing import Standing
from trtpipe.store.artifact import Artifact


def stage(name, **inputs):
    return Stage(**dict.fromkeys(Stage._fields, ()) | {"name": name, "inputs": inputs, "tolerant": False})


def tolerant(**inputs):
    return stage("best", **inputs)._replace(tolerant=True)


def standing(stopped, why, made=()):
    found = Standing()
    found.stopped, found.why = dict(stopped), dict(why)
    found.artifacts = {name: Artifact("model", {}) for name in made}
    return found


def test_a_tolerant_stage_goes_on_with_what_is_left_of_each_port():
    best = tolerant(**{"engines[a]": "a", "engines[b]": "b", "metrics[c]": "c", "metrics[d]": "d"})
    stopped = {"b": "b", "d": "config"}
    able = standing(stopped, {"b": "no kernel", "config": "NaN"}).able(best)
    assert able.inputs == {"engines[a]": "a", "metrics[c]": "c"}
    assert able.failed == (("engines[b]", "b failed: no kernel"), ("metrics[d]", "config failed: NaN"))
    assert standing(stopped, {"b": "", "config": ""}).able(best._replace(tolerant=False)) is None
    assert standing({"a": "a", "b": "b"}, {"a": "", "b": ""}).able(best) is None  # no engine is left


def test_what_did_not_fail_of_itself_costs_a_tolerant_stage_too():
    best = tolerant(**{"engines[a]": "a", "engines[b]": "b"})
    assert standing({"b": "b"}, {}).able(best) is None  # a full disk, say


def test_a_stage_that_is_stopped_names_the_stage_that_failed():
    found = standing({}, {})
    found.failed("a", "NaN")
    assert found.able(stage("b", x="a")) is None
    assert found.able(stage("c", x="b")) is None
    assert (found.stopped, found.why) == ({"a": "a", "b": "a", "c": "a"}, {"a": "NaN"})


@pytest.mark.parametrize(
    ("made", "stopped", "plain", "patient"),
    [
        ((), {}, False, False),
        (("a",), {}, False, False),
        (("a", "b"), {}, True, True),
        ((), {"a": "a"}, True, False),  # a tolerant stage waits for what may still come
        (("b",), {"a": "a"}, True, True),
    ],
)
def test_it_is_decided_whether_a_stage_can_run_once_nothing_more_can_change_it(made, stopped, plain, patient):
    found = standing(stopped, {}, made)
    assert found.decided(stage("best", x="a", y="b")) is plain
    assert found.decided(tolerant(x="a", y="b")) is patient
