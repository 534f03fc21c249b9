"""Parsing with the real TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

import re

import pytest
from onnx import helper

from tests import made
from tests import onnx_models as models
from tests.backends.trt.rtx import needs_rtx
from trtpipe.errors import StageFailed


@needs_rtx
def test_a_network_is_described_as_the_parser_sees_it(rtx, tmp_path):
    seen = rtx.parse(models.save(models.conv(), tmp_path / "m.onnx"))
    assert seen.side("input") == [made.binding("image", "input", ["batch", 3, 8, 8])]
    assert [(o.name, o.dtype, o.shape) for o in seen.side("output")] == [("logits", "float32", (-1, 5))]
    assert seen.layers["CONVOLUTION"] == 1
    assert seen.layers["MATRIX_MULTIPLY"] == 1


@needs_rtx
def test_every_rejected_node_is_listed_at_once_with_its_reason(rtx, tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="fine"),
        helper.make_node("Frobnicate", ["a"], ["b"], name="odd", domain="mine"),
        helper.make_node("Det", ["a"], ["c"], name="det"),
        helper.make_node("Det", ["b"], ["y"]),
    ]
    proto = models.model(nodes, [models.value("x", [1, 4, 4])], [models.value("y", None)], domains=("mine",))
    with pytest.raises(StageFailed) as caught:
        rtx.parse(models.save(proto, tmp_path / "m.onnx"))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"TensorRT-RTX {rtx.version} rejects 3 nodes of m.onnx:"
    assert lines[1].startswith("  node 1 odd [Frobnicate]: ")
    assert re.search("Plugin not found|is not supported", lines[1])
    assert lines[2].startswith("  node 2 det [Det]: unsupported node")
    assert lines[3].startswith("  node 3 (unnamed) [Det]: unsupported node")


@needs_rtx
def test_a_file_that_the_parser_takes_for_an_empty_model_is_refused(rtx, tmp_path):
    (tmp_path / "m.onnx").write_text("torn")
    with pytest.raises(StageFailed, match=r"m\.onnx holds no network: it is torn, or no ONNX model"):
        rtx.parse(tmp_path / "m.onnx")
