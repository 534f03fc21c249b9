"""What the tests of this room share: whether TensorRT-RTX is here, a whole config, and a build on it."""

from __future__ import annotations

import importlib.util

import pytest

from trtpipe import environment
from trtpipe.backends.trt.rules import settle

HERE = any(importlib.util.find_spec(m) for m in ("tensorrt_rtx", "tensorrt_rtx_bindings"))
needs_rtx = pytest.mark.skipif(not HERE, reason="TensorRT-RTX is not installed: pip install 'trtpipe[rtx]'")
needs_no_gpu = pytest.mark.skipif(bool(environment.gpus()), reason="this is about machines without a GPU")


def config_for(backend, profiles=(), **settings):
    """Give a whole config record, as the stage would write it."""
    config = {
        "precision": "model", "keep_fp32": [], "workspace": None, "profiles": list(profiles),
        "optimization_level": None, "timing_cache": "auto", "version_compatible": False,
        "hardware_compatibility": "none", "compute_capabilities": None, "sparse_weights": False, "strip_plan": False,
        "refit": False, "weight_streaming": False, "verbosity": "names_only", "strongly_typed": None, **settings,
    }  # fmt: skip
    network = {"inputs": [], "outputs": [], "dtypes": {}}
    return config | settle(backend.name, backend.version, config, network)


def build(backend, model, tmp_path, profiles=(), name="engine.plan", **settings):
    notes = []
    part = backend.build(model, config_for(backend, profiles, **settings), tmp_path / name, tmp_path, notes.append)
    return tmp_path / name, part
