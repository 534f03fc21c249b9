"""Rewriting to half precision and holding nodes: the record, the tolerance, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import made
from tests import onnx_models as models
from tests.helpers import PROJECT
from tests.models.helpers import rewrite, types
from trtpipe.documents.config import WeightChanges
from trtpipe.errors import GateFailed, PipelineInvalid, StageFailed
from trtpipe.models import dtypes, external_data, onnxfile, onnxgraph, precision, signature

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")


def test_weights_become_half_and_inputs_and_outputs_stay(tmp_path):
    record, made = rewrite(models.conv(), tmp_path)
    assert set(types(made).values()) == {"float16"}
    assert [dtypes.value_dtype(v) for v in (*made.graph.input, *made.graph.output)] == ["float32", "float32"]
    assert record.kept == ()
    assert 0 < record.check.outputs["logits"].relative_l2 < 0.01
    assert record.check.shapes == {"image": (1, 3, 8, 8)}


def test_where_a_runtime_picks_types_itself_the_model_stays_and_its_nodes_get_names_to_be_held_by(tmp_path):
    proto = models.overflowing()
    for node in proto.graph.node:
        node.name = ""
    path = models.save(proto, tmp_path / "in.onnx")
    out = tmp_path / "model.onnx"
    record = precision.hold(path, out, "fp16", inputs=signature.of(onnxfile.load(path))[0])
    made = onnxfile.load(out)
    assert types(made) == {"a": "float32", "b": "float32"}
    ops = {node.name: node.op_type for node in made.graph.node}
    assert sorted(ops[entry.node] for entry in record.kept) == ["Div", "Mul", "Mul"]
    assert "y" in record.check.outputs
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.onnx", "model.onnx"]


def test_where_nothing_must_be_held_no_model_is_written(tmp_path):
    path = models.save(models.conv(), tmp_path / "in.onnx")
    record = precision.hold(path, tmp_path / "model.onnx", "fp16", inputs=signature.of(onnxfile.load(path))[0])
    assert record.kept == ()
    assert record.narrow == 1
    assert not (tmp_path / "model.onnx").exists()


def test_the_record_says_which_share_of_the_weights_is_narrow(tmp_path):
    sizes = {t.name: numpy_helper.to_array(t).size for t in models.conv().graph.initializer}
    record, made = rewrite(models.conv(), tmp_path, keep=["head"])
    half = [name for name, kind in types(made).items() if kind == "float16"]
    assert 0 < len(half) < len(sizes)
    assert record.narrow == round(sum(sizes[name] for name in half) / sum(sizes.values()), 4)


def test_without_weights_the_record_says_which_share_of_the_nodes_is_narrow(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["r"], name="a"), helper.make_node("Sigmoid", ["r"], ["y"], name="b")]
    proto = models.model(nodes, [models.value("x", [2, 4])], [models.value("y", [2, 4])], {})
    record, _ = rewrite(proto, tmp_path, keep=["a"])
    assert record.narrow == 0.5


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_the_bytes_are_the_same_each_time(tmp_path, kind):
    first = [rewrite(models.conv(), tmp_path / str(n), kind) for n in (1, 2)]
    assert first[0][0] == first[1][0]
    assert (tmp_path / "1" / "model.onnx").read_bytes() == (tmp_path / "2" / "model.onnx").read_bytes()


def test_weights_below_float16_are_counted(tmp_path):
    weights = {"w": np.array([1e-9, -1e-8, 1e-6, 1.0, 0.0], np.float32)}
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    record, _ = rewrite(models.model(nodes, [models.value("x", [5])], [models.value("y", None)], weights), tmp_path)
    assert record.weights == WeightChanges(values=5, raised_to_smallest=2, subnormal=1)


def test_keep_fp32_takes_names_and_ops_and_wildcards(tmp_path):
    record, made = rewrite(models.conv(), tmp_path, keep=["head", "Batch*"])
    assert {(k.node, k.why) for k in record.kept} == {
        ("head", "keep_fp32: head"),
        ("norm", "keep_fp32: Batch*"),
    }
    assert types(made)["head"] == "float32"
    assert types(made)["w"] == "float16"


def test_keep_fp32_takes_a_name_with_brackets_as_it_is(tmp_path):
    proto = models.conv()
    next(n for n in proto.graph.node if n.name == "head").name = "blocks[0]/head"
    record, _ = rewrite(proto, tmp_path, keep=["blocks[0]/head"])
    assert [k.node for k in record.kept] == ["blocks[0]/head"]


def test_keep_fp32_that_fits_nothing_is_an_error_with_what_is_close(tmp_path):
    with pytest.raises(PipelineInvalid, match="keep_fp32: 'Convv' fits no node's name or op; close: Conv, conv"):
        rewrite(models.conv(), tmp_path, keep=["Convv"])


def test_a_result_beyond_the_tolerance_is_refused_with_the_figure_and_the_way_out(tmp_path):
    told = []
    with pytest.raises(GateFailed, match=r"(?s)logits: relative L2 difference .*, tolerance 1e-09.*keep_fp32"):
        rewrite(models.conv(), tmp_path, tolerance=1e-9, figure=lambda *one: told.append(one))
    ((name, value, rule, passed),) = told
    assert (name, rule, passed) == ("logits: relative L2", "<= 1e-09", False)
    assert value > 1e-9


def test_shapes_for_the_check_come_from_the_profile_with_a_small_batch(tmp_path):
    profile = {"image": made.shapes((1, 3, 8, 8), (64, 3, 8, 8), (128, 3, 8, 8))}
    record, _ = rewrite(models.conv(), tmp_path, profiles=[profile])
    assert record.check.shapes == {"image": (2, 3, 8, 8)}


def test_without_a_profile_sizes_are_tried_until_one_runs(tmp_path):
    nodes = [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[40, 40])]
    proto = models.model(nodes, [models.value("x", ["n", 1, "h", "w"])], [models.value("y", None)])
    record, _ = rewrite(proto, tmp_path)
    assert record.check.shapes == {"x": (1, 1, 64, 64)}


def test_weights_that_are_listed_among_the_inputs_are_weights(tmp_path):
    proto = models.conv(2)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(models.value(tensor.name, list(tensor.dims)))
    proto.ir_version = 3
    record, made = rewrite(proto, tmp_path)
    assert set(types(made).values()) == {"float16"}
    assert [v.name for v in made.graph.input] == ["image"]
    assert record.check.outputs["logits"].max_abs > 0


def test_external_data_is_read_and_the_rewritten_model_stands_alone(tmp_path):
    path = models.with_external(tmp_path / "in" / "model.onnx", models.conv(2))
    inputs, _ = signature.of(onnxfile.load(path))
    precision.rewrite(path, tmp_path / "model.onnx", "fp16", inputs=inputs)
    assert not any(external_data.is_external(t) for t in onnxgraph.initializers(onnxfile.load(tmp_path / "model.onnx")))


def test_a_model_that_is_float16_already_stays_as_it_is_in_fp16(tmp_path):
    half = TensorProto.FLOAT16
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"], name="m")]
    proto = models.model(nodes, [models.value("x", [2], half)], [models.value("y", None, half)],
                         {"w": np.array([3, 4], np.float16)})  # fmt: skip
    record, made = rewrite(proto, tmp_path)
    assert record.check.outputs["y"].relative_l2 == 0
    assert [t.data_type for t in made.graph.initializer] == [half]


def test_bfloat16_of_a_float16_model_is_refused(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    proto = models.model(
        nodes, [models.value("x", [2], TensorProto.FLOAT16)], [models.value("y", None, TensorProto.FLOAT16)],
        {"w": np.ones(2, np.float16)},
    )  # fmt: skip
    with pytest.raises(StageFailed, match=r"the model holds float16 already \(w\); use precision: model"):
        rewrite(proto, tmp_path, "bf16")


def test_without_onnxruntime_the_command_that_installs_it_is_told(tmp_path):
    models.save(models.conv(2), tmp_path / "m.onnx")
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from pathlib import Path\n"
        "from trtpipe.models import precision; from trtpipe.errors import EnvironmentMissing\n"
        "try: precision.rewrite(Path('m.onnx'), Path('o.onnx'), 'fp16', inputs=[])\n"
        "except EnvironmentMissing as error: print(error)"
    )
    paths = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": paths, "PATH": ""}, capture_output=True,
        text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "pip install 'trtpipe[cpu]'" in said.stdout
    assert not (tmp_path / "o.onnx").exists()
