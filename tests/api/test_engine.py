"""An engine from Python: what a call takes and gives, threads, batches beyond the profile, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import trtpipe
from tests import onnx_models as models
from tests.helpers import PROJECT, project, threads_get_the_same_answers
from tests.onnx_models import images
from tests.test_readme import FENCE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Build an engine that takes 2 to 4 samples; give its folder."""
    folder = tmp_path_factory.mktemp("engine")
    models.save(models.conv(), folder / "m.onnx")
    document = project(folder, models.stages_to_engine(least=2))
    with trtpipe.load(document, artifacts=folder / "artifacts", backend="onnxruntime") as pipeline:
        return pipeline.run()["engine"].folder


@pytest.fixture(scope="module")
def engine(folder):
    with trtpipe.Engine.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def right(folder):
    """Give what ONNX Runtime itself answers."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "engine.onnx", providers=["CPUExecutionProvider"])
    return lambda given: session.run(["logits"], {"image": given})[0]


def test_it_is_called_by_name_and_gives_new_arrays(engine, right):
    given = images(3)
    first, second = engine(image=given), engine({"image": given})
    np.testing.assert_array_equal(first["logits"], second["logits"])
    assert not np.shares_memory(first["logits"], second["logits"])
    np.testing.assert_allclose(first["logits"], right(given), rtol=1e-5)


def test_a_plan_is_opened_as_its_folder_is(folder, engine):
    with trtpipe.Engine.open(folder / "engine.onnx", backend="onnxruntime") as other:
        np.testing.assert_array_equal(other(image=images(2))["logits"], engine(image=images(2))["logits"])


@pytest.mark.parametrize("count", [5, 8, 11])
def test_more_samples_than_the_profile_takes_are_run_in_several_batches(engine, count, right):
    given = images(count)
    found = engine(image=given)["logits"]
    assert found.shape == (count, 5)
    np.testing.assert_allclose(found, right(given), rtol=1e-4, atol=1e-6)


def test_outputs_are_written_where_out_says(engine):
    mine = np.empty((2, 5), np.float32)
    made = engine.run({"image": images(2)}, out={"logits": mine})
    assert made["logits"] is mine
    np.testing.assert_array_equal(mine, engine(image=images(2))["logits"])


def test_threads_call_the_same_engine(engine):
    feeds = [images(2, seed) for seed in range(16)]
    threads_get_the_same_answers(lambda feed: engine(image=feed)["logits"], feeds, 8)


class Tensor:
    """An array of another library: all that is known of it is DLPack's two methods."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.device


def test_what_has_dlpack_in_host_memory_is_fed(engine):
    given = images(2)
    np.testing.assert_array_equal(engine(image=Tensor(given))["logits"], engine(image=given)["logits"])


def test_what_lies_in_a_gpu_is_not_copied_through_the_host_unless_that_is_said(engine):
    with pytest.raises(trtpipe.StageFailed, match=r"image: found an array in a GPU's memory, .* such as tensor\.cpu"):
        engine(image=Tensor(images(2), device=(2, 0)))


def test_an_array_that_is_not_contiguous_is_fed_as_what_it_holds(engine):
    given = images(2)
    turned = np.ascontiguousarray(given.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(engine(image=turned)["logits"], engine(image=given)["logits"])


@pytest.mark.parametrize(
    ("feed", "problem"),
    [
        ({}, "found data for nothing, expected image"),
        ({"picture": images(2)}, "found data for picture, expected image"),
        ({"image": images(2).astype(np.float64)}, "image: found float64, expected float32"),
        ({"image": images(2)[0]}, r"image: found the shape \[3, 8, 8\], expected \[batch, 3, 8, 8\]"),
        ({"image": images(2)[:, :, :4]}, r"image: found the shape \[2, 3, 4, 8\], expected"),
        ({"image": images(1)}, r"outside profile 0: min \[2, 3, 8, 8\], max \[4, 3, 8, 8\]"),
        ({"image": [1.0]}, "image: found list, expected a NumPy array, or one with __dlpack__"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(engine, feed, problem):
    with pytest.raises(trtpipe.StageFailed, match=problem):
        engine(feed)


def test_an_out_that_does_not_fit_is_refused(engine):
    for name, array, problem in (
        ("scores", np.empty((2, 5), np.float32), "out: found scores, expected an output; they are logits"),
        ("logits", np.empty((3, 5), np.float32), r"found float32 \[3, 5\], expected float32 \[2, 5\]"),
    ):
        with pytest.raises(trtpipe.StageFailed, match=problem):
            engine.run({"image": images(2)}, out={name: array})


def test_an_engine_that_was_closed_is_refused(folder):
    with trtpipe.Engine.open(folder) as closed:
        pass
    closed.close()
    with pytest.raises(trtpipe.StageFailed, match="found a closed engine"):
        closed(image=images(2))


def test_what_cannot_be_opened_says_what_was_expected(folder, tmp_path):
    with pytest.raises(trtpipe.StageFailed, match="found an engine of onnxruntime, expected one of tensorrt"):
        trtpipe.Engine.open(folder, backend="tensorrt")
    with pytest.raises(trtpipe.EnvironmentMissing, match="CUDA_VISIBLE_DEVICES=1"):
        trtpipe.Engine.open(folder, gpu=1)
    with pytest.raises(trtpipe.StageFailed, match="sessions: found 0, expected at least 1"):
        trtpipe.Engine.open(folder, sessions=0)
    shutil.copy(folder / "engine.onnx", tmp_path)
    with pytest.raises(trtpipe.StageFailed, match=r"there is no manifest\.json beside the plan"):
        trtpipe.Engine.open(tmp_path / "engine.onnx")
    text = json.loads((folder / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**text, "format": 99}))
    with pytest.raises(trtpipe.StageFailed, match="99"):
        trtpipe.Engine.open(tmp_path)


def test_manifest_and_metrics_are_attributes_of_stages(folder):
    document = folder.parents[2] / "p.yaml"
    with trtpipe.load(document, artifacts=folder.parents[1], backend="onnxruntime") as pipeline:
        assert pipeline["engine"].manifest.plan == "engine.onnx"
        with pytest.raises(trtpipe.StageFailed, match="engine is a stage build, expected one of evaluate, compare"):
            _ = pipeline["engine"].metrics
        with pytest.raises(trtpipe.StageFailed, match=r"network made no file manifest\.json"):
            _ = pipeline["network"].manifest


def test_the_block_of_the_page_runs(folder, tmp_path, monkeypatch):
    (body,) = [
        body for language, body in FENCE.findall((PROJECT / "docs/python.md").read_text()) if language == "python"
    ]
    here = folder.parents[2]
    (here / "model.yaml").write_text((here / "p.yaml").read_text())
    monkeypatch.chdir(here)
    monkeypatch.setenv("TRTPIPE_ARTIFACTS", str(folder.parents[1]))
    space = {}
    exec(body, space)
    assert space["scores"].shape == (2, 5)
