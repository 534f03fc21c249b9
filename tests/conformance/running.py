"""All cases in two processes, until a limit."""

from __future__ import annotations

import shutil
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from tests.conformance import suite, through
from tests.conformance.through import Outcome

SHARE = 3
"""One of so many cases is tried where an engine is only built: a build takes a second."""


def _part(number: int, parts: int, limit: float, backend: str) -> list[Outcome]:
    found = []
    cases = suite.every()
    if backend != "onnxruntime":
        cases = cases[::SHARE]
    for case in cases[number::parts]:
        if time.monotonic() > limit:
            found.append(Outcome(case.name, "left"))
            continue
        folder = Path(tempfile.mkdtemp(prefix="conformance-"))
        try:
            if backend == "onnxruntime":
                if through.bare(case):
                    found.append(through.run(case, folder))
            elif through.bare_rtx(case, folder):
                found.append(through.run(case, folder, backend=backend, engine_only=True))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def every(backend: str, limit: float) -> list[Outcome]:
    """Give what came of each case that the runtime by itself passes; `limit` is a moment of time.monotonic."""
    with get_context("spawn").Pool(2) as pool:
        parts = pool.starmap(_part, [(number, 2, limit, backend) for number in range(2)])
    return sorted(outcome for part in parts for outcome in part)
