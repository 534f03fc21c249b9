"""The explicit table of stage types."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtpipe.stage import StageType

NAMES = (
    "export",
    "optimize",
    "quantize",
    "parse",
    "configure",
    "build",
    "allocate",
    "preprocess",
    "infer",
    "postprocess",
    "compare",
    "evaluate",
    "benchmark",
    "select",
)


def get(name: str) -> StageType:
    """Import one stage type. Raises KeyError for a name that is not in the table."""
    if name not in NAMES:
        raise KeyError(name)
    stage_type: StageType = importlib.import_module(f"trtpipe.stages.{name}").STAGE
    return stage_type


def table() -> dict[str, StageType]:
    """Import all stage types, in the order of the chain."""
    return {name: get(name) for name in NAMES}
