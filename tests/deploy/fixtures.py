"""An engine with a gate, built once for all of these tests."""

from __future__ import annotations

import numpy as np
import pytest

from tests import onnx_models
from tests.helpers import within

DOCUMENT = (
    f"""\
name: out
backend: onnxruntime
stages:
{onnx_models.stages_to_engine()}"""
    """\
  buffers: {type: allocate, inputs: {engine: engine}, params: {shapes: {image: [2, 3, 8, 8]}}}
  scores: {type: infer, inputs: {engine: engine, buffers: buffers, data: {file: images.npz}}}
  close:
    type: compare
    inputs: {candidate: scores, model: {file: m.onnx}, data: {file: images.npz}}
    params: {require: {cosine_min: ">= 0.999"}}
"""
)


@pytest.fixture(scope="session")
def deployable(tmp_path_factory):
    """Give a project whose pipeline has run, with a signing key in its folder `config`."""
    folder = tmp_path_factory.mktemp("deployable")
    onnx_models.save(onnx_models.conv(), folder / "m.onnx")
    np.savez(folder / "images.npz", image=onnx_models.images(6))
    (folder / "out.yaml").write_text(DOCUMENT)
    (folder / "trtpipe.toml").touch()
    env = {"XDG_CONFIG_HOME": str(folder / "config")}
    for command in (["keys", "new"], ["run", "out.yaml"], ["lock", "out.yaml"]):
        result = within(*command, cwd=folder, env=env)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture
def ship(deployable):
    """Deploy as a user does; give the result. Without `signed`, there is no key."""

    def deploy(*args, signed=True, document="out.yaml"):
        home = deployable / ("config" if signed else "nothing")
        return within("deploy", document, "engine", *args, cwd=deployable, env={"XDG_CONFIG_HOME": str(home)})

    return deploy
