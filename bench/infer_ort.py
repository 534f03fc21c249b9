"""ResNet-50 at batch 8: the infer stage's own loop against a bare ONNX Runtime loop with the same threads.

The stage's loop reads the data, looks for NaN, fills batches, runs the session and writes what comes out to disk; the
bare loop calls `InferenceSession.run` on arrays in memory and drops the result. Making the session is in neither.
The goal is that the stage takes at most 5 % longer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common

sys.path.insert(0, str(common.PROJECT))
BATCH, GOAL = 8, 1.05


def prepared(recipe: str, artifacts: str) -> dict[str, Path]:
    """Bring what is needed up to date; give the folder of each stage's artifact."""
    base = [sys.executable, "-m", "trtpipe"]
    same = [f"pipelines/{recipe}.yaml", "--backend", "onnxruntime", "--set", "stages.config.params.precision=model",
            "--set", f"vars.batch={BATCH}", "--artifacts", artifacts]  # fmt: skip
    subprocess.run(
        [*base, "run", *same, "--target", "buffers", "--target", "model"],
        cwd=common.PROJECT, check=True, stdout=sys.stderr,
    )  # fmt: skip
    found = {}
    for stage in ("model", "engine", "buffers"):
        command = [*base, "show", *same, stage, "--json"]
        shown = subprocess.run(command, cwd=common.PROJECT, check=True, capture_output=True, text=True).stdout
        found[stage] = Path(json.loads(shown)["folder"])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--recipe", default="resnet50", help="a file in pipelines/ with one input called image")
    parser.add_argument("--artifacts", default=str(common.PROJECT / "artifacts"))
    args = parser.parse_args()
    folders = prepared(args.recipe, args.artifacts)
    os.environ["TRTPIPE_ORT_THREADS"] = str(args.threads)

    import numpy as np
    import onnxruntime

    from trtpipe import backends
    from trtpipe.data import feeds, outputs, tensors
    from trtpipe.documents import files
    from trtpipe.documents.buffers import Buffers
    from trtpipe.documents.manifest import Manifest
    from trtpipe.stage import Input
    from trtpipe.stages import infer

    manifest = files.read(folders["engine"] / Manifest.file, Manifest)
    buffers = files.read(folders["buffers"] / Buffers.file, Buffers)
    samples = BATCH * args.batches
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    bare = onnxruntime.InferenceSession(
        str(folders["model"] / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    with tempfile.TemporaryDirectory() as top:
        data = Path(top) / "data.npz"
        shape = [n or 1 for b in buffers.bindings if b.name == "image" for n in b.shape]
        images = np.random.default_rng(0).standard_normal((samples, *shape[1:]), np.float32)
        np.savez(data, image=images)
        session = backends.load("onnxruntime").open(folders["engine"] / manifest.plan, manifest, buffers, print)

        def stage(out: Path) -> float:
            started = time.perf_counter()
            given = Input(name="data", kind="file", folder=data.parent, files=(data.name,), label=data.name)
            matched = feeds.match(buffers, manifest, tensors.open_input(given), {}, data.name)
            ctx: Any = SimpleNamespace(out=out, progress=lambda *_: None)
            with tensors.Writer(out) as writer:
                batches = feeds.Batches(matched, manifest, buffers, allow_nan=False)
                axes = {b.name: b.batch_axis for b in buffers.side("output")}
                made = outputs.Outputs(writer, axes, samples, batched=batches.batched)
                infer.stream(ctx, session, made, batches, samples)
            return time.perf_counter() - started

        def loop() -> float:
            started = time.perf_counter()
            for start in range(0, samples, BATCH):
                bare.run(None, {"image": images[start : start + BATCH]})
            return time.perf_counter() - started

        mine, peer = [], []
        for turn in range(args.times + 1):
            out = Path(top) / f"out{turn}"
            out.mkdir()
            a, b = (stage(out), loop()) if turn % 2 else (loop(), stage(out))[::-1]
            if turn:
                mine.append(a / args.batches)
                peer.append(b / args.batches)
        made = np.load(out / "0-00000.npy")
        expected = bare.run(None, {"image": images[:BATCH]})[0]
        if not np.allclose(made[:BATCH], expected, rtol=1e-3, atol=1e-3):
            sys.exit("the two give different results")
    ratio = statistics.median(mine) / statistics.median(peer)
    rows = [
        [f"{args.recipe}, batch {BATCH}", "ms a batch", "of bare", "goal"],
        ["bare InferenceSession.run", common.spread(peer, 1000), "1.00", ""],
        ["the infer stage's loop", common.spread(mine, 1000), f"{ratio:.3f}",
         f"≤ {GOAL}: {'met' if ratio <= GOAL else 'MISSED'}"],
    ]  # fmt: skip
    notes = [
        f"Median (lowest to highest) of {args.times} turns of {args.batches} batches, {args.threads} threads.",
        f"float32; the results agree. {common.versions('onnxruntime', 'numpy')}; {common.machine()}",
    ]
    common.show("Inference on ONNX Runtime", rows, notes)


if __name__ == "__main__":
    main()
