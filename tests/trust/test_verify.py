"""Rebuilding without the cache: equal bytes, or how far values drift."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests import made
from tests.helpers import further, project, python_stage, trtpipe
from tests.onnx_models import conv, save
from trtpipe.backends.trt.proof import layers as engine_layers
from trtpipe.documents.manifest import Proof
from trtpipe.trust import verify

RANDOM = """\
import os
import numpy as np
def noisy(arrays, samples, by):
    return {"scores": arrays["x"] + by * int.from_bytes(os.urandom(4), "big") / 2**32}
"""


def noisy(by):
    step = {"op": "python", "entrypoint": "step.py:noisy", "args": {"by": by}}
    return f"  a: {{type: postprocess, inputs: {{tensors: {{file: data.npz}}}}, params: {{arrays: [scores], steps: [{json.dumps(step)}]}}}}\n"  # noqa: E501


def test_a_stage_that_comes_out_the_same_is_said_to_be_byte_equal(tmp_path):
    project(tmp_path, python_stage("a"))
    assert trtpipe("verify", "p.yaml", cwd=tmp_path).returncode == 1  # not built yet
    trtpipe("run", "p.yaml", cwd=tmp_path)
    result = trtpipe("verify", "p.yaml", "--times", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("files are byte-equal") == 2
    assert not list((tmp_path / "artifacts" / "tmp").iterdir())


@pytest.mark.parametrize(("by", "code"), [*further((1e-6, 0)), (0.5, 5)])
def test_values_that_drift_are_measured_against_the_bound(tmp_path, by, code):
    project(tmp_path, noisy(by), code=RANDOM)
    trtpipe("run", "p.yaml", cwd=tmp_path)
    before = trtpipe("status", "p.yaml", "--json", cwd=tmp_path).stdout
    result = trtpipe("verify", "p.yaml", "a", "--json", cwd=tmp_path)
    assert result.returncode == code, result.stderr
    (one,) = json.loads(result.stdout)["rebuilds"]
    assert 0 < one["drift"] <= by
    assert one["passed"] == (code == 0)
    assert trtpipe("status", "p.yaml", "--json", cwd=tmp_path).stdout == before


ENGINE = """\
  n: {type: parse, inputs: {model: {file: m.onnx}}}
  c: {type: configure, inputs: {network: n}, params: {precision: model, profiles: [{image: {min: [1, 3, 8, 8], opt: [2, 3, 8, 8], max: [4, 3, 8, 8]}}]}}
  e: {type: build, inputs: {config: c}}
  b: {type: allocate, inputs: {engine: e}, params: {shapes: {image: [2, 3, 8, 8]}}}
  s: {type: infer, inputs: {engine: e, buffers: b, data: {file: data.npz}}}
"""  # noqa: E501


@pytest.mark.slow
def test_an_engine_whose_bytes_differ_is_judged_by_its_outputs_on_data(tmp_path, monkeypatch):
    project(tmp_path, ENGINE)
    np.savez(tmp_path / "data.npz", image=np.ones((4, 3, 8, 8), np.float32))
    save(conv(), tmp_path / "m.onnx")
    result = trtpipe("run", "p.yaml", "--backend", "onnxruntime", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    # A runtime that times kernels makes other bytes each time; here somebody replaces the stored engine by such.
    from trtpipe import environment
    from trtpipe.pipeline import loading
    from trtpipe.run.lookup import Lookup
    from trtpipe.store.state import State
    from trtpipe.store.store import Store

    monkeypatch.chdir(tmp_path)
    with State("artifacts") as state:
        store = Store("artifacts", state)
        lookup = Lookup(loading.load("p.yaml", [], state), store, environment.choose("onnxruntime"))
        made = {}
        for name in ("n", "c", "e"):
            assessed = lookup.assess(lookup.pipeline.stages[name], made)
            made[name] = assessed.hit.artifact
        import onnx

        with store.workspace() as folder:
            for name, (sha, _) in made["e"].files.items():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                with open(store.blob_path(sha), "rb") as stream, open(f"{folder}/{name}", "wb") as out:
                    if name == "engine.onnx":
                        model = onnx.load(stream)
                        model.doc_string = "other bytes"
                        out.write(model.SerializeToString())
                    else:
                        out.write(stream.read())
            store.commit(assessed.key, "engine", folder, store.action(assessed.digest).about)
    assert trtpipe("run", "p.yaml", "--backend", "onnxruntime", cwd=tmp_path).returncode == 0
    result = trtpipe("verify", "p.yaml", "e", "--backend", "onnxruntime", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "engine.onnx differ; the drift is 0 of the largest value (the outputs of s; bound 0.001)" in result.stdout
    assert "layers: not compared: onnxruntime tells no tactics" in result.stdout
    np.savez(tmp_path / "data.npz", image=np.zeros((4, 3, 8, 8), np.float32))
    result = trtpipe("verify", "p.yaml", "e", "--backend", "onnxruntime", cwd=tmp_path)
    assert result.returncode == 5
    assert "the drift is not known (s is not built" in result.stdout
    alone = (tmp_path / "p.yaml").read_text().partition("  s:")[0]
    (tmp_path / "p.yaml").write_text(alone)
    result = trtpipe("verify", "p.yaml", "e", "--backend", "onnxruntime", cwd=tmp_path)
    assert result.returncode == 5
    assert "the drift is not known (no infer stage reads it" in result.stdout


def engine(folder, plan, layers, why=None):
    proof = Proof(status="unproven", why=why)
    made.put(folder, made.manifest(runtime="tensorrt", plan="engine.plan", precision_proof=proof))
    (folder / "engine.plan").write_bytes(plan)
    if layers is not None:
        made.put(folder, engine_layers(json.dumps({"Layers": layers})))
    return verify.Given("engine", str(folder), tuple(sorted(p.name for p in folder.iterdir())), "engine")


def by_tactic(name):
    outputs = [{"Name": "o", "Format/Datatype": "Row major linear FP32"}]
    return [{"Name": "conv1", "LayerType": "CaskConvolution", "Outputs": outputs, "TacticName": name}]


def test_engines_whose_plans_differ_are_compared_layer_by_layer(tmp_path):
    old, new = engine(tmp_path / "old", b"a", by_tactic("k64")), engine(tmp_path / "new", b"b", by_tactic("k32"))
    different = ("engine.plan", "layers.json")
    assert verify._layers(old, new) == ("layers: 1, 1 with another tactic", "layer conv1: tactic k64 → k32")
    assert verify._details(old, new, different) == ()
    # Tactics say why values drift, not how far: that is for data to say.
    assert verify._drift(old, new, ("layers.json",)) is None
    same = engine(tmp_path / "same", b"c", by_tactic("k64"))
    assert verify._layers(old, same) == ("layers: 1, all with the same tactics, types and formats",)


def test_engines_whose_layers_were_not_inspected_are_said_to_be(tmp_path):
    old = engine(tmp_path / "old", b"a", by_tactic("k64"))
    new = engine(tmp_path / "new", b"b", None, "the new plan cannot be inspected")
    assert verify._layers(old, new) == ("layers: not compared: the new plan cannot be inspected",)
    assert verify._layers(engine(tmp_path / "other", b"a", None), new) == (
        "layers: not compared: tensorrt tells no tactics",
    )
    assert verify._layers(old._replace(kind="buffers"), new) == ()


def drift(tmp_path, a, b):
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    return verify._file_drift(str(tmp_path / "a.npy"), str(tmp_path / "b.npy"))


def test_drift_is_the_largest_difference_over_the_largest_stored_value(tmp_path):
    assert drift(tmp_path, np.array([1.0, -4.0]), np.array([1.0, -3.0])) == 0.25
    assert drift(tmp_path, np.array([np.nan, np.inf, 1.0]), np.array([np.nan, np.inf, 1.0])) == 0.0
    assert drift(tmp_path, np.array([1.0]), np.array([np.nan])) == math.inf
    assert drift(tmp_path, np.array([0.0]), np.array([1.0])) == math.inf
    assert drift(tmp_path, np.zeros(2), np.zeros(3)) == math.inf
    assert drift(tmp_path, np.zeros(0), np.zeros(0)) == 0.0
    assert verify._json_drift({"a": 1.0, "b": "x"}, {"a": 1.1, "b": "x"}) == pytest.approx(0.1)
    assert verify._json_drift([{"a": 10.0}, {"a": 1e-9}], [{"a": 10.0}, {"a": 2e-9}]) == pytest.approx(1e-10)
    assert verify._json_drift({"b": "x"}, {"b": "y"}) == math.inf
