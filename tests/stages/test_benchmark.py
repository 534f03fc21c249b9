from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests import onnx_models as models
from tests.helpers import events, project, run_stage, trtpipe
from tests.stages.test_infer import engine
from trtpipe.errors import StageFailed

SHORT = {"duration": 0.05, "warm_up": 5}


def benchmark(tmp_path, shapes=None, built=None, notes=None, *, data=None, **params):
    built = built or engine(models.conv(), tmp_path)
    buffers = run_stage("allocate", {"shapes": shapes or {"image": [4, 3, 8, 8]}}, {"engine": built}, tmp_path)
    inputs = {"engine": built, "buffers": buffers, **({"data": data} if data else {})}
    return run_stage("benchmark", {**SHORT, **params}, inputs, tmp_path, notes=notes)


def test_figures_say_what_was_measured_on_what(tmp_path):
    out = benchmark(tmp_path)
    record = json.loads((out / "benchmark.json").read_text())
    m = record["metrics"]
    assert record["batch"] == 4
    assert record["queries"] >= 10
    assert m["wall_ms"] > 0
    assert m["throughput_samples"] == pytest.approx(4 * m["throughput_qps"], rel=1e-6)
    ascending = [m[f"latency_{name}_ms"] for name in ("min", "p50", "p90", "p99", "max")]
    assert ascending == sorted(ascending)
    assert record["environment"]["runtime"] == "onnxruntime"
    assert record["environment"]["host"]["cpus"] >= 1
    assert record["data"] == "random"
    times = json.loads((out / "times.json").read_text())
    assert len(times) == record["queries"] + record["warm_up_queries"]
    assert "throughput: " in (out / "table.txt").read_text()
    assert not (out / "profile.json").exists()


def test_a_profile_times_every_layer(tmp_path):
    out = benchmark(tmp_path, profile=True)
    head, *layers = json.loads((out / "profile.json").read_text())
    assert head["count"] >= 10
    assert sum(layer["percentage"] for layer in layers) == pytest.approx(100, abs=0.1)
    assert {"name", "timeMs", "averageMs", "medianMs", "percentage"} == set(layers[0])


def test_percentiles_are_those_asked_for(tmp_path):
    out = benchmark(tmp_path, percentiles=[99.9])
    names = json.loads((out / "benchmark.json").read_text())["metrics"]
    assert "latency_p99.9_ms" in names
    assert "latency_p90_ms" not in names


def test_data_is_fed_if_there_is_some_and_repeated_to_fill_a_batch(tmp_path):
    np.savez(tmp_path / "data.npz", image=np.ones((3, 3, 8, 8), np.float32))
    out = benchmark(tmp_path, data=tmp_path / "data.npz")
    assert json.loads((out / "benchmark.json").read_text())["data"] == "data.npz"
    np.savez(tmp_path / "wrong.npz", image=np.ones((3, 3, 9, 8), np.float32))
    with pytest.raises(StageFailed, match="expected shape"):
        benchmark(tmp_path, data=tmp_path / "wrong.npz", built=tmp_path / "engine")


DOCUMENT = """\
  network: {{type: parse, inputs: {{model: {{file: m.onnx}}}}}}
  config: {{type: configure, inputs: {{network: network}}, params: {{profiles: [{{image: {{min: [1, 3, 8, 8], opt: [4, 3, 8, 8], max: [8, 3, 8, 8]}}}}]}}}}
  engine: {{type: build, inputs: {{config: config}}}}
  buffers: {{type: allocate, inputs: {{engine: engine}}, params: {{shapes: {{image: [4, 3, 8, 8]}}}}}}
{speed}
"""  # noqa: E501
SPEED = (
    "  speed: {{type: benchmark, inputs: {{engine: engine, buffers: buffers}}, params: {{duration: 0.05, keep: {}}}}}"
)


def document(tmp_path, keep="false", speed=SPEED):
    models.save(models.conv(), tmp_path / "m.onnx")
    return project(tmp_path, DOCUMENT.format(speed=speed.format(keep)))


@pytest.mark.slow
def test_it_runs_each_time_unless_it_is_told_to_keep_its_figures(tmp_path):
    path = document(tmp_path)
    ran = [
        [e["stage"] for e in events(trtpipe("run", path, "--json", "--backend", "onnxruntime", cwd=tmp_path))
         if e["event"] == "StageStarted"]
        for _ in range(2)
    ]  # fmt: skip
    assert ran == [["network", "config", "engine", "buffers", "speed"], ["speed"]]
    status = trtpipe("status", path, "--backend", "onnxruntime", cwd=tmp_path)
    assert status.returncode == 10
    assert status.stdout.splitlines()[-1].split(maxsplit=3) == ["run", "speed", "benchmark", "runs each time"]
    shown = trtpipe("show", path, "speed/table.txt", "--backend", "onnxruntime", cwd=tmp_path)
    assert "throughput: " in Path(shown.stdout.strip()).read_text()
    path = document(tmp_path, "true")
    for code in (10, 0):
        assert trtpipe("status", path, "--backend", "onnxruntime", cwd=tmp_path).returncode == code
        assert trtpipe("run", path, "--backend", "onnxruntime", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_bench_measures_the_engines_of_a_pipeline_that_has_no_benchmark(tmp_path):
    path = document(tmp_path, speed="")
    options = ["--backend", "onnxruntime", "--duration", "0.05", "--warm-up", "5"]
    said = trtpipe("bench", path, *options, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    first, second, third, *_ = said.stdout.splitlines()
    assert first.startswith("buffers_benchmark: onnxruntime ")
    assert second.startswith("batch 4, ")
    assert third.startswith("throughput: ")
    records = json.loads(trtpipe("bench", path, *options, "--profile", "--json", cwd=tmp_path).stdout)
    assert records["buffers_benchmark"]["settings"]["duration_ms"] == 50
    assert trtpipe("status", path, "--backend", "onnxruntime", cwd=tmp_path).returncode == 0


def test_bench_runs_the_benchmarks_that_a_pipeline_has_with_what_the_command_says(tmp_path):
    path = document(tmp_path)
    said = trtpipe("bench", path, "--backend", "onnxruntime", "--preset", "trtexec-10", "--json", cwd=tmp_path)
    record = json.loads(said.stdout)["speed"]
    assert record["preset"] == "trtexec-10"
    assert record["settings"]["duration_ms"] == 50
    assert record["settings"]["spin_wait"] is False


def test_bench_says_when_there_is_nothing_to_measure(tmp_path):
    models.save(models.conv(), tmp_path / "m.onnx")
    path = project(tmp_path, "  network: {type: parse, inputs: {model: {file: m.onnx}}}\n")
    said = trtpipe("bench", path, cwd=tmp_path)
    assert said.returncode == 2
    assert "nothing to measure" in said.stderr
