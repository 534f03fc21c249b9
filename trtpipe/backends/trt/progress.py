"""TensorRT's own account of a build, through IProgressMonitor; TensorRT 8.6 has none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.backends.trt.library import Library

_SECONDS = 0.2


def monitor(library: Library, doing: Callable[[str], None], progress: Callable[[int, int | None, str], None]) -> Any:
    """Give an IProgressMonitor that says which phase of the build runs, and how far it is; None where there is none.

    Phases lie in one another; the innermost is told. It must live as long as the build.
    """
    base: Any = getattr(library.trt, "IProgressMonitor", None)
    if base is None:
        return None

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self._phases: list[tuple[str, int]] = []
            self._told = 0.0

        def phase_start(self, phase_name: str, _parent: str | None, num_steps: int) -> None:
            self._phases.append((phase_name, num_steps))
            doing(phase_name[:1].lower() + phase_name[1:])

        def step_complete(self, phase_name: str, step: int) -> bool:
            name, steps = self._phases[-1] if self._phases else ("", 0)
            now = time.monotonic()
            if name == phase_name and steps > 1 and now - self._told >= _SECONDS:
                self._told = now
                progress(step + 1, steps, "steps")
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self._phases = [one for one in self._phases if one[0] != phase_name]

    return Monitor()
