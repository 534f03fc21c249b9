"""trtpipe: a model's way to a TensorRT engine, declared in one file and cached by content.

Public are `load`, `Pipeline`, `Stage`, `Engine`, the errors below, and `trtpipe.stage` for those who write stage types.
All else may change with any version; docs/stability.md says what does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtpipe.api.engine import Engine
    from trtpipe.api.pipeline import Pipeline, Stage, load
    from trtpipe.errors import (
        Cycle,
        EnvironmentMissing,
        GateFailed,
        KindMismatch,
        LimitExceeded,
        PipelineInvalid,
        SchemaViolation,
        StageFailed,
        StoreError,
        TrtpipeError,
        UnknownReference,
    )

__version__ = "0.1.0"

_WHERE = {
    "Engine": "trtpipe.api.engine",
    "Pipeline": "trtpipe.api.pipeline",
    "Stage": "trtpipe.api.pipeline",
    "load": "trtpipe.api.pipeline",
}

__all__ = [
    "Cycle",
    "Engine",
    "EnvironmentMissing",
    "GateFailed",
    "KindMismatch",
    "LimitExceeded",
    "Pipeline",
    "PipelineInvalid",
    "SchemaViolation",
    "Stage",
    "StageFailed",
    "StoreError",
    "TrtpipeError",
    "UnknownReference",
    "__version__",
    "load",
]


def __getattr__(name: str) -> object:
    """Import what is asked for: the command line starts with this module, and needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE.get(name, "trtpipe.errors")), name)
