"""An engine from Python: opened from the folder that `build` made, fed by name, closed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe import backends
from trtpipe.backends import preflight
from trtpipe.documents.manifest import Manifest
from trtpipe.errors import StageFailed
from trtpipe.stages.allocate import AllocateParams, plan_buffers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    import numpy as np

    from trtpipe.documents.manifest import Binding
    from trtpipe.runtime import Session


class Engine:
    """An engine that is ready to run, with buffers for one shape of each input. A context manager.

    Not safe for several threads at once: open one for each.
    """

    def __init__(self, manifest: Manifest, session: Session) -> None:
        self.manifest = manifest
        self._session = session

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        shapes: Mapping[str, Sequence[int]] | None = None,
        profile: int = 0,
        note: Callable[[str], None] = lambda _: None,
    ) -> Engine:
        """Open the engine in a folder: a plan with its `manifest.json`, as `build` makes it.

        `shapes` gives the shape of each input with dynamic axes, batch included. Raises StageFailed for a plan that is
        damaged or does not fit, EnvironmentMissing if its runtime, or a GPU that it needs, is not here.
        """
        plan, manifest = preflight.open_plan(os.fspath(folder))
        if manifest is None:
            raise StageFailed(f"{folder}: there is no {Manifest.file} beside the plan, so nothing tells how to feed it")
        preflight.require(plan, manifest)
        params = AllocateParams(shapes={name: list(s) for name, s in (shapes or {}).items()}, profile=profile)
        buffers = plan_buffers(manifest, params, whole=True)
        return cls(manifest, backends.load(manifest.runtime).open(Path(plan), manifest, buffers, note))

    @property
    def inputs(self) -> tuple[Binding, ...]:
        """The bindings that are fed, with names, dtypes and shapes."""
        return tuple(self.manifest.side("input"))

    @property
    def outputs(self) -> tuple[Binding, ...]:
        """The bindings that are given back."""
        return tuple(self.manifest.side("output"))

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch: an array for each input by name; gives an array for each output, the caller's to keep.

        Raises StageFailed for names, dtypes or shapes that do not fit.
        """
        return {name: array.copy() for name, array in self._session.run(feed).items()}

    def close(self) -> None:
        """Free all memory; safe to call twice."""
        self._session.close()

    def __enter__(self) -> Engine:  # noqa: PYI034 — Self came with 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
