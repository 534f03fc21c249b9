"""ResNet-50 on a GPU against named peers, all in one run.

python bench/gpu.py --onnx resnet50.onnx --torch python3

The ONNX file comes from bench/gpu_torch.py --export (or from `trtpipe run pipelines/resnet50.yaml --target model`).
Peers: a raw enqueue loop over the same plan, Polygraphy's TrtRunner over the same plan, and, with --torch and an
interpreter that has PyTorch, eager float32 and torch.compile's reduce-overhead in float16. Prints a table of ratios
and writes everything to --out as JSON. Each figure is the median of --runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import msgspec
import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from trtpipe import backends, environment, stages  # noqa: E402
from trtpipe.backends import measure  # noqa: E402
from trtpipe.data import tensors  # noqa: E402
from trtpipe.documents import files  # noqa: E402
from trtpipe.documents.benchmark import Settings  # noqa: E402
from trtpipe.documents.buffers import Buffers  # noqa: E402
from trtpipe.documents.manifest import Manifest  # noqa: E402
from trtpipe.stage import Context, Input  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 224


def stage(name: str, params: dict[str, Any], inputs: dict[str, Path], top: Path, backend: Any) -> Path:
    """Run one stage's body in this process; give its folder."""
    kind = stages.get(name)
    out = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=top))
    given = {}
    for port, path in inputs.items():
        if path.is_dir():
            names = tuple(sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()))
            given[port] = Input(name=port, kind="folder", folder=path, files=names, label=port)
        else:
            given[port] = Input(name=port, kind="file", folder=path.parent, files=(path.name,), label=path.name)
    shared = top / "timing"
    kind.run(
        Context(
            stage=name, params=msgspec.convert(params, kind.Params), inputs=given, out=out, scratch=out,
            sources={}, key=name.ljust(64, "0"), backend_name=backend.name, backend=lambda: backend,
            progress=lambda *_: None, note=lambda text: print(f"  note: {text}", flush=True), shared=shared,
            load=lambda _: print,
        )
    )  # fmt: skip
    return out


def raw_loop(backend: Any, plan: Path, batch: int, *, seconds: float, graph: bool) -> tuple[float, float]:
    """Enqueue the plan again and again, with nothing else; give (wall ms, CUDA-event ms) a batch."""
    from trtpipe.backends.trt.cuda import Runtime

    cuda, trt = Runtime(), backend.library.trt
    runtime = trt.Runtime(backend.library.logger)
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    context = engine.create_execution_context()
    stream = cuda.stream()
    pointers = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            context.set_input_shape(name, (batch, 3, SIDE, SIDE))
            values = np.random.default_rng(0).uniform(-1, 1, (batch, 3, SIDE, SIDE)).astype(np.float32)
            pointers.append(cuda.malloc(values.nbytes))
            cuda.to_device(pointers[-1], values.ctypes.data, values.nbytes, stream)
            cuda.synchronize(stream)
        else:
            pointers.append(cuda.malloc(batch * 1000 * 4))
        context.set_tensor_address(name, pointers[-1])

    def enqueue() -> bool:
        return bool(context.execute_async_v3(stream))

    launch: Callable[[], object] = enqueue
    for _ in range(20):
        launch()
    cuda.synchronize(stream)
    if graph:
        launch = partial(cuda.launch, cuda.capture(stream, enqueue), stream)
    begun = time.perf_counter()
    for _ in range(20):
        launch()
    cuda.synchronize(stream)
    count = max(20, int(seconds / ((time.perf_counter() - begun) / 20)))
    start, end = cuda.event(timing=True), cuda.event(timing=True)
    begun = time.perf_counter()
    cuda.record(start, stream)
    for _ in range(count):
        launch()
    cuda.record(end, stream)
    cuda.synchronize(stream)
    wall = (time.perf_counter() - begun) * 1000 / count
    device = cuda.elapsed(start, end) / count
    for pointer in pointers:
        cuda.free(pointer)
    return wall, device


def polygraphy(plan: Path, batch: int, seconds: float) -> float:
    """Give the ms a batch of Polygraphy's TrtRunner, from and to host memory."""
    from polygraphy.backend.common import BytesFromPath
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    feed = {"image": np.random.default_rng(0).uniform(-1, 1, (batch, 3, SIDE, SIDE)).astype(np.float32)}
    with contextlib.redirect_stdout(sys.stderr), TrtRunner(EngineFromBytes(BytesFromPath(str(plan)))) as runner:
        for _ in range(10):
            runner.infer(feed)
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            runner.infer(feed)
            count += 1
        return (time.perf_counter() - begun) * 1000 / count


class Timed:
    """A session whose results are timed as they come."""

    def __init__(self, session: Any) -> None:
        self.inner, self.bindings = session, session.bindings
        self.times: list[float] = []

    def stream(self, feeds: Any) -> Any:
        """Stream, and note when each result came."""
        self.times.append(time.perf_counter())
        for result in self.inner.stream(feeds):
            self.times.append(time.perf_counter())
            yield result


def through_infer(backend: Any, engine: Path, buffers: Path, data: Path, top: Path) -> tuple[float, float, float]:
    """Run `infer`'s own loop from an artifact; give ms a batch (steady, with its start, and the slowest one's)."""
    from trtpipe.data import feeds, outputs
    from trtpipe.stages import infer

    manifest = files.read(engine / Manifest.file, Manifest)
    planned = files.read(buffers / Buffers.file, Buffers)
    written = tuple(sorted(path.name for path in data.iterdir()))
    given = Input(name="data", kind="tensors", folder=data, files=written, label="data")
    sources = tensors.open_input(given)
    matched = feeds.match(planned, manifest, sources, {}, "data")
    session = backend.open(engine / manifest.plan, manifest, planned, print, top / "timing")
    timed = Timed(session)
    out = Path(tempfile.mkdtemp(dir=top))
    fake: Any = type("Quiet", (), {"progress": staticmethod(lambda *_: None)})
    try:
        with tensors.Writer(out) as writer:
            batches = feeds.Batches(matched, manifest, planned, allow_nan=False)
            total = matched[0].samples
            axes = {b.name: b.batch_axis for b in planned.side("output")}
            made = outputs.Outputs(writer, axes, total, batched=batches.batched)
            infer.stream(fake, timed, made, batches, total)
    finally:
        session.close()
    times = timed.times
    lead = min(max(6, planned.slots), len(times) // 3)  # batches that wait already come faster than they are made
    each = np.diff(times) * 1000
    return float(each[lead:].mean()), float(each.mean()), float(each[lead:].max())


def sweep(backend: Any, engine: Path, batch: int, data: Path, top: Path, *, runs: int) -> dict[str, Any]:
    """Run `infer` with other numbers of threads and slots; give ms a batch and the slowest's, by setting."""
    found: dict[str, list[tuple[float, float]]] = {}
    for slots in (1, 2, 3, 4):
        params = {"shapes": {"image": [batch, 3, SIDE, SIDE]}, "slots": slots}
        buffers = stage("allocate", params, {"engine": engine}, top, backend)
        for threads in (4, 8, 12, 16):
            common.io_threads(threads)
            each = [through_infer(backend, engine, buffers, data, top)[::2] for _ in range(runs)]
            name = f"{slots} slots, {threads} threads"
            told = ", ".join(f"{mean:.3f} ({slowest:.1f})" for mean, slowest in each)
            print(f"  infer, {name}: {told} ms (the slowest batch)", flush=True)
            found[name] = each
    common.io_threads(None)
    return found


def copy_speed() -> dict[str, float]:
    """Give the link's speed, GB/s, with page-locked memory: what the floor of transfers is counted with."""
    import ctypes

    from trtpipe.backends.trt.cuda import Runtime

    cuda = Runtime()
    size = 256 << 20
    stream, host, device = cuda.stream(), cuda.malloc_host(size), cuda.malloc(size)
    ctypes.memset(host, 1, size)
    start, end = cuda.event(timing=True), cuda.event(timing=True)
    found = {}
    for name, one in (
        ("h2d", partial(cuda.to_device, device, host, size, stream)),
        ("d2h", partial(cuda.to_host, host, device, size, stream)),
    ):
        one()
        cuda.record(start, stream)
        for _ in range(8):
            one()
        cuda.record(end, stream)
        cuda.synchronize(stream)
        found[name] = 8 * size / cuda.elapsed(start, end) / 1e6
    cuda.free(device)
    cuda.free_host(host)
    return found


def build(backend: Any, onnx: Path, batch: int, top: Path) -> tuple[Path, dict[str, float]]:
    """Build the engine for one batch size; give its folder and the seconds of the first build and of a second."""
    model = stage("parse", {}, {"model": onnx}, top, backend)
    shapes = {"min": [1, 3, SIDE, SIDE], "opt": [batch, 3, SIDE, SIDE], "max": [max(batch, 8), 3, SIDE, SIDE]}
    params = {"precision": "fp16", "workspace": "4GiB", "profiles": [{"image": shapes}]}
    config = stage("configure", params, {"network": model}, top, backend)
    begun = time.perf_counter()
    engine = stage("build", {}, {"config": config}, top, backend)
    return engine, {"first": time.perf_counter() - begun, "config": str(config)}  # type: ignore[dict-item]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--onnx", type=Path, required=True)
    options.add_argument("--backend", default="tensorrt", choices=("tensorrt", "tensorrt_rtx"))
    options.add_argument("--batches", default="1,8,128")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--seconds", type=float, default=2.0)
    options.add_argument(
        "--stream", type=int, default=64, help="batches of 128 that are fed through infer; of smaller ones more"
    )
    options.add_argument("--slots", default="2", help="more numbers of slots for infer (usual: allocate's choice)")
    options.add_argument("--torch", help="an interpreter that has PyTorch")
    options.add_argument("--second-build", action="store_true", help="build once more, with the timing cache")
    options.add_argument("--sweep", action="store_true", help="run infer with other numbers of threads and slots, too")
    options.add_argument("--out", type=Path, default=Path("gpu.json"))
    options.add_argument("--folder", type=Path, default=None, help="where plans and data go; default: a temporary one")
    args = options.parse_args()
    top = args.folder or Path(tempfile.mkdtemp(prefix="bench-gpu-"))
    top.mkdir(parents=True, exist_ok=True)
    backend = backends.load(args.backend)
    result: dict[str, Any] = {
        "runtime": f"{backend.name} {backend.version}", "gpu": environment.gpu_state(), "link_gb_s": copy_speed(),
        "batches": {},
    }  # fmt: skip
    batches = [int(b) for b in args.batches.split(",")]
    built = {batch: built_engine(args, backend, batch, top) for batch in batches}  # first all that is not measured
    for batch in batches:
        result["batches"][batch] = one_batch(args, backend, batch, built[batch], top)
        args.out.write_text(json.dumps(result, indent=1))
    if args.torch:
        script = Path(__file__).with_name("gpu_torch.py")
        command = [args.torch, str(script), "--batches", args.batches, "--seconds", str(args.seconds),
                   "--runs", str(args.runs)]  # fmt: skip
        settings = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k != "LD_LIBRARY_PATH"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
        if done.returncode:
            print(done.stderr[-3000:])
        else:
            result["torch"] = json.loads(done.stdout.splitlines()[-1])
    args.out.write_text(json.dumps(result, indent=1))
    print(report(result))


def built_engine(args: argparse.Namespace, backend: Any, batch: int, top: Path) -> tuple[Path, dict[str, Any]]:
    """Build for one batch size; give the engine's folder and how many seconds it took."""
    print(f"batch {batch}: building", flush=True)
    engine, seconds = build(backend, args.onnx, batch, top)
    found: dict[str, Any] = {"build_s": seconds["first"]}
    if args.second_build:
        begun = time.perf_counter()
        stage("build", {}, {"config": Path(str(seconds["config"]))}, top, backend)
        found["second_build_s"] = time.perf_counter() - begun
    print(
        f"batch {batch}: built in {found['build_s']:.1f} s, again in {found.get('second_build_s', 0):.1f} s", flush=True
    )
    return engine, found


def one_batch(
    args: argparse.Namespace, backend: Any, batch: int, built: tuple[Path, dict[str, Any]], top: Path
) -> dict[str, Any]:
    """Measure everything at one batch size."""
    engine, found = built
    print(f"batch {batch}: measuring", flush=True)
    manifest = files.read(engine / Manifest.file, Manifest)
    found["proof"] = msgspec.to_builtins(manifest.precision_proof)
    plan = engine / manifest.plan
    shape = {"shapes": {"image": [batch, 3, SIDE, SIDE]}}
    usual = stage("allocate", shape, {"engine": engine}, top, backend)
    buffers = {"infer": usual} | {
        f"infer_{slots}_slots": stage("allocate", {**shape, "slots": int(slots)}, {"engine": engine}, top, backend)
        for slots in args.slots.split(",")
        if slots
    }
    planned = files.read(usual / Buffers.file, Buffers)
    found["slots"] = planned.slots
    feed = {"image": np.random.default_rng(0).uniform(-1, 1, (batch, 3, SIDE, SIDE)).astype(np.float32)}
    data = top / f"data{batch}"
    data.mkdir(exist_ok=True)
    fed = min(1000, args.stream * max(1, 128 // batch))
    with tensors.Writer(data) as writer:
        whole = writer.add("image", np.float32, (batch * fed, 3, SIDE, SIDE))
        for _ in range(fed):
            whole.write(feed["image"])
    for part in data.iterdir():
        with part.open("rb") as written:
            os.fsync(written.fileno())  # so that the disk does not write it while it is read
    series: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        series.setdefault(name, []).append(value)

    for _ in range(args.runs):
        for graph in (False, True):
            with contextlib.suppress(Exception):
                wall, device = raw_loop(backend, plan, batch, seconds=args.seconds, graph=graph)
                add("raw_graph_ms" if graph else "raw_ms", wall)
                add("raw_graph_event_ms" if graph else "raw_event_ms", device)
        session = backend.open(plan, manifest, planned, print, top / "timing")
        try:
            for name, graph, transfers in (
                ("device", True, False),
                ("device_plain", False, False),
                ("host", False, True),
            ):
                settings = Settings(
                    duration_ms=args.seconds * 1000, cuda_graph=graph, transfers=transfers, spin_wait=graph
                )
                got = measure.summary(session.measure(feed, settings), settings, batch, [99]).metrics
                add(f"{name}_compute_p50_ms", got["gpu_compute_p50_ms"])
                add(f"{name}_latency_p50_ms", got["latency_p50_ms"])
                add(f"{name}_latency_p99_ms", got["latency_p99_ms"])
                add(f"{name}_query_ms", 1000 / got["throughput_qps"])
                add(f"{name}_enqueue_p50_ms", got["enqueue_p50_ms"])
        finally:
            session.close()
        for name, place in buffers.items():
            steady, whole_run, slowest = through_infer(backend, engine, place, data, top)
            add(f"{name}_ms", steady)
            add(f"{name}_slowest_ms", slowest)
            add(f"{name}_with_start_ms", whole_run)
        add("trtrunner_ms", polygraphy(plan, batch, args.seconds))
    if args.sweep:
        found["sweep"] = sweep(backend, engine, batch, data, top, runs=args.runs)
    shutil.rmtree(data)
    found["runs"] = series
    found["median"] = {name: statistics.median(values) for name, values in series.items()}
    print(json.dumps({k: round(v, 4) for k, v in found["median"].items()}), flush=True)
    return found


def report(result: dict[str, Any]) -> str:
    """Give the ratios that the goals are about."""
    lines = [f"{result['runtime']}, {result['gpu']['name']}, link {result['link_gb_s']}"]
    torch = result.get("torch", {})
    for batch, found in result["batches"].items():
        m = found["median"]
        raw = min(m.get("raw_ms", 1e9), m.get("raw_graph_ms", 1e9))
        through = ", ".join(
            f"{name.removesuffix('_ms').replace('_', ' ')} {m[name]:.3f} ms = {m['device_query_ms'] / m[name]:.1%}"
            for name in m
            if re.fullmatch(r"infer(_\d+_slots)?_ms", name)
        )
        lines.append(
            f"b{batch}: device {m['device_query_ms']:.3f} ms ({batch / m['device_query_ms'] * 1000:.0f} img/s), "
            f"{raw / m['device_query_ms']:.1%} of raw {raw:.3f} ms; compute p50 {m['device_compute_p50_ms']:.3f} "
            f"({m['device_compute_p50_ms'] / m['raw_graph_event_ms'] - 1:+.1%} of events round a raw loop); "
            f"{through} of device (usual: {found['slots']} slots); "
            f"TrtRunner {m['trtrunner_ms']:.3f} ms = {m['trtrunner_ms'] / m['infer_ms']:.2f}x; "
            f"build {found['build_s']:.1f} s, again {found.get('second_build_s', float('nan')):.1f} s"
        )
        for name, value in sorted(torch.get(str(batch), {}).items()):
            lines.append(f"    torch {name} {value:.3f} ms = {value / m['device_compute_p50_ms']:.2f}x")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
