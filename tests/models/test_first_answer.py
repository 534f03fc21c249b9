"""The first answer of an engine is held against ONNX Runtime's on the model as it was parsed."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import made
from tests import onnx_models as models
from tests.backends.trt.rtx import needs_no_gpu, needs_rtx
from tests.helpers import run_stage
from trtpipe.documents import files
from trtpipe.documents.manifest import Manifest
from trtpipe.errors import EnvironmentMissing, GateFailed
from trtpipe.models import first_answer


def engine(tmp_path, proto, *, configure=None, backend="onnxruntime"):
    """Make an engine by the stages that make one; give its folder."""
    path = models.save(proto, tmp_path / "m.onnx")
    network = run_stage("parse", {}, {"model": path}, tmp_path, backend=backend)
    config = run_stage("configure", configure or {}, {"network": network}, tmp_path, backend=backend)
    return run_stage("build", {}, {"config": config}, tmp_path, backend=backend)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Give an engine of `conv`, with a dynamic batch; it is only read."""
    return engine(tmp_path_factory.mktemp("sound"), models.conv())


@pytest.fixture(scope="module")
def wrong(tmp_path_factory, sound):
    """Give the same engine with the plan of another model: a runtime that answers wrongly."""
    return of_another_model(tmp_path_factory.mktemp("wrong"), sound)


def infer(tmp_path, built, *, rows=2, samples=3, stage="infer", shared=None, **params):
    image = np.random.default_rng(0).standard_normal((samples, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", image=image)
    buffers = run_stage("allocate", {"shapes": {"image": [rows, 3, 8, 8]}}, {"engine": built}, tmp_path)
    inputs = {"engine": built, "buffers": buffers, "data": tmp_path / "data.npz"}
    notes = []
    run_stage(stage, params, inputs, tmp_path, notes=notes, shared=shared)
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


@pytest.mark.parametrize(("rows", "said"), [(1, "relative L2 of one sample: "), (2, "relative L2 of 2 samples: ")])
def test_a_sound_engine_is_told_with_its_figures(tmp_path, sound, rows, said):
    (note,) = infer(tmp_path, sound, rows=rows)
    assert note.startswith(f"checked against ONNX Runtime: {said}logits ")
    assert note.endswith("(bound 0.02)")


@pytest.mark.parametrize("stage", ["infer", "benchmark"])
def test_an_engine_that_answers_wrongly_is_refused_with_output_figures_and_node(tmp_path, wrong, stage):
    with pytest.raises(GateFailed) as told:
        infer(tmp_path, wrong, stage=stage, **({} if stage == "infer" else {"duration": 0, "warm_up": 0}))
    assert "(2 samples, bound 0.02):\n  logits: relative L2 0.5, largest difference " in str(told.value)
    assert "\nthe first wrong result is that of head [MatMul]\n" in str(told.value)
    assert "check: off" in str(told.value)


def test_one_wrong_sample_among_many_is_found(tmp_path):
    """The last of 64 samples is a tenth too small: 0.013 of the whole batch."""
    ends = [models.value("image", ["n", 3, 8, 8])], [models.value("y", ["n", 3, 8, 8])]
    nodes = [helper.make_node("Mul", ["image", "by"], ["y"], name="scale")]
    right, other = np.ones((64, 1, 1, 1), np.float32), np.ones((64, 1, 1, 1), np.float32)
    other[-1] = 0.9
    paths = [tmp_path / "right", tmp_path / "other"]
    for path in paths:
        path.mkdir()
    built = engine(paths[0], models.model(nodes, *ends, {"by": right}))
    wrong = engine(paths[1], models.model(nodes, *ends, {"by": other}))
    shutil.copy(wrong / "engine.onnx", built / "engine.onnx")
    with pytest.raises(GateFailed, match=r"\(64 samples, bound 0\.02\):\n  y: relative L2 0\.1 in sample 63 alone"):
        infer(tmp_path, built, rows=64, samples=64)


def test_who_knows_better_may_say_so(tmp_path, wrong):
    assert infer(tmp_path, wrong, check="off") == ["unchecked: check is off"]
    (note,) = infer(tmp_path, wrong, rows=1, check={"relative_l2": 0.6})
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


def test_it_costs_once_for_an_engine(tmp_path, sound):
    shared = tmp_path / "shared"
    shared.mkdir()
    assert infer(tmp_path, sound, shared=shared)[0].startswith("checked against ONNX Runtime")
    again = infer(tmp_path, sound, shared=shared)
    assert again[0].startswith("checked before against ONNX Runtime: relative L2 of 2 samples")
    (kept,) = (shared / "checked").iterdir()
    kept.write_text("torn")
    assert infer(tmp_path, sound, shared=shared)[0].startswith("checked against ONNX Runtime")


def test_a_build_can_run_its_engine_at_once(tmp_path, sound):
    config = next(sound.parent.parent.glob("stage-*-configure")) / "out"
    notes = []
    built = run_stage("build", {"check": "auto"}, {"config": config}, tmp_path, notes=notes)
    assert notes[0].startswith("checked against ONNX Runtime: relative L2 of one sample: logits ")
    assert {p.name for p in built.iterdir()} == {p.name for p in sound.iterdir()}
    with pytest.raises(GateFailed, match=r"one sample, bound 1e-30\):\n  logits: relative L2 "):
        run_stage("build", {"check": {"relative_l2": 1e-30}}, {"config": config}, tmp_path)


@needs_rtx
@needs_no_gpu
def test_a_build_for_a_gpu_that_is_not_here_is_refused_before_it_begins(tmp_path):
    path = models.save(models.doubling([2]), tmp_path / "m.onnx")
    network = run_stage("parse", {}, {"model": path}, tmp_path, backend="tensorrt_rtx")
    config = run_stage("configure", {}, {"network": network}, tmp_path, backend="tensorrt_rtx")
    with pytest.raises(EnvironmentMissing, match="check: found no GPU for TensorRT-RTX"):
        run_stage("build", {"check": "auto"}, {"config": config}, tmp_path, backend="tensorrt_rtx")
    assert not any(tmp_path.glob("stage-*-build/out/*.plan"))


@pytest.mark.parametrize(
    ("precision", "kind", "limit"),
    [("model", TensorProto.FLOAT, 0.02), ("model", TensorProto.FLOAT16, 0.05), ("bf16", TensorProto.FLOAT, 0.2)],
)
def test_the_bound_follows_the_precision(precision, kind, limit):
    assert first_answer.bound(models.doubling([2], kind), made.config(precision=precision)) == limit
