"""quantize: int8 models that stay close, and refusals that say what is wrong with data or model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import onnx_models as models
from tests.helpers import PROJECT, apart, run_stage, trtpipe
from trtpipe.errors import EnvironmentMissing, GateFailed, PipelineInvalid, StageFailed
from trtpipe.models import ort_cpu
from trtpipe.stages.quantize import QuantizeParams

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")


def pictures(count=32, seed=1):
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def save(tmp_path, **arrays):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return path


def quantize(tmp_path, proto=None, data=None, notes=None, **params):
    path = models.save(proto or models.conv(), tmp_path / "in" / "model.onnx")
    given = {"model": path}
    if data is not False:
        given["calibration"] = data or save(tmp_path, image=pictures())
    out = run_stage("quantize", params, given, tmp_path, notes=notes)
    return onnx.load(out / "model.onnx"), json.loads((out / "quantize.json").read_text())


def count(model, op):
    return sum(n.op_type == op for n in model.graph.node)


def residual():
    """Conv, then Conv added to its input, twice; the second time through a projection: a small ResNet."""
    random = np.random.default_rng(0)
    shapes = {"w0": (4, 3, 3, 3), "w1": (4, 4, 3, 3), "w2": (4, 4, 3, 3), "w3": (4, 4, 1, 1)}
    weights = {n: (random.standard_normal(s) * 0.3).astype(np.float32) for n, s in shapes.items()}
    conv = [helper.make_node("Conv", ["image", "w0"], ["a"], name="stem", pads=[1] * 4)]
    conv += [helper.make_node("Relu", ["a"], ["b"], name="r0")]
    conv += [helper.make_node("Conv", ["b", "w1"], ["c"], name="block1", pads=[1] * 4)]
    conv += [helper.make_node("Add", ["c", "b"], ["d"], name="add1"), helper.make_node("Relu", ["d"], ["e"], name="r1")]
    conv += [helper.make_node("Conv", ["e", "w3"], ["p"], name="projection")]
    conv += [helper.make_node("Conv", ["e", "w2"], ["f"], name="block2", pads=[1] * 4)]
    conv += [helper.make_node("Sum", ["p", "f"], ["logits"], name="add2")]
    return models.model(conv, [models.value("image", ["batch", 3, 8, 8])],
                        [models.value("logits", ["batch", 4, 8, 8])], weights)  # fmt: skip


# -- what comes out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_samples_that_leave_a_tensor_empty_are_passed_over(tmp_path, first):
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="one"),
        helper.make_node("ReduceSum", ["h", "one"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("Compress", ["h", "c"], ["k"], axis=0),
        helper.make_node("Gemm", ["k", "v"], ["y"], name="two"),
    ]
    weights = {
        "w": np.abs(random.normal(size=(16, 8))).astype(np.float32), "zero": np.float32(0), "one": np.array([1]),
        "v": random.normal(size=(8, 4)).astype(np.float32),
    }  # fmt: skip
    proto = models.model(nodes, [models.value("x", [10, 16])], [models.value("y", ["k", 4])], weights)
    x = np.abs(random.normal(size=(4, 10, 16))).astype(np.float32)
    x[0 if first else 2] *= -1
    np.savez(tmp_path / "x.npz", x=x)
    inputs = {"model": models.save(proto, tmp_path / "m.onnx"), "calibration": tmp_path / "x.npz"}
    out = run_stage("quantize", {"method": "percentile"}, inputs, tmp_path)
    record = json.loads((out / "quantize.json").read_text())
    assert record["nodes"] == ["one", "two"]
    assert record["check"]["outputs"]["y"]["relative_l2"] < 0.1


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_an_int8_model_stays_close_to_the_original(tmp_path, method):
    model, record = quantize(tmp_path, method=method)
    assert record["quantized"] == {"Conv": 1, "MatMul": 1}
    figures = record["check"]["outputs"]["logits"]
    assert figures["relative_l2"] < 0.1
    assert figures["cosine"] > 0.995
    assert count(model, "QuantizeLinear") == count(model, "DequantizeLinear") == 4
    assert count(model, "BatchNormalization") == 0  # folded: behind a quantised weight it could not be
    assert [v.name for v in model.graph.output] == ["logits"]


def test_every_scale_is_symmetric_and_weights_have_one_a_channel(tmp_path):
    model, _ = quantize(tmp_path)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    producers = {o: n for n in model.graph.node for o in n.output}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert not constants[node.input[2]].any()
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    assert constants[producers[conv.input[1]].input[1]].shape == (4,)
    assert constants[producers[conv.input[0]].input[1]].shape == ()


def test_of_a_residual_addition_only_the_branch_without_its_own_convolution_is_quantised(tmp_path):
    model, record = quantize(tmp_path, residual())
    assert record["quantized"] == {"Add": 2, "Conv": 4}
    producers = {o: n for n in model.graph.node for o in n.output}
    for name, plain in (("add1", 1), ("add2", 0)):
        add = next(n for n in model.graph.node if n.name == name)
        assert producers[add.input[plain]].op_type == "DequantizeLinear"
        assert producers[add.input[1 - plain]].op_type == "Conv"


def test_metadata_and_open_axes_stay(tmp_path):
    proto = models.conv()
    proto.metadata_props.add(key="labels", value="a b c")
    model, _ = quantize(tmp_path, proto)
    assert {p.key: p.value for p in model.metadata_props} == {"labels": "a b c"}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_same_model_and_data_give_the_same_bytes_in_two_processes(tmp_path):
    models.save(residual(), tmp_path / "model.onnx")
    save(tmp_path, image=pictures())
    code = (
        "from pathlib import Path; from tests.helpers import run_stage; import sys; p = Path(sys.argv[1]); p.mkdir()\n"
        "root = p.parent\n"
        "run_stage('quantize', {}, {'model': root / 'model.onnx', 'calibration': root / 'data.npz'}, p)"
    )
    digests = set()
    for seed in "12":
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], env=environment, check=True, timeout=120)
        (out,) = (tmp_path / seed).glob("stage-*/out")
        digests.add(tuple(hashlib.sha256((out / n).read_bytes()).hexdigest() for n in ("model.onnx", "quantize.json")))
    assert len(digests) == 1


def test_an_old_opset_is_raised_first(tmp_path):
    proto = models.conv()
    proto.opset_import[0].version = 11
    model, record = quantize(tmp_path, proto)
    assert record["opset"] == {"before": 11, "after": 13}
    assert model.opset_import[0].version == 13
    model, record = quantize(tmp_path, opset=19)
    assert record["opset"] == {"before": 17, "after": 19}


@pytest.mark.parametrize("pattern", ["head", "MatMul", "he*"])
def test_nodes_are_left_out_by_name_op_or_pattern_though_folding_renames_them(tmp_path, pattern):
    _, record = quantize(tmp_path, exclude=[pattern])
    assert record["quantized"] == {"Conv": 1}
    assert [(e["op"], e["why"]) for e in record["left"]] == [("MatMul", f"exclude: {pattern}")]


def test_what_is_left_out_reads_the_exact_tensor_though_another_node_reads_it_quantised(tmp_path):
    model, record = quantize(tmp_path, residual(), exclude=["Add"])
    assert record["quantized"] == {"Conv": 4}
    producers = {o: n for n in model.graph.node for o in n.output}
    for add in (n for n in model.graph.node if n.op_type == "Add"):
        assert "DequantizeLinear" not in {producers[i].op_type for i in add.input}


def test_only_the_asked_ops_are_quantised(tmp_path):
    _, record = quantize(tmp_path, ops=["MatMul"])
    assert record["quantized"] == {"MatMul": 1}


def test_a_fixed_batch_takes_samples_in_batches(tmp_path):
    _, record = quantize(tmp_path, models.conv(4), batch_axis={"image": 0})
    assert "8 calibration runs" in record["check"]["how"]


def test_data_under_another_name_is_matched_by_params(tmp_path):
    data = save(tmp_path, x=pictures())
    _, record = quantize(tmp_path, data=data, names={"image": "x"})
    assert record["quantized"]["Conv"] == 1
    with pytest.raises(StageFailed, match="has no image for the input image; it has x"):
        quantize(tmp_path, data=data)


def test_rounding_that_loses_too_much_fails_and_leaves_the_record_for_inspection(tmp_path):
    with pytest.raises(GateFailed, match=r"relative L2 difference .*, tolerance 1e-06"):
        quantize(tmp_path, tolerance=1e-6)
    (record,) = tmp_path.glob("stage-*/out/quantize.json")
    assert json.loads(record.read_text())["check"]["tolerance"] == 1e-6


# -- bad data ----------------------------------------------------------------------------------------------------

PICTURE = pictures(1)
BAD = {
    "none": (pictures(0), "holds no samples; calibration needs at least 2"),
    "one": (PICTURE, "found 1 sample, expected at least 2: one sample says nothing of a range"),
    "constant": (np.full((8, 3, 8, 8), 0.5, np.float32), r"every value of image is 0.5"),
    "the same": (np.repeat(PICTURE, 8, axis=0), "all 8 samples are the same one"),
    "not a number": (np.where(np.arange(8)[:, None, None, None] == 3, np.nan, pictures(8)).astype(np.float32),
                     "found 192 values that are NaN or infinite in calibration run 3"),
    "another shape": (np.zeros((8, 3, 4, 4), np.float32), r"found shape \[8, 3, 4, 4\], expected \[samples, 3, 8, 8\]"),
    "another type": (np.zeros((8, 3, 8, 8)), "found float64, expected float32"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_calibration_data_is_refused_with_its_reason(tmp_path, kind):
    array, message = BAD[kind]
    with pytest.raises(StageFailed if kind.startswith("another") else PipelineInvalid, match=message):
        quantize(tmp_path, data=save(tmp_path, image=array))


def test_few_samples_are_remarked(tmp_path):
    notes = []
    quantize(tmp_path, data=save(tmp_path, image=pictures(3)), notes=notes)
    assert any(n.startswith("only 3 calibration samples") for n in notes)


def test_int8_without_calibration_data_says_what_is_needed(tmp_path):
    with pytest.raises(PipelineInvalid, match="mode int8 needs the input calibration"):
        quantize(tmp_path, data=False)


@pytest.mark.slow
def test_bad_data_and_a_tolerance_that_is_missed_are_told_apart_by_their_exit_codes(tmp_path):
    models.save(models.conv(), tmp_path / "model.onnx")
    np.savez(tmp_path / "same.npz", image=np.repeat(PICTURE, 8, axis=0))
    np.savez(tmp_path / "good.npz", image=pictures())
    (tmp_path / "p.yaml").write_text(
        "name: p\nvars: {data: good.npz}\nstages:\n  q:\n    type: quantize\n"
        "    inputs: {model: {file: model.onnx}, calibration: {file: '${data}'}}\n    params: {tolerance: 1.0e-6}\n"
    )
    bad = trtpipe("run", "p.yaml", "--set", "vars.data=same.npz", cwd=tmp_path)
    assert (bad.returncode, "all 8 samples are the same one" in bad.stderr) == (2, True)
    assert not (tmp_path / "artifacts/quarantine").exists()
    missed = trtpipe("run", "p.yaml", cwd=tmp_path)
    assert (missed.returncode, "tolerance 1e-06" in missed.stderr) == (5, True)
    (kept,) = (tmp_path / "artifacts/quarantine/stages").iterdir()
    assert {"model.onnx", "quantize.json", "why.txt"} <= {p.name for p in kept.iterdir()}


# -- bad models --------------------------------------------------------------------------------------------------


def test_a_model_that_is_quantised_already_is_refused(tmp_path):
    model, _ = quantize(tmp_path)
    with pytest.raises(PipelineInvalid, match=r"quantised already \(4 DequantizeLinear, 4 QuantizeLinear; first "):
        quantize(tmp_path, model)


def test_a_half_precision_model_is_refused_with_the_order_that_works(tmp_path):
    weights = {"w": np.ones((3, 4), np.float16)}
    proto = models.model([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")],
                         [models.value("x", ["n", 3], TensorProto.FLOAT16)],
                         [models.value("y", ["n", 4], TensorProto.FLOAT16)], weights)  # fmt: skip
    with pytest.raises(PipelineInvalid, match=r"half-precision weights \(w\).*fp16 in configure makes the rest half"):
        quantize(tmp_path, proto)


def test_a_model_without_anything_to_quantise_says_what_it_has_and_what_would_be_needed(tmp_path):
    data = save(tmp_path, x=pictures())
    with pytest.raises(PipelineInvalid, match=r"the model has 1 Add, and only Conv, ConvTranspose, Gemm, MatMul"):
        quantize(tmp_path, models.doubling(["n", 3, 8, 8]), data=data)


def test_an_op_without_a_quantised_form_is_explained(tmp_path):
    with pytest.raises(PipelineInvalid, match="params.ops: Relu has no Q/DQ form here: a runtime has int8 kernels for"):
        quantize(tmp_path, ops=["Relu"])
    with pytest.raises(PipelineInvalid, match=r"params.ops: the model has no Gemm; it has 1 BatchNormalization"):
        quantize(tmp_path, ops=["Gemm"])


def test_excluding_everything_says_that_nothing_is_left(tmp_path):
    with pytest.raises(PipelineInvalid, match="nothing here can be quantised: 1 Conv: exclude: Conv"):
        quantize(tmp_path, exclude=["Conv", "MatMul"])


def test_a_pattern_that_fits_nothing_is_a_mistake(tmp_path):
    with pytest.raises(PipelineInvalid, match="exclude: 'haed' fits no node's name or op; close: head"):
        quantize(tmp_path, exclude=["haed"])


def test_params_that_contradict_each_other_are_found_before_a_run():
    def found(**params):
        return [where for where, _ in msgspec.convert(params, QuantizeParams).problems()]

    assert found(percentile=99.0) == ["percentile"]
    assert found(method="percentile", percentile=99.0) == []
    assert found(mode="fp8", method="percentile") == ["method"]
    assert found(mode="int4_weights", method="entropy") == ["method"]
    assert found(block_size=64) == ["block_size"]


# -- modelopt ----------------------------------------------------------------------------------------------------

MODELOPT = importlib.util.find_spec("modelopt") is not None


@pytest.mark.skipif(MODELOPT, reason="modelopt is installed here")
@pytest.mark.parametrize("mode", ["fp8", "int4_weights"])
def test_without_modelopt_the_command_that_installs_it_is_told(tmp_path, mode):
    with pytest.raises(EnvironmentMissing, match=r"pip install 'trtpipe\[modelopt\]'"):
        quantize(tmp_path, mode=mode)


@pytest.mark.skipif(not MODELOPT, reason="modelopt is not installed: pip install 'trtpipe[modelopt]'")
@pytest.mark.parametrize("mode", ["fp8", "int4_weights"])
def test_modelopt_makes_models_that_stay_close(tmp_path, mode):
    random = np.random.default_rng(0)
    if mode == "fp8":  # it leaves small convolutions alone
        w = random.standard_normal((64, 64, 3, 3)).astype(np.float32) * 0.05
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="c", pads=[1] * 4)]
        shape = [64, 16, 16]
    else:
        w = random.standard_normal((256, 64)).astype(np.float32) * 0.1
        nodes, shape = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], [256]
    proto = models.model(nodes, [models.value("x", ["n", *shape])],
                         [models.value("y", ["n", 64, *shape[1:]])], {"w": w})  # fmt: skip
    data = save(tmp_path, x=random.standard_normal((16, *shape)).astype(np.float32))
    model, record = apart(quantize, tmp_path, proto, data=data, mode=mode)
    assert count(model, "DequantizeLinear") >= 1
    assert record["check"]["outputs"]["y"]["relative_l2"] < 0.2


# -- what follows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_quantised_model_can_have_a_half_precision_rest(tmp_path, precision):
    if importlib.util.find_spec("tensorrt_rtx") is None and importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT-RTX is not installed: pip install 'trtpipe[rtx]'")
    path = models.save(residual(), tmp_path / "in" / "model.onnx")
    given = {"model": path, "calibration": save(tmp_path, image=pictures())}
    quantised = run_stage("quantize", {}, given, tmp_path)
    network = run_stage("parse", {}, {"model": quantised / "model.onnx"}, tmp_path)
    profile = {"image": {k: [2, 3, 8, 8] for k in ("min", "opt", "max")}}
    params = {"precision": precision, "profiles": [profile]}
    config = run_stage("configure", params, {"network": network}, tmp_path, backend="tensorrt_rtx")
    model = onnx.load(config / "model.onnx")
    half = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    scales = {i for n in model.graph.node if n.op_type == "QuantizeLinear" for i in n.input[1:2]}
    assert {t.data_type for t in model.graph.initializer if t.name in scales} == {half}
    assert model.opset_import[0].version >= 19
    built = run_stage("build", {}, {"config": config}, tmp_path, backend="tensorrt_rtx")
    assert (built / "engine.plan").stat().st_size > 0


def gemm(beta, bias):
    """y = x · m + beta · bias; the bias a weight, or made of the input."""
    weights = {"m": np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32), "c": np.ones(6, np.float32)}
    nodes = [helper.make_node("Gemm", ["x", "m", "made" if bias == "made" else "c"], ["y"], name="g", beta=beta)]
    if bias == "made":
        nodes.insert(0, helper.make_node("Add", ["x", "c"], ["made"], name="add"))
    return models.model(nodes, [models.value("x", ["n", 6])], [models.value("y", ["n", 6])], weights)


@pytest.mark.parametrize("beta", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("bias", ["weight", "made"])
def test_a_bias_keeps_its_factor(tmp_path, beta, bias):
    rows = np.random.default_rng(1).standard_normal((32, 6)).astype(np.float32)
    _, record = quantize(tmp_path, gemm(beta, bias), save(tmp_path, x=rows))
    assert record["check"]["outputs"]["y"]["relative_l2"] < 0.03


def test_an_older_opset_that_the_converter_gets_wrong_is_refused(tmp_path):
    """Opset 10 places Resize's samples otherwise than 11 does by default."""
    ramp = np.broadcast_to(np.linspace(0, 1, 8, dtype=np.float32), (16, 3, 8, 8)).copy()
    ramp *= np.arange(1, 17, dtype=np.float32)[:, None, None, None]
    weights = {"s": np.array([1, 1, 2, 2], np.float32), "w": np.ones((8, 3, 3, 3), np.float32)}
    nodes = [helper.make_node("Resize", ["x", "s"], ["u"], name="up", mode="linear")]
    nodes += [helper.make_node("Conv", ["u", "w"], ["y"], name="c")]
    sides = [models.value("x", ["n", 3, 8, 8])], [models.value("y", ["n", 8, 14, 14])]
    proto = models.model(nodes, *sides, weights)
    proto.opset_import[0].version = 10
    proto.ir_version = 5
    with pytest.raises(GateFailed, match=r"is of opset 10, and ONNX's converter changes its results.*export it with"):
        quantize(tmp_path, proto, save(tmp_path, x=ramp))


def test_an_input_that_is_one_value_is_no_trouble_beside_another_that_moves(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "m"], ["p"], name="p"), helper.make_node("Mul", ["p", "scale"], ["y"])]
    weights = {"m": np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)}
    sides = [models.value("x", ["n", 6]), models.value("scale", ["n", 1])], [models.value("y", ["n", 6])]
    rows = np.random.default_rng(1).standard_normal((32, 6)).astype(np.float32)
    data = save(tmp_path, x=rows, scale=np.ones((32, 1), np.float32))
    assert quantize(tmp_path, models.model(nodes, *sides, weights), data)[1]["quantized"] == {"MatMul": 1}


def test_a_quantised_model_means_the_same_to_onnxruntime_with_and_without_its_fusions(tmp_path):
    model, _ = quantize(tmp_path, residual())
    feed = {"image": pictures(2)}
    plain = ort_cpu.run(model.SerializeToString(), feed, plain=True)["logits"]
    fused = ort_cpu.run(model.SerializeToString(), feed)["logits"]
    assert np.linalg.norm(plain - fused) / np.linalg.norm(plain) < 0.1
