"""External data: what points outside, is missing or torn is refused, and values are read."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests import onnx_models as models
from trtpipe.errors import StageFailed
from trtpipe.models import (
    external_data,
    onnxfile,
)


@pytest.mark.parametrize("location", ["/etc/hostname", "../weights.bin", "a/../../weights.bin"])
def test_external_data_that_points_outside_is_refused(tmp_path, location):
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    (tmp_path / "in").mkdir()
    path = models.with_external(tmp_path / "in" / "m.onnx", models.conv())
    model = onnxfile.load(path)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    with pytest.raises(StageFailed, match=r"m\.onnx: external data .* points outside the model's folder"):
        external_data.external_files(model, path.parent, label="m.onnx")


def test_external_data_that_is_missing_torn_or_a_link_out_is_refused(tmp_path):
    path = models.with_external(tmp_path / "in" / "m.onnx", models.conv())
    model = onnxfile.load(path)
    data = path.parent / "weights.bin"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(StageFailed, match=r"weights\.bin' is torn: tensor \w+ ends at byte \d+, the file at byte \d+"):
        external_data.external_files(model, path.parent, label="m.onnx")
    data.unlink()
    with pytest.raises(StageFailed, match=r"weights\.bin' \(tensor \w+\) is missing"):
        external_data.external_files(model, path.parent, label="m.onnx")
    (tmp_path / "elsewhere").write_bytes(whole)
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StageFailed, match="is a link that leaves the model's folder"):
        external_data.external_files(model, path.parent, label="m.onnx")


def test_external_data_that_the_key_does_not_know_is_refused(tmp_path):
    path = models.with_external(tmp_path / "m.onnx", models.conv())
    with pytest.raises(StageFailed, match="not among the input's files"):
        external_data.external_files(onnxfile.load(path), tmp_path, label="m.onnx", known=("m.onnx",))


@pytest.mark.parametrize("external", [False, True])
def test_values_that_are_not_finite_are_counted(tmp_path, external):
    weights = np.ones((4, 4), np.float32)
    weights[0, 0], weights[1, 1], weights[2, 2] = np.nan, np.inf, -np.inf
    model = models.model([helper.make_node("Add", ["x", "b"], ["y"])], [models.value("x", [4, 4])],
                         [models.value("y", [4, 4])], {"b": weights})  # fmt: skip
    path = tmp_path / "m.onnx"
    if external:
        models.with_external(path, model)
    else:
        models.save(model, path)
    assert external_data.not_finite(onnxfile.load(path).graph.initializer[0], tmp_path) == (1, 2, False)


def test_an_attention_mask_is_known_by_its_zeros_and_infinities(tmp_path):
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    assert external_data.not_finite(numpy_helper.from_array(mask), tmp_path) == (0, 6, True)
    assert external_data.not_finite(numpy_helper.from_array(mask + 1), tmp_path) == (0, 6, False)
