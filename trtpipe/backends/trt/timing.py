"""The measuring of a benchmark: queries timed on the device as trtexec times them, and layers one by one."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from trtpipe.backends.trt import dtypes
from trtpipe.runtime import Measured, Query

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.backends.trt.execution import Execution
    from trtpipe.backends.trt.slots import Feed, Loaded
    from trtpipe.documents.benchmark import Settings

PROFILED = 25
"""Runs of a per-layer profile; the first fifth warms up."""


def measure(execution: Execution, feed: Feed, settings: Settings) -> Measured:
    """Time one batch again and again as trtexec does; two queries are in flight.

    Source: NVIDIA/TensorRT, samples/common/sampleInference.cpp: the next query is enqueued before the previous
    one is waited for; the moments are CUDA events on the three streams, the enqueue call is timed by the host.
    """
    cuda = execution.cuda
    own = execution.own_graphs
    execution.make_context(runtime_graphs=settings.cuda_graph and own)
    captured = settings.cuda_graph and own
    notes: list[str] = []
    one = execution.fill(execution.slots[0], feed)
    for _ in range(2):
        # The first run makes what is made at first use, the second captures the graph.
        execution.send(one)
        execution.launch(one, graphs=settings.cuda_graph and not own)
        execution.finish(one)
    if any(shape is None for shape in execution.out.values()) and not settings.transfers:
        notes.append("an output's size depends on the data: each query waits for it")
    if settings.cuda_graph and not own:
        captured = one.slot.graph is not None
        if not captured:
            notes.append("no CUDA graph could be captured; queries are enqueued kernel by kernel")
    depth = 2  # queries in flight
    events = [[cuda.event(timing=True, blocking=not settings.spin_wait) for _ in range(6)] for _ in range(depth)]
    start = cuda.event(timing=True)
    try:
        queries = _loop(execution, one, settings, events, start)
    finally:
        for event in [start, *(e for group in events for e in group)]:
            cuda.destroy_event(event)
    layers = _time_layers(execution, one) if settings.profile else ()
    return Measured(
        queries=queries,
        device="gpu",
        cuda_graph=captured,
        transfers=settings.transfers,
        layers=layers,
        notes=notes,
    )


def _loop(
    execution: Execution, one: Loaded, settings: Settings, events: Sequence[Sequence[Any]], start: Any
) -> list[Query]:
    """Enqueue queries until settings say that it is enough; `events` holds six for each query in flight."""
    cuda, engine, now = execution.cuda, execution.engine, time.perf_counter
    depth = len(events)
    flying: deque[tuple[int, float, float]] = deque()
    queries: list[Query] = []
    cuda.record(start, execution.compute)
    cuda.wait_host(start)
    begun = now()
    number = skipped = 0
    passed = 0.0

    def sync() -> None:
        nonlocal passed
        which, host_start, host_end = flying.popleft()
        in_start, in_end, run_start, run_end, out_start, out_end = events[which]
        cuda.wait_host(out_end if settings.transfers else run_end)
        moments = [cuda.elapsed(start, run_start), cuda.elapsed(start, run_end)]
        if settings.transfers:
            moments = [
                cuda.elapsed(start, in_start), cuda.elapsed(start, in_end), *moments,
                cuda.elapsed(start, out_start), cuda.elapsed(start, out_end),
            ]  # fmt: skip
        else:
            moments = [moments[0], moments[0], *moments, moments[1], moments[1]]
        queries.append(Query((host_start - begun) * 1000, (host_end - begun) * 1000, *moments))
        passed = max(passed, moments[3])

    while number < settings.iterations + skipped or passed - settings.warm_up_ms < settings.duration_ms:
        which = number % depth
        in_start, in_end, run_start, run_end, out_start, out_end = events[which]
        if settings.transfers:
            cuda.record(in_start, execution.copy_in)
            for b, shape in zip(engine.inputs, one.shapes, strict=True):
                if b.name not in engine.on_host:
                    size = math.prod(shape) * dtypes.itemsize(b.dtype)
                    host = one.slot.host[b.name].ctypes.data
                    cuda.to_device(one.slot.device[b.name][0], host, size, execution.copy_in)
            cuda.record(in_end, execution.copy_in)
            cuda.wait(execution.compute, in_end)
        execution.prepare(one)
        cuda.record(run_start, execution.compute)
        host_start = now()
        execution.enqueue(one, graphs=False)
        host_end = now()
        cuda.record(run_end, execution.compute)
        if settings.transfers:
            cuda.wait(execution.copy_out, run_end)
            cuda.record(out_start, execution.copy_out)
            for b in engine.outputs:
                out = execution.out[b.name] or one.slot.allocators[b.name].shape
                size = math.prod(out) * dtypes.itemsize(b.dtype)
                if size and b.name not in engine.on_host:
                    host = one.slot.host[b.name].ctypes.data
                    cuda.to_host(host, one.slot.device[b.name][0], size, execution.copy_out)
            cuda.record(out_end, execution.copy_out)
        flying.append((which, host_start, host_end))
        number += 1
        if len(flying) == depth:
            sync()
        skipped += passed < settings.warm_up_ms
    while flying:
        sync()
    return queries


def _time_layers(execution: Execution, loaded: Loaded) -> list[tuple[str, list[float]]]:
    """Time each layer, in runs apart from the queries: reporting slows a run down."""
    trt = execution.library.trt
    found: dict[str, list[float]] = {}

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            found.setdefault(layer_name, []).append(float(ms))

    execution.make_context()
    profiler = Profiler()
    execution.context.profiler = profiler
    execution.context.enqueue_emits_profile = True
    for _ in range(PROFILED):
        execution.send(loaded)
        execution.launch(loaded, graphs=False)
        execution.finish(loaded)
    execution.make_context()
    return [(name, runs[len(runs) // 5 :]) for name, runs in found.items()]
