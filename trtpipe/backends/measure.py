"""How long an engine takes, by trtexec's definitions. Pure functions over traces; times in milliseconds.

A query is one batch. Its trace holds six moments on the device's clock (begin and end of copy-in, compute and
copy-out) and two on the host's (begin and end of the enqueue call), all counted from the start of the measurement.
Latency is copy-in + compute + copy-out, and does not hold the time that a query waits for the one before it.
Source: NVIDIA/TensorRT, samples/common (sampleInference.cpp, sampleReporting.cpp), versions 8.6 to 11.1.
"""

from __future__ import annotations

import math
import statistics
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.documents.benchmark import Settings
    from trtpipe.runtime import Measured, Query

PRESETS: dict[str, dict[str, bool]] = {
    "trtexec-10": {"transfers": True, "cuda_graph": False, "spin_wait": False},
    "trtexec-11": {"transfers": False, "cuda_graph": True, "spin_wait": True},
}
"""What trtexec does unless told otherwise: up to 10, and since 11.0."""
ENQUEUE_BOUND = 0.8
UNSTABLE = 0.025


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Give trtexec's percentile of ascending values: the one that leaves ⌊(1 − p/100)·n⌋ above it."""
    if not 0 <= percent <= 100:
        raise ValueError(f"{percent} is no percentage")
    # In single precision, as trtexec counts: whether 1 % of 100 is one value or none is a matter of rounding.
    exclude = int(_single(_single(1 - _single(_single(percent) / 100)) * len(ordered)))
    return ordered[max(len(ordered) - 1 - exclude, 0)]


def _single(value: float) -> float:
    (rounded,) = struct.unpack("f", struct.pack("f", value))
    return float(rounded)


def after_warm_up(queries: Sequence[Query], warm_up_ms: float) -> Sequence[Query]:
    """Give the queries from the first on whose computing starts after the warm-up."""
    for index, query in enumerate(queries):
        if query.compute_start >= warm_up_ms:
            return queries[index:]
    return queries[-1:]


class Summary(NamedTuple):
    """What a measurement is reduced to: figures by name, how many queries they are of, and what makes them doubtful."""

    metrics: dict[str, float]
    queries: int
    warm_up_queries: int
    warnings: list[str]


def summary(measured: Measured, settings: Settings, batch: int, percentiles: Sequence[float]) -> Summary:
    """Reduce a measurement.

    Metrics are `latency`, `enqueue`, `h2d`, `d2h` and `gpu_compute` (`compute` on a CPU), each with `_min_ms`,
    `_max_ms`, `_mean_ms`, `_p50_ms` (trtexec's median) and one `_pNN_ms` a percentile; `throughput_qps` (queries a
    second of wall time), `throughput_samples` (the same times `batch`), `wall_ms`, `compute_cv` (standard deviation
    over mean).
    """
    kept = after_warm_up(measured.queries, settings.warm_up_ms)
    if not kept:
        raise ValueError("no query was measured")
    compute = "gpu_compute" if measured.device == "gpu" else "compute"
    series = {
        "latency": [q.latency for q in kept],
        "enqueue": [q.enqueue for q in kept],
        "h2d": [q.h2d for q in kept],
        compute: [q.compute for q in kept],
        "d2h": [q.d2h for q in kept],
    }
    if not measured.transfers:
        del series["h2d"], series["d2h"]
    metrics: dict[str, float] = {}
    for name, values in series.items():
        ordered = sorted(values)
        metrics[f"{name}_min_ms"] = ordered[0]
        metrics[f"{name}_max_ms"] = ordered[-1]
        metrics[f"{name}_mean_ms"] = statistics.fmean(ordered)
        metrics[f"{name}_p50_ms"] = statistics.median(ordered)
        for percent in percentiles:
            if percent != 50:
                metrics[f"{name}_p{percent:g}_ms"] = percentile(ordered, percent)
    wall = max(kept[-1].d2h_end, kept[-1].compute_end) - min(kept[0].h2d_start, kept[0].compute_start)
    mean = metrics[f"{compute}_mean_ms"]
    metrics["wall_ms"] = wall
    metrics["throughput_qps"] = len(kept) / wall * 1000 if wall > 0 else math.inf
    metrics["throughput_samples"] = metrics["throughput_qps"] * batch
    metrics["compute_cv"] = statistics.pstdev(series[compute]) / mean if mean > 0 else 0.0
    return Summary(
        metrics={name: round(value, 6) for name, value in metrics.items()},
        queries=len(kept),
        warm_up_queries=len(measured.queries) - len(kept),
        warnings=warnings(metrics, gpu=measured.device == "gpu"),
    )


def warnings(metrics: Mapping[str, float], *, gpu: bool) -> list[str]:
    """Give trtexec's four warnings, where they hold: bound by the host, by the link (two ways), unstable."""
    compute = "gpu_compute" if gpu else "compute"
    median = metrics[f"{compute}_p50_ms"]
    found = []
    if gpu and metrics["enqueue_p50_ms"] > ENQUEUE_BOUND * median:
        found.append(
            f"bound by the host: enqueueing takes {metrics['enqueue_p50_ms']:.3f} ms and computing {median:.3f} ms "
            "(medians), so the GPU may wait; cuda_graph: true or a larger batch helps"
        )
    for way, text in (("h2d", "host to device"), ("d2h", "device to host")):
        taken = metrics.get(f"{way}_p50_ms", 0.0)
        if gpu and taken and taken >= median:
            found.append(
                f"bound by the link: copies from {text} take {taken:.3f} ms and computing {median:.3f} ms (medians); "
                "transfers: false leaves them out"
            )
    if metrics["compute_cv"] > UNSTABLE:
        found.append(
            f"unstable: the standard deviation of computing is {metrics['compute_cv']:.1%} of its mean (more than "
            f"{UNSTABLE:.1%}); other work on the device, heat, or clocks that change"
        )
    return found


def times(queries: Sequence[Query]) -> list[dict[str, float]]:
    """Give traces as trtexec's --exportTimes writes them."""
    return [
        {
            "startEnqMs": round(q.enqueue_start, 6), "endEnqMs": round(q.enqueue_end, 6),
            "startH2dMs": round(q.h2d_start, 6), "endH2dMs": round(q.h2d_end, 6),
            "startComputeMs": round(q.compute_start, 6), "endComputeMs": round(q.compute_end, 6),
            "startD2hMs": round(q.d2h_start, 6), "endD2hMs": round(q.d2h_end, 6),
            "h2dMs": round(q.h2d, 6), "computeMs": round(q.compute, 6), "d2hMs": round(q.d2h, 6),
            "latencyMs": round(q.latency, 6),
        }
        for q in queries
    ]  # fmt: skip


def profile(layers: Sequence[tuple[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Give per-layer times as trtexec's --exportProfile writes them: a count, then one object a layer."""
    total = sum(sum(runs) for _, runs in layers) or 1.0
    count = max((len(runs) for _, runs in layers), default=0)
    return [
        {"count": count},
        *(
            {
                "name": name,
                "timeMs": round(sum(runs), 6),
                "averageMs": round(statistics.fmean(runs), 6),
                "medianMs": round(statistics.median(runs), 6),
                "percentage": round(sum(runs) / total * 100, 3),
            }
            for name, runs in layers
            if runs
        ),
    ]
