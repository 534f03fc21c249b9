"""Care of the store: damage is found, and what somebody needs never goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest

from tests.helpers import project, python_stage, trtpipe
from tests.run.test_runner import start, wait_for
from tests.store.test_store import a_key, commit, content_of
from trtpipe.errors import StoreError
from trtpipe.store import gc, locks
from trtpipe.store.gc import Budget
from trtpipe.store.state import State
from trtpipe.store.store import Hit, Miss, Store


def several(store, count=4, size=40_000):
    made = []
    for number in range(count):
        key = a_key(str(number))
        made.append((key, commit(store, {"f": bytes([number]) * size}, key)))
        store.tree(made[-1][1])
        store.show("p", f"s{number}", made[-1][1])
        os.utime(store.action_path(key.digest), (1000 + number, 1000 + number))
    return made


def there(store, made):
    return [isinstance(store.lookup(key.digest), Hit) for key, _ in made]


def test_verify_reads_everything_and_puts_aside_what_is_not_its_name(store):
    made = several(store, 3)
    assert gc.verify(store) == (3, 120_000, [])
    path = store.blob_path(made[1][1].files["f"][0])
    status = os.stat(path)
    os.chmod(path, 0o644)
    with open(path, "r+b") as stream:
        stream.write(b"X")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with open(store.action_path(made[2][0].digest), "w") as stream:
        stream.write("{}")
    _, _, found = gc.verify(store)
    assert [f.fixed for f in found] == ["put aside", "put aside", "removed"]
    assert len(os.listdir(os.path.join(store.folder, "quarantine"))) == 2
    assert there(store, made) == [True, False, False]


def test_verify_tells_of_what_was_changed_in_the_view_and_leaves_it(store):
    ((_, artifact),) = several(store, 1)
    path = os.path.join(store.view_path("p", "s0"), "f")
    with open(path, "ab") as stream:
        stream.write(b"mine")
    _, _, found = gc.verify(store)
    assert [(f.trouble) for f in found] == ["somebody changed it"]
    assert content_of(path).endswith(b"mine")
    assert store.lookup(a_key("0").digest).artifact == artifact


def test_gc_removes_what_was_not_used_for_longest_until_the_budget_is_met(store):
    made = several(store)
    size = sum(one for _, one in gc.usage(store).values())
    dry = gc.gc(store, Budget(max_size=size - 60_000), dry_run=True)
    assert there(store, made) == [True] * 4
    for key, _ in made:  # to look it up was to use it
        os.utime(store.action_path(key.digest), (1000 + int(key.params["name"]),) * 2)
    found = gc.gc(store, Budget(max_size=size - 60_000))
    assert [a.key for a in found.removed] == [a.key for a in dry.removed] == [made[0][0].digest]
    assert found.met
    assert sum(one for _, one in gc.usage(store).values()) <= size - 60_000
    assert there(store, made) == [False, True, True, True]
    assert not os.path.lexists(store.view_path("p", "s0"))
    assert gc.verify(store)[2] == []


def test_gc_by_age_spares_what_was_just_used(store):
    made = several(store)
    store.lookup(made[2][0].digest)
    gc.gc(store, Budget(max_age=3600))
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
    found = gc.gc(store, Budget())
    assert (found.orphans, found.removed) == (1, ())
    assert not any(map(os.path.exists, waste))
    assert os.listdir(os.path.join(store.folder, "tmp")) == []
    assert there(store, made) == [False, True]


def test_content_that_two_results_share_stays_for_the_other(store):
    one, two = a_key("1"), a_key("2")
    commit(store, {"a": b"same"}, one)
    commit(store, {"b": b"same"}, two)
    os.utime(store.action_path(one.digest), (1, 1))
    gc.gc(store, Budget(max_age=3600))
    assert isinstance(store.lookup(one.digest), Miss)
    assert isinstance(store.lookup(two.digest), Hit)


def test_gc_keeps_what_is_pinned_until_it_is_unpinned(store):
    made = several(store, 2)
    gc.pin(store, [("p/s0", made[0][0].digest, made[0][1])])
    found = gc.gc(store, Budget(max_size=0))
    assert there(store, made) == [True, False]
    assert not found.met
    assert found.kept == {made[0][0].digest: "pinned as p/s0"}
    assert gc.unpin(store, [made[0][0].digest]) == ["p/s0"]
    gc.gc(store, Budget(max_size=0))
    assert there(store, made) == [False, False]


def test_gc_keeps_what_a_running_run_uses(store):
    made = several(store, 2)
    other = Store(store.folder, store.state)
    with other.in_use():
        with other.guard():
            other.use([made[1][0].digest])
        gc.gc(store, Budget(max_size=0))
        assert there(store, made) == [False, True]
    gc.gc(store, Budget(max_size=0))
    assert there(store, made) == [False, False]


def test_gc_waits_for_a_commit_and_says_so_if_it_takes_too_long(store, monkeypatch):
    several(store, 1)
    monkeypatch.setattr("trtpipe.store.store._GUARD_SECONDS", 0.1)
    with Store(store.folder, store.state).guard(), pytest.raises(StoreError, match="other runs use the store"):
        gc.gc(store, Budget(max_size=0))


@pytest.fixture
def built(tmp_path):
    project(tmp_path, python_stage("a") + python_stage("b", "slow", mark="m", seconds=0))
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    return tmp_path


def test_gc_keeps_what_the_lock_of_a_known_document_names_even_after_the_document_changed(built):
    assert trtpipe("lock", "p.yaml", cwd=built).returncode == 0
    (built / "p.yaml").write_text((built / "p.yaml").read_text().replace('"seconds": 0', '"seconds": 0.01'))
    assert trtpipe("run", "p.yaml", cwd=built).returncode == 0
    result = trtpipe("cache", "gc", "--max-size", "1B", cwd=built)
    assert result.returncode == 5
    assert f"locked by {built / 'p.lock'}" in result.stdout
    (built / "p.yaml").write_text((built / "p.yaml").read_text().replace('"seconds": 0.01', '"seconds": 0'))
    assert trtpipe("run", "p.yaml", "--frozen", cwd=built).returncode == 0
    (built / "p.lock").write_text("half a lock: [")
    assert trtpipe("cache", "gc", "--max-size", "1B", cwd=built).returncode == 2  # who knows what it needs
    (built / "p.lock").unlink()
    assert trtpipe("cache", "gc", "--max-size", "1B", cwd=built).returncode == 5
    assert json.loads(trtpipe("cache", "ls", "--json", cwd=built).stdout)["actions"] == []


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


def test_the_commands_tell_people_and_programs_what_lies_there(built):
    assert "p/a" in trtpipe("cache", "ls", cwd=built).stdout
    assert {a["stage"] for a in json.loads(trtpipe("cache", "ls", "--json", cwd=built).stdout)["actions"]} == {
        "p/a",
        "p/b",
    }
    assert "blobs" in trtpipe("cache", "du", cwd=built).stdout
    assert trtpipe("cache", "verify", cwd=built).stdout.endswith("all whole\n")
    assert trtpipe("cache", "pin", "p.yaml", "a", cwd=built).stdout == "pin: p/a\n"
    assert "pinned as p/a" in trtpipe("cache", "gc", "--max-size", "1B", "--dry-run", cwd=built).stdout
    assert trtpipe("cache", "unpin", "p.yaml", cwd=built).stdout == "unpin: p/a\n"
    assert trtpipe("cache", "gc", "--max-size", "lots", cwd=built).returncode == 2
    assert "found 20, expected a size such as 20GiB" in trtpipe("cache", "gc", "--max-size", "20", cwd=built).stderr
    assert trtpipe("cache", "ls", "--artifacts", "nowhere", cwd=built).returncode == 4


def test_damage_that_verify_finds_is_exit_4_and_the_next_run_mends_it(built):
    blob = next(p for p in (built / "artifacts" / "blobs").rglob("*") if p.is_file())
    blob.chmod(0o644)
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    result = trtpipe("cache", "verify", cwd=built)
    assert result.returncode == 4
    assert "has another content than its name says; put aside" in result.stdout
    assert trtpipe("run", "p.yaml", cwd=built).returncode == 0
    assert trtpipe("cache", "verify", cwd=built).returncode == 0


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
        gc.gc(store, Budget(max_size=0))
        assert os.listdir(os.path.join(store.folder, "tmp")) == []
        assert os.listdir(os.path.join(store.folder, "locks")) == ["gc"]
        shutil.rmtree(store.folder)


@pytest.mark.parametrize("name", ["tmp-12-0123456789ab@{host}", "key-" + "a" * 64, "run-1-2@{host}"])
def test_gc_removes_what_a_run_left_that_was_killed_as_it_took_a_lock(store, monkeypatch, name):
    place = os.path.join(store.folder, "locks")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda *_: None)  # it did not come so far
        held = locks.take(os.path.join(place, name.format(host=locks.host())))
    held.release()
    assert len(os.listdir(place)) == 1
    gc.gc(store, Budget())
    assert os.listdir(place) == ["gc"]


def test_gc_leaves_folders_alone_that_are_not_trtpipes(store):
    several(store, 1)
    for part in ("trees", "shown"):
        os.makedirs(os.path.join(store.folder, part, "oak"))
    gc.gc(store, Budget(max_size=0))
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
    found = gc.gc(store, Budget(max_size=0))
    assert found.kept == {made[0][0].digest: "in use by a run"}
    assert there(store, made) == [True, False, False]
    assert os.path.isdir(places["1-a@elsewhere"])
    assert sorted(os.listdir(os.path.join(store.folder, "locks"))) == ["gc", "run-1-1-a@elsewhere"]


def test_gc_keeps_what_a_lock_names_that_only_another_machine_sees(built, monkeypatch):
    assert trtpipe("lock", "p.yaml", cwd=built).returncode == 0
    shared = str(built / "artifacts")
    (root,) = (built / "artifacts" / "roots").iterdir()
    (built / "p.lock").rename(built / "hidden")
    with State(shared) as state:
        monkeypatch.setattr(locks, "host", lambda: "elsewhere")
        assert len(gc.gc(Store(shared, state), Budget(max_size=0)).kept) == 2
        monkeypatch.undo()
        (built / "hidden").rename(built / "p.lock")
        text = root.read_text()
        root.write_text(text.replace('"keys"', '"key"'))
        with pytest.raises(StoreError, match="damaged, so a lock is unknown"):
            gc.gc(Store(shared, state), Budget(max_size=0))
    (built / "p.yaml").write_text((built / "p.yaml").read_text().replace('"seconds": 0', '"seconds": 0.01'))
    assert trtpipe("run", "p.yaml", cwd=built).returncode == 0
    assert json.loads(root.read_text())["keys"] == json.loads(text)["keys"]  # written anew
    assert trtpipe("lock", "p.yaml", cwd=built).returncode == 0
    assert set(json.loads(root.read_text())["keys"]) != set(json.loads(text)["keys"])
