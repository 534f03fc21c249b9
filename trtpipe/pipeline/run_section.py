"""The section `run` of a stage: how the stage runs. It changes no result and is in no key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtpipe import environment
from trtpipe.errors import EnvironmentMissing
from trtpipe.pipeline.graph import Limits
from trtpipe.texts import DURATION_PATTERN, duration_in_seconds, size_in_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trtpipe.pipeline.graph import Pipeline

GPUS, EXECUTOR = 1, "local"
"""The values that this version supports."""


def schema() -> dict[str, Any]:
    """Give the JSON Schema of `run`."""
    return {
        "type": "object",
        "description": "How the stage runs; it changes no result and is in no key.",
        "additionalProperties": False,
        "properties": {
            "timeout": {
                "type": "string",
                "pattern": DURATION_PATTERN,
                "description": "A duration such as 90s, 15min or 2h; a stage that takes longer is stopped and fails.",
                "examples": ["90s", "15min", "2h"],
            },
            "memory": {
                "type": "string",
                "pattern": r"^[1-9][0-9]{0,14}(B|KiB|MiB|GiB|TiB)$",
                "description": "A size such as 512MiB or 16GiB; a stage whose processes together hold more of the "
                "machine's memory is stopped and fails.",
                "examples": ["512MiB", "16GiB"],
            },
            "gpus": {
                "type": "integer",
                "minimum": 0,
                "default": GPUS,
                "description": "The number of GPUs for a stage that needs one; this version supports only 1.",
            },
            "executor": {
                "type": "string",
                "pattern": r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$",
                "default": EXECUTOR,
                "description": "The executor that runs the stage; this version supports only local.",
                "examples": [EXECUTOR],
            },
        },
    }


def problems(given: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Give values that fit the schema but are not supported yet, as (name, `found …, expected …`)."""
    gpus, executor = given.get("gpus", GPUS), given.get("executor", EXECUTOR)
    if gpus != GPUS:
        many = "several GPUs for a stage come" if gpus else "keeping a stage off the GPU comes"
        yield "gpus", f"found {gpus}, expected {GPUS}: {many} in a later version"
    if executor != EXECUTOR:
        yield "executor", f"found {executor}, expected {EXECUTOR}: other executors come in a later version"


def limits(given: Mapping[str, Any]) -> Limits:
    """Give the limits in a section that fits its schema."""
    return Limits(
        duration_in_seconds(given["timeout"]) if "timeout" in given else None,
        size_in_bytes(given["memory"]) if "memory" in given else None,
    )


def check(pipeline: Pipeline, stages: Iterable[str]) -> None:
    """Raise EnvironmentMissing if a stage has a memory limit and this machine cannot measure memory."""
    held = [name for name in stages if pipeline.stages[name].limits.memory is not None]
    if held and not environment.measures_memory():
        raise EnvironmentMissing(
            f"{pipeline.stages[held[0]].place}.run.memory: this machine cannot limit memory, because its /proc does "
            f"not say how much memory a process has; remove run.memory, or run on another machine"
        )
