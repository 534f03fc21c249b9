"""The events of a run: frozen values, each of which can become one JSON line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtpipe.row import Row

if TYPE_CHECKING:
    from trtpipe.documents.action import Figure


class PipelineStarted(Row):
    """The run begins; `backend_reason` says why that backend was chosen, `store` is the absolute path of the store."""

    pipeline: str
    backend: str
    backend_reason: str
    stages: tuple[str, ...]
    store: str = ""


class StageCached(Row):
    """The stage's artifact was already in the store; `notes`, `figures` and `gaps` are from when it ran.

    `gaps` say what the stage depends on and could not be seen.
    """

    stage: str
    type: str
    artifact: str
    size: int
    key: str
    notes: tuple[str, ...]
    figures: tuple[Figure, ...] = ()
    gaps: tuple[str, ...] = ()


class StageStarted(Row):
    """The stage runs because of `reasons`; `expected_seconds` is what it took last time, if known."""

    stage: str
    type: str
    reasons: tuple[str, ...]
    expected_seconds: float | None


class StageProgress(Row):
    """A running stage has done `done` of `total` (None: unknown) `unit`."""

    stage: str
    done: int
    total: int | None
    unit: str


class StageDoing(Row):
    """What a running stage is at, such as `exporting with torch.export`."""

    stage: str
    what: str


class StageMeasured(Row):
    """A running stage has measured a figure; `passed` is None if no rule asks for anything."""

    stage: str
    figure: Figure


class StageRunning(Row):
    """The stage is still running after `seconds`; sent after ten seconds and then each minute."""

    stage: str
    seconds: float


class StageNote(Row):
    """One sentence for people from a running stage."""

    stage: str
    message: str


class Warned(Row):
    """A warning for people; it does not stop the run."""

    message: str


class StageFinished(Row):
    """The stage's artifact is in the store. `seconds` is wall time."""

    stage: str
    type: str
    artifact: str
    size: int
    seconds: float
    key: str


class StageFailed(Row):
    """The stage failed; `log` is the path of its full log, `place` its place in the document (file:line:column)."""

    stage: str
    type: str
    error: str
    message: str
    seconds: float
    log: str | None
    place: str


class StageSkipped(Row):
    """The stage could not run because the stage `because` failed or was skipped."""

    stage: str
    type: str
    because: str


class Result(Row):
    """Where people find what a stage made: the path of its chief file, or of its folder, and the bytes of that."""

    stage: str
    path: str
    size: int


class PipelineFinished(Row):
    """The run is over. Counts are of stages; `seconds` is wall time.

    `lost` names the failed stages that no target needed: variants that a `select` went on without. `results` are
    engines, and what was asked for or no other stage reads.
    """

    pipeline: str
    hit: int
    ran: int
    failed: int
    skipped: int
    seconds: float
    lost: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()


Event = (
    PipelineStarted | StageCached | StageStarted | StageDoing | StageProgress | StageRunning | StageMeasured | StageNote
    | Warned
    | StageFinished | StageFailed | StageSkipped | PipelineFinished
)  # fmt: skip


def to_dict(event: Event) -> dict[str, Any]:
    """Give the event as a JSON object whose field `event` is its class name."""
    return {"event": type(event).__name__, **{name: _plain(value) for name, value in event._asdict().items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        fields = getattr(value, "_asdict", None)
        return fields() if fields is not None else [_plain(one) for one in value]
    return value
