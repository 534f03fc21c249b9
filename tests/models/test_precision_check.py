"""The check of half precision, emulated where the CPU computes in float32."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests import onnx_models as models
from tests.models.helpers import rewrite, types
from trtpipe.errors import GateFailed, StageFailed

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")


def test_the_bfloat16_check_says_that_it_is_an_emulation(tmp_path):
    record, made = rewrite(models.conv(), tmp_path, "bf16")
    assert "bfloat16 is emulated: float32 with rounded weights and activations" in record.check.how
    assert 0.001 < record.check.outputs["logits"].relative_l2 < 0.1
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
    assert "float16 is emulated: float32 with rounded weights and activations" in record.check.how


def duplicates():
    """The sum of what lands on one place: the CPU's kernel does not add in float16."""
    nodes = [helper.make_node("ScatterElements", ["x", "at", "by"], ["y"], name="scatter", reduction="add")]
    weights = {"at": np.array([0, 0]), "by": np.array([1, 2], np.float32)}
    return models.model(nodes, [models.value("x", [4])], [models.value("y", [4])], weights, opset=18)


def test_a_kernel_that_the_cpu_lacks_refuses_a_model_for_onnxruntime_only(tmp_path):
    with pytest.raises(StageFailed, match="onnxruntime cannot run the rewritten model"):
        rewrite(duplicates(), tmp_path)
    record, _ = rewrite(duplicates(), tmp_path, on_cpu=False)
    assert record.check.how.endswith("; the CPU has no kernels for the rewritten model itself")


def test_made_up_inputs_that_make_no_sense_are_said_with_the_way_on(tmp_path):
    nodes = [helper.make_node("Split", ["x", "to"], ["y", "z"], name="split")]
    proto = models.model(nodes, [models.value("x", [4]), models.value("to", [2], TensorProto.INT64)],
                         [models.value("y", ["a"]), models.value("z", ["b"])])  # fmt: skip
    message = r"made-up inputs \(to of 0 and 1, which may mean sizes, axes or masks\).*inputs: {calibration: {file: …}}"
    with pytest.raises(StageFailed, match=message):
        rewrite(proto, tmp_path)
