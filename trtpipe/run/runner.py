"""Runs a pipeline's stages against one store. Emits events; never prints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trtpipe.row import Row
from trtpipe.run import events
from trtpipe.run.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trtpipe.errors import TrtpipeError
    from trtpipe.run.exchange import Exchange
    from trtpipe.run.lookup import Lookup
    from trtpipe.store.artifact import Artifact


class Outcome(Row):
    """The outcome of a run: artifacts by stage, and errors by stage.

    `lost` names the failed stages that no target needed.
    """

    artifacts: dict[str, Artifact]
    failures: dict[str, TrtpipeError]
    lost: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """The exit code of the first failure that counts, 0 if there is none."""
        return next((error.exit_code for name, error in self.failures.items() if name not in self.lost), 0)


def run(
    lookup: Lookup,
    targets: Sequence[str] = (),
    *,
    forced: Sequence[str] = (),
    jobs: int = 1,
    strict: bool = False,
    emit: Callable[[events.Event], None] = lambda _: None,
    exchange: Exchange | None = None,
) -> Outcome:
    """Bring the targets (none: every stage) up to date. Raises what stops the run before any stage starts.

    A failing stage stops what depends on it; the others still finish. On KeyboardInterrupt all workers are
    ended, nothing half-written stays, and the interrupt goes on. With `strict`, a stage that depends on something that
    could not be seen fails.
    """
    begun = time.monotonic()
    pipeline, choice = lookup.pipeline, lookup.choice
    order = pipeline.closure(targets)
    lookup.check(order)
    lookup.refuse_without_gpu(order)
    emit(events.PipelineStarted(pipeline.name, f"{choice.backend} {choice.version}", choice.reason, order,
                                lookup.store.folder))  # fmt: skip
    work = Work(lookup, order, forced=forced, jobs=jobs, strict=strict, emit=emit, exchange=exchange)
    with lookup.store.in_use():
        try:
            work.loop()
            if exchange is not None:
                exchange.finish({name: work.digests[name] for name, how in work.how.items() if how == "ran"})
        finally:
            work.end()
            lookup.store.state.commit()
    hit = sum(1 for how in work.how.values() if how == "hit")
    ran = sum(1 for how in work.how.values() if how == "ran")
    skipped = len(order) - hit - ran - len(work.failures)
    seconds = time.monotonic() - begun
    failures = {name: work.failures[name] for name in order if name in work.failures}
    lost = work.lost(targets)
    found = results(lookup, work.standing.artifacts, targets)
    emit(events.PipelineFinished(pipeline.name, hit, ran, len(failures), skipped, seconds, lost, found))
    return Outcome(work.standing.artifacts, failures, lost)


_CHIEF = {
    "engine": ("engine.plan", "engine.onnx"), "model": ("model.onnx",), "results": ("table.txt", "results.jsonl"),
    "metrics": ("metrics.json",), "comparison": ("table.txt",), "benchmark": ("table.txt",),
}  # fmt: skip
"""By kind, the file of an artifact for which people look first."""


def results(lookup: Lookup, artifacts: Mapping[str, Artifact], targets: Sequence[str]) -> tuple[events.Result, ...]:
    """Say where people find the engines, and what was asked for (without targets: what no other stage reads)."""
    ends = lookup.pipeline.ends(targets)
    found = []
    for name, artifact in artifacts.items():
        if name in ends or artifact.kind == "engine":
            folder = lookup.store.layout.view(lookup.pipeline.name, name)
            names = [one for one in _CHIEF.get(artifact.kind, ()) if one in artifact.files]
            names = names or ([*artifact.files] if len(artifact.files) == 1 else [])
            path, size = (f"{folder}/{names[0]}", artifact.files[names[0]][1]) if names else (folder, artifact.size)
            found.append(events.Result(name, path, size))
    return tuple(found)
