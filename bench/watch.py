"""What it costs a process to be watched (`trtpipe/run/observer.py`), against the same process unwatched, in turns.

Whole processes are timed, Python's start and the start of the watching included. The export is made up: it imports
onnx, looks at 5,000 paths of which half are absent, reads 90 MB in 100 files, and multiplies matrices for about a
second. The policy allows everything, so that none of its own cost is in the figures. Processor time is that of both
sides; on a machine that does other things as well, it says more than the wall's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

sys.path.insert(0, str(common.PROJECT))
from trtpipe.run import observer

WORKER = """\
import importlib.util, sys
spec = importlib.util.spec_from_file_location("observer", sys.argv[1])
observer = sys.modules["observer"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(observer)
if int(sys.argv[2]) >= 0:
    observer.begin(int(sys.argv[2]), mode="seccomp")
exec(sys.argv[3])
if int(sys.argv[2]) >= 0:
    observer.end()
"""
WORKLOADS = {
    "nothing": "",
    "import onnx": "import onnx",
    "an onnxruntime session": "import onnxruntime; onnxruntime.InferenceSession('m.onnx')",
    "5,000 new paths": "import os\nfor n in range(5000): os.path.exists(f'absent/{n}')",
    "5,000 looks at one path": "import os\nfor n in range(5000): os.path.exists('m.onnx')",
    "an export": """\
import os
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its threads would wait for one another, and that would be measured
import numpy, onnx
for n in range(5000): os.path.exists(f"files/{n // 50}" if n % 2 else f"absent/{n}")
for n in range(100): open(f"files/{n}", "rb").read()
a = numpy.ones((400, 400), numpy.float32)
for _ in range(2000): a @ a
""",
}


def prepare(folder: Path) -> None:
    """Make the files that the workloads look at."""
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "m.onnx")
    (folder / "files").mkdir()
    for number in range(100):
        (folder / "files" / str(number)).write_bytes(bytes(900_000))


def cpu() -> float:
    """Give the processor seconds of this process and of those that it has waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)


def timed(code: str, folder: Path, *, watched: bool) -> tuple[float, float, observer.Seen | None]:
    """Run a workload; give its wall and processor seconds, and what was seen. Raises RuntimeError if it fails."""
    supervisor = observer.Supervisor(lambda kind, path, flags: 0) if watched else None  # noqa: ARG005
    fd = supervisor.fd if supervisor else -1
    started, used = time.perf_counter(), cpu()
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, observer.__file__, str(fd), code],
        cwd=folder,
        pass_fds=(fd,) if supervisor else (),
        stdout=subprocess.DEVNULL,
    )
    if supervisor:
        supervisor.start()
    status = process.wait()
    seconds = time.perf_counter() - started
    seen = supervisor.stop() if supervisor else None
    used = cpu() - used
    if status or (seen is not None and (seen.gaps or not seen.ended)):
        raise RuntimeError(f"exit code {status}, {seen and seen.gaps}: {code}")
    return seconds, used, seen


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="how often each is run, after one to warm up")
    parser.add_argument("--only", choices=WORKLOADS, nargs="*", default=list(WORKLOADS), help="workloads to run")
    parser.add_argument("--json", action="store_true", help="print one line of JSON in place of the table")
    args = parser.parse_args()
    rows = [["workload", "unwatched, ms", "watched, ms", "ratio", "more, ms", "more processor time, ms", "facts"]]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as top:
        prepare(Path(top))
        for name in args.only:
            times: dict[bool, list[float]] = {False: [], True: []}
            used: dict[bool, list[float]] = {False: [], True: []}
            facts = 0
            for turn in range(args.runs + 1):
                for watched in (False, True):
                    seconds, processor, seen = timed(WORKLOADS[name], Path(top), watched=watched)
                    if turn:
                        times[watched].append(seconds)
                        used[watched].append(processor)
                    if seen is not None:
                        facts = sum(len(getattr(seen, kind)) for kind in ("read", "run", "listed", "stat", "absent"))
            plain, more = (statistics.median(times[watched]) for watched in (False, True))
            work = statistics.median(used[True]) - statistics.median(used[False])
            found[name] = {"unwatched": plain, "watched": more, "ratio": more / plain, "work": work, "facts": facts}
            rows.append(
                [
                    name,
                    common.spread(times[False], 1000),
                    common.spread(times[True], 1000),
                    f"{more / plain:.2f}",
                    f"{(more - plain) * 1000:.0f}",
                    f"{work * 1000:.0f}",
                    f"{facts:,}",
                ]
            )
    if args.json:
        print(json.dumps(found))
        return
    notes = [f"Median (lowest to highest) of {args.runs} runs in turns, whole processes."]
    common.show("Being watched", rows, [*notes, common.versions("onnx", "onnxruntime") + "; " + common.machine()])


if __name__ == "__main__":
    main()
