"""`benchmark`: measure an engine as trtexec does, and say what was measured on what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trtpipe import formatting
from trtpipe.documents.benchmark import Benchmark, Environment, Host, MeasuredEngine, Settings
from trtpipe.errors import StageFailed
from trtpipe.stage import Context, FirstCheck, Params, Port, StageType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from trtpipe.documents.buffers import Buffers
    from trtpipe.documents.manifest import Manifest


class BenchmarkParams(Params, frozen=True, kw_only=True):
    """What is measured, and how long."""

    preset: Annotated[
        Literal["trtexec-10", "trtexec-11"],
        Meta(
            description=(
                "Whose defaults count. `trtexec-10`: with transfers, no CUDA graph, blocking waits. `trtexec-11`: "
                "without transfers, CUDA graph, spinning waits."
            )
        ),
    ] = "trtexec-11"
    warm_up: Annotated[float, Meta(ge=0, description="Milliseconds of queries that are not counted.")] = 200
    duration: Annotated[float, Meta(ge=0, description="Seconds to measure, at least.")] = 3
    iterations: Annotated[int, Meta(ge=1, description="Queries to measure, at least.")] = 10
    transfers: Annotated[
        bool | None, Meta(description="Whether copies to and from the device are measured; default: the preset's.")
    ] = None
    cuda_graph: Annotated[
        bool | None, Meta(description="Whether queries are launched as a CUDA graph; default: the preset's.")
    ] = None
    spin_wait: Annotated[
        bool | None, Meta(description="Whether the host waits without sleeping; default: the preset's.")
    ] = None
    percentiles: Annotated[
        list[Annotated[float, Meta(gt=0, le=100)]], Meta(description="Percentiles beside the median.", min_length=1)
    ] = msgspec.field(default_factory=lambda: [90, 95, 99])
    profile: Annotated[
        bool, Meta(description="Time each layer too, in runs of their own: profile.json, as trtexec's exportProfile.")
    ] = False
    names: Annotated[
        dict[str, str],
        Meta(description="Where they differ: the data's tensor name for an engine's input, by the input's name."),
    ] = msgspec.field(default_factory=dict)
    check: FirstCheck = "auto"
    keep: Annotated[
        bool,
        Meta(description="Keep the figures as other artifacts are kept; by default each run measures anew."),
    ] = False

    def cacheable(self) -> bool:
        """Figures are of the hour in which they were taken, unless someone asks to keep them."""
        return self.keep

    def figures(self) -> Iterable[str]:
        """Name what is measured; which series there are is the runtime's word."""
        points = ["min", "max", "mean", "p50", *(f"p{percent:g}" for percent in self.percentiles)]
        series = ("latency", "enqueue", "gpu_compute", "compute", "h2d", "d2h")
        return [
            *(f"{name}_{point}_ms" for name in series for point in points),
            *("throughput_qps", "throughput_samples", "wall_ms", "compute_cv"),
        ]


def run(ctx: Context) -> None:
    """Write `benchmark.json`, `times.json`, `table.txt` and, if asked for, `profile.json`."""
    from trtpipe.backends import measure, preflight
    from trtpipe.models import first_answer

    params: BenchmarkParams = ctx.params
    engine = preflight.engine(ctx)
    plan, manifest, buffers = engine
    usual = measure.PRESETS[params.preset]
    asked = {name: getattr(params, name) for name in usual}
    settings = Settings(
        warm_up_ms=params.warm_up,
        iterations=params.iterations,
        duration_ms=params.duration * 1000,
        profile=params.profile,
        **{name: usual[name] if value is None else value for name, value in asked.items()},
    )
    feed = _feed(ctx, manifest, buffers)
    session = ctx.backend().open(plan, manifest, buffers, ctx.note, ctx.shared)
    try:
        first_answer.check(ctx, session, engine, [feed])
        before = _device(ctx.backend_name)
        measured = session.measure(feed, settings)
        after = _device(ctx.backend_name)
        info = session.info
    finally:
        session.close()
    for note in measured.notes:
        ctx.note(note)
    found = measure.summary(measured, settings, buffers.batch, params.percentiles)
    for name in TOLD:
        if name in found.metrics:
            ctx.figure(name, found.metrics[name], "", None)
    for warning in found.warnings:
        ctx.note(warning)
    record = Benchmark(
        metrics=found.metrics,
        queries=found.queries,
        warm_up_queries=found.warm_up_queries,
        warnings=tuple(found.warnings),
        batch=buffers.batch,
        shapes={b.name: b.shape for b in buffers.bindings},
        preset=params.preset,
        settings=msgspec.structs.replace(settings, cuda_graph=measured.cuda_graph, transfers=measured.transfers),
        data=ctx.inputs["data"].label if "data" in ctx.inputs else "random",
        engine=MeasuredEngine(
            precision=manifest.precision,
            precision_proof=manifest.precision_proof.status,
            plan_bytes=manifest.plan_bytes,
        ),
        environment=Environment(**msgspec.structs.asdict(info), device_before=before, device_after=after, host=_host()),
    )
    ctx.write(record)
    ctx.write_json("times.json", measure.times(measured.queries))
    if params.profile:
        ctx.write_json("profile.json", measure.profile(measured.layers))
    (ctx.out / "table.txt").write_text(table(record), "utf-8")


def _feed(ctx: Context, manifest: Manifest, buffers: Buffers) -> dict[str, NDArray[Any]]:
    """Give one batch: the data's first, or random values (seeded) of the buffers' shapes."""
    import numpy as np

    from trtpipe.data import elements

    if "data" in ctx.inputs:
        from trtpipe.data import conversion, feeds, tensors

        given = ctx.inputs["data"]
        if buffers.buckets:
            raise StageFailed("found several shapes in allocate, expected one: with data, benchmark measures one shape")
        feed = {}
        matched = feeds.match(buffers, manifest, tensors.open_input(given), ctx.params.names, given.label)
        feeds.check_values(matched, manifest, buffers.profile)
        feeds.tell_conversions(matched, buffers, ctx.note)
        kinds = {b.name: b.dtype for b in buffers.side("input")}
        for one in matched:
            if one.how == "constant":
                feed[one.name] = conversion.converted(
                    tensors.fixed(one.source).read(), kinds[one.name], one.source.label
                )
                continue
            rows = buffers.batch if one.how == "batch" else 1
            first = next(iter(tensors.batches({one.name: tensors.fixed(one.source)}, rows)))[one.name]
            # A small file is repeated to fill the batch.
            whole = np.resize(first, (rows, *first.shape[1:]))
            whole = conversion.converted(whole, kinds[one.name], one.source.label)
            if one.how == "run":
                feed[one.name] = whole[0]
            else:
                feed[one.name] = np.ascontiguousarray(np.moveaxis(whole, 0, one.axis or 0))
        return feed
    random = np.random.default_rng(0)
    best = manifest.profile_values[buffers.profile] if manifest.profile_values else {}
    feed = {}
    for b in buffers.side("input"):
        dtype = elements.in_memory(b.dtype)
        shape = tuple(size for size in b.shape if size is not None)  # an input has all sizes
        # Integers are often indices or lengths, of which only the smallest are safe.
        values = random.uniform(-1, 1, shape) if elements.is_float(dtype) else random.integers(0, 2, shape)
        known = buffers.values.get(b.name) or (best[b.name].opt if b.name in best else None)
        feed[b.name] = np.asarray(values if known is None else known).astype(dtype).reshape(shape)
    return feed


def _device(backend: str) -> dict[str, Any] | None:
    from trtpipe import environment

    return None if backend == "onnxruntime" else environment.gpu_state()


def _host() -> Host:
    import os

    from trtpipe import environment

    model = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            model = next((line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")), "")
    except OSError:
        pass
    known = environment.record()
    return Host(
        cpu=model,
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        os=known["os"],
        python=known["python"],
        driver=known["driver"],
    )


def table(record: Benchmark) -> str:
    """Give the figures as a table that people read."""
    metrics = record.metrics
    where = record.environment
    device = where.device or where.host.cpu or "CPU"
    which = ["min", "mean", *sorted((n[8:-3] for n in metrics if n.startswith("latency_p")), key=_percent), "max"]
    rows = [["ms", *which]]
    rows += [
        [name.replace("_", " "), *(f"{metrics[f'{name}_{c}_ms']:.3f}" for c in which)]
        for name in ("latency", "gpu_compute", "compute", "h2d", "d2h", "enqueue")
        if f"{name}_mean_ms" in metrics
    ]
    what = [
        "with transfers" if record.settings.transfers else "without transfers",
        "CUDA graph" if record.settings.cuda_graph else "no CUDA graph",
    ]
    if "gpu_compute_mean_ms" not in metrics:
        what = ["no device: nothing is transferred"]
    span = f"{record.queries} queries in {metrics['wall_ms'] / 1000:.2f} s, {record.warm_up_queries} to warm up"
    lines = [
        f"{where.runtime} {where.runtime_version} on {device}, precision {record.engine.precision}",
        f"batch {record.batch}, {span}, {', '.join(what)} ({record.preset})",
        f"throughput: {metrics['throughput_qps']:.1f} queries/s, {metrics['throughput_samples']:.1f} samples/s",
        "",
        *formatting.table(rows, right=range(1, len(rows[0]))),
    ]
    if record.warnings:
        lines += ["", *(f"warning: {text}" for text in record.warnings)]
    return "\n".join(lines) + "\n"


def _percent(name: str) -> float:
    return float(name[1:])


TOLD = ("throughput_samples", "latency_p50_ms", "gpu_compute_p50_ms")
"""The figures that are told on the screen; the table has all."""

STAGE = StageType(
    name="benchmark",
    version=2,
    Params=BenchmarkParams,
    inputs={
        "engine": Port(kinds=("engine",), doc="The engine that is measured."),
        "buffers": Port(kinds=("buffers",), doc="Its shapes and buffers."),
        "data": Port(
            kinds=("tensors",),
            doc="Whose first batch is fed; without it, seeded random values.",
            required=False,
            outside=True,
        ),
    },
    output="benchmark",
    doc="Measures an engine by trtexec's definitions: latency, compute, transfers, throughput, and its warnings.",
    run=run,
    alone=True,
    backend=True,
    gpu_on=("tensorrt", "tensorrt_rtx"),
)
