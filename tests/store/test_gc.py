"""Garbage collection: the budget is met, and what somebody needs never goes."""

from __future__ import annotations

import os
import shutil
import signal
import time

import pytest

from tests.helpers import project, python_stage, trtpipe
from tests.run.test_runner import start, wait_for
from tests.store.helpers import a_key, commit, nothing_locked, several, there
from trtpipe.errors import PipelineInvalid
from trtpipe.store import disk_usage, gc, integrity, locks
from trtpipe.store.artifact import Hit, Miss
from trtpipe.store.gc import Budget, Needed
from trtpipe.store.state import State
from trtpipe.store.store import Store


def test_gc_removes_what_was_not_used_for_longest_until_the_budget_is_met(store):
    made = several(store)
    size = sum(one for _, one in disk_usage.usage(store.layout).values())
    dry = gc.gc(store, Budget(max_size=size - 30_000), nothing_locked, dry_run=True)
    assert there(store, made) == [True] * 4
    for key, _ in made:  # to look it up was to use it
        os.utime(store.action_path(key.digest), (1000 + int(key.params["name"]),) * 2)
    found = gc.gc(store, Budget(max_size=size - 30_000), nothing_locked)
    assert [a.key for a in found.removed] == [a.key for a in dry.removed] == [made[0][0].digest]
    assert found.met
    assert sum(one for _, one in disk_usage.usage(store.layout).values()) <= size - 30_000
    assert there(store, made) == [False, True, True, True]
    assert not os.path.lexists(store.view_path("p", "s0"))
    assert integrity.verify(store)[2] == []


def test_gc_by_age_spares_what_was_just_used(store):
    made = several(store)
    store.lookup(made[2][0].digest)
    gc.gc(store, Budget(max_age=3600), nothing_locked)
    assert there(store, made) == [False, False, True, False]


def test_gc_removes_what_nothing_refers_to_and_clears_up_after_the_killed(store):
    made = several(store, 2)
    os.unlink(store.action_path(made[0][0].digest))
    waste = [
        os.path.join(store.folder, *p)
        for p in (("actions", "x.json.1-a.tmp"), ("locks", "key-dead"), ("locks", "run-1-2"))
    ]
    for path in waste:
        with open(path, "w"):
            pass
    os.makedirs(os.path.join(store.folder, "tmp", "7-00000000dead"))
    found = gc.gc(store, Budget(), nothing_locked)
    assert (found.orphans, found.removed) == (1, ())
    assert not any(map(os.path.exists, waste))
    assert os.listdir(os.path.join(store.folder, "tmp")) == []
    assert there(store, made) == [False, True]


def test_content_that_two_results_share_stays_for_the_other(store):
    one, two = a_key("1"), a_key("2")
    commit(store, {"a": b"same"}, one)
    commit(store, {"b": b"same"}, two)
    os.utime(store.action_path(one.digest), (1, 1))
    gc.gc(store, Budget(max_age=3600), nothing_locked)
    assert isinstance(store.lookup(one.digest), Miss)
    assert isinstance(store.lookup(two.digest), Hit)


@pytest.mark.slow
def test_gc_while_runs_go_on_breaks_none_of_them(tmp_path):
    mark = tmp_path / "mark"
    network = "  n: {type: evaluate, inputs: {results: b, labels: {file: labels.npy}}, params: {metrics: [{metric: exact_match, field: twice}]}}\n"  # noqa: E501
    import numpy as np

    project(tmp_path, python_stage("a") + python_stage("b", "slow", mark=str(mark), seconds=4) + network)
    np.save(tmp_path / "labels.npy", np.zeros(4, np.int64))
    process = start(tmp_path)
    wait_for(mark)
    wait_for(tmp_path / "artifacts" / "view" / "p" / "a")  # it runs beside the other
    result = trtpipe("cache", "gc", "--max-size", "1B", cwd=tmp_path)
    assert "in use by a run" in result.stdout
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert trtpipe("status", "p.yaml", cwd=tmp_path).returncode == 0


def test_a_run_that_was_killed_holds_nothing_back_from_gc(tmp_path):
    mark = tmp_path / "mark"
    project(tmp_path, python_stage("a") + python_stage("b", "slow", mark=str(mark)))
    process = start(tmp_path, "--jobs", "1")
    wait_for(mark)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.2)
    with State(str(tmp_path / "artifacts")) as state:
        store = Store(str(tmp_path / "artifacts"), state)
        gc.gc(store, Budget(max_size=0), nothing_locked)
        assert os.listdir(os.path.join(store.folder, "tmp")) == []
        assert os.listdir(os.path.join(store.folder, "locks")) == ["gc"]
        shutil.rmtree(store.folder)


def test_gc_leaves_folders_alone_that_are_not_trtpipes(store):
    several(store, 1)
    for part in ("trees", "shown"):
        os.makedirs(os.path.join(store.folder, part, "oak"))
    gc.gc(store, Budget(max_size=0), nothing_locked)
    assert [os.listdir(os.path.join(store.folder, part)) for part in ("trees", "shown")] == [["oak"], ["oak"]]


def test_gc_says_so_when_nothing_is_left_to_remove(tmp_path):
    project(tmp_path, python_stage("a"))
    trtpipe("run", "p.yaml", "-q", cwd=tmp_path)
    result = trtpipe("cache", "gc", "--max-size", "1B", cwd=tmp_path)
    assert result.returncode == 5
    assert result.stdout.endswith("the budget is not met, and there is no result left to remove\n")


def age(path, hours):
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def test_another_machines_work_is_left_alone_for_a_day_whatever_the_lock_says(store):
    # SeaweedFS keeps locks within one mount: each machine can have what another one holds.
    top, places = os.path.join(store.folder, "tmp"), {}
    for name, hours in (("1-a@elsewhere", 1), ("2-b@elsewhere", 30), (f"3-c@{locks.host()}", 0), ("4-d", 0)):
        places[name] = os.path.join(top, name)
        os.makedirs(places[name])
        age(places[name], hours)
    with store.workspace() as mine:
        assert sorted(os.listdir(top)) == sorted(["1-a@elsewhere", os.path.basename(mine)])
    made = several(store, 3)
    for name, (key, _), hours in (("run-1-1-a@elsewhere", made[0], 1), ("run-1-2-b@elsewhere", made[1], 30)):
        path = os.path.join(store.folder, "locks", name)
        with open(path, "w") as stream:
            stream.write(f"key {key.digest}\n")
        age(path, hours)
    found = gc.gc(store, Budget(max_size=0), nothing_locked)
    assert found.kept == {made[0][0].digest: "in use by a run"}
    assert there(store, made) == [True, False, False]
    assert os.path.isdir(places["1-a@elsewhere"])
    assert sorted(os.listdir(os.path.join(store.folder, "locks"))) == ["gc", "run-1-1-a@elsewhere"]


def test_what_lock_files_need_is_asked_while_gc_has_the_store_alone_and_stays(store):
    made = several(store, 4)
    (by_key, _), (_, by_content) = made[0], made[1]
    asked = []

    def locked():
        asked.append(locks.take(store.layout.lock("gc"), shared=True))
        blobs = {sha: "locked by b" for sha, _ in by_content.files.values()}
        return Needed({by_key.digest: "locked by a"}, {made[2][1].digest: "locked by c"}, blobs)

    found = gc.gc(store, Budget(max_size=0), locked)
    assert asked == [None]  # nobody else gets the lock meanwhile
    assert found.kept == {by_key.digest: "locked by a", made[1][0].digest: "locked by b"}
    assert sorted(os.listdir(store.layout.part("trees"))) == sorted(artifact.digest for _, artifact in made[:3])
    assert there(store, made) == [True, True, False, False]


def test_gc_removes_nothing_if_it_cannot_be_known_what_lock_files_need(store):
    made = several(store, 2)

    def unreadable():
        raise PipelineInvalid("p.lock: expected a whole lock")

    with pytest.raises(PipelineInvalid):
        gc.gc(store, Budget(max_size=0), unreadable)
    assert there(store, made) == [True, True]
