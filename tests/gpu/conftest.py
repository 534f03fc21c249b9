"""The TensorRT that the tests of this folder run with."""

from __future__ import annotations

import importlib.util
import os

import pytest

from trtpipe import backends, environment


def flavour():
    asked = os.environ.get("TRTPIPE_TEST_BACKEND")
    if asked:
        return asked
    if importlib.util.find_spec("tensorrt"):
        return "tensorrt"
    if any(importlib.util.find_spec(m) for m in ("tensorrt_rtx", "tensorrt_rtx_bindings")):
        return "tensorrt_rtx"
    pytest.skip("no TensorRT is installed: pip install 'trtpipe[rtx]' or 'trtpipe[tensorrt]'")


@pytest.fixture(scope="module")
def backend():
    name = flavour()
    made = backends.load(name)
    capability = environment.gpus()[0].compute_capability
    if name == "tensorrt_rtx" and not environment.rtx_supports(made.version, capability):
        pytest.skip(f"{made.library.title} does not run on compute capability {capability}")
    return made
