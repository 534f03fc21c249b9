"""The state of a pipeline's stages: their artifacts, and which failure stops which stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtpipe.pipeline.graph import Stage
    from trtpipe.store.artifact import Artifact


class Standing:
    """What is known of stages, each after the stages that it reads.

    `artifacts` holds what each stage made. `stopped` names, for each stage that failed or that a failure stops, the
    stage that failed. `why` has the reason, in one line, of the stages whose failure is their own, not that of a disk
    or a GPU.
    """

    def __init__(self) -> None:
        self.artifacts: dict[str, Artifact] = {}
        self.stopped: dict[str, str] = {}
        self.why: dict[str, str] = {}

    def failed(self, name: str, why: str | None) -> None:
        """Note that a stage failed; `why` is the reason if the failure is its own."""
        self.stopped[name] = name
        if why is not None:
            self.why[name] = why

    def decided(self, stage: Stage) -> bool:
        """Tell whether it is known if a stage can run: each input exists or has failed."""
        if not stage.tolerant and any(u in self.stopped for u in stage.upstream):
            return True
        return all(u in self.artifacts or u in self.stopped for u in stage.upstream)

    def able(self, stage: Stage) -> Stage | None:
        """Give a decided stage as it can run, a tolerant one without its failed inputs; None if it cannot run.

        A stage that cannot run is stopped by the stage that stops the first of its inputs.
        """
        stop = next((u for u in stage.upstream if u in self.stopped), None)
        if stop is None:
            return stage
        left = self._without_failed(stage)
        if left is None:
            self.stopped[stage.name] = self.stopped[stop]
        return left

    def _without_failed(self, stage: Stage) -> Stage | None:
        """Give a tolerant stage without inputs whose failure is their own, if each port has one left; else None."""
        gone = {port: self.stopped[i] for port, i in stage.inputs.items() if isinstance(i, str) and i in self.stopped}
        left = {port: i for port, i in stage.inputs.items() if port not in gone}
        ports = [{port.partition("[")[0] for port in some} for some in (gone, left)]
        if not stage.tolerant or not ports[0] <= ports[1] or any(root not in self.why for root in gone.values()):
            return None
        return stage.without({port: f"{root} failed: {self.why[root]}" for port, root in gone.items()})
