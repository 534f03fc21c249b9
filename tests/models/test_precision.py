"""Rewriting precision: what overflows stays float32, the result is checked, and the check can say no."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests import onnx_models as models
from tests.helpers import PROJECT, as_input
from trtpipe.errors import GateFailed, PipelineInvalid, StageFailed
from trtpipe.models import bfloat16, dtypes, external_data, feeding, onnxfile, onnxgraph, ort_cpu, precision, signature

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")
RUN = ort_cpu.run


def rewrite(proto, tmp_path, kind="fp16", **more):
    path = models.save(proto, tmp_path / "in" / "model.onnx")
    network = signature.describe(onnxfile.load(path))
    record = precision.rewrite(path, tmp_path / "model.onnx", kind, network=network, **more)
    made = onnxfile.load(tmp_path / "model.onnx")
    onnx.checker.check_model(made)
    return record, made


def types(proto):
    return {t.name: dtypes.dtype_name(t.data_type) for t in onnxgraph.initializers(proto)}


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


def test_weights_become_half_and_inputs_and_outputs_stay(tmp_path):
    record, made = rewrite(models.conv(), tmp_path)
    assert set(types(made).values()) == {"float16"}
    assert [dtypes.value_dtype(v) for v in (*made.graph.input, *made.graph.output)] == ["float32", "float32"]
    assert record["kept"] == []
    assert 0 < record["check"]["outputs"]["logits"]["relative_l2"] < 0.01
    assert record["check"]["shapes"] == {"image": [1, 3, 8, 8]}


def test_where_a_runtime_picks_types_itself_the_model_stays_and_its_nodes_get_names_to_be_held_by(tmp_path):
    proto = models.overflowing()
    for node in proto.graph.node:
        node.name = ""
    path = models.save(proto, tmp_path / "in.onnx")
    out = tmp_path / "model.onnx"
    record = precision.hold(path, out, "fp16", network=signature.describe(onnxfile.load(path)))
    made = onnxfile.load(out)
    assert types(made) == {"a": "float32", "b": "float32"}
    ops = {node.name: node.op_type for node in made.graph.node}
    assert sorted(ops[entry["node"]] for entry in record["kept"]) == ["Div", "Mul", "Mul"]
    assert "y" in record["check"]["outputs"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.onnx", "model.onnx"]


def test_a_scale_that_is_held_takes_along_the_product_that_it_will_be_folded_into(tmp_path):
    """Builders fold a BatchNormalization into the convolution before it, and with it a variance of 9.8e7."""
    path = models.save(models.folding(), tmp_path / "in.onnx")
    network = signature.describe(onnxfile.load(path))
    record = precision.hold(path, tmp_path / "model.onnx", "fp16", network=network, tolerance=1.0)
    assert {entry["node"]: entry["why"] for entry in record["kept"]} == {
        "norm": "its weight v holds 9.8e+07, beyond float16's 65504",
        "half": "norm is folded into it",
        "conv": "norm is folded into it",
    }
    # Where types are the model's own, each node has its own, and a cast stands between.
    alone = precision.rewrite(path, tmp_path / "model.onnx", "fp16", network=network, tolerance=1.0)
    assert [entry["node"] for entry in alone["kept"]] == ["norm"]


def test_where_nothing_must_be_held_no_model_is_written(tmp_path):
    path = models.save(models.conv(), tmp_path / "in.onnx")
    record = precision.hold(path, tmp_path / "model.onnx", "fp16", network=signature.describe(onnxfile.load(path)))
    assert record["kept"] == []
    assert record["narrow"] == 1
    assert not (tmp_path / "model.onnx").exists()


def test_the_record_says_which_share_of_the_weights_is_narrow(tmp_path):
    sizes = {t.name: numpy_helper.to_array(t).size for t in models.conv().graph.initializer}
    record, made = rewrite(models.conv(), tmp_path, keep=["head"])
    half = [name for name, kind in types(made).items() if kind == "float16"]
    assert 0 < len(half) < len(sizes)
    assert record["narrow"] == round(sum(sizes[name] for name in half) / sum(sizes.values()), 4)


def test_without_weights_the_record_says_which_share_of_the_nodes_is_narrow(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["r"], name="a"), helper.make_node("Sigmoid", ["r"], ["y"], name="b")]
    proto = models.model(nodes, [models.value("x", [2, 4])], [models.value("y", [2, 4])], {})
    record, _ = rewrite(proto, tmp_path, keep=["a"])
    assert record["narrow"] == 0.5


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_the_bytes_are_the_same_each_time(tmp_path, kind):
    first = [rewrite(models.conv(), tmp_path / str(n), kind) for n in (1, 2)]
    assert first[0][0] == first[1][0]
    assert (tmp_path / "1" / "model.onnx").read_bytes() == (tmp_path / "2" / "model.onnx").read_bytes()


def test_a_weight_beyond_float16_keeps_its_node_in_float32_and_says_why(tmp_path):
    record, made = rewrite(overflowing(9.8e7), tmp_path)
    kept = {k["node"]: k["why"] for k in record["kept"]}
    assert kept["norm"] == "its weight v holds 9.8e+07, beyond float16's 65504"
    assert types(made)["v"] == "float32"
    assert types(made)["w"] == "float16"
    assert record["check"]["outputs"]["y"]["relative_l2"] < 0.01


def test_without_the_guard_that_model_would_be_wrong(tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = overflowing(9.8e7)
    feed = {"x": np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype(np.float32)}
    right = RUN(proto.SerializeToString(), feed)["y"]
    wrong = RUN(convert_float_to_float16(proto, keep_io_types=True).SerializeToString(), feed)["y"]
    assert np.abs(right - wrong).max() > 0.5 * np.abs(right).max()


def test_an_activation_beyond_float16_keeps_the_nodes_around_it_in_float32(tmp_path):
    """Every weight fits, and yet the product does not: only running the model shows it."""
    proto = models.overflowing()
    record, made = rewrite(proto, tmp_path)
    kept = {k["node"] for k in record["kept"]}
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
    inputs = [{"name": "x", "dtype": "float32", "dims": ["n", 6]}]
    samples = feeding.samples(as_input("data", tmp_path / "d.npz"), inputs)
    record, _ = rewrite(proto, tmp_path, samples=samples)
    assert [k["node"] for k in record["kept"]] == ["first"]
    assert record["kept"][0]["why"].startswith("x reaches 2e+05 on calibration data")


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
    assert sorted(k["op"] for k in record["kept"]) == ["Div", "Mul"]
    assert record["check"]["outputs"]["y"]["relative_l2"] < 0.01


def test_infinity_is_the_same_in_float16(tmp_path):
    nodes = [helper.make_node("Where", ["m", "x", "low"], ["y"], name="mask")]
    proto = models.model(
        nodes, [models.value("x", [4]), models.value("m", [4], TensorProto.BOOL)], [models.value("y", None)],
        {"low": np.array([-np.inf], np.float32)},
    )  # fmt: skip
    record, made = rewrite(proto, tmp_path)
    assert record["kept"] == []
    assert types(made)["low"] == "float16"


def test_weights_below_float16_are_counted(tmp_path):
    weights = {"w": np.array([1e-9, -1e-8, 1e-6, 1.0, 0.0], np.float32)}
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    record, _ = rewrite(models.model(nodes, [models.value("x", [5])], [models.value("y", None)], weights), tmp_path)
    assert record["weights"] == {"values": 5, "raised_to_smallest": 2, "subnormal": 1}


def test_keep_fp32_takes_names_and_ops_and_wildcards(tmp_path):
    record, made = rewrite(models.conv(), tmp_path, keep=["head", "Batch*"])
    assert {(k["node"], k["why"]) for k in record["kept"]} == {
        ("head", "keep_fp32: head"),
        ("norm", "keep_fp32: Batch*"),
    }
    assert types(made)["head"] == "float32"
    assert types(made)["w"] == "float16"


def test_keep_fp32_takes_a_name_with_brackets_as_it_is(tmp_path):
    proto = models.conv()
    next(n for n in proto.graph.node if n.name == "head").name = "blocks[0]/head"
    record, _ = rewrite(proto, tmp_path, keep=["blocks[0]/head"])
    assert [k["node"] for k in record["kept"]] == ["blocks[0]/head"]


def test_keep_fp32_that_fits_nothing_is_an_error_with_what_is_close(tmp_path):
    with pytest.raises(PipelineInvalid, match="keep_fp32: 'Convv' fits no node's name or op; close: Conv, conv"):
        rewrite(models.conv(), tmp_path, keep=["Convv"])


def test_a_result_beyond_the_tolerance_is_refused_with_the_figure_and_the_way_out(tmp_path):
    with pytest.raises(GateFailed, match=r"(?s)logits: relative L2 difference .*, tolerance 1e-09.*keep_fp32"):
        rewrite(models.conv(), tmp_path, tolerance=1e-9)


def test_shapes_for_the_check_come_from_the_profile_with_a_small_batch(tmp_path):
    profile = {"image": {"min": [1, 3, 8, 8], "opt": [64, 3, 8, 8], "max": [128, 3, 8, 8]}}
    record, _ = rewrite(models.conv(), tmp_path, profiles=[profile])
    assert record["check"]["shapes"] == {"image": [2, 3, 8, 8]}


def test_without_a_profile_sizes_are_tried_until_one_runs(tmp_path):
    nodes = [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[40, 40])]
    proto = models.model(nodes, [models.value("x", ["n", 1, "h", "w"])], [models.value("y", None)])
    record, _ = rewrite(proto, tmp_path)
    assert record["check"]["shapes"] == {"x": [1, 1, 64, 64]}


def test_weights_that_are_listed_among_the_inputs_are_weights(tmp_path):
    proto = models.conv(2)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(models.value(tensor.name, list(tensor.dims)))
    proto.ir_version = 3
    record, made = rewrite(proto, tmp_path)
    assert set(types(made).values()) == {"float16"}
    assert [v.name for v in made.graph.input] == ["image"]
    assert record["check"]["outputs"]["logits"]["max_abs"] > 0


def test_external_data_is_read_and_the_rewritten_model_stands_alone(tmp_path):
    path = models.with_external(tmp_path / "in" / "model.onnx", models.conv(2))
    network = signature.describe(onnxfile.load(path))
    precision.rewrite(path, tmp_path / "model.onnx", "fp16", network=network)
    assert not any(external_data.is_external(t) for t in onnxgraph.initializers(onnxfile.load(tmp_path / "model.onnx")))


def test_a_subgraph_is_converted_and_sorted_too(tmp_path):
    f = np.float32

    def branch(name, op):
        inner = [helper.make_node(op, ["t", "w"], [name], name=f"{name}_node")]
        return helper.make_graph(inner, name, [], [models.value(name, [4])])

    nodes = [
        helper.make_node("Relu", ["x"], ["t"], name="relu"),
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch("a", "Add"), else_branch=branch("s", "Sub")),
    ]
    proto = models.model(
        nodes, [models.value("x", [4]), models.value("c", [], TensorProto.BOOL)], [models.value("y", [4])],
        {"w": np.ones(4, f)},
    )  # fmt: skip
    record, _ = rewrite(proto, tmp_path)
    assert record["check"]["outputs"]["y"]["relative_l2"] < 0.01


# -- bfloat16 ----------------------------------------------------------------------------------------------------


def test_bfloat16_weights_are_rounded_from_the_float32_originals(tmp_path):
    """By way of float16, 1e-9 would be 5.96e-8 and 1e30 would be 65504."""
    weights = {"w": np.array([1e-9, 1e30, 1.0, 3.14159], np.float32)}
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    proto = models.model(nodes, [models.value("x", [4])], [models.value("y", None)], weights)
    record, made = rewrite(proto, tmp_path, "bf16")
    (tensor,) = made.graph.initializer
    assert tensor.data_type == TensorProto.BFLOAT16
    held = bfloat16.from_bfloat16(np.frombuffer(tensor.raw_data, "<u2"))
    np.testing.assert_allclose(held, weights["w"], rtol=2**-8)
    assert record["kept"] == []


def test_the_bfloat16_check_says_that_it_is_an_emulation(tmp_path):
    record, made = rewrite(models.conv(), tmp_path, "bf16")
    assert "bfloat16 is emulated: float32 with rounded weights and activations" in record["check"]["how"]
    assert 0.001 < record["check"]["outputs"]["logits"]["relative_l2"] < 0.1
    assert set(types(made).values()) == {"bfloat16"}


def test_rounding_between_nodes_counts_though_onnxruntime_adds_in_float32_on_the_cpu(tmp_path):
    weights = {"c": np.array([2048], np.float32)}  # from here on float16 has every other whole number only
    nodes = [
        helper.make_node("Add", ["x", "c"], ["far"], name="there"),
        helper.make_node("Sub", ["far", "c"], ["y"], name="back"),
    ]
    proto = models.model(nodes, [models.value("x", [64])], [models.value("y", None)], weights)
    with pytest.raises(GateFailed, match=r"y: relative L2 difference \S+, tolerance 0\.05"):
        rewrite(proto, tmp_path)
    record, _ = rewrite(models.conv(), tmp_path)
    assert "float16 is emulated: float32 with rounded weights and activations" in record["check"]["how"]


def test_a_model_that_is_float16_already_stays_as_it_is_in_fp16(tmp_path):
    half = TensorProto.FLOAT16
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"], name="m")]
    proto = models.model(nodes, [models.value("x", [2], half)], [models.value("y", None, half)],
                         {"w": np.array([3, 4], np.float16)})  # fmt: skip
    record, made = rewrite(proto, tmp_path)
    assert record["check"]["outputs"]["y"]["relative_l2"] == 0
    assert [t.data_type for t in made.graph.initializer] == [half]


def test_ops_that_tensorrt_refuses_in_bfloat16_stay_float32(tmp_path):
    nodes = [helper.make_node("HardSwish", ["x"], ["y"], name="act")]
    proto = models.model(nodes, [models.value("x", [4])], [models.value("y", None)])
    record, _ = rewrite(proto, tmp_path, "bf16")
    assert record["ops_kept"] == ["HardSwish"]


def test_bfloat16_of_a_float16_model_is_refused(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    proto = models.model(
        nodes, [models.value("x", [2], TensorProto.FLOAT16)], [models.value("y", None, TensorProto.FLOAT16)],
        {"w": np.ones(2, np.float16)},
    )  # fmt: skip
    with pytest.raises(StageFailed, match=r"the model holds float16 already \(w\); use precision: model"):
        rewrite(proto, tmp_path, "bf16")


@given(st.floats(width=32, allow_nan=True, allow_infinity=True))
@settings(max_examples=300)
def test_rounding_to_bfloat16_goes_to_the_nearest(value):
    bits = bfloat16.round_bfloat16(np.array([value], np.float32))
    back = bfloat16.from_bfloat16(bits)[0]
    if np.isnan(value):
        assert np.isnan(back)
        return
    number = int(bits[0])
    neighbours = [n for n in (number - 1, number + 1) if 0 <= n <= 0xFFFF]
    near = [bfloat16.from_bfloat16(np.array([n], np.uint16))[0] for n in neighbours]
    if np.isfinite(value) and np.isfinite(back):
        others = [abs(float(n) - float(value)) for n in near if np.isfinite(n)]
        assert all(abs(float(back) - float(value)) <= other for other in others)


# -- the trap ----------------------------------------------------------------------------------------------------

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
    network = signature.describe(onnxfile.load(path))
    side = {"x": {k: [1, 3, 160, 160] for k in ("min", "opt", "max")}}
    record = precision.rewrite(path, tmp_path / "m.onnx", "fp16", network=network, profiles=[side])
    assert [(k["op"], k["why"].split(",")[0]) for k in record["kept"]] == [
        ("BatchNormalization", "its weight batch_norm_0.w_2 holds 9.79e+07")
    ]
    page = Image.new("RGB", (160, 160), "white")
    for line in range(4):
        ImageDraw.Draw(page).text((20, 20 + 35 * line), "the quick brown fox", fill="black")
    pixels = (np.asarray(page, np.float32) / 255 - 0.5) / 0.25
    feed = {"x": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
    (right,), (half,) = (list(RUN(m, feed).values()) for m in (str(path), str(tmp_path / "m.onnx")))
    assert (right > 0.3).sum() > 100
    assert np.linalg.norm(right - half) / np.linalg.norm(right) < 0.02
    assert ((right > 0.3) != (half > 0.3)).mean() < 0.002


def test_without_onnxruntime_the_command_that_installs_it_is_told(tmp_path):
    models.save(models.conv(2), tmp_path / "m.onnx")
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from pathlib import Path\n"
        "from trtpipe.models import precision; from trtpipe.errors import EnvironmentMissing\n"
        "try: precision.rewrite(Path('m.onnx'), Path('o.onnx'), 'fp16', network={'inputs': []})\n"
        "except EnvironmentMissing as error: print(error)"
    )
    paths = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": paths, "PATH": ""}, capture_output=True,
        text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "pip install 'trtpipe[cpu]'" in said.stdout
    assert not (tmp_path / "o.onnx").exists()
