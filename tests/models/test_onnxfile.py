"""Reading, copying and writing ONNX files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests import onnx_models as models
from trtpipe.errors import StageFailed
from trtpipe.models import external_data, onnxfile


def test_a_model_is_loaded_without_its_external_data(tmp_path):
    path = models.with_external(tmp_path / "m.onnx", models.conv())
    model = onnxfile.load(path)
    assert all(not t.raw_data for t in model.graph.initializer)
    assert external_data.external_files(model, tmp_path, label="m.onnx") == ("weights.bin",)
    assert onnxfile.external_locations(path) == ["weights.bin"]


@pytest.mark.parametrize("rubbish", [b"", b"hello, I am no model\n" * 20, b"\x00" * 64, b"\x08\x08"])
def test_what_is_no_model_is_refused_with_its_name(tmp_path, rubbish):
    (tmp_path / "m.onnx").write_bytes(rubbish)
    with pytest.raises(StageFailed, match=r"^m\.onnx is (empty|no ONNX model)"):
        onnxfile.load(tmp_path / "m.onnx")
    assert onnxfile.external_locations(tmp_path / "m.onnx") == []


def test_a_model_torn_at_any_place_is_refused_or_has_lost_its_outputs(tmp_path):
    whole = models.conv().SerializeToString()
    for size in range(1, len(whole) - 8, 37):
        (tmp_path / "m.onnx").write_bytes(whole[:size])
        with pytest.raises(StageFailed, match="torn"):
            onnxfile.load(tmp_path / "m.onnx")


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(StageFailed, match=r"m\.onnx cannot be read: No such file"):
        onnxfile.load(tmp_path / "m.onnx")


def test_a_copied_model_keeps_its_external_data_and_runs(tmp_path):
    path = models.with_external(tmp_path / "a" / "m.onnx", models.conv())
    (tmp_path / "b").mkdir()
    onnxfile.copy_model(path, tmp_path / "b", ("weights.bin",), link=False)
    assert (tmp_path / "b" / "model.onnx").stat().st_ino != path.stat().st_ino
    onnx.checker.check_model(str(tmp_path / "b" / "model.onnx"), full_check=True)


def test_external_data_may_not_take_the_artifacts_own_names(tmp_path):
    path = models.with_external(tmp_path / "a" / "m.onnx", models.conv(), "network.json")
    with pytest.raises(StageFailed, match=r"called network\.json"):
        onnxfile.copy_model(path, tmp_path, ("network.json",), link=False)


def test_saved_weights_go_outside_above_the_limit_and_read_back_equal(tmp_path):
    model = models.conv()
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    onnxfile.save(model, tmp_path / "model.onnx", limit=100)
    first = [(tmp_path / n).read_bytes() for n in ("model.onnx", "model.onnx.data")]
    onnxfile.save(models.conv(), tmp_path / "model.onnx", limit=100)
    assert first == [(tmp_path / n).read_bytes() for n in ("model.onnx", "model.onnx.data")]
    loaded = onnxfile.load(tmp_path / "model.onnx")
    # A tensor below 1 KiB stays inside, so make one that does not.
    big = models.model([helper.make_node("Add", ["x", "b"], ["y"])], [models.value("x", [600])],
                       [models.value("y", [600])], {"b": np.arange(600, dtype=np.float32)})  # fmt: skip
    onnxfile.save(big, tmp_path / "big.onnx", limit=100)
    again = onnxfile.load(tmp_path / "big.onnx")
    assert external_data.external_files(again, tmp_path, label="big") == ("big.onnx.data",)
    np.testing.assert_array_equal(external_data.array(again.graph.initializer[0], tmp_path), np.arange(600))
    onnx.checker.check_model(str(tmp_path / "big.onnx"), full_check=True)
    for tensor in loaded.graph.initializer:
        np.testing.assert_array_equal(external_data.array(tensor, tmp_path), before[tensor.name])
