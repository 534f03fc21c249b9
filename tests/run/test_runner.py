"""Runs as users make them: what runs, what hits, what fails, what is skipped, what an interrupt leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers import PROJECT, events, flip_everywhere, further, inference, project, python_stage, trtpipe

EVALUATE = "  {name}: {{type: evaluate, inputs: {{results: {reads}, labels: {{file: labels.npy}}}}, params: {{metrics: [{{metric: exact_match, field: twice}}]}}}}\n"  # noqa: E501


SLOW = "def g(arrays, samples):\n    import time\n    time.sleep(2)\n    return {'twice': arrays['x']}\n"


def run(folder, *args, **kw):
    return trtpipe("run", "p.yaml", *args, cwd=folder, **kw)


def kinds(result):
    shown = [e for e in events(result) if e["event"] not in ("StageProgress", "StageNote")]
    return [(e["event"], e["stage"]) for e in shown if e["event"].startswith("Stage")]


def left_over(folder):
    top = folder / "artifacts" / "tmp"
    return list(top.iterdir()) if top.exists() else []


def test_a_second_run_does_nothing(tmp_path):
    project(tmp_path, python_stage("a") + python_stage("b"))
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "0 hit, 2 ran" in first.stdout.replace("1 hit, 1 ran", "0 hit, 2 ran")
    second = run(tmp_path, "--json")
    assert [k for k, _ in kinds(second)] == ["StageCached", "StageCached"]
    end = events(second)[-1]
    assert [(one["stage"], one["size"]) for one in end.pop("results")] == [("a", 60), ("b", 60)]
    assert end | {"seconds": 0} == {
        "event": "PipelineFinished", "pipeline": "p", "hit": 2, "ran": 0, "failed": 0, "skipped": 0, "seconds": 0,
            "lost": [],
    }  # fmt: skip


def test_two_stages_with_one_key_are_made_once(tmp_path):
    project(tmp_path, python_stage("a") + python_stage("b"))
    assert sorted(kinds(run(tmp_path, "--json", "--jobs", "2"))) == [
        ("StageCached", "b"), ("StageFinished", "a"), ("StageStarted", "a"),
    ]  # fmt: skip


@pytest.mark.slow
def test_what_was_made_is_found_in_the_view_and_by_show(tmp_path):
    project(tmp_path, python_stage("a"))
    run(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "artifacts/view/p/a/results.jsonl").read_text().splitlines()]
    assert [r["twice"] for r in rows] == [0, 2, 4, 6]
    shown = trtpipe("show", "p.yaml", "a/results.jsonl", cwd=tmp_path)
    assert Path(shown.stdout.strip()).read_text() == (tmp_path / "artifacts/view/p/a/results.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / "step.py").write_text((f / "step.py").read_text() + "\n# more\n"), "source step.py changed"),
        (lambda f: __import__("numpy").savez(f / "data.npz", x=__import__("numpy").ones((4, 1), "f4")),
         "input tensors: data.npz changed"),
    ],
)  # fmt: skip
def test_a_changed_file_reruns_the_stage_and_explain_names_it(tmp_path, change, reason):
    project(tmp_path, python_stage("a"))
    run(tmp_path)
    change(tmp_path)
    status = trtpipe("status", "p.yaml", "--json", cwd=tmp_path)
    assert status.returncode == 10
    assert json.loads(status.stdout)["stages"][0]["reasons"] == [reason]
    assert reason in trtpipe("explain", "p.yaml", "a", cwd=tmp_path).stdout
    assert [k for k, _ in kinds(run(tmp_path, "--json"))] == ["StageStarted", "StageFinished"]


def test_a_changed_param_reruns_just_that_stage_and_says_old_and_new(tmp_path):
    project(tmp_path, python_stage("a", "slow", mark="m", seconds=0) + python_stage("b"))
    run(tmp_path)
    setting = "--set=stages.a.params.steps[0].args.seconds=0.1"
    status = json.loads(trtpipe("status", "p.yaml", setting, "--json", cwd=tmp_path).stdout)
    assert [(s["stage"], s["status"], s["reasons"]) for s in status["stages"]] == [
        ("a", "run", ["params.steps[0].args.seconds: 0 → 0.1"]), ("b", "hit", []),
    ]  # fmt: skip
    assert [s for k, s in kinds(run(tmp_path, setting, "--json")) if k == "StageFinished"] == ["a"]


@pytest.mark.slow
def test_force_runs_what_is_cached(tmp_path):
    project(tmp_path, python_stage("a") + python_stage("b", "slow", mark="m", seconds=0))
    run(tmp_path)
    assert [s for k, s in kinds(run(tmp_path, "--force=b", "--json")) if k == "StageFinished"] == ["b"]
    assert len([s for k, s in kinds(run(tmp_path, "--force", "--json")) if k == "StageFinished"]) == 2
    assert run(tmp_path, "--force=zz").returncode == 2


def test_target_runs_only_what_it_needs(tmp_path):
    project(tmp_path, python_stage("a") + python_stage("b", "slow", mark="m", seconds=0))
    assert {s for _, s in kinds(run(tmp_path, "--target", "a", "--json"))} == {"a"}


def test_a_failure_skips_what_depends_on_it_and_lets_the_others_finish(tmp_path):
    import numpy as np

    project(tmp_path, python_stage("bad", "fail") + EVALUATE.format(name="after", reads="bad") + python_stage("good"))
    np.save(tmp_path / "labels.npy", np.zeros(4, np.int64))
    result = run(tmp_path, "--json")
    assert result.returncode == 1
    found = kinds(result)
    assert ("StageFailed", "bad") in found
    assert ("StageFinished", "good") in found
    skipped = [e for e in events(result) if e["event"] == "StageSkipped"]
    assert [(e["stage"], e["because"]) for e in skipped] == [("after", "bad")]
    failed = next(e for e in events(result) if e["event"] == "StageFailed")
    assert "no such luck" in failed["message"]
    assert failed["place"] == "p.yaml:3:3 stages.bad"
    assert "no such luck" in trtpipe("show", "p.yaml", "bad", "--log", cwd=tmp_path).stdout
    assert not left_over(tmp_path)


@pytest.mark.slow
def test_a_failure_says_where_the_document_has_the_stage(tmp_path):
    project(tmp_path, python_stage("fine") + python_stage("bad", "fail"))
    assert "  the stage: p.yaml:4:3 stages.bad\n" in run(tmp_path).stderr


def test_what_depends_on_a_stage_that_cannot_start_is_said_to_be_skipped(tmp_path):
    nowhere = f'{{url: "http://127.0.0.1:1/x", sha256: "{"a" * 64}"}}'
    stages = f"  a: {{type: parse, inputs: {{model: {nowhere}}}}}\n"
    stages += "  b: {type: configure, inputs: {network: a}}\n  c: {type: build, inputs: {config: b}}\n"
    project(tmp_path, stages)
    result = run(tmp_path, "--json")
    assert result.returncode == 4
    assert kinds(result) == [("StageFailed", "a"), ("StageSkipped", "b"), ("StageSkipped", "c")]


@pytest.mark.slow
def test_a_file_that_vanishes_during_a_run_fails_the_stage_that_wants_it_and_no_other(tmp_path):
    code = "import os\n\ndef f(arrays, samples, file):\n    os.unlink(file)\n    return {'twice': arrays['x']}\n"
    stages = python_stage("a", "f", file=str(tmp_path / "labels.npy")) + EVALUATE.format(name="wants", reads="a")
    project(tmp_path, stages + python_stage("slow", "g"), code=code + "\n\n" + SLOW)
    (tmp_path / "labels.npy").write_bytes(b"x")
    result = run(tmp_path, "--json", "--jobs", "2")
    assert result.returncode == 2
    assert [k for k in kinds(result) if k[0] != "StageStarted"] == [
        ("StageFinished", "a"), ("StageFailed", "wants"), ("StageFinished", "slow"),
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGSEGV, *further(signal.SIGKILL, signal.SIGABRT)])
def test_a_worker_that_dies_fails_its_stage_with_the_signals_name_and_its_log(tmp_path, number):
    project(tmp_path, python_stage("bad", "die", how=int(number)) + python_stage("good"))
    result = run(tmp_path)
    assert result.returncode == 1
    assert f"ended by {number.name}" in result.stderr
    assert "about to die" in result.stderr
    assert (tmp_path / "artifacts/view/p/good").exists()
    assert not left_over(tmp_path)
    assert run(tmp_path).returncode == 1  # and it is not cached


def test_a_file_that_nobody_declared_counts_and_so_does_that_it_is_not_there(tmp_path):
    project(tmp_path, python_stage("a", "peek", name="secret.txt"))
    assert run(tmp_path).returncode == 0
    (tmp_path / "secret.txt").write_text("x")
    result = run(tmp_path)
    assert "secret.txt appeared" in result.stdout
    (tmp_path / "secret.txt").write_text("y")
    assert "secret.txt changed" in run(tmp_path).stdout
    (tmp_path / "secret.txt").unlink()
    assert run(tmp_path, "--json").returncode == 0
    assert "1 hit" in run(tmp_path).stdout  # as it was the first time
    assert not (tmp_path / "__pycache__").exists()


def test_a_read_outside_of_the_project_fails_the_stage_even_if_the_refusal_is_swallowed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    secret = tmp_path / "elsewhere" / "secret.txt"
    secret.write_text("x")
    project(tmp_path / "p", python_stage("a", "peek", name="../elsewhere/secret.txt"))
    result = run(tmp_path / "p")
    assert result.returncode == 1
    assert f"step.py:22: the code reads {secret}, which lies outside of the project" in result.stderr
    assert not list((tmp_path / "p" / "artifacts" / "actions").rglob("*.json"))
    allowed = run(tmp_path / "p", "--allow-outside")
    assert allowed.returncode == 0, allowed.stderr
    secret.write_text("y")
    assert "../elsewhere/secret.txt changed" in run(tmp_path / "p", "--allow-outside").stdout


def test_an_input_that_changes_while_the_stage_runs_is_not_kept_under_the_old_key(tmp_path):
    code = "def f(arrays, samples):\n    open(r'{}', 'a').write(' ')\n    return {{'twice': arrays['x']}}\n"
    project(tmp_path, python_stage("a", "f"), code="")
    (tmp_path / "step.py").write_text(code.format(tmp_path / "step.py"))
    result = run(tmp_path)
    assert result.returncode == 1
    assert "sources.step.py changed while the stage ran" in result.stderr


def start(folder, *args, document="p.yaml"):
    return subprocess.Popen(
        [sys.executable, "-m", "trtpipe", "run", document, *args],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(PROJECT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_ends_the_workers_and_leaves_nothing_half_written(tmp_path, number, code):
    mark = tmp_path / "started"
    project(tmp_path, python_stage("a", "slow", mark=str(mark)))
    process = start(tmp_path)
    wait_for(mark)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert "nothing half-written is left" in error
    assert "Traceback" not in error
    assert not left_over(tmp_path)
    assert not workers_of(tmp_path)
    assert trtpipe("status", "p.yaml", cwd=tmp_path).returncode == 10


CHILD = """\
import os, signal, subprocess, sys, time
def f(arrays, samples, mark, how):
    if how == "forks and dies" and not os.fork():
        time.sleep(600)
    if how != "forks and dies":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(mark, "w").write("x")
    if how == "forks and dies":
        os.kill(os.getpid(), signal.SIGKILL)
    while how == "goes on":
        time.sleep(1)
    return {"twice": arrays["x"]}
"""


def in_the_session_of_a_worker(folder):
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder) in os.readlink(entry / "cwd"):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return [text for text in found if "trtpipe\0run" not in text]


@pytest.mark.parametrize(("how", "code"), [("forks and dies", 1), ("leaves a child", 0)])
def test_what_a_worker_started_ends_with_it_and_holds_nobody_up(tmp_path, how, code):
    project(tmp_path, python_stage("a", "f", mark=str(tmp_path / "mark"), how=how), code=CHILD)
    begun = time.monotonic()
    result = run(tmp_path)
    assert result.returncode == code, result.stderr
    assert time.monotonic() - begun < 120
    deadline = time.monotonic() + 60
    while in_the_session_of_a_worker(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_second_interrupt_leaves_nothing_either(tmp_path):
    mark = tmp_path / "mark"
    project(tmp_path, python_stage("a", "f", mark=str(mark), how="goes on"), code=CHILD)
    process = start(tmp_path)
    wait_for(mark)
    begun = time.monotonic()
    while process.poll() is None and time.monotonic() - begun < 20:
        process.send_signal(signal.SIGINT)
        time.sleep(0.4)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert not left_over(tmp_path)
    assert not in_the_session_of_a_worker(tmp_path)


def test_an_error_that_is_not_utf_8_fails_its_stage_alone(tmp_path):
    code = "def f(arrays, samples):\n    raise ValueError('bad \\udcff')\n"
    project(tmp_path, python_stage("a", "f"), code=code)
    result = run(tmp_path)
    assert result.returncode == 1
    assert "ValueError: bad \\udcff" in result.stderr


def workers_of(folder):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if "trtpipe.run.worker" in (entry / "cmdline").read_text() and str(folder) in os.readlink(
                    entry / "cwd"
                ):
                    found.append(entry.name)
            except OSError:
                continue
    return found


def test_a_run_that_is_killed_takes_its_workers_with_it_and_the_next_one_finishes(tmp_path):
    mark = tmp_path / "started"
    project(tmp_path, python_stage("a", "slow", mark=str(mark)) + python_stage("b"))
    process = start(tmp_path, "--jobs", "1")
    wait_for(mark)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while workers_of(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert trtpipe("run", "p.yaml", "--target", "b", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_independent_stages_run_at_the_same_time(tmp_path):
    code = """\
import os, time
def meet(arrays, samples, mine, other):
    open(mine, "w").close()
    deadline = time.monotonic() + 60
    while not os.path.exists(other):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return {"twice": arrays["x"]}
"""
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    stages = python_stage("s", "meet", mine=a, other=b) + python_stage("t", "meet", mine=b, other=a)
    project(tmp_path, stages, code=code)
    assert run(tmp_path, "--jobs", "2").returncode == 0


@pytest.mark.parametrize("place", ["/proc/nowhere", "p.yaml"])
def test_an_artifacts_folder_that_cannot_be_written_is_exit_4(tmp_path, place):
    project(tmp_path, python_stage("a"))
    result = run(tmp_path, "--artifacts", place)
    assert result.returncode == 4
    assert "--artifacts" in result.stderr


def test_a_full_disk_is_exit_4_and_leaves_nothing_half_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        code = "import numpy as np\ndef f(arrays, samples):\n    return {'big': np.ones((4, 100_000), 'f4')}\n"
        step = {"op": "python", "entrypoint": "step.py:f"}
        stage = f"  a: {{type: postprocess, inputs: {{tensors: {{file: data.npz}}}}, params: {{arrays: [big], steps: [{json.dumps(step)}]}}}}\n"  # noqa: E501
        project(tmp_path, stage, code=code)
        result = run(tmp_path, "--artifacts", disk)
        assert result.returncode == 4, result.stdout + result.stderr
        assert not list((disk / "tmp").iterdir())
        assert not list((disk / "actions").rglob("*.json")) if (disk / "actions").exists() else True
    finally:
        subprocess.run(["umount", disk], check=False)


def test_a_copied_store_on_a_read_only_disk_gives_hits(tmp_path):
    project(tmp_path, python_stage("a"))
    assert run(tmp_path).returncode == 0
    disk = tmp_path / "disk"
    shutil.copytree(tmp_path / "artifacts", disk / "artifacts", symlinks=True, copy_function=shutil.copyfile)
    mounted = subprocess.run(["mount", "--bind", disk, disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", disk], check=True)
        result = run(tmp_path, "--artifacts", disk / "artifacts")
        assert result.returncode == 0
        assert "1 hit, 0 ran" in result.stdout
    finally:
        subprocess.run(["umount", disk], check=False)


def test_status_says_just_what_run_then_runs(tmp_path):
    import numpy as np

    stages = python_stage("a") + EVALUATE.format(name="e", reads="a") + python_stage("b", "slow", mark="m", seconds=0)
    project(tmp_path, stages)
    np.save(tmp_path / "labels.npy", np.zeros(4, np.int64))
    settings = "--set=stages.b.params.steps[0].args.seconds=0.01"
    run(tmp_path, "--target", "b")
    for extra in ([], [settings], ["--force=a"]):
        said = {s["stage"]: s["status"] for s in
                json.loads(trtpipe("status", "p.yaml", *extra, "--json", cwd=tmp_path).stdout)["stages"]}  # fmt: skip
        ran = {s for k, s in kinds(run(tmp_path, *extra, "--json")) if k == "StageStarted"}
        assert {s for s, what in said.items() if what == "run"} <= ran
        assert not ran & {s for s, what in said.items() if what == "hit"}


def test_a_stage_whose_new_output_is_the_old_one_stops_the_change_there(tmp_path):
    import numpy as np

    project(tmp_path, python_stage("a") + EVALUATE.format(name="e", reads="a"))
    np.save(tmp_path / "labels.npy", np.zeros(4, np.int64))
    run(tmp_path)
    (tmp_path / "step.py").write_text((tmp_path / "step.py").read_text() + "\n# only a comment\n")
    assert kinds(run(tmp_path, "--json")) == [
        ("StageStarted", "a"), ("StageFinished", "a"), ("StageCached", "e"),
    ]  # fmt: skip


# --- many at once

WAIT = """\
import os, time
import numpy as np
def once(arrays, samples, log, seconds):
    with open(log, "a") as stream:
        stream.write(f"{os.getpid()}\\n")
    time.sleep(seconds)
    return {"twice": (arrays["x"][:, 0] * 2).astype(np.int64)}

def until(arrays, samples, log, mark):
    once(arrays, samples, log, 0)
    while not os.path.exists(mark):
        time.sleep(0.01)
    return {"twice": arrays["x"]}
"""


def test_a_key_that_many_runs_want_is_made_once_and_the_others_say_whom_they_wait_for(tmp_path):
    log, go_on = tmp_path / "log", tmp_path / "go on"
    project(tmp_path, python_stage("a", "until", log=str(log), mark=str(go_on)), code=WAIT)
    runs = [start(tmp_path) for _ in range(6)]
    waiting = set()

    def watch(run):
        with run:
            for line in run.stdout:
                if "waiting: process " in line and " makes p/a" in line:
                    waiting.add(run.pid)
                if len(waiting) == 5 and not go_on.exists():  # a file that changes while a run reads it fails that run
                    go_on.touch()
            return run.stderr.read()

    with ThreadPoolExecutor(len(runs)) as pool:
        errors = list(pool.map(watch, runs))
    assert [run.returncode for run in runs] == [0] * 6, errors
    assert len(log.read_text().splitlines()) == 1
    assert len(waiting) == 5
    assert os.listdir(tmp_path / "artifacts" / "locks") == ["gc"]


def one_that_builds_and_one_that_waits(tmp_path):
    """Start two runs of one stage, which goes on once the file `go on` is there."""
    log = tmp_path / "log"
    project(tmp_path, python_stage("a", "until", log=str(log), mark=str(tmp_path / "go on")), code=WAIT)
    first = start(tmp_path)
    wait_for(log)
    second = start(tmp_path)
    line = ""
    while "waiting" not in line:
        line = second.stdout.readline()
        assert line
    return first, second


def test_a_waiting_run_whose_input_vanishes_ends_with_its_name(tmp_path):
    first, second = one_that_builds_and_one_that_waits(tmp_path)
    (tmp_path / "data.npz").unlink()
    _, told = second.communicate(timeout=120)
    assert second.returncode == 2
    assert "data.npz" in told
    first.kill()
    first.communicate()


def test_a_waiting_run_takes_over_when_the_builder_is_killed(tmp_path):
    first, second = one_that_builds_and_one_that_waits(tmp_path)
    first.kill()
    first.communicate()
    killed = time.monotonic()
    while len((tmp_path / "log").read_text().splitlines()) < 2:
        assert time.monotonic() - killed < 60
        time.sleep(0.02)
    (tmp_path / "go on").touch()
    output, error = second.communicate(timeout=60)
    assert second.returncode == 0, error
    assert "0 hit, 1 ran" in output


@pytest.mark.slow
def test_runs_that_want_each_others_stages_do_not_wait_in_a_circle(tmp_path):
    log = tmp_path / "log"
    one = python_stage("a", "once", log=str(log), seconds=1)
    two = python_stage("b", "once", log=str(log), seconds=1.5)
    project(tmp_path, one + two, code=WAIT)
    project(tmp_path, two + one, code=WAIT, name="q")
    runs = [start(tmp_path, "--jobs", "1") for _ in range(2)]
    runs += [start(tmp_path, "--jobs", "1", document="q.yaml") for _ in range(2)]
    for one_run in runs:
        one_run.communicate(timeout=60)
    assert [r.returncode for r in runs] == [0, 0, 0, 0]
    assert len(log.read_text().splitlines()) == 2


# --- inputs that change under us

CHANGE = """\
import os
import numpy as np
def f(arrays, samples):
    path, how = {path!r}, {how!r}
    status = os.stat(path)
    if how == "back":
        with open(path, "r+b") as stream:
            old = stream.read(1); stream.seek(0); stream.write(b"Z"); stream.flush()
            stream.seek(0); stream.write(old)
    elif how == "time":
        with open(path, "r+b") as stream:
            stream.seek(status.st_size // 2); stream.write(b"~~~~")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif how == "gone":
        os.unlink(path)
    return {{"twice": np.zeros(4, np.int64)}}
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("time", "inputs.tensors changed"), ("back", "data.npz changed"), ("gone", "data.npz cannot be read"),
    ],
)  # fmt: skip
def test_an_input_that_changes_while_the_stage_runs_is_noticed_however_it_is_hidden(tmp_path, how, said):
    project(tmp_path, python_stage("a", "f"), code=CHANGE.format(path=str(tmp_path / "data.npz"), how=how))
    result = run(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert said in result.stderr
    assert "changed while the stage ran" in result.stderr
    assert not list((tmp_path / "artifacts" / "actions").rglob("*.json"))


@pytest.mark.slow
def test_a_stage_that_writes_into_its_stored_input_harms_nobody(tmp_path):
    from tests.onnx_models import doubling, save

    code = """\
import glob, os
def ok(arrays, samples):
    return {"twice": arrays["x"]}
def evil(arrays, samples, where):
    for path in glob.glob(where):
        os.chmod(path, 0o644)
        with open(path, "r+b") as stream:
            stream.write(b"EVIL")
    return {"twice": arrays["x"]}
"""
    network = "  n: {type: parse, inputs: {model: {file: m.onnx}}}\n"
    where = str(tmp_path / "artifacts" / "trees" / "*" / "*")
    evil = python_stage("a", "evil", where=where).replace("{tensors:", "{network: n, tensors:")
    save(doubling([1, 4]), tmp_path / "m.onnx")
    project(tmp_path, network + evil, code=code)
    result = run(tmp_path)
    assert result.returncode == 1
    assert "the stage wrote into its input n/" in result.stderr
    project(tmp_path, network + python_stage("a", "ok").replace("{tensors:", "{network: n, tensors:"), code=code)
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert trtpipe("cache", "verify", cwd=tmp_path).returncode == 0


def test_an_engine_with_one_byte_flipped_is_built_again_before_a_runtime_sees_it(tmp_path):
    import numpy as np

    from tests import onnx_models as models

    models.save(models.conv(2), tmp_path / "m.onnx")
    project(tmp_path, inference())
    np.save(tmp_path / "image.npy", np.ones((4, 3, 8, 8), np.float32))
    assert run(tmp_path, "--backend", "onnxruntime").returncode == 0
    made = trtpipe("show", "p.yaml", "engine/engine.onnx", "--backend", "onnxruntime", cwd=tmp_path)
    torn = flip_everywhere(tmp_path / "artifacts", Path(made.stdout.strip()).read_bytes())
    result = run(tmp_path, "--backend", "onnxruntime", "--force", "scores")
    assert result.returncode == 0
    assert "run engine (build): engine.onnx: its content was changed by somebody, whose version is in" in result.stdout
    assert all(p.read_bytes() != torn for p in (tmp_path / "artifacts" / "trees").rglob("*") if p.is_file())
