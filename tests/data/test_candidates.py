import pytest

from tests import made
from tests.helpers import as_input
from trtpipe.data import candidates
from trtpipe.errors import StageFailed
from trtpipe.stage import Input


@pytest.fixture
def engine(tmp_path):
    return as_input("engines", made.put(tmp_path / "engine", made.manifest(plan_bytes=7)))


@pytest.fixture
def measured(tmp_path):
    def make(name, document):
        folder = made.put(tmp_path / name, document)
        kind = document.file.removesuffix(".json")
        return Input(name="metrics", kind=kind, folder=folder, files=(document.file,), label=name)

    return make


def test_an_engine_is_joined_with_the_figures_of_its_own_variant(engine, measured):
    figures = {f"score@p={p}": measured(p, made.metrics({"top1": v})) for p, v in (("16", 0.5), ("8", 0.25))}
    found = candidates.join({"engine@p=16": engine, "engine@p=8": engine}, figures)
    assert [(one.label, one.get("top1"), one.get("plan_bytes")) for one in found] == [
        ("p=8", 0.25, 7),
        ("p=16", 0.5, 7),
    ]


def test_an_axis_that_only_the_measuring_has_makes_more_candidates(engine, measured):
    figures = {f"time@batch={b}": measured(b, made.metrics({"ms": int(b)})) for b in ("8", "16")}
    found = candidates.join({"engine": engine}, figures)
    assert [(one.label, one.stage, one.get("time.ms")) for one in found] == [
        ("batch=8", "engine", 8.0), ("batch=16", "engine", 16.0),
    ]  # fmt: skip


def test_what_failed_is_a_candidate_with_its_reason(engine):
    found = candidates.join({"engine@p=16": engine, "engine@p=8": "engine@p=8 failed"}, {"score@p=16": "score failed"})
    assert [(one.label, one.engine, one.failed) for one in found] == [
        ("p=8", None, "engine@p=8 failed"), ("p=16", engine, "score failed"),
    ]  # fmt: skip


def test_a_figure_of_two_stages_is_had_by_the_stages_name(engine, measured):
    figures = {name: measured(name, made.metrics({"top1": v})) for name, v in (("one", 0.5), ("two", 0.25))}
    (found,) = candidates.join({"engine": engine}, figures)
    assert (found.get("top1"), found.get("one.top1"), found.get("two.top1")) == (None, 0.5, 0.25)


def test_times_of_two_machines_are_refused_and_unstable_ones_named(measured):
    one = measured("one", made.benchmark({}, ["unstable: the times scatter"], device="H100"))
    other = measured("other", made.benchmark({}, device="H200"))
    assert candidates.one_machine({}) is None
    assert candidates.one_machine({"one": one}) == "H100"
    assert candidates.unstable({"one": one, "other": other}) == ["one"]
    with pytest.raises(StageFailed, match="one on H100; other on H200"):
        candidates.one_machine({"one": one, "other": other})
