"""Runs a pipeline's stages against one store. Emits events; never prints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from trtpipe.run import events
from trtpipe.run.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trtpipe.errors import TrtpipeError
    from trtpipe.run.exchange import Exchange
    from trtpipe.run.lookup import Lookup
    from trtpipe.store.artifact import Artifact


class Outcome(NamedTuple):
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
    emit(events.PipelineStarted(pipeline.name, f"{choice.backend} {choice.version}", choice.reason, order))
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
    emit(events.PipelineFinished(pipeline.name, hit, ran, len(failures), skipped, seconds, lost))
    return Outcome(work.standing.artifacts, failures, lost)
