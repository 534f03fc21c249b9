"""The first node that a runtime computes wrongly is named."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from tests import onnx_models as models
from tests.backends.trt.rtx import needs_no_gpu, needs_rtx
from tests.helpers import run_stage
from trtpipe import backends
from trtpipe.documents import files
from trtpipe.documents.buffers import Buffers
from trtpipe.documents.manifest import Manifest
from trtpipe.models import wrong_node
from trtpipe.runtime import Engine

FEED = {"image": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}


class Here:
    """What the search needs of a stage's context."""

    def __init__(self, backend, scratch):
        self._backend, self.scratch = backend, scratch

    def backend(self):
        return self._backend

    def doing(self, _):
        pass


class Wrong:
    """ONNX Runtime, but what `name` holds comes out wrong, with everything that follows."""

    def __init__(self, name, names):
        self._real = backends.load("onnxruntime")
        self._bad = names[names.index(name) :] if name else ()

    def __getattr__(self, name):
        return getattr(self._real, name)

    def open(self, *args):
        session, bad = self._real.open(*args), self._bad

        class Session:
            bindings = session.bindings

            def run(self, feed):
                return {name: array * (1.5 if name in bad else 1) for name, array in session.run(feed).items()}

            def close(self):
                session.close()

        return Session()


def engine(tmp_path, backend="onnxruntime", **configure):
    path = models.save(models.conv(2), tmp_path / "m.onnx")
    network = run_stage("parse", {}, {"model": path}, tmp_path, backend=backend)
    config = run_stage("configure", configure, {"network": network}, tmp_path, backend=backend)
    built = run_stage("build", {}, {"config": config}, tmp_path, backend=backend)
    axes = {"batch_axis": {"image": 0, "logits": 0}}
    buffers = run_stage("allocate", axes, {"engine": built}, tmp_path, backend=backend)
    manifest = files.read(built / Manifest.file, Manifest)
    return Engine(built / manifest.plan, manifest, files.read(buffers / Buffers.file, Buffers))


def search(backend, given, scratch):
    """Search as for a runtime whose plan is no model."""
    scratch.mkdir()
    given = given._replace(manifest=replace(given.manifest, runtime="tensorrt"))
    return wrong_node.first(Here(backend, scratch), given, FEED, FEED, bound=0.01)


def test_it_is_found_with_engines_that_have_inner_tensors_as_outputs(tmp_path):
    given = engine(tmp_path)
    names = [o for node in models.conv(2).graph.node for o in node.output]
    for number, node in enumerate(models.conv(2).graph.node):
        found = search(Wrong(node.output[0], names), given, tmp_path / str(number))
        assert found == f"the first wrong result is that of {node.name} [{node.op_type}]"


def test_where_no_inner_tensor_is_wrong_the_fault_lies_in_what_is_fused(tmp_path):
    assert "right: the fault lies in how nodes are fused" in search(Wrong(None, []), engine(tmp_path), tmp_path / "s")


def test_where_the_engine_was_built_of_another_model_it_is_not_looked_for(tmp_path):
    given = engine(tmp_path, precision="fp16", tolerance=0.1)
    found = search(Wrong(None, []), given, tmp_path / "s")
    assert found == "the first wrong node is not looked for under precision fp16"


@needs_rtx
@needs_no_gpu
@pytest.mark.filterwarnings("ignore")
def test_tensorrt_rtx_builds_such_an_engine_and_needs_a_gpu_to_run_it(tmp_path):
    given = engine(tmp_path, "tensorrt_rtx")
    (tmp_path / "s").mkdir()
    here = Here(backends.load("tensorrt_rtx"), tmp_path / "s")
    found = wrong_node.first(here, given, FEED, FEED, bound=0.01)
    assert found.startswith("the first wrong node cannot be told (TensorRT-RTX ")
    assert "builds here, but running a plan needs a GPU" in found
    assert (tmp_path / "s" / "marked-0" / "engine.plan").stat().st_size
