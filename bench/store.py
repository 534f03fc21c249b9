"""The store: restore what is known, and one build for many who ask; as whole processes, peers in the same run.

The stages are those of noop.py. The engine is random bytes under a real stage's key. `cp` copies the same
files without looking at them: what a restore cannot beat on a file system without reflinks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import noop

MIB = 1 << 20

SLOW = """\
import os, time
import numpy as np
def slow(arrays, samples, log, seconds):
    with open(log, "a") as stream:
        stream.write(f"{os.getpid()}\\n")
    time.sleep(seconds)
    return {"made": arrays["x"][:, 0].astype(np.int64)}
"""


def one_stage(folder: Path, seconds: float) -> Path:
    """Write a document with one stage that takes so long."""
    import numpy as np

    folder.mkdir()
    np.savez(folder / "data.npz", x=np.arange(4, dtype=np.float32).reshape(4, 1))
    (folder / "step.py").write_text(SLOW)
    step = {"op": "python", "entrypoint": "step.py:slow", "args": {"log": str(folder / "log"), "seconds": seconds}}
    stage = f"{{type: postprocess, inputs: {{tensors: {{file: data.npz}}}}, params: {{steps: [{json.dumps(step)}]}}}}"
    (folder / "p.yaml").write_text(f"name: p\nstages:\n  a: {stage}\n")
    return folder / "p.yaml"


def restored(folder: Path, document: str, peer: list[str], times: int) -> tuple[list[float], list[float]]:
    """Time a run that finds all and has to show it again, and a peer that copies the same files, in turns."""
    mine, theirs = [], []
    command = [sys.executable, "-m", "trtpipe", "run", document, "--backend", "onnxruntime", "--quiet"]
    env = {**os.environ, "PYTHONPATH": str(common.PROJECT)}
    for turn in range(times + 1):
        for part in ("view", "trees"):
            shutil.rmtree(folder / "artifacts" / part, ignore_errors=True)
        took = common.seconds(command, cwd=folder, env=env)
        shutil.rmtree(folder / "copied", ignore_errors=True)
        (folder / "copied").mkdir()
        other = common.seconds(peer, cwd=folder)
        if turn:
            mine.append(took)
            theirs.append(other)
    shutil.rmtree(folder / "copied")
    return mine, theirs


def big(folder: Path, mebibytes: int) -> None:
    """Put a stage's artifact of such a size into the store under the key that the runner works out."""
    document = one_stage(folder, 0)
    sys.path.insert(0, str(common.PROJECT))
    from trtpipe import environment, reads
    from trtpipe.documents.action import About
    from trtpipe.pipeline import loading
    from trtpipe.run.lookup import Lookup
    from trtpipe.store.state import State
    from trtpipe.store.store import Store

    os.chdir(folder)
    Store.make("artifacts")
    with State("artifacts") as state:
        loaded = loading.load(document.name, [], state)
        store = Store("artifacts", state)
        lookup = Lookup(loaded, store, environment.choose("onnxruntime"))
        stage = loaded.stages["a"]
        assessed = lookup.assess(stage, {})
        with store.workspace() as work:
            with open(os.path.join(work, "engine.plan"), "wb") as stream:
                stream.writelines(os.urandom(MIB) for _ in range(mebibytes))
            store.commit(assessed.key, stage.output, work, About(stage="a", pipeline="p"))
        store.add_lists(assessed.first, [reads.of(assessed.key.reads)])
        lookup.remember(stage, assessed.digest, 0.0)


def ask(folder: Path, processes: int, seconds: float) -> tuple[int, float]:
    """Let processes ask for one stage that takes so long; give builds, and seconds from its end to the last exit."""
    one_stage(folder, seconds)
    env = {**os.environ, "PYTHONPATH": str(common.PROJECT)}
    command = [sys.executable, "-m", "trtpipe", "run", "p.yaml", "--backend", "onnxruntime", "--quiet"]
    waiting = {subprocess.Popen(command, cwd=folder, env=env): 0.0 for _ in range(processes)}
    ends: list[float] = []
    while waiting:
        for process in [p for p in waiting if p.poll() is not None]:
            del waiting[process]
            ends.append(time.time())
            if process.returncode != 0:
                sys.exit(f"a run ended with {process.returncode}")
        time.sleep(0.005)
    (record,) = (folder / "artifacts" / "actions").rglob("*.json")
    committed = record.stat().st_mtime
    builds = len((folder / "log").read_text().splitlines())
    return builds, max(ends) - committed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--chains", type=int, default=25, help="chains of eight stages in the document")
    parser.add_argument("--mebibytes", type=int, default=1024, help="size of the engine")
    parser.add_argument("--processes", type=int, default=32, help="how many ask for one stage")
    parser.add_argument("--seconds", type=float, default=20, help="how long that stage takes")
    args = parser.parse_args()
    rows = [["what", "trtpipe, s", "cp, s", "goal, s"]]
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / "many"
        folder.mkdir()
        shutil.copytree(common.PROJECT / "pipelines" / "digits", folder / "digits")
        text = "name: many\nstages:\n" + "".join(noop.CHAIN.format(i=i) for i in range(args.chains))
        (folder / "many.yaml").write_text(text)
        noop.populate(folder / "many.yaml", folder / "artifacts")
        command = [sys.executable, "-m", "trtpipe", "run", "many.yaml", "--backend", "onnxruntime", "--quiet"]
        common.seconds(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(common.PROJECT)})
        shutil.copytree(folder / "artifacts" / "trees", folder / "files")
        peer = ["cp", "-rL", "files", "copied/"]
        mine, theirs = restored(folder, "many.yaml", peer, args.times)
        stages = 8 * args.chains
        rows.append([f"restore the outputs of {stages} stages ({2 * stages} files)", common.spread(mine, 1, 2),
                     common.spread(theirs, 1, 2), _verdict(2.0, statistics.median(mine))])  # fmt: skip
        folder = Path(top) / "big"
        big(folder, args.mebibytes)
        (blob,) = (p for p in (folder / "artifacts" / "blobs").rglob("*") if p.is_file())
        mine, theirs = restored(folder, "p.yaml", ["cp", "--reflink=auto", str(blob), "copied/engine.plan"], args.times)
        rows.append([f"restore an engine of {args.mebibytes} MiB whose tree is gone", common.spread(mine, 1, 2),
                     common.spread(theirs, 1, 2), _verdict(1.0, statistics.median(mine))])  # fmt: skip
        shutil.rmtree(folder)
        builds, after = ask(Path(top) / "ask", args.processes, args.seconds)
        rows.append([f"{args.processes} processes ask for a stage of {args.seconds:g} s: {builds} build, last after",
                     f"{after:.2f}", "", _verdict(2.0, after if builds == 1 else 99.0)])  # fmt: skip
    notes = [
        f"Median (lowest to highest) of {args.times} whole processes in turns; the last row once.",
        common.machine(),
    ]
    common.show("The store", rows, notes)


def _verdict(goal: float, found: float) -> str:
    return f"{goal:.0f}: {'met' if found <= goal else 'MISSED'}"


if __name__ == "__main__":
    main()
