"""The runtimes, and the one door to their imports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from trtpipe.errors import EnvironmentMissing
from trtpipe.runtime import NAMES

if TYPE_CHECKING:
    from trtpipe.runtime import Backend


def load(name: str) -> Backend:
    """Import a runtime and give its backend.

    The flavour of TensorRT is chosen once a process, because Polygraphy reads it at import.
    Raises EnvironmentMissing if the runtime is not installed, with the command that helps.
    """
    if name not in NAMES:
        raise EnvironmentMissing(f"unknown backend {name!r}; there are {', '.join(NAMES)}")
    module = importlib.import_module(
        "trtpipe.backends.ort" if name == "onnxruntime" else "trtpipe.backends.trt.backend"
    )
    backend: Backend = module.load(name)
    return backend
