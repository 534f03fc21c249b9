from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests import made
from tests import onnx_models as models
from tests.helpers import PROJECT
from trtpipe import backends
from trtpipe.backends import ort
from trtpipe.documents.manifest import Target
from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.models import onnxfile


@pytest.fixture
def backend():
    return backends.load("onnxruntime")


def notes():
    kept = []
    return kept, kept.append


def built(backend, proto, tmp_path):
    path = models.save(proto, tmp_path / "model.onnx")
    plan = tmp_path / "engine.onnx"
    return plan, made.manifest(backend.build(path, made.config(), plan, tmp_path, lambda _: None))


def opened(backend, plan, manifest, shapes=()):
    """Open an engine; outputs of known `shapes` have buffers."""
    return backend.open(plan, manifest, made.buffers(manifest.bindings, dict(shapes)), lambda _: None)


def test_it_is_a_backend_with_its_own_name_and_version(backend):
    assert (backend.name, backend.version) == ("onnxruntime", onnxruntime.__version__)


def test_parse_gives_what_the_runtime_sees(backend, tmp_path):
    seen = backend.parse(models.save(models.conv(), tmp_path / "m.onnx"))
    assert seen.side("input") == [made.binding("image", "input", ["batch", 3, 8, 8])]
    assert seen.side("output") == [made.binding("logits", "output", ["batch", 5])]
    assert seen.layers["Conv"] == 1


def test_every_rejected_node_is_listed_with_its_reason(backend, tmp_path):
    inner = helper.make_graph(
        [helper.make_node("Odd", ["h"], ["i"], name="hidden", domain="org.example")], "t", [], [models.value("i", [2])]
    )
    other = helper.make_graph([helper.make_node("Relu", ["h"], ["e"])], "e", [], [models.value("e", [2])])
    proto = models.model(
        [
            helper.make_node("Strange", ["x"], ["a"], name="first", domain="org.example"),
            helper.make_node("Strange", ["x"], ["b"], name="second", domain="org.example"),
            helper.make_node("Gelu", ["x"], ["c"], name="too_new"),
            helper.make_node("Neg", ["u"], ["d"], name="no_kernel"),
            helper.make_node("Relu", ["x"], ["h"], name="fine"),
            helper.make_node("If", ["q"], ["z"], name="choice", then_branch=inner, else_branch=other),
        ],
        [models.value("x", [2]), models.value("u", [2], TensorProto.STRING), models.value("q", [], TensorProto.BOOL)],
        [*(models.value(n, [2]) for n in "abcz"), models.value("d", [2], TensorProto.STRING)],
        domains=("org.example",),
    )
    with pytest.raises(StageFailed) as caught:
        backend.parse(models.save(proto, tmp_path / "m.onnx"))
    text = str(caught.value)
    assert "m.onnx: onnxruntime" in text
    for line in (
        "first (org.example:Strange): onnxruntime knows no operator Strange in domain org.example",
        "second (org.example:Strange): onnxruntime knows no operator Strange in domain org.example",
        "too_new (Gelu): the operator came with opset 20, the model says 17",
        "no_kernel (Neg): ",
        "hidden in choice/then_branch (org.example:Odd): ",
    ):
        assert line in text
    assert "fine" not in text
    assert "5 nodes rejected" in text


def test_a_type_without_a_kernel_is_told_from_one_with(backend, tmp_path):
    proto = models.model(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="bad"), helper.make_node("Relu", ["x"], ["z"], name="good")],
        [models.value("x", [1, 1, 4, 4], TensorProto.INT8), models.value("w", [1, 1, 1, 1], TensorProto.INT8)],
        [models.value("y", [1, 1, 4, 4], TensorProto.INT8), models.value("z", [1, 1, 4, 4], TensorProto.INT8)],
    )
    with pytest.raises(StageFailed, match=r"1 node rejected:\n  bad \(Conv\)"):
        backend.parse(models.save(proto, tmp_path / "m.onnx"))


def test_a_newer_file_format_is_refused_in_the_runtimes_words(backend, tmp_path):
    proto = models.conv()
    proto.ir_version = 99
    with pytest.raises(StageFailed, match=r"m\.onnx: onnxruntime .* rejects the model: .*\b99\b"):
        backend.parse(models.save(proto, tmp_path / "m.onnx"))


def test_messages_hold_no_folders(backend, tmp_path):
    proto = models.model([helper.make_node("Add", ["x", "nothing"], ["y"], name="add")], [models.value("x", [2])],
                         [models.value("y", [2])])  # fmt: skip
    with pytest.raises(StageFailed) as caught:
        backend.parse(models.save(proto, tmp_path / "m.onnx"))
    assert str(tmp_path) not in str(caught.value)


def test_configure_takes_what_it_can_honour(backend):
    network = made.network()
    assert backend.configure(made.asked(), network).rewrite is None
    assert backend.configure(made.asked(precision="fp32"), network).rewrite is None
    half = backend.configure(made.asked(precision="fp16", workspace=2**30), network)
    assert half.rewrite == "fp16"
    assert "workspace" in half.not_applicable
    assert backend.configure(made.asked(optimization_level=0), network).flags == ("graph_optimization=disabled",)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("precision", "tf32"),
        ("precision", "bf16"),
        ("strip_plan", True),
        ("refit", True),
        ("weight_streaming", True),
        ("sparse_weights", True),
        ("version_compatible", True),
        ("hardware_compatibility", "ampere+"),
        ("compute_capabilities", (89,)),
    ],
)
def test_configure_refuses_what_only_tensorrt_knows(backend, setting, value):
    with pytest.raises(StageFailed, match=rf"onnxruntime \S+ cannot honour {setting}.*tensorrt or tensorrt_rtx"):
        backend.configure(made.asked(**{setting: value}), made.network())


def test_a_half_precision_model_is_not_passed_off_as_float32(backend):
    half = made.network(dtypes={"float16": 3})
    assert backend.configure(made.asked(precision="model"), half).rewrite is None
    with pytest.raises(StageFailed, match="cannot honour precision fp32: the model itself holds float16"):
        backend.configure(made.asked(precision="fp32"), half)


def test_all_refusals_come_at_once(backend):
    with pytest.raises(StageFailed) as caught:
        backend.configure(made.asked(precision="bf16", refit=True), made.network())
    assert len(str(caught.value).splitlines()) == 2


def test_a_built_model_says_what_it_is_and_computes_the_same(backend, tmp_path):
    plan, manifest = built(backend, models.conv(), tmp_path)
    assert manifest.target == Target(device="cpu", provider="CPUExecutionProvider", graph_optimization="extended")
    assert [b.name for b in manifest.bindings] == ["image", "logits"]
    assert manifest.bindings[0] == made.binding("image", "input", ["batch", 3, 8, 8])
    proof = manifest.precision_proof
    assert proof.status == "proven"
    assert {kind for row in proof.rows.values() for kind in row} == {"float32"}
    assert "FusedConv" in proof.rows
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    session = opened(backend, plan, manifest)
    plain = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run({"image": x})["logits"], plain.run(None, {"image": x})[0], atol=1e-5)
    session.close()


def test_types_flow_past_operators_that_onnx_does_not_know_at_that_opset():
    proto = models.model(
        [
            helper.make_node("LayerNormalization", ["x", "s"], ["a"]),
            helper.make_node("BiasGelu", ["a", "s"], ["b"], domain="com.microsoft"),
            helper.make_node("Shape", ["b"], ["y"]),
        ],
        [models.value("x", [2, 3], TensorProto.FLOAT16), models.value("s", [3], TensorProto.FLOAT16)],
        [models.value("y", [2], TensorProto.INT64)],
        opset=12,
        domains=("com.microsoft",),
    )
    assert ort.precision_proof(proto).rows == {
        "BiasGelu": {"float16": 1}, "LayerNormalization": {"float16": 1}, "Shape": {"int64": 1}
    }  # fmt: skip


def test_two_processes_build_the_same_bytes(tmp_path):
    models.save(models.conv(), tmp_path / "model.onnx")
    code = (
        "import sys; from pathlib import Path; from tests import made; from trtpipe import backends\n"
        "p = Path(sys.argv[1]); b = backends.load('onnxruntime')\n"
        "b.build(p / 'model.onnx', made.config(), p / sys.argv[2], p, print)\n"
    )
    for name in ("one.onnx", "two.onnx"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path), name], check=True, cwd=PROJECT)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "one.onnx").read_bytes()


def test_large_weights_go_outside_and_the_engine_still_opens(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxfile, "INLINE_LIMIT", 100)
    proto = models.model([helper.make_node("Add", ["x", "b"], ["y"])], [models.value("x", [2000])],
                         [models.value("y", [2000])], {"b": np.ones(2000, np.float32)})  # fmt: skip
    plan, manifest = built(backend, proto, tmp_path)
    assert (tmp_path / "engine.onnx.data").stat().st_size >= 8000
    session = opened(backend, plan, manifest)
    np.testing.assert_array_equal(session.run({"x": np.ones(2000, np.float32)})["y"], np.full(2000, 2))
    session.close()


def test_an_engine_stands_alone_when_its_model_had_external_data(backend, tmp_path):
    origin, other = tmp_path / "origin", tmp_path / "other"
    origin.mkdir()
    other.mkdir()
    model = models.with_external(origin / "model.onnx", models.conv())
    manifest = made.manifest(backend.build(model, made.config(), other / "engine.onnx", tmp_path, lambda _: None))
    expected = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    want = expected.run(None, {"image": x})[0]
    shutil.rmtree(origin)
    session = opened(backend, other / "engine.onnx", manifest)
    np.testing.assert_allclose(session.run({"image": x})["logits"], want, atol=1e-5)
    session.close()
    assert [p.name for p in other.iterdir()] == ["engine.onnx"]


def test_a_float16_model_says_where_it_computes_in_float32(backend, tmp_path):
    half = np.float16
    proto = models.model(
        [helper.make_node("MatMul", ["x", "w"], ["a"], name="m"), helper.make_node("Erf", ["a"], ["y"], name="e")],
        [models.value("x", ["batch", 4], TensorProto.FLOAT16)],
        [models.value("y", ["batch", 4], TensorProto.FLOAT16)],
        {"w": np.eye(4, dtype=half)},
    )
    kept, note = notes()
    path = models.save(proto, tmp_path / "model.onnx")
    proof = backend.build(path, made.config(), tmp_path / "engine.onnx", tmp_path, note).proof
    assert proof.fp32_between_casts > 0
    assert "compute in float32 between casts" in kept[0]
    text = (tmp_path / "engine.onnx").read_bytes()
    assert b"InsertedPrecisionFreeCast" in text
    assert sum(sum(k.values()) for k in proof.rows.values()) == proof.nodes


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.DOUBLE])
def test_outputs_of_known_shape_land_in_the_sessions_own_arrays(backend, tmp_path, kind):
    plan, manifest = built(backend, models.doubling(["batch", 3], kind), tmp_path)
    session = opened(backend, plan, manifest, {"x": [2, 3], "y": [2, 3]})
    dtype = np.dtype(manifest.bindings[0].dtype)
    first = session.run({"x": np.ones((2, 3), dtype)})["y"]
    np.testing.assert_array_equal(first, np.full((2, 3), 2, dtype))
    assert session.run({"x": np.full((2, 3), 5, dtype)})["y"] is first
    np.testing.assert_array_equal(first, np.full((2, 3), 10, dtype))
    smaller = session.run({"x": np.ones((1, 3), dtype)})["y"]
    assert smaller.shape == (1, 3)
    session.close()
    session.close()


def test_scalars_and_booleans_are_bound_too(backend, tmp_path):
    proto = models.model([helper.make_node("Not", ["x"], ["y"])], [models.value("x", [], TensorProto.BOOL)],
                         [models.value("y", [], TensorProto.BOOL)])  # fmt: skip
    plan, manifest = built(backend, proto, tmp_path)
    session = opened(backend, plan, manifest, {"x": [], "y": []})
    assert not session.run({"x": np.array(True)})["y"]
    assert session.run({"x": np.array(False)})["y"]


def test_an_output_whose_declared_shape_is_wrong_still_comes_back_whole(backend, tmp_path):
    plan, manifest = built(backend, models.doubling([3, 2]), tmp_path)
    session = opened(backend, plan, manifest, {"x": [3, 2], "y": [3, 1]})
    for _ in range(2):
        np.testing.assert_array_equal(session.run({"x": np.ones((3, 2), np.float32)})["y"], np.full((3, 2), 2))


def test_a_batch_that_the_runtime_cannot_run_is_a_stage_failure(backend, tmp_path):
    plan, manifest = built(backend, models.conv(), tmp_path)
    session = opened(backend, plan, manifest)
    with pytest.raises(StageFailed, match="fails to run the batch"):
        session.run({"image": np.ones((2, 1, 8, 8), np.float32)})


def test_what_onnxruntime_makes_and_cannot_load_again_is_no_engine(backend, tmp_path):
    with pytest.raises(StageFailed, match=r"cannot load what it made of model.onnx: .*; use precision: model here"):
        built(backend, models.branching(TensorProto.FLOAT16), tmp_path)


def test_threads_come_from_the_environment(backend, tmp_path, monkeypatch):
    plan, manifest = built(backend, models.conv(), tmp_path)
    monkeypatch.setenv("TRTPIPE_ORT_THREADS", "1")
    assert opened(backend, plan, manifest).info.threads == 1
    monkeypatch.setenv("TRTPIPE_ORT_THREADS", "many")
    with pytest.raises(EnvironmentMissing, match="TRTPIPE_ORT_THREADS is 'many'"):
        opened(backend, plan, manifest)


def test_an_output_of_unknown_rank_is_not_taken_for_a_scalar(tmp_path):
    proto = models.model([helper.make_node("Reshape", ["x", "s"], ["y"])],
                         [models.value("x", ["n"]), models.value("s", ["k"], TensorProto.INT64)],
                         [models.value("y", None)])  # fmt: skip
    seen = backends.load("onnxruntime").parse(models.save(proto, tmp_path / "m.onnx"))
    assert seen.side("output")[0].shape == (-1,)


def test_without_onnxruntime_the_message_says_how_to_get_it():
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from trtpipe import backends, errors\n"
        "try: backends.load('onnxruntime')\n"
        "except errors.EnvironmentMissing as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert "pip install 'trtpipe[cpu]'" in run.stdout


def test_the_rejected_of_a_fine_model_are_none():
    assert ort.rejected(models.conv()) == []
    assert ort.rejected(onnx.shape_inference.infer_shapes(models.doubling([2]))) == []
