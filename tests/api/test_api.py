"""Programs load a pipeline, run it, and use the engine that it made."""

import subprocess
import sys

import numpy as np
import pytest
from onnx import helper

import trtpipe
from tests import onnx_models as models
from tests.helpers import inference, project, python_stage


@pytest.fixture
def document(tmp_path):
    models.save(models.conv(2), tmp_path / "m.onnx")
    np.save(tmp_path / "image.npy", np.ones((4, 3, 8, 8), np.float32))
    return project(tmp_path, inference())


def load(document, **more):
    return trtpipe.load(document, artifacts=document.parent / "artifacts", backend="onnxruntime", **more)


def test_a_pipeline_is_run_and_its_files_are_found(document):
    with load(document) as pipeline:
        assert (pipeline.name, pipeline.backend) == ("p", "onnxruntime")
        assert pipeline["network"].state == "run"
        assert pipeline["engine"].state == "unknown"
        with pytest.raises(trtpipe.StageFailed, match="engine is not built"):
            pipeline["engine"].path("manifest.json")
        told = []
        made = pipeline.run(["engine"], tell=told.append)
        assert list(made) == ["network", "config", "engine"]
        assert made["engine"].path("engine.onnx").is_file()
        assert pipeline["engine"] == made["engine"]
        assert type(told[0]).__name__ == "PipelineStarted"
        with pytest.raises(trtpipe.StageFailed, match=r"made no file plan; it made engine\.onnx"):
            made["engine"].path("plan")


def test_an_engine_answers_as_infer_does(document):
    with load(document) as pipeline:
        made = pipeline.run()
        with trtpipe.Engine.open(made["engine"].folder) as engine:
            assert [(b.name, b.shape) for b in engine.inputs] == [("image", (2, 3, 8, 8))]
            found = engine.run({"image": np.ones((2, 3, 8, 8), np.float32)})
            again = engine.run({"image": np.zeros((2, 3, 8, 8), np.float32)})
        (name,) = [b.name for b in engine.outputs]
        assert not np.array_equal(found[name], again[name])  # the first answer is the caller's to keep
        scores = np.load(next(made["scores"].folder.glob("0*.npy")))
        np.testing.assert_allclose(found[name], scores[:2], rtol=1e-6)


def test_an_engine_gives_a_batch_as_it_comes_out_whichever_axis_the_samples_are_on(tmp_path):
    node = helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)
    models.save(models.model([node], [models.value("x", ["n", 3])], [models.value("total", [])]), tmp_path / "m.onnx")
    document = project(tmp_path, inference().split("  buffers:")[0])
    with load(document) as pipeline, trtpipe.Engine.open(pipeline.run()["engine"].folder, shapes={"x": [4, 3]}) as one:
        assert one.run({"x": np.ones((4, 3), np.float32)})["total"] == 12


def test_what_is_wrong_raises_the_errors_of_the_command_line(document, tmp_path):
    with load(document) as pipeline, pytest.raises(trtpipe.UnknownReference, match="unknown stage egnine"):
        pipeline["egnine"]
    with pytest.raises(trtpipe.PipelineInvalid, match="there is no such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(trtpipe.StageFailed, match=r"there is no plan"):
        trtpipe.Engine.open(tmp_path)


def test_a_stage_that_fails_raises_its_error(tmp_path):
    with (
        load(project(tmp_path, python_stage("a", "fail"))) as pipeline,
        pytest.raises(trtpipe.StageFailed, match="no such luck"),
    ):
        pipeline.run()


def test_settings_are_values_not_texts(tmp_path):
    document = project(tmp_path, python_stage("a"))
    document.write_text("vars: {n: 1}\n" + document.read_text().replace('"args": {}', '"args": {"k": "${n}"}'))
    with load(document, set={"vars.n": 2}) as pipeline:
        assert pipeline.name == "p"
    with pytest.raises(trtpipe.UnknownReference, match="nothing uses the variable m"):
        load(document, set={"vars.m": 2})


def test_importing_trtpipe_imports_nothing_until_something_is_asked_for():
    code = "import sys, trtpipe; print(sorted(m for m in sys.modules if m.startswith(('trtpipe', 'numpy', 'msgspec'))))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "['trtpipe']"


def test_what_is_public_is_what_the_page_says():
    from tests.helpers import PROJECT

    page = (PROJECT / "docs" / "stability.md").read_text("utf-8")
    for name in trtpipe.__all__:
        assert getattr(trtpipe, name) is not None
        assert f"`{name}`" in page, name
    with pytest.raises(AttributeError, match="no attribute 'Runner'"):
        _ = trtpipe.Runner
