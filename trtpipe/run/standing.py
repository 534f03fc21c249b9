"""Where the stages of a pipeline stand: what was made of them, and who is stopped by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtpipe.pipeline.graph import Stage
    from trtpipe.store.artifact import Artifact


class Standing:
    """What is known of stages, in an order in which each comes after what it reads.

    `artifacts` holds what each stage made. `stopped` names, for each stage that failed or that a failure stops, the
    stage that failed. `why` has the reason, in a line, of those that failed of themselves, not for want of a disk or
    GPU.
    """

    def __init__(self) -> None:
        self.artifacts: dict[str, Artifact] = {}
        self.stopped: dict[str, str] = {}
        self.why: dict[str, str] = {}

    def failed(self, name: str, why: str | None) -> None:
        """Note that a stage failed; with the reason, if it failed of itself."""
        self.stopped[name] = name
        if why is not None:
            self.why[name] = why

    def decided(self, stage: Stage) -> bool:
        """Tell whether it is known if a stage can run: its inputs are there, or never will be."""
        if not stage.tolerant and any(u in self.stopped for u in stage.upstream):
            return True
        return all(u in self.artifacts or u in self.stopped for u in stage.upstream)

    def able(self, stage: Stage) -> Stage | None:
        """Give a decided stage as it can run, a tolerant one without the inputs that failed; None if it cannot.

        Then it is stopped too, by the stage that stops the first of its inputs.
        """
        stop = next((u for u in stage.upstream if u in self.stopped), None)
        if stop is None:
            return stage
        left = self._without_failed(stage)
        if left is None:
            self.stopped[stage.name] = self.stopped[stop]
        return left

    def _without_failed(self, stage: Stage) -> Stage | None:
        """Give a tolerant stage without the inputs that failed of themselves; each port must have an input left."""
        gone = {port: self.stopped[i] for port, i in stage.inputs.items() if isinstance(i, str) and i in self.stopped}
        left = {port: i for port, i in stage.inputs.items() if port not in gone}
        ports = [{port.partition("[")[0] for port in some} for some in (gone, left)]
        if not stage.tolerant or not ports[0] <= ports[1] or any(root not in self.why for root in gone.values()):
            return None
        return stage.without({port: f"{root} failed: {self.why[root]}" for port, root in gone.items()})
