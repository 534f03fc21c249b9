from __future__ import annotations

import math

import pytest

from trtpipe.backends import measure
from trtpipe.documents.benchmark import Settings
from trtpipe.runtime import Measured, Query


def query(start, *, h2d=1.0, compute=2.0, d2h=0.5, enqueue=0.1):
    a, b, c = start + h2d, start + h2d + compute, start + h2d + compute + d2h
    return Query(start, start + enqueue, start, a, a, b, b, c)


def measured(queries, **changed):
    return Measured(**{"queries": queries, "device": "gpu", "cuda_graph": False, "transfers": True, **changed})


def test_percentiles_are_trtexecs():
    values = [float(n) for n in range(1, 11)]
    assert [measure.percentile(values, p) for p in (50, 90, 95, 99, 100)] == [5, 9, 10, 10, 10]
    assert measure.percentile([float(n) for n in range(100)], 99) == 99  # not 98: trtexec counts in single precision
    assert measure.percentile([7.0], 1) == 7
    with pytest.raises(ValueError, match="101 is no percentage"):
        measure.percentile(values, 101)


def test_latency_is_copy_in_compute_and_copy_out_and_throughput_is_queries_over_wall_time():
    queries = [query(float(t)) for t in range(0, 40, 4)]
    found = measure.summary(measured(queries), Settings(warm_up_ms=0), 8, [90, 99])
    m = found.metrics
    assert m["latency_mean_ms"] == m["latency_p99_ms"] == 3.5
    assert (m["h2d_p50_ms"], m["gpu_compute_p50_ms"], m["d2h_p50_ms"], m["enqueue_p50_ms"]) == (1, 2, 0.5, 0.1)
    assert m["wall_ms"] == 39.5
    assert m["throughput_qps"] == pytest.approx(10 / 39.5 * 1000)
    assert m["throughput_samples"] == pytest.approx(80 / 39.5 * 1000)
    assert found.warnings == []
    assert found.queries == 10


def test_what_starts_computing_during_the_warm_up_does_not_count():
    queries = [query(float(t), compute=100.0 if t < 20 else 2.0) for t in range(0, 40, 4)]
    found = measure.summary(measured(queries), Settings(warm_up_ms=20), 1, [99])
    assert found.warm_up_queries == 5
    assert found.metrics["gpu_compute_max_ms"] == 2


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        ({"enqueue": 1.7}, "bound by the host"),
        ({"h2d": 2.0}, "copies from host to device"),
        ({"d2h": 2.5}, "copies from device to host"),
    ],
)
def test_each_bound_has_its_warning(given, warning):
    found = measure.summary(measured([query(0, **given), query(9, **given)]), Settings(warm_up_ms=0), 1, [99])
    (text,) = found.warnings
    assert warning in text


def test_times_that_vary_by_more_than_a_fortieth_are_called_unstable():
    steady = [query(0, compute=2.0), query(9, compute=2.09)]
    shaky = [query(0, compute=2.0), query(9, compute=2.11)]
    settings = Settings(warm_up_ms=0)
    assert measure.summary(measured(steady), settings, 1, [99]).warnings == []
    (text,) = measure.summary(measured(shaky), settings, 1, [99]).warnings
    assert text.startswith("unstable: the standard deviation of computing is 2.7%")


def test_without_transfers_there_are_no_figures_of_copies():
    flat = [query(float(t), h2d=0.0, d2h=0.0) for t in (0, 3)]
    m = measure.summary(measured(flat, transfers=False), Settings(warm_up_ms=0), 1, [99]).metrics
    assert not any(name.startswith(("h2d", "d2h")) for name in m)
    assert m["latency_mean_ms"] == m["gpu_compute_mean_ms"] == 2


def test_a_cpu_is_not_called_a_gpu():
    m = measure.summary(measured([query(0)], device="cpu", transfers=False), Settings(warm_up_ms=0), 1, [99])
    assert "compute_mean_ms" in m.metrics
    assert not any("gpu" in name for name in m.metrics)


def test_exports_have_trtexecs_shapes():
    (entry,) = measure.times([query(1)])
    assert list(entry) == [
        "startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs", "startD2hMs", "endD2hMs",
        "h2dMs", "computeMs", "d2hMs", "latencyMs",
    ]  # fmt: skip
    assert entry["latencyMs"] == 3.5
    head, first, second = measure.profile([("conv", [3.0, 3.0]), ("relu", [1.0, 1.0])])
    assert head == {"count": 2}
    assert first == {"name": "conv", "timeMs": 6, "averageMs": 3, "medianMs": 3, "percentage": 75}
    assert second["percentage"] == 25


def test_presets_are_what_trtexec_does():
    assert measure.PRESETS["trtexec-10"] == {"transfers": True, "cuda_graph": False, "spin_wait": False}
    assert measure.PRESETS["trtexec-11"] == {"transfers": False, "cuda_graph": True, "spin_wait": True}
    assert math.isclose(Settings().warm_up_ms, 200)
    assert (Settings().duration_ms, Settings().iterations) == (3000, 10)
