"""Models in onnxruntime on the CPU, also those that it refuses at first."""

from __future__ import annotations

import numpy as np
import pytest

from tests import onnx_models as models
from trtpipe.models import (
    ort_cpu,
)

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")


def test_a_model_with_two_nodes_of_one_name_runs(tmp_path):
    proto = models.conv(1)
    for node in proto.graph.node:
        node.name = "same"
    feed = {"image": np.ones((1, 3, 8, 8), np.float32)}
    path = models.save(proto, tmp_path / "m.onnx")
    right = ort_cpu.run(models.conv(1).SerializeToString(), feed)["logits"]
    for model in (path, proto.SerializeToString()):
        np.testing.assert_array_equal(ort_cpu.run(model, feed)["logits"], right)


def test_a_fusion_that_ends_onnxruntime_is_left_out_and_another_failure_is_told(monkeypatch, tmp_path):
    import onnxruntime

    path = models.save(models.conv(2), tmp_path / "m.onnx")
    real, left_out = onnxruntime.InferenceSession, []

    def fails(what):
        def load(*args, disabled_optimizers=None, **more):
            left_out.append(disabled_optimizers)
            if disabled_optimizers is None:
                raise RuntimeError(what)
            return real(*args, disabled_optimizers=disabled_optimizers, **more)

        return load

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails("no such name: Mul_53/SimplifiedLayerNormFusion/"))
    assert ort_cpu.run(path, {"image": np.ones((2, 3, 8, 8), np.float32)})
    assert left_out == [None, ["SimplifiedLayerNormFusion"]]
    monkeypatch.setattr(onnxruntime, "InferenceSession", fails("no such name: Mul_53"))
    with pytest.raises(RuntimeError, match="no such name"):
        ort_cpu.Session(str(path))
