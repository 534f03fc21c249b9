"""The first answer of an engine is held against ONNX Runtime's on the model as it was parsed."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import made
from tests import onnx_models as models
from tests.helpers import inference, run_stage, trtpipe
from trtpipe.documents import files
from trtpipe.documents.manifest import Manifest
from trtpipe.errors import GateFailed
from trtpipe.models import first_answer


def engine(tmp_path, proto, *, configure=None, backend="onnxruntime"):
    """Make an engine by the stages that make one; give its folder."""
    path = models.save(proto, tmp_path / "m.onnx")
    network = run_stage("parse", {}, {"model": path}, tmp_path, backend=backend)
    config = run_stage("configure", configure or {}, {"network": network}, tmp_path, backend=backend)
    return run_stage("build", {}, {"config": config}, tmp_path, backend=backend)


def infer(tmp_path, built, *, rows=2, samples=3, stage="infer", **params):
    image = np.random.default_rng(0).standard_normal((samples, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", image=image)
    buffers = run_stage("allocate", {"shapes": {"image": [rows, 3, 8, 8]}}, {"engine": built}, tmp_path)
    inputs = {"engine": built, "buffers": buffers, "data": tmp_path / "data.npz"}
    notes = []
    run_stage(stage, params, inputs, tmp_path, notes=notes)
    return notes


def of_another_model(tmp_path, built):
    """Put another model's plan into an engine: a runtime that answers wrongly."""
    other = models.conv()
    (head,) = [t for t in other.graph.initializer if t.name == "head"]
    head.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(head) * 1.5, "head"))
    wrong = engine(tmp_path / "other", other)
    folder = tmp_path / "wrong"
    shutil.copytree(built, folder)
    shutil.copy(wrong / "engine.onnx", folder / "engine.onnx")
    manifest = files.read(folder / Manifest.file, Manifest)
    size = (folder / "engine.onnx").stat().st_size
    changed = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    return made.put(folder, Manifest(**{**changed, "plan_bytes": size}))


def test_a_sound_engine_is_told_with_its_figures(tmp_path):
    (note,) = infer(tmp_path, engine(tmp_path, models.conv()))
    assert note.startswith("checked against ONNX Runtime: relative L2 of one sample: logits ")
    assert note.endswith("(bound 0.02)")


@pytest.mark.parametrize("stage", ["infer", "benchmark"])
def test_an_engine_that_answers_wrongly_is_refused_with_output_figures_and_node(tmp_path, stage):
    wrong = of_another_model(tmp_path, engine(tmp_path, models.conv()))
    with pytest.raises(GateFailed) as told:
        infer(tmp_path, wrong, stage=stage)
    assert "(one sample, bound 0.02):\n  logits: relative L2 0.5, largest difference " in str(told.value)
    assert "the first wrong result is that of head [MatMul]" in str(told.value)
    assert "check: off" in str(told.value)


def test_who_knows_better_may_say_so(tmp_path):
    wrong = of_another_model(tmp_path, engine(tmp_path, models.conv()))
    assert infer(tmp_path, wrong, check="off") == ["unchecked: check is off"]
    (note,) = infer(tmp_path, wrong, check={"relative_l2": 0.6})
    assert note == "checked against ONNX Runtime: relative L2 of one sample: logits 0.5 (bound 0.6)"


def test_a_model_that_was_rewritten_is_held_against_what_it_was(tmp_path):
    built = engine(tmp_path, models.conv(), configure={"precision": "fp16", "tolerance": 0.1})
    parsed = onnx.load(built / "parsed" / "model.onnx")
    assert {t.data_type for t in parsed.graph.initializer} == {TensorProto.FLOAT}
    (note,) = infer(tmp_path, built)
    assert "checked against ONNX Runtime" in note
    assert note.endswith("(bound 0.15)")  # one and a half times the tolerance


def test_a_model_that_draws_random_numbers_is_unchecked_and_said_so(tmp_path):
    nodes = [
        helper.make_node("RandomNormalLike", ["image"], ["noise"], name="noise"),
        helper.make_node("Add", ["image", "noise"], ["y"]),
    ]
    proto = models.model(nodes, [models.value("image", ["n", 3, 8, 8])], [models.value("y", ["n", 3, 8, 8])])
    notes = infer(tmp_path, engine(tmp_path, proto))
    assert notes == ["unchecked: the model draws random numbers (noise [RandomNormalLike])"]


def test_an_output_that_belongs_to_the_whole_batch_is_held_against_the_whole_batch(tmp_path):
    nodes = [helper.make_node("ReduceSum", ["image"], ["all"], keepdims=0)]
    proto = models.model(nodes, [models.value("image", ["n", 3, 8, 8])], [models.value("all", [])])
    (note,) = infer(tmp_path, engine(tmp_path, proto), rows=1, samples=1)
    assert "all " in note


def test_it_costs_once_for_an_engine(tmp_path):
    models.save(models.conv(2), tmp_path / "m.onnx")
    np.save(tmp_path / "image.npy", np.ones((2, 3, 8, 8), np.float32))
    (tmp_path / "p.yaml").write_text("name: p\nbackend: onnxruntime\nstages:\n" + inference())
    assert "checked against ONNX Runtime" in trtpipe("run", "p.yaml", cwd=tmp_path).stdout
    assert "checked before against ONNX Runtime" in trtpipe("run", "p.yaml", "--force", "scores", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("precision", "kind", "limit"),
    [("model", TensorProto.FLOAT, 0.02), ("model", TensorProto.FLOAT16, 0.05), ("bf16", TensorProto.FLOAT, 0.2)],
)
def test_the_bound_follows_the_precision(precision, kind, limit):
    assert first_answer.bound(models.doubling([2], kind), made.config(precision=precision)) == limit
