"""On a GPU: `trtpipe.Engine` with NumPy arrays and with PyTorch's on the device, against ONNX Runtime."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest

import trtpipe
from tests import onnx_models as models
from tests.helpers import project, threads_get_the_same_answers
from tests.onnx_models import images
from trtpipe import environment

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not environment.gpus(), reason="there is no NVIDIA GPU here"),
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    models.save(models.conv(), folder / "m.onnx")
    asked = os.environ.get("TRTPIPE_TEST_BACKEND")
    with trtpipe.load(
        project(folder, models.stages_to_engine()), artifacts=folder / "artifacts", backend=asked
    ) as pipeline:
        if pipeline.backend == "onnxruntime":
            pytest.skip("neither TensorRT nor TensorRT-RTX is installed")
        return pipeline.run()["engine"].folder


@pytest.fixture(scope="module")
def engine(folder):
    with trtpipe.Engine.open(folder, sessions=2) as opened:
        yield opened


def right(folder, given):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder.parents[2] / "m.onnx", providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": given})[0]


@pytest.mark.parametrize("count", [1, 4, 11])
def test_numpy_arrays_are_answered_as_onnxruntime_does(folder, engine, count):
    given = images(count)
    np.testing.assert_allclose(engine(image=given)["logits"], right(folder, given), rtol=2e-2, atol=2e-2)


def test_threads_share_its_sessions(engine):
    feeds = [images(2, seed) for seed in range(16)]
    threads_get_the_same_answers(lambda feed: engine(image=feed)["logits"], feeds, 4)


@pytest.mark.parametrize("on_own_stream", [False, True])
def test_tensors_on_the_gpu_are_answered_there_in_stream_order(engine, on_own_stream):
    import torch

    stream = torch.cuda.Stream() if on_own_stream else torch.cuda.current_stream()
    with torch.cuda.stream(stream):
        for turn in range(6):  # the second run with a shape captures a graph, later ones launch it
            host = images(2 + turn % 2, turn)
            given = torch.from_numpy(host).cuda(non_blocking=True)
            made = engine(image=given)["logits"]
            found = torch.as_tensor(made, device="cuda") * 1
            given.zero_()  # after the engine has read it, in stream order
            np.testing.assert_array_equal(found.cpu().numpy(), engine(image=host)["logits"])


def test_outputs_on_the_gpu_are_written_where_out_says(engine):
    import torch

    mine = torch.empty((2, 5), device="cuda")
    given = torch.from_numpy(images(2)).cuda()
    assert engine.run({"image": given}, out={"logits": mine})["logits"] is mine
    np.testing.assert_array_equal(mine.cpu().numpy(), engine(image=images(2))["logits"])
    with pytest.raises(trtpipe.StageFailed, match=r"out: logits: found float32 \[3, 5\], expected float32 \[2, 5\]"):
        engine.run({"image": given}, out={"logits": torch.empty((3, 5), device="cuda")})


def test_what_does_not_fit_on_the_gpu_is_refused(engine):
    import torch

    for given, problem in (
        (torch.zeros((2, 3, 8, 8), device="cuda", dtype=torch.float16), "image: found float16, expected float32"),
        (torch.zeros((9, 3, 8, 8), device="cuda"), "lies outside profile 0"),
        (torch.zeros((2, 8, 8, 3), device="cuda").permute(0, 3, 1, 2), "found an array with gaps or another order"),
    ):
        with pytest.raises(trtpipe.StageFailed, match=problem):
            engine(image=given)
