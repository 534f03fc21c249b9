"""Documents that are wrong get every error at once, and exit code 2; right ones resolve."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import PROJECT, trtpipe
from trtpipe import __version__, stages
from trtpipe.errors import Cycle, PipelineInvalid
from trtpipe.pipeline import document, graph, loading, resolving, schema
from trtpipe.store.state import State

DOCUMENTS = Path(__file__).parent / "documents"
NAMES = sorted(p.stem for p in DOCUMENTS.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_document_gets_just_the_errors_that_lie_beside_it(tmp_path, name):
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(DOCUMENTS / f"{name}.yaml", folder)
    for file in ("model.onnx", "m.py"):
        (folder / file).write_bytes(b"x")
    result = trtpipe("validate", f"{name}.yaml", cwd=folder)
    expected = (DOCUMENTS / f"{name}.error").read_text()
    expected = expected.replace("{folder}", str(tmp_path)).replace("{types}", ", ".join(stages.NAMES))
    expected = expected.replace("{version}", __version__)
    assert result.stderr == expected
    assert result.returncode == 2
    assert not (folder / "artifacts").exists()


def load(tmp_path, text, settings=()):
    path = tmp_path / "p.yaml"
    path.write_text(textwrap.dedent(text))
    return loading.load(str(path), settings, None)


CHAIN = """
    name: chain
    vars: {p: fp16}
    stages:
      engine: {type: build, inputs: {config: config}}
      config: {type: configure, inputs: {network: network}, params: {precision: "${p}", workspace: 1GiB}}
      network: {type: parse, inputs: {model: {file: m.onnx}}}
      other: {type: parse, inputs: {model: {file: m.onnx}}}
"""


def test_stages_are_ordered_by_what_they_read(tmp_path):
    loaded = load(tmp_path, CHAIN)
    assert list(loaded.stages) == ["network", "other", "config", "engine"]
    assert loaded.closure(["config"]) == ("network", "config")
    assert loaded.stages["engine"].upstream == ("config",)


def test_params_are_resolved_with_their_defaults(tmp_path):
    params = load(tmp_path, CHAIN).stages["config"].params
    assert params["precision"] == "fp16"
    assert "refit" in params


SPELT = """
    name: spelt
    stages:
      network: {{type: parse, inputs: {{model: {{file: {model}}}}}}}
      config: {{type: configure, inputs: {{network: network}}, params: {{workspace: {size}}}}}
      pictures:
        type: preprocess
        inputs: {{images: {{file: {folder}}}}}
        params: {{tensor: x, list: {listed}, python: [{{entrypoint: "{code}:f", sources: [{source}]}}]}}
      model:
        type: export
        params: {{framework: torch, entrypoint: "{code}:load", sources: [{source}], outputs: [y],
                  inputs: {{x: {{shape: [1], dtype: float32}}}}}}
"""


def test_paths_and_sizes_that_mean_the_same_are_the_same_params(tmp_path):
    plain = {
        "model": "a/m.onnx",
        "size": "1GiB",
        "folder": "pics",
        "listed": "l.txt",
        "code": "h.py",
        "source": "../w.npz",
    }
    other = {"model": "./a//m.onnx", "size": "1024MiB", "folder": "./pics/", "listed": "./l.txt", "code": ".//h.py",
             "source": "./.././w.npz"}  # fmt: skip
    stages_of = [load(tmp_path, SPELT.format(**words)).stages for words in (plain, other)]
    for one, two in zip(*(found.values() for found in stages_of), strict=True):
        assert one._replace(place="", inputs={}) == two._replace(place="", inputs={})
        for port, source in one.inputs.items():
            assert source == two.inputs[port] or source._replace(place="") == two.inputs[port]._replace(place="")
    assert stages_of[0]["pictures"].sources == ("../w.npz", "h.py")


def test_a_step_up_is_not_taken_away_because_what_it_leads_to_may_depend_on_a_link(tmp_path):
    found = load(tmp_path, SPELT.format(model="a/../m.onnx", size="0B", folder=".", listed="l.txt", code="a/../h.py",
                                        source="w"))  # fmt: skip
    assert found.stages["network"].inputs["model"].file == "a/../m.onnx"
    assert found.stages["model"].params["entrypoint"] == "a/../h.py:load"


def test_an_unknown_target_gets_a_suggestion(tmp_path):
    with pytest.raises(PipelineInvalid, match='unknown stage engin, did you mean "engine"?'):
        load(tmp_path, CHAIN).closure(["engin"])


def test_a_resolved_pipeline_survives_the_state_unchanged(tmp_path):
    loaded = load(tmp_path, CHAIN)
    again = graph.from_json(loaded.file, json.loads(json.dumps(graph.to_json(loaded))))
    assert again == loaded


def test_a_document_that_passed_is_not_read_again_until_it_changes(tmp_path, monkeypatch):
    with State(str(tmp_path)) as state:
        path = tmp_path / "p.yaml"
        path.write_text(textwrap.dedent(CHAIN))
        first = loading.load(str(path), (), state)
        reads = []
        real = document.parse
        monkeypatch.setattr(document, "parse", lambda *a: reads.append(a) or real(*a))
        assert loading.load(str(path), (), state) == first
        assert not reads
        other = loading.load(str(path), ["vars.p=fp32"], state)
        assert other.stages["config"].params["precision"] == "fp32"
        assert reads


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20), st.permutations(range(8)))
@settings(max_examples=60, deadline=None)
def test_any_graph_is_ordered_or_its_cycle_is_shown(edges, names):
    given_stages = {f"s{n}": {"type": "x", "inputs": {}} for n in names}
    for index, (a, b) in enumerate(edges):
        given_stages[f"s{a}"]["inputs"][f"i{index}"] = f"s{b}"
    doc = document.Document("p.yaml", {"stages": given_stages}, {})
    try:
        order = resolving._order(doc, given_stages)
    except Cycle as error:
        walk = str(error).split("found a cycle: ")[1].split(" → ")
        assert walk[0] == walk[-1]
        for user, maker in zip(walk[1:], walk[:-1], strict=True):
            assert maker in given_stages[user]["inputs"].values()
    else:
        assert sorted(order) == sorted(given_stages)
        place = {name: i for i, name in enumerate(order)}
        assert all(place[up] < place[n] for n, s in given_stages.items() for up in s["inputs"].values())


def test_the_schema_itself_is_valid():
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(schema.pipeline_schema())


def test_the_checked_in_schema_is_what_the_stages_say():
    result = trtpipe("schema", "--check", cwd=PROJECT)
    assert (result.returncode, result.stderr) == (0, "")
