"""`deploy --as triton`: a model repository whose config says what the manifest says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tests import made
from trtpipe.deploy import triton, writing
from trtpipe.documents.bundle import Bundle
from trtpipe.documents.config import Shapes
from trtpipe.errors import PipelineInvalid

IMAGE = made.binding("image", "input", ["batch", 3, 8, 8])
LOGITS = made.binding("logits", "output", ["batch", 5])
PROFILE = {"image": Shapes(min=(1, 3, 8, 8), opt=(2, 3, 8, 8), max=(4, 3, 8, 8))}


def config_of(*bindings, profiles=(PROFILE,), **more):
    return triton.config(made.manifest(bindings=bindings, profiles=profiles, **more), "m")


def test_a_repository_has_plan_config_and_warm_up(ship, tmp_path):
    to = tmp_path / "models" / "classifier"
    result = ship("--as", "triton", "--to", str(to))
    assert result.returncode == 0, result.stderr
    assert (to / "1" / "model.onnx").is_file()
    assert (to / "about" / "manifest.json").is_file()
    text = (to / "config.pbtxt").read_text()
    assert text.startswith('name: "classifier"\nbackend: "onnxruntime"\nmax_batch_size: 4\ninput {\n  name: "image"\n')
    assert "  dims: [ 3, 8, 8 ]\n" in text
    assert "dynamic_batching {\n  preferred_batch_size: [ 2 ]\n}" in text
    assert "kind: KIND_CPU" in text
    warm = np.frombuffer((to / "warmup" / "image").read_bytes(), np.float32).reshape(3, 8, 8)
    with np.load(to / "about" / "samples.npz") as samples:
        np.testing.assert_array_equal(warm, samples["image"][0])
    again = ship("--as", "triton", "--to", str(to))
    assert (again.returncode, "is there already" in again.stderr) == (4, True)


def test_a_plan_of_tensorrt_is_run_on_a_gpu_with_all_its_profiles():
    text = config_of(IMAGE, LOGITS, profiles=(PROFILE, PROFILE), runtime="tensorrt", plan="engine.plan")
    assert 'backend: "tensorrt"' in text
    assert 'kind: KIND_GPU\n  profile: [ "0", "1" ]' in text


@pytest.mark.parametrize(
    ("bindings", "profiles", "dims"),
    [
        ((made.binding("image", "input", [2, 3]), made.binding("logits", "output", [2, 5])), (), "[ 2, 3 ]"),
        ((IMAGE, made.binding("total", "output", [5])), (PROFILE,), "[ -1, 3, 8, 8 ]"),
        (
            (IMAGE, LOGITS),
            ({"image": Shapes(min=(2, 3, 8, 8), opt=(2, 3, 8, 8), max=(4, 3, 8, 8))},),
            "[ -1, 3, 8, 8 ]",
        ),
    ],
)
def test_triton_batches_only_where_the_first_axes_are_a_batch_from_one_on(bindings, profiles, dims):
    text = config_of(*bindings, profiles=profiles)
    assert "max_batch_size: 0\n" in text
    assert f"dims: {dims}\n" in text
    assert "dynamic_batching" not in text


def test_names_are_written_so_that_protobuf_reads_them():
    text = config_of(made.binding('a"\\\n\x1bü', "input", ["batch", 3]), LOGITS, profiles=())
    assert r'name: "a\"\\\012\033\303\274"' in text


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"runtime": "tensorrt_rtx"}, "Triton has no backend for plans of TensorRT-RTX: build with --backend tensorrt"),
        (
            {"bindings": (made.binding("x", "input", [1], "float8e4m3fn"),)},
            "Triton has no such type: x is float8e4m3fn",
        ),
        ({"plugins": ("lib.so",)}, "the engine needs lib.so, which Triton loads only if it is started with them"),
    ],
)
def test_what_triton_cannot_serve_is_refused(changed, problem):
    bundle = Bundle(pipeline="p", stage="e", key="0", artifact="0", files={})
    ready = writing.Ready(bundle, made.manifest(**changed), {}, ())
    with pytest.raises(PipelineInvalid, match=problem):
        triton.files_of(ready, "m")
    with pytest.raises(PipelineInvalid, match="expected letters, digits"):
        triton.files_of(ready, "a b")


def protobuf():
    """Give the module of Triton's own form, of which no server and no gRPC is needed."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or found.origin is None:
        pytest.skip("tritonclient is not installed: pip install --no-deps tritonclient==2.73.0 (the extra triton)")
    file = Path(found.origin).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tritons_own_protobuf_reads_every_config(ship, tmp_path):
    module = protobuf()
    from google.protobuf import text_format

    assert ship("--as", "triton", "--to", str(tmp_path / "m")).returncode == 0
    read = text_format.Parse((tmp_path / "m" / "config.pbtxt").read_text(), module.ModelConfig())
    assert (read.name, read.backend, read.max_batch_size) == ("m", "onnxruntime", 4)
    assert (read.input[0].name, read.input[0].data_type, list(read.input[0].dims)) == ("image", 11, [3, 8, 8])
    assert read.model_warmup[0].inputs["image"].input_data_file == "image"
    name = 'a"\\\n\x1bü'
    profiles = ({name: Shapes(min=(1,), opt=(2,), max=(4,))},)
    odd = config_of(made.binding(name, "input", ["batch"], "int64"), LOGITS, profiles=profiles, runtime="tensorrt")
    read = text_format.Parse(odd, module.ModelConfig())
    assert (read.input[0].name, list(read.input[0].dims), list(read.input[0].reshape.shape)) == (name, [1], [])
    assert list(read.instance_group[0].profile) == ["0"]
