"""`run:` says how a stage runs: it is in no key, and nothing in it is taken silently."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import project, python_stage, trtpipe
from trtpipe import environment
from trtpipe.errors import EnvironmentMissing
from trtpipe.pipeline import graph, loading, run_section
from trtpipe.pipeline.graph import Limits
from trtpipe.run.lookup import Lookup
from trtpipe.store.artifact import Artifact
from trtpipe.texts import UNITS

NUMBER = st.integers(1, 999_999)
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "timeout": st.builds("{}{}".format, NUMBER, st.sampled_from(["s", "min", "h"])),
        "memory": st.builds("{}{}".format, NUMBER, st.sampled_from([*UNITS])),
        "gpus": st.just(1),
        "executor": st.just("local"),
    },
)
CHAIN = (
    "  network: {type: parse, inputs: {model: {file: data.npz}}, run: {}}\n"
    "  config: {type: configure, inputs: {network: network}, run: {}}\n"
    "  engine: {type: build, inputs: {config: config}, run: {}}\n"
    "  many: {type: select, inputs: {engines: engine}, params: {objective: min plan_bytes}, run: {}}\n"
    "  code: {type: postprocess, params: {steps: [{op: python, entrypoint: 'step.py:double'}]}, "
    "inputs: {tensors: {file: data.npz}}, run: {}}\n"
)
MADE = {name: Artifact(name, {"f": ("0" * 64, 1)}) for name in ("network", "config", "engine")}


def keys_of(document, store, sections):
    """Give the key of each stage, with a section `run` for each, and what the stages say of their limits."""
    words = [f"stages.{name}.run={json.dumps(section)}" for name, section in sections.items()]
    pipeline = loading.load(str(document), words, None)
    lookup = Lookup(pipeline, store, environment.Choice("onnxruntime", "1", "a test"))
    found = {name: lookup.now(stage, MADE).key for name, stage in pipeline.stages.items()}
    return found, pipeline


@given(sections=st.fixed_dictionaries(dict.fromkeys(("network", "config", "engine", "many", "code"), SECTIONS)))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_in_run_changes_a_key(tmp_path_factory, store, sections):
    document = project(tmp_path_factory.getbasetemp() / "keys", CHAIN)
    usual, _ = keys_of(document, store, {})
    keys, pipeline = keys_of(document, store, sections)
    assert {name: key.record for name, key in keys.items()} == {name: key.record for name, key in usual.items()}
    assert {name: key.digest for name, key in keys.items()} == {name: key.digest for name, key in usual.items()}
    limited = {name for name, stage in pipeline.stages.items() if stage.limits != Limits()}
    assert limited == {name for name, section in sections.items() if section.keys() & {"timeout", "memory"}}


def test_another_run_section_hits_and_a_forced_run_makes_the_same_artifact(tmp_path):
    document = project(tmp_path, python_stage("a"))
    plain = document.read_text()
    full = plain.replace("type:", "run: {timeout: 1h, memory: 8GiB, gpus: 1, executor: local}, type:")
    assert full != plain

    def finished(*arguments):
        result = trtpipe("run", "p.yaml", "--json", *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        found = [json.loads(line) for line in result.stdout.splitlines()]
        return [(e["event"], e["artifact"]) for e in found if e["event"] in ("StageCached", "StageFinished")]

    document.write_text(full)
    ((event, artifact),) = finished()
    assert event == "StageFinished"
    document.write_text(plain)
    assert finished() == [("StageCached", artifact)]
    assert finished("--force") == [("StageFinished", artifact)]
    document.write_text(full)
    assert finished("--force") == [("StageFinished", artifact)]


def test_limits_are_in_seconds_and_bytes_and_survive_the_state(tmp_path, store):
    document = project(tmp_path, CHAIN)
    _, pipeline = keys_of(document, store, {"code": {"timeout": "15min", "memory": "2GiB"}})
    assert pipeline.stages["code"].limits == Limits(timeout=900, memory=2**31)
    assert pipeline.stages["network"].limits == Limits(None, None)
    assert graph.from_json(pipeline.file, json.loads(json.dumps(graph.to_json(pipeline)))) == pipeline


def test_a_matrix_may_give_each_variant_its_own_limit(tmp_path):
    document = project(tmp_path, python_stage("a").replace("type:", 'run: {timeout: "${matrix.t}"}, type:'))
    document.write_text("matrix: {t: [1s, 2min]}\n" + document.read_text())
    pipeline = loading.load(str(document), (), None)
    assert {n: s.limits.timeout for n, s in pipeline.stages.items()} == {"a@t=1s": 1, "a@t=2min": 120}


def test_where_memory_cannot_be_measured_a_memory_limit_is_an_error_and_nothing_else_is(tmp_path, store, monkeypatch):
    monkeypatch.setattr(environment, "measures_memory", lambda: False)
    document = project(tmp_path, CHAIN)
    _, free = keys_of(document, store, {"code": {"timeout": "1h"}})
    run_section.check(free, free.stages)
    _, held = keys_of(document, store, {"code": {"memory": "1GiB"}})
    run_section.check(held, ["network"])
    with pytest.raises(EnvironmentMissing, match=r"stages\.code\.run\.memory: this machine cannot limit memory"):
        run_section.check(held, held.stages)
    with pytest.raises(EnvironmentMissing):
        Lookup(held, store, environment.Choice("onnxruntime", "1", "a test")).check(("code",))
