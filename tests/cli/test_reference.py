"""The stage types' reference: what it shows, and that the pages of docs/ are what the code says."""

from __future__ import annotations

import importlib.util
import json

import pytest

from tests.helpers import PROJECT, trtpipe
from trtpipe import stages
from trtpipe.cli import reference


def generate():
    spec = importlib.util.spec_from_file_location("generate", PROJECT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_of_docs_are_what_the_code_says():
    assert generate().stale() == [], "write them again: make schemas"


@pytest.mark.parametrize("name", stages.NAMES)
def test_every_param_and_every_input_is_described(name):
    stage_type = stages.get(name)
    assert all(port.doc for port in stage_type.inputs.values())
    fields = list(reference._fields(stage_type.Params.__name__))
    assert [path for path, _, _, doc in fields if not doc] == []
    assert {path for path, *_ in fields} >= set(stage_type.Params.__struct_fields__)


@pytest.mark.parametrize("name", stages.NAMES)
def test_a_page_has_as_many_cells_in_every_row_of_a_table(name):
    for block in reference.markdown(name).split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1


def test_the_terminal_shows_defaults_and_choices(tmp_path):
    shown = trtpipe("stages", "configure", cwd=tmp_path).stdout
    assert 'precision: bf16 · fp16 · fp32 · model · tf32 = "model"' in shown
    assert 'timing_cache: auto · off = "auto"' in shown


def test_a_list_of_steps_shows_each_kind_of_step(tmp_path):
    shown = trtpipe("stages", "postprocess", cwd=tmp_path).stdout
    for op in ("softmax", "top_k", "nms", "ctc_decode", "python"):
        assert f"[op: {op}]" in shown


def test_all_stage_types_as_json(tmp_path):
    found = json.loads(trtpipe("stages", "--json", cwd=tmp_path).stdout)
    assert [one["type"] for one in found] == list(stages.NAMES)
    assert all(one["params"]["type"] == "object" for one in found)


def test_an_unknown_stage_type_gets_a_suggestion(tmp_path):
    result = trtpipe("stages", "bild", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == 'error: unknown stage type bild, did you mean "build"?\n'
