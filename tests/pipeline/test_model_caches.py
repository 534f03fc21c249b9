"""A model cache holds links to blobs: a model with external data works, and what its links lead to is in the key."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.helpers import trtpipe

STAGES = """
stages:
  network: {{type: parse, inputs: {{model: {{file: "{model}"}}}}}}
  slim: {{type: optimize, inputs: {{model: {{file: "{model}"}}}}}}
  config: {{type: configure, inputs: {{network: network}}, params: {{precision: fp16}}}}
  engine: {{type: build, inputs: {{config: config}}}}
  buffers: {{type: allocate, inputs: {{engine: engine}}, params: {{shapes: {{x: [1, 8]}}}}}}
  scores: {{type: infer, inputs: {{engine: engine, buffers: buffers, data: {{file: x.npy}}}}}}
  same:
    type: compare
    inputs: {{candidate: scores, model: {{file: "{model}"}}, data: {{file: x.npy}}}}
    params: {{atol: 0.1}}
"""


def cached_model(cache, scale=1.0):
    """Lay a model out as huggingface_hub does: names in snapshots/, contents in blobs/."""
    weights = (np.arange(64, dtype=np.float32).reshape(8, 8) - 30) * scale / 64
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    blobs, names = cache / "blobs", cache / "snapshots" / "abc" / "onnx"
    blobs.mkdir(parents=True, exist_ok=True)
    names.mkdir(parents=True, exist_ok=True)
    onnx.save(model, blobs / "m.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    (blobs / "model.onnx_data").rename(blobs / f"weights-{scale}")
    for name, blob in (("model.onnx", "m.onnx"), ("model.onnx_data", f"weights-{scale}")):
        (names / name).unlink(missing_ok=True)
        (names / name).symlink_to(f"../../../blobs/{blob}")
    return names / "model.onnx"


def run(folder, *args, expected=0):
    result = trtpipe("run", "p.yaml", "--backend", "onnxruntime", *args, cwd=folder)
    assert result.returncode == expected, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "trtpipe.toml").write_text("")
    np.save(folder / "x.npy", np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8))

    def write(model):
        (folder / "p.yaml").write_text(f"name: p{STAGES.format(model=model)}")
        return folder

    return write


def test_a_model_in_a_cache_inside_the_project_runs_and_its_weights_count(tmp_path, project):
    folder = project("hub/models--a/snapshots/abc/onnx/model.onnx")
    cached_model(folder / "hub" / "models--a")
    assert "7 ran" in run(folder)
    cached_model(folder / "hub" / "models--a", scale=1.5)
    said = run(folder)
    assert "model.onnx_data changed" in said
    assert "0 hit" in said


def test_a_model_in_a_cache_outside_the_project_is_refused_or_allowed(tmp_path, project):
    model = cached_model(tmp_path / "home" / "models--a")
    folder = project(model)
    assert "leads out of the project" in run(folder, expected=2)
    run(folder, "--allow-outside", "--target", "scores")


def test_external_data_that_leads_out_of_the_project_through_a_link_is_refused_by_its_name(tmp_path, project):
    folder = project("hub/snapshots/abc/onnx/model.onnx")
    names = cached_model(folder / "hub").parent
    (folder / "hub" / "blobs" / "weights-1.0").rename(tmp_path / "elsewhere")
    (names / "model.onnx_data").unlink()
    (names / "model.onnx_data").symlink_to(tmp_path / "elsewhere")
    said = run(folder, "--target", "network", expected=2)
    assert "the external data 'model.onnx_data' of hub/snapshots/abc/onnx/model.onnx leads out of the project" in said
    run(folder, "--target", "network", "--allow-outside")
