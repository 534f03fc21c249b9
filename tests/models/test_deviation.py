"""The differences between a changed model's outputs and the original's."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests import onnx_models as models
from trtpipe.errors import StageFailed
from trtpipe.models import (
    deviation,
)

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")


def test_figures_over_many_runs_are_those_of_all_values_together():
    random = np.random.default_rng(0)
    right, wrong = random.standard_normal((2, 6, 4))
    differences = deviation.Differences()
    for part in (slice(0, 1), slice(1, 6)):
        differences.add({"y": right[part]}, {"y": wrong[part]})
    figures = differences.figures()["y"]
    assert figures.relative_l2 == deviation.digits(np.linalg.norm(right - wrong) / np.linalg.norm(right))
    assert figures.max_abs == deviation.digits(np.abs(right - wrong).max())


def test_a_change_that_makes_numbers_infinite_is_refused(tmp_path):
    weights = {"w": np.array(1.0, np.float32)}
    proto = models.model([helper.make_node("Div", ["x", "w"], ["y"], name="d")], [models.value("x", ["n"])],
                         [models.value("y", ["n"])], weights)  # fmt: skip
    right = models.save(proto, tmp_path / "a.onnx")
    proto.graph.initializer[0].raw_data = np.zeros(1, np.float32).tobytes()
    wrong = models.save(proto, tmp_path / "b.onnx")
    with pytest.raises(StageFailed, match=r"the change breaks the model:\n  y: 3 values not finite"):
        deviation.against(right, wrong, [{"x": np.ones(3, np.float32)}], what="the change")
