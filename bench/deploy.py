"""Measures `deploy` of an engine of 1 GiB to a folder, in turns with `cp --reflink=auto` and a sync of that file."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from common import machine

from trtpipe.deploy import writing
from trtpipe.documents.bundle import Bundle, BundledFile
from trtpipe.documents.manifest import Manifest, Proof, Target


def main() -> None:
    """Print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the engine (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="default: %(default)s")
    args = parser.parse_args()
    size = args.mib * 2**20
    manifest = Manifest(
        runtime="tensorrt", runtime_version="10.16.1.11", plan="engine.plan", plan_bytes=size, bindings=(), profiles=(),
        precision="model", precision_proof=Proof(status="unproven"), version_compatible=False, target=Target(),
        key="0" * 64,
    )  # fmt: skip
    times: dict[str, list[float]] = {"cp": [], "deploy": []}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        plan = folder / "engine.plan"
        with plan.open("wb") as stream:
            for _ in range(args.mib):
                stream.write(os.urandom(2**20))
            os.fsync(stream.fileno())
        for turn in range(args.turns):
            start = time.perf_counter()
            subprocess.run(["cp", "--reflink=auto", plan, folder / "copy"], check=True)
            subprocess.run(["sync", folder / "copy"], check=True)
            times["cp"].append(time.perf_counter() - start)
            (folder / "copy").unlink()
            bundle = Bundle(pipeline="p", stage="engine", key="0" * 64, artifact="0" * 64, commit=str(turn),
                            files={"engine.plan": BundledFile(sha256="0" * 64, bytes=size)})  # fmt: skip
            ready = writing.Ready(bundle, manifest, {"engine.plan": str(plan), Bundle.file: str(turn).encode()}, ())
            start = time.perf_counter()
            writing.to_folder(ready, str(folder / "to"))
            times["deploy"].append(time.perf_counter() - start)
            shutil.rmtree(folder / "to")
    medians = {what: statistics.median(found) for what, found in times.items()}
    print(machine())
    print(f"\n| {args.mib} MiB | median s | least s |\n| --- | --- | --- |")
    for what, found in times.items():
        print(f"| {what} | {medians[what]:.2f} | {min(found):.2f} |")
    print(f"| of cp | {medians['deploy'] / medians['cp']:.2f} | {min(times['deploy']) / min(times['cp']):.2f} |")


if __name__ == "__main__":
    main()
