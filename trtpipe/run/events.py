"""The events of a run: frozen values, each of which can become one JSON line."""

from __future__ import annotations

from typing import Any, NamedTuple


class PipelineStarted(NamedTuple):
    """The run begins; `backend_reason` says why that backend was chosen."""

    pipeline: str
    backend: str
    backend_reason: str
    stages: tuple[str, ...]


class StageCached(NamedTuple):
    """The stage's artifact was already in the store; `notes` are its notes from when it ran."""

    stage: str
    type: str
    artifact: str
    size: int
    key: str
    notes: tuple[str, ...]


class StageStarted(NamedTuple):
    """The stage runs because of `reasons`; `expected_seconds` is what it took last time, if known."""

    stage: str
    type: str
    reasons: tuple[str, ...]
    expected_seconds: float | None


class StageProgress(NamedTuple):
    """A running stage has done `done` of `total` (None: unknown) `unit`."""

    stage: str
    done: int
    total: int | None
    unit: str


class StageRunning(NamedTuple):
    """The stage is still running after `seconds`; sent each minute, so that long work is seen to go on."""

    stage: str
    seconds: float


class StageNote(NamedTuple):
    """One sentence for people from a running stage."""

    stage: str
    message: str


class Warned(NamedTuple):
    """A warning for people; it does not stop the run."""

    message: str


class StageFinished(NamedTuple):
    """The stage's artifact is in the store. `seconds` is wall time."""

    stage: str
    type: str
    artifact: str
    size: int
    seconds: float
    key: str


class StageFailed(NamedTuple):
    """The stage failed; `log` is the path of its full log, `place` its place in the document (file:line:column)."""

    stage: str
    type: str
    error: str
    message: str
    seconds: float
    log: str | None
    place: str


class StageSkipped(NamedTuple):
    """The stage could not run because the stage `because` failed or was skipped."""

    stage: str
    type: str
    because: str


class PipelineFinished(NamedTuple):
    """The run is over. Counts are of stages; `seconds` is wall time.

    `lost` names the failed stages that no target needed: variants that a `select` went on without.
    """

    pipeline: str
    hit: int
    ran: int
    failed: int
    skipped: int
    seconds: float
    lost: tuple[str, ...] = ()


Event = (
    PipelineStarted | StageCached | StageStarted | StageProgress | StageRunning | StageNote | Warned
    | StageFinished | StageFailed | StageSkipped | PipelineFinished
)  # fmt: skip


def to_dict(event: Event) -> dict[str, Any]:
    """Give the event as a JSON object whose field `event` is its class name."""
    return {"event": type(event).__name__, **event._asdict()}
