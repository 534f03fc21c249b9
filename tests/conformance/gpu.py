"""ONNX's backend tests on TensorRT-RTX with a GPU: parse, build, allocate and infer, each case in a process of its own.

    python -m tests.conformance.gpu [--seconds 480] [--jobs 12]

Prints what was not right, and a table. Cases that onnxruntime does not pass by itself are left out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance import suite, through
from tests.conformance.through import Outcome
from trtpipe import backends

CASE_SECONDS = 60
"""TensorRT-RTX 1.4 compiles some recurrent networks for minutes."""


ROUNDED = 2e-3
"""Relative L2 up to which a float32 result is one of TF32, in which RTX multiplies on Hopper (10 bits of fraction)."""


def _differs(case: suite.Case, found: dict[str, Any]) -> str | None:
    """Judge as the suite does, but for what infer tells: float64 comes as float32, and products are rounded to TF32."""
    given = dict(found)
    for name, wanted in case.outputs.items():
        if isinstance(wanted, np.ndarray) and wanted.dtype == np.float64 and name in given:
            given[name] = np.asarray(given[name]).astype(np.float64)
    why = suite.differs(case, given)
    if why is None or "other values" not in why:
        return why
    for name, wanted in case.outputs.items():
        if not isinstance(wanted, np.ndarray) or wanted.dtype.kind != "f" or name not in given:
            continue
        right, one = wanted.astype(np.float64), np.asarray(given[name]).astype(np.float64)
        error = float(np.linalg.norm(one - right) / max(float(np.linalg.norm(right)), 1e-30))
        if not error <= ROUNDED:
            return f"{why}: relative L2 {error:.1e}"
    return "rounded to TF32"


def _one(case: suite.Case, answers: Any) -> None:
    folder = Path(tempfile.mkdtemp(prefix="conformance-"))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        outcome = Outcome(case.name, "out")
        if through.bare(case):
            outcome = through.run(case, folder, backend="tensorrt_rtx", differs=_differs)
            if outcome.why == "rounded to TF32":
                outcome = outcome._replace(came="rounded")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    answers.send(outcome)


def main() -> int:
    """Run, print, and give 1 if anything came out wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0, help="no further case begins after this time")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    args = parser.parse_args()
    version = backends.load("tensorrt_rtx").version
    fork = multiprocessing.get_context("fork")
    waiting = list(suite.every())
    running: list[tuple[suite.Case, Any, Any, float]] = []
    found: list[Outcome] = []
    begun = time.monotonic()
    while waiting or running:
        while waiting and len(running) < args.jobs:
            case = waiting.pop(0)
            if time.monotonic() - begun > args.seconds:
                found.append(Outcome(case.name, "left"))
                continue
            receive, send = fork.Pipe(duplex=False)
            process = fork.Process(target=_one, args=(case, send))
            process.start()
            send.close()
            running.append((case, process, receive, time.monotonic()))
        for one in list(running):
            case, process, receive, started = one
            late = time.monotonic() - started > CASE_SECONDS
            if process.is_alive() and not receive.poll(0) and not late:
                continue
            try:
                found.append(receive.recv() if receive.poll(0) else Outcome(case.name, "raw", _how(process, late=late)))
            except EOFError:
                found.append(Outcome(case.name, "raw", _how(process, late=late)))
            process.kill()
            process.join()
            running.remove(one)
        time.sleep(0.01)
    counts = Counter(outcome.came for outcome in found)
    tried = [outcome for outcome in found if outcome.came not in ("out", "left")]
    for outcome in sorted(tried):
        if outcome.came in ("wrong", "raw"):
            print(outcome.case, outcome.came, " ".join(outcome.why.split())[:200], sep=" · ")
    print(f"\n| TensorRT-RTX {version}, run | of {len(tried)} |\n| --- | --- |")
    for came in ("right", "rounded", "wrong", "raw"):
        print(f"| {came} | {counts[came]} |")
    for why, count in Counter(through.reason(o.why) for o in tried if o.came == "refused").most_common():
        print(f"| refused: {why} | {count} |")
    print(f"\n{counts['left']} left; {time.monotonic() - begun:.0f} s")
    return bool(counts["wrong"])


def _how(process: Any, *, late: bool) -> str:
    process.join(0.2)
    return f"more than {CASE_SECONDS} s" if late else f"the process ended with {process.exitcode}"


if __name__ == "__main__":
    sys.exit(main())
