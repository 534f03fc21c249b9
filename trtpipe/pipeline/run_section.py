"""The section `run` of a stage: how it runs, which changes no result and is in no key."""

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
"""What this version can give a stage."""


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
                "description": "A duration such as 90s, 15min or 2h; a stage that takes longer is ended and fails.",
                "examples": ["90s", "15min", "2h"],
            },
            "memory": {
                "type": "string",
                "pattern": r"^[1-9][0-9]{0,14}(B|KiB|MiB|GiB|TiB)$",
                "description": "A size such as 512MiB or 16GiB; a stage whose processes together hold more of the "
                "machine's memory is ended and fails.",
                "examples": ["512MiB", "16GiB"],
            },
            "gpus": {
                "type": "integer",
                "minimum": 0,
                "default": GPUS,
                "description": "How many GPUs the stage gets, where it needs any; this version knows 1 only.",
            },
            "executor": {
                "type": "string",
                "pattern": r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$",
                "default": EXECUTOR,
                "description": "The name of what runs the stage; this version knows local only.",
                "examples": [EXECUTOR],
            },
        },
    }


def problems(given: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Give what fits the schema and cannot be done yet, as (name, `found …, expected …`)."""
    gpus, executor = given.get("gpus", GPUS), given.get("executor", EXECUTOR)
    if gpus != GPUS:
        many = "several GPUs for a stage come" if gpus else "keeping a stage off the GPU comes"
        yield "gpus", f"found {gpus}, expected {GPUS}: {many} in a later version"
    if executor != EXECUTOR:
        yield "executor", f"found {executor}, expected {EXECUTOR}: other executors come in a later version"


def limits(given: Mapping[str, Any]) -> Limits:
    """Give what ends a stage, of a section that fits its schema."""
    return Limits(
        duration_in_seconds(given["timeout"]) if "timeout" in given else None,
        size_in_bytes(given["memory"]) if "memory" in given else None,
    )


def check(pipeline: Pipeline, stages: Iterable[str]) -> None:
    """Raise EnvironmentMissing if a stage is to be held to a memory that cannot be measured on this machine."""
    held = [name for name in stages if pipeline.stages[name].limits.memory is not None]
    if held and not environment.measures_memory():
        raise EnvironmentMissing(
            f"{pipeline.stages[held[0]].place}.run.memory: no process can be held to it on this machine, because "
            f"Linux's /proc does not say here how much memory one has; leave run.memory out, or run elsewhere"
        )
