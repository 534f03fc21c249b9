"""All cases on ONNX Runtime, and a sample on TensorRT-RTX: prints a table, and writes it with --write."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnxruntime

from tests.conformance import running, through
from trtpipe import environment

if TYPE_CHECKING:
    from tests.conformance.through import Outcome

PAGE = Path(__file__).resolve().parents[2] / "docs" / "real-models.md"
BEGIN, END = "<!-- conformance -->\n", "<!-- conformance end -->"
LIMIT = 28 * 60
"""Seconds after which no further case begins; the table says how many were left."""


def _table(name: str, outcomes: list[Outcome]) -> list[str]:
    counts = Counter(outcome.came for outcome in outcomes)
    rows = [f"| {name} | of these | |", "| --- | --- | --- |", f"| right | {counts['right']} of {len(outcomes)} | |"]
    for came in ("refused", "wrong", "raw", "left"):
        reasons = Counter(through.reason(o.why) for o in outcomes if o.came == came)
        rows += [f"| {came} | {count} | {text.replace('|', '/')} |" for text, count in reasons.most_common()]
    return rows


def main() -> int:
    """Run, print, and give 1 if anything came out wrong or ended in an exception of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/real-models.md")
    parser.add_argument("--skip-rtx", action="store_true")
    args = parser.parse_args()
    limit = time.monotonic() + LIMIT
    lines, bad = [], []
    versions = f"Python {platform.python_version()}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"
    if not args.skip_rtx:
        versions += f", TensorRT-RTX {environment.runtime_version('tensorrt_rtx')}"
    for backend, name in (("onnxruntime", "ONNX Runtime, run"), ("tensorrt_rtx", "TensorRT-RTX, built (every third)")):
        if backend == "tensorrt_rtx" and args.skip_rtx:
            continue
        outcomes = running.every(backend, limit)
        bad += [o for o in outcomes if o.came in ("wrong", "raw")]
        lines += [*_table(name, outcomes), ""]
        for outcome in outcomes:
            if outcome.came != "right":
                print(*outcome, sep=" · ", flush=True)
    text = "\n".join([*lines, f"{versions}."])
    print(text)
    if args.write:
        page = PAGE.read_text("utf-8")
        head, rest = page.split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}{text}\n{END}{rest.split(END)[1]}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
