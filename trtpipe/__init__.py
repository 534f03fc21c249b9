"""trtpipe: pipelines from a model to a TensorRT engine, declared in one document and cached by content.

The public names are `load`, `Pipeline`, `Stage`, `Engine`, the errors below, and `trtpipe.stage` for authors of stage
types. All other names may change with any version; docs/stability.md says what is promised.
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
    """Import a name at its first use, because the command line imports this module and needs none of the names."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE.get(name, "trtpipe.errors")), name)
