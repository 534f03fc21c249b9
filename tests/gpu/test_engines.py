"""On a GPU: what goes into an engine and what comes out, through the stages: ragged results, state, buckets, values,
plugins, and the check of the first answer.

The flavour is whichever is installed, as in test_end_to_end.py. What a runtime's builder does not take is skipped.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import onnx_models as models
from tests.data.test_buckets import masked
from tests.helpers import as_input, run_stage, trtpipe
from trtpipe import environment
from trtpipe.data import tensors
from trtpipe.documents import files
from trtpipe.documents.manifest import Manifest
from trtpipe.errors import GateFailed, StageFailed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not environment.gpus(), reason="there is no NVIDIA GPU here"),
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"),
    pytest.mark.timeout(600),
]
DETECTOR = """
name: p
backend: tensorrt
stages:
  network: {type: parse, inputs: {model: {file: m.onnx}}, params: {plugins: [libnvinfer_plugin.so]}}
  config:
    type: configure
    inputs: {network: network}
    params:
      profiles:
        - boxes: {min: [1, 4, 4], opt: [2, 4, 4], max: [2, 4, 4]}
          scores: {min: [1, 4, 1], opt: [2, 4, 1], max: [2, 4, 1]}
  engine: {type: build, inputs: {config: config}}
  buffers: {type: allocate, inputs: {engine: engine}, params: {shapes: {boxes: [2, 4, 4], scores: [2, 4, 1]}}}
  found: {type: infer, inputs: {engine: engine, buffers: buffers, data: {file: data}}}
"""


def make(name, tmp_path, proto, *, parse=None, configure=None, build=None, notes=None):
    """Build an engine by the stages that make one; give its folder. Skips what the builder does not take."""
    path = models.save(proto, tmp_path / "m.onnx")
    try:
        network = run_stage("parse", parse or {}, {"model": path}, tmp_path, backend=name, notes=notes)
        config = run_stage("configure", configure or {}, {"network": network}, tmp_path, backend=name, notes=notes)
        return run_stage("build", build or {}, {"config": config}, tmp_path, backend=name, notes=notes)
    except StageFailed as error:
        # TensorRT-RTX 1.4 has no kernel for some operators of the ONNX suite; TensorRT takes all that is here.
        if name == "tensorrt_rtx" and ("cannot be built" in str(error) or "rejects" in str(error)):
            pytest.skip(f"TensorRT-RTX does not take the model: {error}")
        raise


def through(name, tmp_path, built, arrays, *, allocate=None, infer=None):
    """Feed arrays through an engine by its stages; give the tensors that come out, and the notes of infer."""
    folder = tmp_path / "data"
    folder.mkdir()
    tensors.write(folder, arrays)
    buffers = run_stage("allocate", allocate or {}, {"engine": built}, tmp_path, backend=name)
    inputs = {"engine": built, "buffers": buffers, "data": folder}
    notes = []
    out = run_stage("infer", infer or {}, inputs, tmp_path, backend=name, notes=notes)
    print(name, notes)
    return tensors.open_input(as_input("made", out)), notes


def rows(source):
    """Give all samples of a tensor, whether they have one shape or many."""
    if not isinstance(source, tensors.Ragged):
        return list(source.read())
    with source.reader() as reader:
        return reader.rows(0, len(source))


def test_results_of_many_sizes_come_out_with_several_runs_in_flight(backend, tmp_path):
    nodes = [helper.make_node("NonZero", ["x"], ["where"], name="nonzero")]
    proto = models.model(nodes, [models.value("x", [16])], [models.value("where", [1, "found"], TensorProto.INT64)])
    x = (np.random.default_rng(0).random((9, 16)) > np.linspace(0, 1, 9)[:, None]).astype(np.float32)
    built = make(backend.name, tmp_path, proto)
    found, notes = through(backend.name, tmp_path, built, {"x": x}, allocate={"slots": 3})
    assert [one.tolist() for one in rows(found["where"])] == [[np.flatnonzero(one).tolist()] for one in x]
    assert len(rows(found["where"])[-1][0]) == 0
    assert any(note.startswith("checked against ONNX Runtime") for note in notes)


def test_boxes_that_the_model_selects_belong_to_their_pictures(backend, tmp_path):
    nodes = [helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "least"], ["sel"], name="nms")]
    weights = {"most": np.array([4]), "iou": np.array([0.5], np.float32), "least": np.array([0.3], np.float32)}
    inputs = [models.value("boxes", ["batch", 4, 4]), models.value("scores", ["batch", 1, 4])]
    proto = models.model(nodes, inputs, [models.value("sel", ["found", 3], TensorProto.INT64)], weights)
    apart_from_others = np.array([[0, 0, 1, 1], [5, 5, 6, 6], [10, 10, 11, 11], [20, 20, 21, 21]], np.float32)
    boxes = np.stack([apart_from_others, np.tile(apart_from_others[:1], (4, 1)), apart_from_others])
    scores = np.array([[[0.9, 0.1, 0.8, 0.7]], [[0.5, 0.9, 0.6, 0.7]], [[0.1, 0.2, 0.1, 0.2]]], np.float32)
    ranges = [{n: {"min": [1, *s], "opt": [2, *s], "max": [2, *s]} for n, s in (("boxes", (4, 4)), ("scores", (1, 4)))}]
    built = make(backend.name, tmp_path, proto, configure={"profiles": ranges})
    allocate = {"shapes": {"boxes": [2, 4, 4], "scores": [2, 1, 4]}, "split_by": {"tensor": "sel", "column": 0}}
    found, notes = through(backend.name, tmp_path, built, {"boxes": boxes, "scores": scores}, allocate=allocate)
    made = [sorted(one.tolist()) for one in rows(found["sel"])]
    assert made == [[[0, 0, 0], [0, 0, 2], [0, 0, 3]], [[0, 0, 1]], []]
    assert any(note.startswith("checked against ONNX Runtime") for note in notes)


def test_what_an_engine_remembers_is_fed_back_from_step_to_step(backend, tmp_path):
    nodes = [
        helper.make_node("Mul", ["state", "half"], ["faded"], name="fade"),
        helper.make_node("Add", ["faded", "x"], ["stateN"], name="add"),
        helper.make_node("Add", ["stateN", "stateN"], ["y"], name="double"),
    ]
    ends = [[models.value(name, ["batch", 4]) for name in names] for names in (("x", "state"), ("y", "stateN"))]
    proto = models.model(nodes, *ends, {"half": np.array([0.5], np.float32)})
    ranges = {"min": [1, 4], "opt": [2, 4], "max": [2, 4]}
    built = make(backend.name, tmp_path, proto, configure={"profiles": [{"x": ranges, "state": ranges}]})
    sounds = [np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32) for n in (3, 7, 5)]
    allocate = {"shapes": {"x": [2, 4], "state": [2, 4]}}
    found, _ = through(backend.name, tmp_path, built, {"x": sounds}, allocate=allocate,
                       infer={"state": {"state": "stateN"}})  # fmt: skip
    for made, last, sound in zip(rows(found["y"]), rows(found["stateN"]), sounds, strict=True):
        state, wanted = np.zeros(4, np.float32), []
        for step in sound:
            state = state * np.float32(0.5) + step
            wanted.append(2 * state)
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last, state, rtol=1e-5, atol=1e-6)


def test_samples_of_many_lengths_are_padded_to_buckets_and_cut_back(backend, tmp_path):
    ranges = {"x": {"min": [1, 1, 2], "opt": [2, 4, 2], "max": [4, 8, 2]},
              "mask": {"min": [1, 1], "opt": [2, 4], "max": [4, 8]}}  # fmt: skip
    built = make(backend.name, tmp_path, masked(), configure={"profiles": [ranges]})
    sounds = [np.random.default_rng(n).standard_normal((n, 2)).astype(np.float32) for n in (3, 4, 8, 1, 5, 2, 2)]
    found, notes = through(backend.name, tmp_path, built, {"x": sounds}, allocate={"shapes": "auto", "slots": 2},
                           infer={"mask": "mask"})  # fmt: skip
    for made, sound in zip(rows(found["y"]), sounds, strict=True):
        np.testing.assert_array_equal(made, 2 * sound)
    np.testing.assert_allclose(found["mean"].read(), [s.mean(axis=0) for s in sounds], rtol=1e-4, atol=1e-5)
    assert any(note.startswith("checked against ONNX Runtime") for note in notes)


def sliced():
    """y = x[:, :n], where n is an input."""
    nodes = [helper.make_node("Slice", ["x", "from", "n", "axis"], ["y"], name="slice")]
    inputs = [models.value("x", ["batch", 16]), models.value("n", [1], TensorProto.INT64)]
    weights = {"from": np.array([0]), "axis": np.array([1])}
    return models.model(nodes, inputs, [models.value("y", ["batch", "cut"])], weights)


@pytest.mark.parametrize("given", ["in the document", "one a sample in the data"])
def test_values_of_shape_inputs_decide_on_the_size_of_results(backend, tmp_path, given):
    ranges = {"x": {"min": [1, 16], "opt": [1, 16], "max": [2, 16]}, "n": {"min": [1], "opt": [5], "max": [16]}}
    built = make(backend.name, tmp_path, sliced(), configure={"profiles": [ranges]})
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    many = np.array([[5], [1], [16], [9]])
    fixed = given == "in the document"
    allocate = {"shapes": {"x": [1, 16]}, "values": {"n": [5]}} if fixed else {"shapes": {"x": [1, 16]}}
    arrays = {"x": x} if fixed else {"x": x, "n": many}
    found, notes = through(backend.name, tmp_path, built, arrays, allocate=allocate)
    for made, sample, count in zip(rows(found["y"]), x, [5] * 4 if fixed else many[:, 0], strict=True):
        np.testing.assert_array_equal(made, sample[:count])
    assert any(note.startswith("checked against ONNX Runtime") for note in notes)


def test_a_value_outside_the_profile_is_refused_before_anything_runs(backend, tmp_path):
    ranges = {"x": {"min": [1, 16], "opt": [1, 16], "max": [1, 16]}, "n": {"min": [2], "opt": [5], "max": [8]}}
    built = make(backend.name, tmp_path, sliced(), configure={"profiles": [ranges]})
    arrays = {"x": np.zeros((2, 16), np.float32), "n": np.array([[5], [9]])}
    with pytest.raises(StageFailed, match=r"sample 1: found the values \[9\], outside those of profile 0"):
        through(backend.name, tmp_path, built, arrays, allocate={"shapes": {"x": [1, 16]}})


def test_a_build_runs_its_engine_at_once(backend, tmp_path):
    ranges = {"image": {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [8, 3, 8, 8]}}
    notes = []
    make(backend.name, tmp_path, models.conv(), configure={"profiles": [ranges]}, build={"check": "auto"}, notes=notes)
    print(notes)
    assert any(note.startswith("checked against ONNX Runtime: relative L2 of 2 samples: logits ") for note in notes)


def test_the_first_wrong_node_is_looked_for_with_engines_that_have_inner_tensors_as_outputs(backend, tmp_path):
    """The engine's own copy of the model is another one, so the engine is wrong, and the engines built of it right."""
    built = make(backend.name, tmp_path, models.conv(2))
    manifest = files.read(built / Manifest.file, Manifest)
    parsed = onnx.load(built / manifest.parsed)
    (head,) = [t for t in parsed.graph.initializer if t.name == "head"]
    head.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(head) * np.float32(1.5), "head"))
    onnx.save(parsed, built / manifest.parsed)
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    with pytest.raises(GateFailed) as told:
        through(backend.name, tmp_path, built, {"image": image},
                allocate={"batch_axis": {"image": 0, "logits": 0}})  # fmt: skip
    print(told.value)
    assert "logits: relative L2 0.33" in str(told.value)
    assert "has its inner tensors as outputs answers right: the fault lies in how nodes are fused" in str(told.value)


def plugin_library():
    """Find TensorRT's library of plugins; None if it is not here."""
    places = [Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if p]
    for module in ("tensorrt_libs", "tensorrt"):
        try:
            places.append(Path(__import__(module).__file__).parent)
        except ImportError:
            continue
    return next((path for place in places for path in sorted(place.glob("libnvinfer_plugin.so*"))), None)


def efficient_nms():
    """Make a model whose only node is a plugin of TensorRT's own: the best boxes of each picture."""
    attributes = {
        "background_class": -1, "box_coding": 0, "iou_threshold": 0.5, "score_threshold": 0.3, "score_activation": 0,
        "max_output_boxes": 4, "plugin_version": "1",
    }  # fmt: skip
    made = {"count": (["batch", 1], TensorProto.INT32), "kept": (["batch", 4, 4], TensorProto.FLOAT),
            "score": (["batch", 4], TensorProto.FLOAT), "class": (["batch", 4], TensorProto.INT32)}  # fmt: skip
    nodes = [helper.make_node("EfficientNMS_TRT", ["boxes", "scores"], [*made], name="nms", domain="TRT", **attributes)]
    inputs = [models.value("boxes", ["batch", 4, 4]), models.value("scores", ["batch", 4, 1])]
    outputs = [models.value(one, *kind) for one, kind in made.items()]
    return models.model(nodes, inputs, outputs, domains=("TRT",))


def test_a_plugin_whose_library_is_declared_is_loaded_wherever_its_engine_is(backend, tmp_path):
    library = plugin_library()
    if backend.name != "tensorrt" or library is None:
        pytest.skip("there is no library of TensorRT's plugins here")
    shutil.copy(library, tmp_path / "libnvinfer_plugin.so")
    models.save(efficient_nms(), tmp_path / "m.onnx")
    boxes = np.array([[[0, 0, 1, 1], [5, 5, 6, 6], [0, 0, 1, 1.1], [20, 20, 21, 21]]] * 2, np.float32)
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "boxes.npy", boxes)
    np.save(
        tmp_path / "data" / "scores.npy", np.array([[[0.9], [0.1], [0.8], [0.7]], [[0.6], [0.5], [0.4], [0.2]]], "f4")
    )
    (tmp_path / "p.yaml").write_text(DETECTOR)
    said = trtpipe("run", "p.yaml", cwd=tmp_path)
    assert said.returncode == 0, said.stderr + said.stdout
    assert "unchecked: ONNX Runtime has no operator TRT:EfficientNMS_TRT" in said.stdout
    view = tmp_path / "artifacts" / "view" / "p"
    found = {one: tensors.fixed(source).read() for one, source in
             tensors.open_input(as_input("made", view / "found")).items()}  # fmt: skip
    assert found["count"].tolist() == [[2], [2]]
    np.testing.assert_allclose(found["kept"][:, :2], boxes[[[0], [1]], [[0, 3], [0, 1]]])
    np.testing.assert_allclose(found["score"][:, :2], [[0.9, 0.7], [0.6, 0.5]], rtol=1e-3)
    assert files.read(view / "engine" / Manifest.file, Manifest).plugins == ("plugins/00-libnvinfer_plugin.so",)
    assert (view / "engine" / "plugins" / "00-libnvinfer_plugin.so").read_bytes() == library.read_bytes()
    logs = [log.read_text("utf-8") for log in (tmp_path / "artifacts" / "actions").rglob("*.log")]
    assert sum("[info] plugins: loaded 00-libnvinfer_plugin.so" in log for log in logs) == 3  # parse, build, infer
