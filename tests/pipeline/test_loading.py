"""A document that passed is remembered, and held by everything that resolving it read."""

from __future__ import annotations

import pytest

from trtpipe.errors import PipelineInvalid
from trtpipe.pipeline import document, loading
from trtpipe.store.state import State

TEXT = """\
name: p
vars: {p: fp16}
stages:
  network: {type: parse, inputs: {model: {file: m.onnx}}}
  config: {type: configure, inputs: {network: network}, params: {precision: "${p}"}}
"""


@pytest.fixture
def parsed(monkeypatch):
    """Count how often a document is parsed."""
    seen = []
    real = document.parse
    monkeypatch.setattr(document, "parse", lambda text, file: seen.append(file) or real(text, file))
    return seen


@pytest.fixture
def state(tmp_path):
    with State(str(tmp_path)) as opened:
        yield opened


def test_a_document_is_parsed_again_only_when_it_changes(tmp_path, state, parsed):
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    first = loading.load(str(path), (), state)
    assert loading.load(str(path), (), state) == first
    assert len(parsed) == 1
    path.write_text(TEXT.replace("fp16", "bf16"))
    assert loading.load(str(path), (), state).stages["config"].params["precision"] == "bf16"
    assert len(parsed) == 2


def test_each_set_of_settings_is_remembered_by_itself(tmp_path, state, parsed):
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    for _ in range(2):
        found = [loading.load(str(path), s, state).stages["config"].params["precision"] for s in ((), ("vars.p=fp32",))]
        assert found == ["fp16", "fp32"]
    assert parsed.count(str(path)) == 2


def test_another_version_of_the_code_resolves_anew(tmp_path, state, parsed, monkeypatch):
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    loading.load(str(path), (), state)
    monkeypatch.setattr(loading, "code_stamp", lambda: "another")
    loading.load(str(path), (), state)
    assert len(parsed) == 2


def test_a_second_file_that_resolving_reads_holds_the_document_too(tmp_path, state, parsed, monkeypatch):
    base = tmp_path / "base.yaml"
    base.write_text("fp16")
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    real = document.read

    def read_both(file, take):
        return real(file, take).replace("fp16", take(str(base)).decode())

    monkeypatch.setattr(document, "read", read_both)

    def precision():
        return loading.load(str(path), (), state).stages["config"].params["precision"]

    assert [precision(), precision(), len(parsed)] == ["fp16", "fp16", 1]
    base.write_text("bf16")
    assert [precision(), precision(), len(parsed)] == ["bf16", "bf16", 2]
    base.unlink()
    with pytest.raises(FileNotFoundError):
        precision()


def test_what_is_wrong_is_not_remembered(tmp_path, state):
    path = tmp_path / "p.yaml"
    path.write_text(TEXT.replace("fp16", "fp61"))
    for _ in range(2):
        with pytest.raises(PipelineInvalid, match="fp61"):
            loading.load(str(path), (), state)


def test_a_document_of_another_format_is_told_before_anything_else_in_it(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text('format: 3\nname: "${nothing}"\nsteps: []\n')
    with pytest.raises(PipelineInvalid) as caught:
        loading.load(str(path), (), None)
    (problem,) = caught.value.problems
    assert "found 3, expected the number 1" in problem
    assert "use a trtpipe that knows format 3, or write the document in format 1" in problem


def test_format_1_says_nothing_new(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    plain = loading.load(str(path), (), None)
    path.write_text("format: 1\n" + TEXT)
    with_format = loading.load(str(path), (), None)
    assert {n: (s.type, s.params, s.limits) for n, s in with_format.stages.items()} == {
        n: (s.type, s.params, s.limits) for n, s in plain.stages.items()
    }
