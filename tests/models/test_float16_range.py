"""The range guard: what float16 cannot hold stays float32."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import made
from tests import onnx_models as models
from tests.helpers import as_input
from tests.models.helpers import rewrite, types
from trtpipe.documents.network import Tensor
from trtpipe.models import (
    feeding,
    onnxfile,
    ort_cpu,
    precision,
    signature,
)

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")


def overflowing(size):
    """A BatchNormalization whose variance float16 cannot hold, behind a scale that makes up for it."""
    f = np.float32
    weights = {
        "up": np.full((1, 4, 1, 1), size**0.5 / 4, f),
        "s": np.ones(4, f), "b": np.zeros(4, f), "m": np.zeros(4, f), "v": np.full(4, size, f),
        "w": np.random.default_rng(0).standard_normal((2, 4, 1, 1)).astype(f),
    }  # fmt: skip
    nodes = [
        helper.make_node("Mul", ["x", "up"], ["u"], name="up"),
        helper.make_node("BatchNormalization", ["u", "s", "b", "m", "v"], ["n"], name="norm"),
        helper.make_node("Conv", ["n", "w"], ["y"], name="conv"),
    ]
    return models.model(nodes, [models.value("x", ["n", 4, 6, 6])], [models.value("y", None)], weights)


def test_a_scale_that_is_held_takes_along_the_product_that_it_will_be_folded_into(tmp_path):
    """Builders fold a BatchNormalization into the convolution before it, and with it a variance of 9.8e7."""
    path = models.save(models.folding(), tmp_path / "in.onnx")
    inputs, _ = signature.of(onnxfile.load(path))
    record = precision.hold(path, tmp_path / "model.onnx", "fp16", inputs=inputs, tolerance=1.0)
    assert {entry.node: entry.why for entry in record.kept} == {
        "norm": "its weight v holds 9.8e+07, beyond float16's 65504",
        "half": "norm is folded into it",
        "conv": "norm is folded into it",
    }
    # Where types are the model's own, each node has its own, and a cast stands between.
    alone = precision.rewrite(path, tmp_path / "model.onnx", "fp16", inputs=inputs, tolerance=1.0)
    assert [entry.node for entry in alone.kept] == ["norm"]


def test_a_weight_beyond_float16_keeps_its_node_in_float32_and_says_why(tmp_path):
    record, made = rewrite(overflowing(9.8e7), tmp_path)
    kept = {k.node: k.why for k in record.kept}
    assert kept["norm"] == "its weight v holds 9.8e+07, beyond float16's 65504"
    assert types(made)["v"] == "float32"
    assert types(made)["w"] == "float16"
    assert record.check.outputs["y"].relative_l2 < 0.01


def test_without_the_guard_that_model_would_be_wrong(tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = overflowing(9.8e7)
    feed = {"x": np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype(np.float32)}
    right = ort_cpu.run(proto.SerializeToString(), feed)["y"]
    wrong = ort_cpu.run(convert_float_to_float16(proto, keep_io_types=True).SerializeToString(), feed)["y"]
    assert np.abs(right - wrong).max() > 0.5 * np.abs(right).max()


def test_an_activation_beyond_float16_keeps_the_nodes_around_it_in_float32(tmp_path):
    """Every weight fits, and yet the product does not: only running the model shows it."""
    proto = models.overflowing()
    record, made = rewrite(proto, tmp_path)
    kept = {k.node for k in record.kept}
    assert {"over", "down"} <= kept
    assert "relu" not in kept
    # Between two kept nodes the value goes as it is: a cast to float16 there would be an overflow again.
    makers = {o: n for n in made.graph.node for o in n.output}
    down = next(n for n in made.graph.node if n.name == "down")
    assert makers[down.input[0]].name == "over"


def test_an_input_beyond_float16_keeps_the_node_that_reads_it(tmp_path):
    weights = {"a": np.full((6, 6), 1e-5, np.float32), "m": np.eye(6, dtype=np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"], name="first")]
    nodes += [helper.make_node("MatMul", ["h", "m"], ["y"], name="second")]
    proto = models.model(nodes, [models.value("x", ["n", 6])], [models.value("y", ["n", 6])], weights)
    np.savez(tmp_path / "d.npz", x=np.full((4, 6), 2e5, np.float32))
    inputs = [Tensor(name="x", dtype="float32", dims=("n", 6))]
    samples = feeding.samples(as_input("data", tmp_path / "d.npz"), inputs)
    record, _ = rewrite(proto, tmp_path, samples=samples)
    assert [k.node for k in record.kept] == ["first"]
    assert record.kept[0].why.startswith("x reaches 2e+05 on calibration data")


def test_constant_nodes_are_guarded_as_initialisers_are(tmp_path):
    big = numpy_helper.from_array(np.array([1e6], np.float32))
    nodes = [
        helper.make_node("Constant", [], ["big"], name="big", value=big),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Div", ["x", "big"], ["a"]),
        helper.make_node("Mul", ["a", "big"], ["b"]),
        helper.make_node("Mul", ["b", "half"], ["y"]),
    ]
    proto = models.model(nodes, [models.value("x", [1, 8])], [models.value("y", None)])
    record, _ = rewrite(proto, tmp_path)
    assert sorted(k.op for k in record.kept) == ["Div", "Mul"]
    assert record.check.outputs["y"].relative_l2 < 0.01


def test_infinity_is_the_same_in_float16(tmp_path):
    nodes = [helper.make_node("Where", ["m", "x", "low"], ["y"], name="mask")]
    proto = models.model(
        nodes, [models.value("x", [4]), models.value("m", [4], TensorProto.BOOL)], [models.value("y", None)],
        {"low": np.array([-np.inf], np.float32)},
    )  # fmt: skip
    record, made = rewrite(proto, tmp_path)
    assert record.kept == ()
    assert types(made)["low"] == "float16"


DETECTOR = "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"


def detector():
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        pytest.skip("rapidocr_onnxruntime is not installed: pip install 'trtpipe[models]'")
    return Path(spec.origin).parent.parent / DETECTOR


def test_the_text_detector_with_the_huge_variance_comes_out_right(tmp_path):
    """PP-OCRv4's detector has a variance of 9.8e7: clamped to 65504, it finds text everywhere."""
    from PIL import Image, ImageDraw

    path = detector()
    inputs, _ = signature.of(onnxfile.load(path))
    side = {"x": made.shapes(*[(1, 3, 160, 160)] * 3)}
    record = precision.rewrite(path, tmp_path / "m.onnx", "fp16", inputs=inputs, profiles=[side])
    assert [(k.op, k.why.split(",")[0]) for k in record.kept] == [
        ("BatchNormalization", "its weight batch_norm_0.w_2 holds 9.79e+07")
    ]
    page = Image.new("RGB", (160, 160), "white")
    for line in range(4):
        ImageDraw.Draw(page).text((20, 20 + 35 * line), "the quick brown fox", fill="black")
    pixels = (np.asarray(page, np.float32) / 255 - 0.5) / 0.25
    feed = {"x": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
    (right,), (half,) = (list(ort_cpu.run(m, feed).values()) for m in (str(path), str(tmp_path / "m.onnx")))
    assert (right > 0.3).sum() > 100
    assert np.linalg.norm(right - half) / np.linalg.norm(right) < 0.02
    assert ((right > 0.3) != (half > 0.3)).mean() < 0.002
