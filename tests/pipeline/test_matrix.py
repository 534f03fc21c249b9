"""The matrix: which stages stand for several variants, how they are called, and what reads what."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import project, trtpipe
from trtpipe import variant
from trtpipe.errors import Cycle, PipelineInvalid
from trtpipe.pipeline import document, loading, matrix, resolving, variables
from trtpipe.store.state import State


def load(tmp_path, text, settings=()):
    path = tmp_path / "p.yaml"
    path.write_text(textwrap.dedent(text))
    return loading.load(str(path), settings, None)


CHAIN = """
    name: chain
    vars: {most: 32}
    matrix: {precision: [fp32, fp16], batch: [1, "${most}"]}
    stages:
      network: {type: parse, inputs: {model: {file: m.onnx}}}
      config: {type: configure, inputs: {network: network}, params: {precision: "${matrix.precision}"}}
      engine: {type: build, inputs: {config: config}}
      buffers: {type: allocate, inputs: {engine: engine}, params: {shapes: {x: ["${matrix.batch}", 3]}}}
      speed: {type: benchmark, inputs: {engine: engine, buffers: buffers}}
      best: {type: select, inputs: {engines: engine, metrics: speed}, params: {objective: min latency_p50_ms}}
"""


def test_stages_are_expanded_by_what_they_depend_on_and_shared_ones_stay_one(tmp_path):
    stages = load(tmp_path, CHAIN).stages
    assert list(stages) == [
        "network",
        "config@precision=fp32", "config@precision=fp16",
        "engine@precision=fp32", "engine@precision=fp16",
        "buffers@precision=fp32,batch=1", "buffers@precision=fp32,batch=32",
        "buffers@precision=fp16,batch=1", "buffers@precision=fp16,batch=32",
        "speed@precision=fp32,batch=1", "speed@precision=fp32,batch=32",
        "speed@precision=fp16,batch=1", "speed@precision=fp16,batch=32",
        "best",
    ]  # fmt: skip
    assert stages["config@precision=fp16"].params["precision"] == "fp16"
    assert stages["buffers@precision=fp16,batch=32"].params["shapes"] == {"x": [32, 3]}
    assert stages["speed@precision=fp16,batch=1"].inputs == {
        "engine": "engine@precision=fp16", "buffers": "buffers@precision=fp16,batch=1",
    }  # fmt: skip


def test_a_port_that_takes_many_reads_every_variant_and_does_not_depend_on_the_matrix(tmp_path):
    best = load(tmp_path, CHAIN).stages["best"]
    assert best.inputs["engines[engine@precision=fp16]"] == "engine@precision=fp16"
    assert sorted(p for p in best.inputs if p.startswith("metrics")) == [
        f"metrics[speed@precision={p},batch={b}]" for p in ("fp16", "fp32") for b in (1, 32)
    ]
    assert len(best.upstream) == 6


def test_a_pinned_axis_reads_that_variant_whatever_the_reader_is(tmp_path):
    stages = load(
        tmp_path,
        CHAIN.replace("engine: engine, buffers: buffers}}", 'engine: engine, buffers: "buffers@precision=fp32"}}'),
    ).stages
    assert stages["speed@precision=fp16,batch=1"].inputs["buffers"] == "buffers@precision=fp32,batch=1"


def test_one_choice_for_each_value_of_an_axis_is_made_with_a_pin_from_the_matrix(tmp_path):
    text = CHAIN.replace("metrics: speed}", 'metrics: "speed@batch=${matrix.batch}"}')
    stages = load(tmp_path, text).stages
    assert [n for n in stages if n.startswith("best")] == ["best@batch=1", "best@batch=32"]
    reads = [p for p in stages["best@batch=1"].inputs if p.startswith("metrics")]
    assert reads == ["metrics[speed@precision=fp32,batch=1]", "metrics[speed@precision=fp16,batch=1]"]


def test_an_axis_of_mappings_chooses_branches_and_files(tmp_path):
    stages = load(
        tmp_path,
        """
        name: branches
        matrix:
          precision:
            full: {network: network, precision: fp32}
            small: {network: other, precision: model}
        stages:
          network: {type: parse, inputs: {model: {file: m.onnx}}}
          other: {type: parse, inputs: {model: {file: q.onnx}}}
          config:
            type: configure
            inputs: {network: "${matrix.precision.network}"}
            params: {precision: "${matrix.precision.precision}"}
        """,
    ).stages
    assert list(stages) == ["network", "other", "config@precision=full", "config@precision=small"]
    assert stages["config@precision=small"].inputs == {"network": "other"}
    assert stages["config@precision=small"].params["precision"] == "model"


def test_a_text_may_hold_a_value_and_a_dollar_stays_a_dollar(tmp_path):
    stages = load(
        tmp_path,
        """
        name: texts
        vars: {folder: models}
        matrix: {size: [1, 2.5, true]}
        stages:
          network: {type: parse, inputs: {model: {file: "${folder}/m-${matrix.size}-$${matrix.size}.onnx"}}}
        """,
    ).stages
    assert [s.inputs["model"].file for s in stages.values()] == [
        f"models/m-{size}-${{matrix.size}}.onnx" for size in ("1", "2.5", "true")
    ]


def test_settings_reach_the_matrix_and_its_stages(tmp_path):
    stages = load(tmp_path, CHAIN, ["matrix.precision=[fp16]", "matrix.exclude=[{batch: 32}]"]).stages
    assert list(stages) == [
        "network", "config@precision=fp16", "engine@precision=fp16", "buffers@precision=fp16,batch=1",
        "speed@precision=fp16,batch=1", "best",
    ]  # fmt: skip


def test_errors_of_every_variant_are_told_once_and_of_some_with_their_names(tmp_path):
    with pytest.raises(PipelineInvalid) as caught:
        load(tmp_path, CHAIN, ["matrix.precision=[fp32, fp61]", "stages.engine.params.x=1"])
    first, second = sorted(p.rpartition(" stages.")[2] for p in caught.value.problems)
    assert first.startswith('config.params.precision: found "fp61", expected one of')
    assert first.endswith("(in config@precision=fp61)")
    assert second.startswith('engine.params.x: unknown key "x"')


def test_a_cycle_names_the_variants(tmp_path):
    text = (
        CHAIN
        + """\
      one: {type: infer, inputs: {engine: engine, buffers: buffers, data: other}}
      other: {type: infer, inputs: {engine: engine, buffers: buffers, data: one}}
"""
    )
    with pytest.raises(
        Cycle, match=r":12:3 stages.one: found a cycle: one@precision=fp32,batch=1 → other@precision=fp32"
    ):
        load(tmp_path, text)


def test_targets_name_one_variant_or_some_or_all(tmp_path):
    loaded = load(tmp_path, CHAIN)
    assert loaded.match(["engine"]) == ("engine@precision=fp32", "engine@precision=fp16")
    assert loaded.match(["speed@batch=1"]) == ("speed@precision=fp32,batch=1", "speed@precision=fp16,batch=1")
    assert loaded.match(["speed@batch=1,precision=fp16"]) == ("speed@precision=fp16,batch=1",)
    assert loaded.match(["network", "best"]) == ("network", "best")
    assert loaded.closure(["engine@precision=fp16"]) == ("network", "config@precision=fp16", "engine@precision=fp16")
    with pytest.raises(PipelineInvalid) as caught:
        loaded.match(["engine@precision=fp61", "enigne"])
    assert caught.value.problems == (
        'unknown stage engine@precision=fp61, did you mean "engine@precision=fp16"?',
        'unknown stage enigne, did you mean "engine"?',
    )


def test_an_expanded_pipeline_comes_from_the_state_the_second_time(tmp_path, monkeypatch):
    path = tmp_path / "p.yaml"
    path.write_text(textwrap.dedent(CHAIN))
    with State(str(tmp_path)) as state:
        first = loading.load(str(path), (), state)
        monkeypatch.setattr(document, "parse", lambda *_: pytest.fail("read again"))
        assert loading.load(str(path), (), state) == first


names = st.sampled_from(["a", "b", "c"])


@st.composite
def documents(draw):
    """Stages in a random graph, of which some use some axes, with a random matrix and what it leaves out."""
    axes = draw(st.lists(names, unique=True, min_size=1, max_size=3))
    values = {axis: draw(st.lists(st.integers(0, 9), unique=True, min_size=1, max_size=3)) for axis in axes}
    count = draw(st.integers(1, 6))
    uses = [set(draw(st.lists(st.sampled_from(axes), unique=True))) for _ in range(count)]
    uses[0] |= set(axes) - set().union(*uses)
    reads = [draw(st.lists(st.integers(0, i - 1), unique=True, max_size=3)) if i else [] for i in range(count)]
    excluded = draw(
        st.lists(st.fixed_dictionaries({axes[0]: st.sampled_from(values[axes[0]])}, optional={
            axis: st.sampled_from(values[axis]) for axis in axes[1:]
        }), max_size=2)
    )  # fmt: skip
    return values, uses, reads, excluded


@given(documents())
@settings(max_examples=120, deadline=None)
def test_every_combination_is_there_once_and_every_stage_comes_after_what_it_reads(drawn):
    import itertools

    values, uses, reads, excluded = drawn
    stages = {
        f"s{i}": {
            "type": "postprocess",
            "inputs": {f"i{j}": f"s{j}" for j in reads[i]},
            "params": {axis: variables.Pending((variables.Cell(axis, None),)) for axis in sorted(uses[i])},
        }
        for i in range(len(uses))
    }
    whole = [dict(zip(values, c, strict=True)) for c in itertools.product(*values.values())]
    left = [c for c in whole if not any(e.items() <= c.items() for e in excluded)]
    doc = document.Document("p.yaml", {"matrix": {**values, "exclude": excluded}, "stages": stages}, {})
    if not left:
        with pytest.raises(PipelineInvalid, match="found no combination"):
            matrix.expand(doc)
        return
    expanded = matrix.expand(doc)
    depends = []
    for i, used in enumerate(uses):
        depends.append(used.union(*(depends[j] for j in reads[i])))
        expected = {tuple((a, str(c[a])) for a in values if a in depends[i]) for c in left}
        found = [tuple(v.values.items()) for v in expanded[f"s{i}"]]
        assert len(found) == len(set(found))
        assert set(found) == expected
        for one in expanded[f"s{i}"]:
            assert variant.split(one.name) == (f"s{i}", one.values)
            assert one.given["params"] == {axis: int(one.values[axis]) for axis in used}
    variants = {v.name: v for each in expanded.values() for v in each}
    resolved = {}
    for one in variants.values():
        picked = {p: resolving._named(t, one, expanded, many=False) for p, t in one.given["inputs"].items()}
        assert all(len(found) == 1 for found in picked.values())
        assert all(found[0].values.items() <= one.values.items() for found in picked.values())
        resolved[one.name] = {"inputs": {port: found[0].name for port, found in picked.items()}}
    order = resolving._order(doc, resolved)
    assert sorted(order) == sorted(variants)
    place = {name: i for i, name in enumerate(order)}
    assert all(place[up] < place[name] for name, r in resolved.items() for up in r["inputs"].values())


# --- through the command


STAGES = """\
  twice:
    type: postprocess
    inputs: {tensors: {file: data.npz}}
    params: {steps: [{op: python, entrypoint: "step.py:${matrix.how.function}", args: {}}]}
  right:
    type: evaluate
    inputs: {results: twice, labels: {file: labels.npy}}
    params: {metrics: [{metric: exact_match, field: twice, name: right}]}
"""
CODE = """\
import numpy as np

def good(arrays, samples):
    return {"twice": (arrays["x"][:, 0] * 2).astype(np.int64)}

def bad(arrays, samples):
    return {"twice": (arrays["x"][:, 0] * 3).astype(np.int64)}

def worse(arrays, samples):
    return {"twice": (arrays["x"][:, 0] * 4).astype(np.int64)}
"""


@pytest.fixture
def folder(tmp_path):
    import numpy as np

    path = project(tmp_path, STAGES, code=CODE)
    path.write_text(
        "matrix: {how: {a: {function: good}, b: {function: bad}, c: {function: good}}}\n" + path.read_text()
    )
    np.save(tmp_path / "labels.npy", np.array([0, 2, 4, 6]))
    return tmp_path


def test_variants_run_show_and_explain_by_their_names(folder):
    first = trtpipe("run", "p.yaml", cwd=folder)
    assert first.returncode == 0, first.stderr
    assert "2 hit, 4 ran" in first.stdout  # a and c are one key
    assert sorted(p.name for p in (folder / "artifacts/view/p").iterdir()) == [
        f"{stage}@how={how}" for stage in ("right", "twice") for how in "abc"
    ]
    figures = trtpipe("show", "p.yaml", "right/metrics.json", cwd=folder).stdout.split()
    read = [json.loads(Path(path).read_text("utf-8"))["metrics"]["right"] for path in figures]
    assert read == [1, 0.25, 1]
    one = trtpipe("show", "p.yaml", "right@how=b", "--json", cwd=folder)
    assert json.loads(one.stdout)["stage"] == "right@how=b"
    assert trtpipe("status", "p.yaml", cwd=folder).returncode == 0
    shown = trtpipe("explain", "p.yaml", "right@how=b", "--set", "matrix.how.b.function=worse", cwd=folder)
    assert shown.stdout.splitlines() == [
        "right@how=b (evaluate): unknown",
        "  depends on twice@how=b",
        "  twice@how=b (postprocess) would run: params.steps[0].entrypoint: step.py:bad → step.py:worse",
    ]
    forced = trtpipe("run", "p.yaml", "--target", "twice", "--force", "twice@how=b", "--json", cwd=folder)
    events = [json.loads(line) for line in forced.stdout.splitlines()]
    assert [e["stage"] for e in events if e["event"] == "StageStarted"] == ["twice@how=b"]


def test_the_graph_shows_variants(folder):
    shown = trtpipe("graph", "p.yaml", cwd=folder).stdout
    assert shown.splitlines()[:2] == ["twice@how=a (postprocess → results)", "  └─ tensors ← data.npz"]
    assert "  ├─ results ← twice@how=c" in shown.splitlines()


def test_a_variant_is_not_what_the_stage_was_without_the_matrix(folder):
    unknown = trtpipe("run", "p.yaml", "--target", "twice@how=z", cwd=folder)
    assert unknown.returncode == 2
    assert "unknown stage twice@how=z, did you mean" in unknown.stderr
