"""Select: which variant wins, why the others lost, and what a pipeline does with it."""

from __future__ import annotations

import base64
import itertools
import json
import re

import numpy as np
import pytest

from tests import made
from tests import onnx_models as models
from tests.helpers import events, run_stage, trtpipe
from trtpipe.documents import files
from trtpipe.errors import GateFailed, PipelineInvalid, StageFailed
from trtpipe.stage import Input

HOST = {"cpu": "a CPU", "cpus": 2}


def artifact(folder, kind, name, contents):
    top = folder / kind / name
    top.mkdir(parents=True)
    for file, content in contents.items():
        (top / file).write_text(content if isinstance(content, str) else files.encode(content))
    return Input(name=name, kind=kind, folder=top, files=tuple(sorted(contents)), label=name)


@pytest.fixture
def choose(tmp_path):
    """Give a function that selects among {variant: {stage: figures}}; `plan_bytes` are the engine's.

    A text in the place of a variant, or of a stage's figures, says why it failed.
    """
    numbers = itertools.count()

    def choose(variants, params, machine=None, notes=None):
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        inputs, failed = {}, {}
        for variant, measured in variants.items():
            engine = f"engine@{variant}"
            if isinstance(measured, str):
                names = [f"engines[{engine}]", *(f"metrics[{stage}@{variant}]" for stage in ("speed", "accuracy"))]
                failed |= dict.fromkeys(names, measured)
                continue
            manifest = made.manifest(plan_bytes=measured.get("plan_bytes", 100))
            contents = {"engine.onnx": variant, "manifest.json": manifest}
            inputs[f"engines[{engine}]"] = artifact(folder, "engine", engine, contents)
            for stage, figures in measured.items():
                if stage == "plan_bytes":
                    continue
                if isinstance(figures, str):
                    failed[f"metrics[{stage}@{variant}]"] = figures
                    continue
                kind = "benchmark" if stage == "speed" else "metrics"
                where = (machine or {}).get(variant, HOST)
                content = made.benchmark(figures, **where) if kind == "benchmark" else made.metrics(figures)
                name = f"{stage}@{variant}"
                inputs[f"metrics[{name}]"] = artifact(folder, kind, name, {f"{kind}.json": content})
        return run_stage("select", params, inputs, folder, notes=notes, failed=failed)

    return choose


def both(latency, top1):
    return {"speed": {"latency_p50_ms": latency}, "accuracy": {"top1": top1}}


THREE = {"p=fp32": both(1.31, 0.9972), "p=fp16": both(0.83, 0.9972), "p=int8": both(0.5, 0.9333)}
RIGHT = {"objective": "min latency_p50_ms", "where": {"top1": ">= 0.97"}}


def table(out):
    return (out / "table.txt").read_text("utf-8").splitlines()


def selection(out):
    return json.loads((out / "selection.json").read_text("utf-8"))


def test_the_best_of_those_that_keep_every_rule_is_chosen_with_its_files(choose):
    notes = []
    out = choose(THREE, RIGHT, notes=notes)
    assert (out / "engine.onnx").read_text() == "p=fp16"
    assert json.loads((out / "manifest.json").read_text())["plan"] == "engine.onnx"
    assert sorted(p.name for p in out.iterdir()) == [
        "engine.onnx", "manifest.json", "selection.json", "table.txt", "tradeoff.svg",
    ]  # fmt: skip
    assert notes == ["p=fp16 is best, 1 of 3 variants break a rule: latency_p50_ms 0.83"]


def test_the_table_says_of_every_variant_why_it_lost(choose):
    assert table(choose(THREE, RIGHT)) == [
        "   variant  latency_p50_ms    top1  plan_bytes",
        "*  p=fp16             0.83  0.9972         100",
        "     best",
        "   p=fp32             1.31  0.9972         100",
        "     latency_p50_ms 1.31, the best has 0.83",
        "   p=int8              0.5  0.9333         100",
        "     top1 0.9333, expected >= 0.97",
    ]


def test_where_a_terminal_is_wide_enough_the_reasons_stand_at_the_ends_of_the_lines(choose):
    sizes = {"p=a": {"plan_bytes": 3}, "p=b": {"plan_bytes": 2}}
    assert table(choose(sizes, {"objective": "min plan_bytes"})) == [
        "   variant  plan_bytes",
        "*  p=b               2  best",
        "   p=a               3  plan_bytes 3, the best has 2",
    ]


def test_the_record_has_every_figure_by_its_stage(choose):
    found = selection(choose(THREE, RIGHT))
    assert (found["best"], found["engine"], found["measured_on"]) == ("p=fp16", "engine@p=fp16", "a CPU, 2 CPUs")
    assert [v["variant"] for v in found["variants"]] == ["p=fp16", "p=fp32", "p=int8"]
    assert [v["passed"] for v in found["variants"]] == [True, True, False]
    assert found["variants"][0]["figures"] == {
        "engine.plan_bytes": 100, "speed.latency_p50_ms": 0.83, "accuracy.top1": 0.9972,
    }  # fmt: skip


def test_max_takes_the_largest(choose):
    assert selection(choose(THREE, {"objective": "max top1", "where": {"latency_p50_ms": "< 0.6"}}))["best"] == "p=int8"


def test_a_figures_name_is_no_pattern(choose):
    values = {name: {"accuracy": {"acc[val]": top}} for name, top in (("p=a", 0.8), ("p=b", 0.9))}
    assert (choose(values, {"objective": "max acc[val]"}) / "engine.onnx").read_text() == "p=b"


def test_the_order_in_which_inputs_come_changes_nothing(choose):
    first = choose(THREE, RIGHT)
    second = choose(dict(reversed(THREE.items())), RIGHT)
    for name in ("selection.json", "table.txt", "tradeoff.svg", "engine.onnx"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_tie_goes_to_the_smaller_plan_and_then_by_the_values_with_numbers_as_numbers(choose):
    same = {f"p=a,batch={n}": {**both(1, 1), "plan_bytes": 7} for n in (10, 2, 1)}
    rows = table(choose({**same, "p=a,batch=0": {**both(1, 1), "plan_bytes": 8}}, RIGHT))
    assert [row[3:].split()[0] for row in rows[1::2]] == ["p=a,batch=1", "p=a,batch=2", "p=a,batch=10", "p=a,batch=0"]
    assert rows[4] == "     as good as the best, and after it by name"
    assert rows[8] == "     as good as the best, with a larger plan"


NEAR = {"p=a": both(1.00, 0.98), "p=b": both(1.02, 0.99), "p=c": both(1.04, 1.0), "p=d": both(0.5, 0.9)}


def test_times_within_the_margin_of_the_best_tie_and_the_figure_of_the_first_rule_decides(choose):
    notes = []
    out = choose(NEAR, RIGHT, notes=notes)
    assert table(out) == [
        "   variant  latency_p50_ms  top1  plan_bytes",
        "*  p=b                1.02  0.99         100",
        "     best of the 2 within 3 %",
        "   p=a                   1  0.98         100",
        "     as good within 3 %, but top1 0.98, the best has 0.99",
        "   p=c                1.04     1         100",
        "     latency_p50_ms 1.04, the best has 1.02",
        "   p=d                 0.5   0.9         100",
        "     top1 0.9, expected >= 0.97",
    ]  # neither p=c, which is near p=b alone, nor p=d, which breaks the rule and so sets no time to be near
    assert notes == [
        "p=b is best, 1 of 4 variants break a rule: latency_p50_ms 1.02",
        "within 3 % of the best latency_p50_ms, which is a tie: p=a (1); top1 decides",
    ]
    found = selection(out)
    assert (found["margin"], found["then"]) == (0.03, {"goal": "max", "figure": "top1"})
    assert [v["variant"] for v in found["variants"] if v["tied"]] == ["p=b", "p=a"]
    picture = (out / "tradeoff.svg").read_text()
    assert "tie within 3 %" in picture


def test_the_margin_can_be_another_or_none(choose):
    assert selection(choose(NEAR, {**RIGHT, "margin": 0.05}))["best"] == "p=c"
    out = choose(NEAR, {**RIGHT, "margin": 0})
    assert selection(out)["best"] == "p=a"
    assert "tie within" not in (out / "tradeoff.svg").read_text()


def test_figures_that_no_benchmark_measured_are_exact_and_without_a_margin(choose):
    found = selection(choose({"p=a": both(1, 0.99), "p=b": both(1, 0.991)}, {"objective": "max top1"}))
    assert (found["best"], found["margin"]) == ("p=b", 0)


def test_a_tie_of_times_is_not_decided_by_another_time(choose):
    times = {"p=a": {"latency_p50_ms": 1.0, "latency_max_ms": 9}, "p=b": {"latency_p50_ms": 1.01, "latency_max_ms": 8}}
    measured = {p: {"speed": figures, "plan_bytes": 7 if p == "p=a" else 8} for p, figures in times.items()}
    out = choose(measured, {"objective": "min latency_p50_ms", "where": {"latency_max_ms": "< 10"}})
    assert selection(out)["best"] == "p=a"
    assert table(out)[4] == "     as good within 3 %, with a larger plan"


def test_the_winner_of_a_tie_is_the_same_however_the_times_fall(choose):
    def best(first, second):
        return selection(choose({"p=a": both(first, 0.98), "p=b": both(second, 0.99)}, RIGHT))["best"]

    assert best(1.0, 1.02) == best(1.02, 1.0) == best(1.0, 1.0) == "p=b"


def test_max_has_its_margin_below_the_best(choose):
    variants = {"p=a": {"speed": {"qps": 100}}, "p=b": {"speed": {"qps": 98}, "plan_bytes": 50}}
    assert selection(choose(variants, {"objective": "max qps"}))["best"] == "p=b"


def test_no_variant_that_keeps_the_rules_fails_the_gate_with_the_table(choose):
    with pytest.raises(GateFailed) as caught:
        choose(THREE, {**RIGHT, "where": {"top1": ">= 0.999"}})
    lines = str(caught.value).splitlines()
    assert lines[0] == "none of 3 variants keeps what `where` asks"
    assert lines[2:] == [
        "    p=int8              0.5  0.9333         100  top1 0.9333, expected >= 0.999",
        "    p=fp16             0.83  0.9972         100  top1 0.9972, expected >= 0.999",
        "    p=fp32             1.31  0.9972         100  top1 0.9972, expected >= 0.999",
    ]


def test_a_figure_that_would_round_into_the_rule_is_written_whole(choose):
    with pytest.raises(GateFailed, match=r"top1 0.96999999, expected >= 0.97"):
        choose({"p=a": both(1, 0.96999999)}, RIGHT)


def test_a_figure_that_no_variant_has_is_an_error_of_the_document(choose):
    with pytest.raises(PipelineInvalid, match=r"found top5, which no stage .* expected one of .*; did you mean top1\?"):
        choose(THREE, {**RIGHT, "where": {"top5": ">= 0.97"}})


def test_a_variant_without_a_figure_loses(choose):
    variants = {**THREE, "p=bf16": {"accuracy": {"top1": 1.0}}}
    assert table(choose(variants, RIGHT))[-1].endswith("latency_p50_ms was not measured")


def test_a_variant_that_failed_loses_with_the_reason_and_comes_last(choose):
    notes = []
    why = {"p=int8": "engine@p=int8 failed: it cannot be built"}
    out = choose({"p=fp32": THREE["p=fp32"], "p=fp16": THREE["p=fp16"], **why}, RIGHT, notes=notes)
    assert [line.split()[-1] for line in table(out)[1::2]] == ["100", "100", "–"]
    assert table(out)[-1].strip() == why["p=int8"]
    assert [(v["variant"], v["failed"], v["passed"]) for v in selection(out)["variants"]] == [
        ("p=fp16", False, True), ("p=fp32", False, True), ("p=int8", True, False),
    ]  # fmt: skip
    assert notes == ["p=fp16 is best of 3, 1 failed: latency_p50_ms 0.83"]


def test_an_engine_whose_measuring_failed_loses_whatever_else_it_has(choose):
    quick = {"speed": {"latency_p50_ms": 0.1}, "accuracy": "scores@p=int8 failed: NaN"}
    notes = []
    out = choose({**THREE, "p=q": quick}, RIGHT, notes=notes)
    assert selection(out)["best"] == "p=fp16"
    assert selection(out)["variants"][-1]["why"] == "scores@p=int8 failed: NaN"
    assert notes == ["p=fp16 is best, 1 of 4 variants break a rule, 1 failed: latency_p50_ms 0.83"]


def test_when_those_that_are_left_break_the_rules_the_table_has_the_failed_ones_too(choose):
    with pytest.raises(GateFailed) as told:
        choose({"p=int8": THREE["p=int8"], "p=fp8": "engine@p=fp8 failed: no such kernel"}, RIGHT)
    assert str(told.value).startswith("none of 2 variants (1 failed) keeps what `where` asks\n")
    assert "no such kernel" in str(told.value)


def test_two_figures_of_one_name_are_told_apart_by_their_stages(choose):
    variants = {
        "p=a": {"one": {"cosine": 0.5}, "other": {"cosine": 0.9}},
        "p=b": {"one": {"cosine": 0.6}, "other": {"cosine": 0.8}},
    }
    assert selection(choose(variants, {"objective": "max one.cosine"}))["best"] == "p=b"
    assert selection(choose(variants, {"objective": "max other.cosine"}))["best"] == "p=a"


def test_a_benchmark_by_more_axes_makes_more_candidates_of_one_engine(tmp_path):
    inputs = {}
    for p in ("a", "b"):
        contents = {"engine.onnx": p, "manifest.json": made.manifest(plan_bytes=5)}
        inputs[f"engines[engine@p={p}]"] = artifact(tmp_path, "engine", f"engine@p={p}", contents)
        inputs[f"metrics[accuracy@p={p}]"] = artifact(
            tmp_path, "metrics", f"accuracy@p={p}", {"metrics.json": made.metrics({"top1": 1 if p == "b" else 0})}
        )
        for n in (1, 8):
            name = f"speed@p={p},n={n}"
            content = made.benchmark({"qps": n * (3 if p == "a" else 2)}, **HOST)
            inputs[f"metrics[{name}]"] = artifact(tmp_path, "benchmark", name, {"benchmark.json": content})
    out = run_stage("select", {"objective": "max qps", "where": {"top1": "== 1"}}, inputs, tmp_path)
    found = selection(out)
    assert (found["best"], found["engine"]) == ("p=b,n=8", "engine@p=b")
    assert len(found["variants"]) == 4


def test_times_of_two_machines_are_not_compared(choose):
    with pytest.raises(StageFailed, match=r"different machines.*speed@p=fp32 on a GPU, a CPU, 2 CPUs"):
        choose(THREE, RIGHT, machine={"p=fp32": {"device": "a GPU", **HOST}})


def test_without_a_second_figure_there_is_no_picture(choose):
    notes = []
    out = choose({"p=a": {"plan_bytes": 3}, "p=b": {"plan_bytes": 2}}, {"objective": "min plan_bytes"}, notes=notes)
    assert selection(out)["best"] == "p=b"
    assert not (out / "tradeoff.svg").exists()
    assert notes[0] == "no picture: there is no second figure to draw the objective against"


def test_against_names_the_other_figure_of_the_picture(choose):
    picture = (choose(THREE, {**RIGHT, "against": "min plan_bytes"}) / "tradeoff.svg").read_text()
    assert "plan_bytes (less is better)" in picture


# --- with real engines, through the command


DOCUMENT = """\
name: p
matrix: {precision: [fp32, fp16]}
stages:
  network: {type: parse, inputs: {model: {file: model.onnx}}}
  config:
    type: configure
    inputs: {network: network}
    params:
      precision: ${matrix.precision}
      profiles: [{image: {min: [1, 3, 8, 8], opt: [4, 3, 8, 8], max: [8, 3, 8, 8]}}]
  engine: {type: build, inputs: {config: config}}
  buffers: {type: allocate, inputs: {engine: engine}, params: {shapes: {image: [4, 3, 8, 8]}}}
  scores: {type: infer, inputs: {engine: engine, buffers: buffers, data: {file: data.npz}}}
  closeness:
    type: evaluate
    inputs: {tensors: scores, reference: scores@precision=fp32}
    params: {metrics: [{metric: cosine}]}
  best:
    type: select
    inputs: {engines: engine, metrics: closeness}
    params: {objective: min plan_bytes, where: {cosine_min: ">= 0.99"}}
  best_buffers: {type: allocate, inputs: {engine: best}, params: {shapes: {image: [4, 3, 8, 8]}}}
  best_scores: {type: infer, inputs: {engine: best, buffers: best_buffers, data: {file: data.npz}}}
"""


@pytest.fixture
def folder(tmp_path):
    models.save(models.conv(channels=32), tmp_path / "model.onnx")
    random = np.random.default_rng(1)
    np.savez(tmp_path / "data.npz", image=random.standard_normal((8, 3, 8, 8)).astype(np.float32))
    (tmp_path / "p.yaml").write_text(DOCUMENT)
    return tmp_path


def run(folder, *arguments):
    return trtpipe("run", "p.yaml", "--backend", "onnxruntime", *arguments, cwd=folder)


def test_the_winner_of_real_engines_runs_as_any_engine_does(folder):
    done = run(folder)
    assert done.returncode == 0, done.stderr
    view = folder / "artifacts/view/p"
    best = selection(view / "best")["best"]
    winner = view / f"engine@{best}"
    assert (view / "best/engine.onnx").read_bytes() == (winner / "engine.onnx").read_bytes()
    assert (view / "best/manifest.json").read_bytes() == (winner / "manifest.json").read_bytes()
    assert np.array_equal(np.load(view / "best_scores/0-00000.npy"), np.load(view / f"scores@{best}/0-00000.npy"))
    again = events(run(folder, "--json"))[-1]
    assert (again["ran"], again["failed"]) == (0, 0)


@pytest.mark.slow
def test_a_gate_that_none_keeps_is_exit_5_with_the_table_and_nothing_after_it_runs(folder):
    done = run(folder, "--set", "stages.best.params.where.cosine_min='> 1.5'")
    assert done.returncode == 5
    assert "error: stage best: none of 2 variants keeps what `where` asks\n" in done.stderr
    assert "    precision=fp32" in done.stderr
    assert "best_buffers  " in done.stdout
    assert "because best failed" in done.stdout


@pytest.mark.slow
def test_another_rule_selects_again_and_builds_nothing(folder):
    run(folder)
    seen = events(run(folder, "--set", "stages.best.params.where={}", "--target", "best", "--json"))
    assert [e["stage"] for e in seen if e["event"] == "StageStarted"] == ["best"]


@pytest.mark.slow
def test_a_variant_more_is_what_explain_says(folder):
    run(folder, "--set", "matrix.precision=[fp32]")
    run(folder, "--target", "closeness")
    shown = trtpipe("explain", "p.yaml", "best", "--backend", "onnxruntime", cwd=folder).stdout
    assert "input engines: engine@precision=fp16 is new" in shown
    assert "input metrics: closeness@precision=fp16 is new" in shown


LOSE = ("--set", "matrix.precision=[fp32, fp16, bf16]", "--set", "stages.best.params.failed=lose")
REFUSED = "config@precision=bf16 failed: onnxruntime"  # the CPU has no bfloat16


@pytest.mark.slow
def test_a_variant_that_cannot_be_built_loses_and_the_run_goes_on(folder):
    done = run(folder, *LOSE)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    assert "note: config@precision=bf16 failed, and the run went on without it: onnxruntime" in done.stderr
    view = folder / "artifacts/view/p"
    assert REFUSED in table(view / "best")[-1]
    assert (view / "best_scores/0-00000.npy").exists()
    again = events(run(folder, *LOSE, "--json"))
    assert [e["stage"] for e in again if e["event"] == "StageStarted"] == ["config@precision=bf16"]
    assert (again[-1]["ran"], again[-1]["failed"], again[-1]["lost"]) == (0, 1, ["config@precision=bf16"])


@pytest.mark.slow
def test_what_was_chosen_without_a_failed_variant_is_found_later(folder):
    run(folder, *LOSE)
    for what in ("best/table.txt", "best_scores"):
        shown = trtpipe("show", "p.yaml", what, "--backend", "onnxruntime", *LOSE, cwd=folder)
        assert shown.returncode == 0, shown.stderr
        assert (folder / shown.stdout.strip()).exists()
    said = trtpipe("show", "p.yaml", "engine@precision=bf16", "--backend", "onnxruntime", *LOSE, cwd=folder)
    assert "engine@precision=bf16 is not built, because it needs config@precision=bf16" in said.stderr
    why = trtpipe("explain", "p.yaml", "config@precision=bf16", "--backend", "onnxruntime", *LOSE, cwd=folder)
    assert "failed last time: onnxruntime" in why.stdout
    pinned = trtpipe("cache", "pin", "p.yaml", "best", "--backend", "onnxruntime", *LOSE, cwd=folder)
    assert pinned.stdout == "pin: p/best\n"
    env = {"XDG_CONFIG_HOME": str(folder / "config")}
    trtpipe("keys", "new", cwd=folder, env=env)
    attested = trtpipe("attest", "p.yaml", "best", "--backend", "onnxruntime", *LOSE, cwd=folder, env=env)
    assert attested.returncode == 0, attested.stderr
    said = json.loads(base64.b64decode(json.loads(attested.stdout)["payload"]))
    stages = said["predicate"]["buildDefinition"]["externalParameters"]["stages"]
    assert [name for name in stages if "bf16" in name] == []
    assert "engines[engine@precision=bf16]" not in stages["best"]["inputs"]


@pytest.mark.slow
def test_a_failed_variant_ends_the_run_where_it_is_asked_for_or_may_not_lose(folder):
    for arguments in ((*LOSE[:2],), (*LOSE, "--target", "engine"), (*LOSE, "--target", "best", "--target", "engine")):
        done = run(folder, *arguments)
        assert done.returncode == 1, arguments
        assert "error: stage config@precision=bf16" in done.stderr
    assert "best  " in run(folder, *LOSE[:2]).stdout


def test_when_no_variant_is_left_the_failure_is_the_runs(folder):
    done = run(folder, *LOSE, "--set", "matrix.precision=[bf16]", "--set", "stages.closeness.inputs.reference=scores")
    assert done.returncode == 1
    assert "because config@precision=bf16 failed" in done.stdout


@pytest.mark.slow
def test_a_lock_knows_what_was_chosen_without_and_frozen_asks_for_no_more(folder):
    def command(*arguments):
        return trtpipe(*arguments, "--backend", "onnxruntime", cwd=folder)

    whole = folder / "p.yaml"
    whole.write_text(
        DOCUMENT.replace("[fp32, fp16]", "[fp32, fp16, bf16]").replace("{objective:", "{failed: lose, objective:")
    )
    assert command("lock", "p.yaml").returncode == 1  # nothing is built yet
    assert run(folder).returncode == 0
    assert command("lock", "p.yaml").returncode == 0
    assert "config@precision=bf16:" not in (folder / "p.lock").read_text()
    assert command("lock", "p.yaml", "--check").returncode == 0
    frozen = events(run(folder, "--frozen", "--json"))
    assert (frozen[-1]["ran"], frozen[-1]["failed"], frozen[-1]["skipped"]) == (0, 0, 5)
    # A variant less, or one that may not lose, is another choice.
    for old, new in ((", bf16", ""), ("failed: lose, ", "")):
        whole.write_text(whole.read_text().replace(old, new))
        said = run(folder, "--frozen")
        assert said.returncode == 5
        assert "p.lock does not fit, and --frozen builds nothing" in said.stderr


@pytest.mark.slow
def test_what_another_environment_locked_of_a_variant_that_fails_here_stays_unless_pruned(folder):
    run(folder, *LOSE)
    path = folder / "p.lock"
    lock = ("lock", "p.yaml", "--backend", "onnxruntime", *LOSE)
    trtpipe(*lock, cwd=folder)
    mine = re.search(r'  "?config@precision=fp16"?:\n(?:    .*\n)+', path.read_text())[0]
    theirs = re.sub(r"for: .*", 'for: ["elsewhere"]', mine.replace("fp16", "bf16", 1))
    path.write_text(path.read_text().replace(mine, theirs + mine))
    for more, stays in (((), True), (("--prune",), False)):
        said = trtpipe(*lock, *more, cwd=folder)
        assert said.returncode == 0, said.stderr
        assert (theirs in path.read_text()) is stays
        assert trtpipe(*lock, "--check", cwd=folder).returncode == 0


@pytest.mark.slow
def test_what_is_asked_for_and_failed_cannot_be_locked(folder):
    run(folder, *LOSE)
    for target in ("engine@precision=bf16", "config@precision=bf16"):
        said = trtpipe("lock", "p.yaml", "--backend", "onnxruntime", *LOSE, "--target", target, cwd=folder)
        assert said.returncode == 1
        assert "cannot be locked" in said.stderr
