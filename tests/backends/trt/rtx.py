"""What the tests of this room share: whether TensorRT-RTX is here, a whole config, and a build on it."""

from __future__ import annotations

import importlib.util

import pytest
from msgspec.structs import asdict

from tests import made
from trtpipe import environment
from trtpipe.backends.trt.rules import settle

HERE = any(importlib.util.find_spec(m) for m in ("tensorrt_rtx", "tensorrt_rtx_bindings"))
needs_rtx = pytest.mark.skipif(not HERE, reason="TensorRT-RTX is not installed: pip install 'trtpipe[rtx]'")
needs_no_gpu = pytest.mark.skipif(bool(environment.gpus()), reason="this is about machines without a GPU")


def config_for(backend, profiles=(), **settings):
    """Give a whole config, as the stage would write it."""
    asked = made.asked(profiles=tuple(map(made.profile, profiles)), **settings)
    part = settle(backend.name, backend.version, asked, made.network())
    honoured = {"strongly_typed": part.strongly_typed, "flags": part.flags, "not_applicable": part.not_applicable}
    return made.config(runtime=backend.name, runtime_version=backend.version, **{**asdict(asked), **honoured})


def build(backend, model, tmp_path, profiles=(), name="engine.plan", **settings):
    notes = []
    built = backend.build(model, config_for(backend, profiles, **settings), tmp_path / name, tmp_path, notes.append)
    return tmp_path / name, built
