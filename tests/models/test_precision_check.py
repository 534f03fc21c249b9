"""The check of half precision, emulated where the CPU computes in float32."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests import onnx_models as models
from tests.models.helpers import rewrite, types
from trtpipe.errors import GateFailed

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
