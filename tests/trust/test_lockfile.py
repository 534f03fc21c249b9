"""The lock: deterministic, small in merges, and nothing drifts past it."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import copied, project, python_stage, trtpipe
from trtpipe import errors
from trtpipe.key import Key
from trtpipe.pipeline import document
from trtpipe.store import gc, locks
from trtpipe.store.artifact import Artifact
from trtpipe.store.state import State
from trtpipe.store.store import Store
from trtpipe.trust import lockfile

EVALUATE = "  e: {type: evaluate, inputs: {results: b, labels: {file: labels.npy}}, params: {metrics: [{metric: exact_match, field: twice}]}}\n"  # noqa: E501


@pytest.fixture(scope="module")
def locked_once(tmp_path_factory):
    import numpy as np

    tmp_path = tmp_path_factory.mktemp("locked")
    project(tmp_path, python_stage("a", "slow", mark="m", seconds=0) + python_stage("b") + EVALUATE)
    np.save(tmp_path / "labels.npy", np.zeros(4, np.int64))
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    assert trtpipe("lock", "p.yaml", cwd=tmp_path).returncode == 0
    return tmp_path


@pytest.fixture
def locked(locked_once, tmp_path):
    return copied(locked_once, tmp_path)


def frozen(folder, *args):
    return trtpipe("run", "p.yaml", "--frozen", *args, cwd=folder)


def check(folder, *args):
    return trtpipe("lock", "p.yaml", "--check", *args, cwd=folder)


def test_a_lock_that_was_just_made_fits_and_is_the_same_bytes_each_time(locked):
    text = (locked / "p.lock").read_bytes()
    assert check(locked).stdout == "p.lock fits: 3 stages\n"
    assert frozen(locked).returncode == 0
    assert "nothing changed" in trtpipe("lock", "p.yaml", cwd=locked).stdout
    assert (locked / "p.lock").read_bytes() == text
    assert [line for line in text.decode().splitlines() if line.startswith("  ") and line[2] != " "] == [
        "  a:", "  b:", "  e:",
    ]  # fmt: skip


def change_param(folder):
    text = (folder / "p.yaml").read_text()
    (folder / "p.yaml").write_text(text.replace('"seconds": 0', '"seconds": 0.5'))


def change_source(folder):
    (folder / "step.py").write_text((folder / "step.py").read_text() + "\n# more\n")


def change_input(folder):
    import numpy as np

    np.save(folder / "labels.npy", np.ones(4, np.int64))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_param, ["a: params.steps[0].args.seconds: 0 → 0.5"]),
        (change_source, ["a: source step.py changed", "b: source step.py changed"]),
        (change_input, ["e: input labels: labels.npy changed"]),
    ],
)
def test_drift_is_exit_5_by_name_and_nothing_is_built(locked, change, said):
    change(locked)
    before = sorted(p.name for p in (locked / "artifacts" / "actions").rglob("*"))
    for result in (frozen(locked), check(locked)):
        assert result.returncode == 5
        assert set(said) <= {line.strip() for line in result.stderr.splitlines()}
    assert sorted(p.name for p in (locked / "artifacts" / "actions").rglob("*")) == before


def test_another_tool_version_is_drift(locked):
    text = (locked / "p.lock").read_text()
    one = lockfile.read(str(locked / "p.lock"))
    stages = {}
    for name, (entry,) in one.stages.items():
        facets = {**entry.key.environment, **({"numpy": "0.9"} if "numpy" in entry.key.environment else {})}
        stages[name] = (entry._replace(key=entry.key._replace(environment=facets)),)
    lockfile.write(str(locked / "p.lock"), lockfile.Lock(one.pipeline, stages), "p.yaml")
    assert (locked / "p.lock").read_text() != text
    result = frozen(locked)
    assert result.returncode == 5
    assert "b: numpy: 0.9 → " in result.stderr


@pytest.mark.slow
def test_only_the_blocks_of_stages_that_changed_change(locked):
    before = (locked / "p.lock").read_text()
    change_param(locked)
    assert trtpipe("run", "p.yaml", cwd=locked).returncode == 0
    assert "changed: a\n" in trtpipe("lock", "p.yaml", cwd=locked).stdout
    after = (locked / "p.lock").read_text()
    assert before.partition("  b:\n")[2] == after.partition("  b:\n")[2]
    assert check(locked).returncode == 0


def test_a_stage_that_came_or_went_is_drift(locked):
    text = (locked / "p.yaml").read_text()
    (locked / "p.yaml").write_text(text + python_stage("new"))
    assert "new: is not in the lock file" in check(locked).stderr
    (locked / "p.yaml").write_text(text.replace(EVALUATE, ""))
    assert "e: is in the lock file, but not in the document any more" in check(locked).stderr


def test_what_is_absent_is_taken_as_locked_and_said(locked):
    (locked / "data.npz").unlink()
    (locked / "step.py").unlink()
    result = frozen(locked)
    assert result.returncode == 0, result.stderr
    assert "not here, taken as locked: data.npz, step.py" in result.stdout
    assert trtpipe("run", "p.yaml", cwd=locked).returncode == 2


def test_an_artifact_that_is_not_to_be_had_is_exit_5(locked):
    shutil.rmtree(locked / "artifacts" / "blobs")
    result = frozen(locked)
    assert result.returncode == 5
    assert "a: results.jsonl, table.txt: its content is gone from the store" in result.stderr
    assert (
        "to make them again, run without --frozen on a machine that has the inputs, or use a remote store"
        in result.stderr
    )
    assert check(locked).returncode == 0


def test_the_locked_artifact_is_shown_even_if_the_store_made_another_since(locked):
    path = next(
        p for p in (locked / "artifacts" / "actions").rglob("*.json") if json.loads(p.read_text())["stage"] == "a"
    )
    path.unlink()
    shutil.rmtree(locked / "artifacts" / "view")
    assert frozen(locked, "--target", "a").returncode == 0
    assert (locked / "artifacts" / "view" / "p" / "a" / "results.jsonl").exists()


@pytest.mark.parametrize(
    "harm",
    [
        lambda t: t.replace("kind:", "kinds:", 1), lambda t: "<<<<<<< ours\n" + t, lambda t: t[: len(t) // 2],
        lambda _: "", lambda _: "[]", lambda t: t.replace("twice", "thrice"),
        lambda t: t.replace("format: 2", "format: 1"), lambda t: t.replace("format: 2", "format: 3"),
    ],
)  # fmt: skip
def test_a_lock_that_was_edited_or_half_merged_is_exit_2(locked, harm):
    text = (locked / "p.lock").read_text()
    (locked / "p.lock").write_text(harm(text))
    assert harm(text) != text
    result = check(locked)
    assert result.returncode == 2, result.stderr
    assert "write it again: trtpipe lock" in result.stderr


def test_without_a_lock_frozen_says_how_to_make_one(tmp_path):
    project(tmp_path, python_stage("a"))
    result = frozen(tmp_path)
    assert result.returncode == 2
    assert "there is no lock file; make one: trtpipe lock" in result.stderr
    unbuilt = trtpipe("lock", "p.yaml", cwd=tmp_path)
    assert unbuilt.returncode == 1
    assert "a is not built (never built)" in unbuilt.stderr
    assert frozen(tmp_path, "--force").returncode == 2


def an_entry(where, name="x", content="0" * 64):
    key = Key("parse", 1, {"name": name}, {"i": "1" * 64}, {"s.py": "2" * 64}, {"onnx": "1.2"})
    return lockfile.Entry(where, key, Artifact("network", {"f": (content, 3)}))


def test_environments_share_an_entry_where_they_agree_and_keep_their_own_where_not():
    here, there = an_entry(("here",)), an_entry(("there",))
    assert lockfile._joined((there,), here) == (an_entry(("here", "there")),)
    both = lockfile._joined((there,), an_entry(("here",), content="3" * 64))
    assert [e.where for e in both] == [("here",), ("there",)]
    moved = lockfile._joined((an_entry(("here", "there")),), an_entry(("here",), "y"))
    assert [(e.where, e.key.params["name"]) for e in moved] == [(("here",), "y"), (("there",), "x")]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda i: st.lists(i, max_size=3) | st.dictionaries(TEXT, i, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(TEXT, JSON, max_size=4), TEXT.filter(bool))
@settings(deadline=None, max_examples=150)
def test_whatever_params_a_stage_has_come_back_from_the_lock(params, name):
    entry = an_entry(("w",))._replace(key=Key("t", 1, params, {}, {}, {}))
    text = lockfile.text(lockfile.Lock("p", {name: (entry,)}), "p.yaml")
    back = document.parse(text, "p.lock").value["stages"][name][0].get("params") or {}
    assert json.dumps(back, sort_keys=True) == json.dumps(params, sort_keys=True)


def test_a_lock_that_cannot_be_written_is_a_store_error(locked):
    with pytest.raises(errors.StoreError, match="cannot be written"):
        lockfile.write(os.path.join(locked, "nowhere", "p.lock"), lockfile.Lock("p", {}), "p.yaml")


# --- cache gc


@pytest.fixture(scope="module")
def built_once(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("built")
    project(tmp_path, python_stage("a") + python_stage("b", "slow", mark="m", seconds=0))
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    return tmp_path


@pytest.fixture
def built(built_once, tmp_path):
    return copied(built_once, tmp_path)


@pytest.mark.slow
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


def test_gc_keeps_what_a_lock_names_that_only_another_machine_sees(built, monkeypatch):
    assert trtpipe("lock", "p.yaml", cwd=built).returncode == 0
    shared = str(built / "artifacts")
    (root,) = (built / "artifacts" / "roots").iterdir()
    (built / "p.lock").rename(built / "hidden")
    with State(shared) as state:
        store = Store(shared, state)
        monkeypatch.setattr(locks, "host", lambda: "elsewhere")
        assert len(gc.gc(store, gc.Budget(max_size=0), lambda: lockfile.needed(store)).kept) == 2
        monkeypatch.undo()
        (built / "hidden").rename(built / "p.lock")
        text = root.read_text()
        root.write_text(text.replace('"keys"', '"key"'))
        with pytest.raises(errors.StoreError, match="found damage, so what a lock file needs is not known"):
            gc.gc(store, gc.Budget(max_size=0), lambda: lockfile.needed(store))
    (built / "p.yaml").write_text((built / "p.yaml").read_text().replace('"seconds": 0', '"seconds": 0.01'))
    assert trtpipe("run", "p.yaml", cwd=built).returncode == 0
    assert json.loads(root.read_text())["keys"] == json.loads(text)["keys"]  # written anew
    assert trtpipe("lock", "p.yaml", cwd=built).returncode == 0
    assert set(json.loads(root.read_text())["keys"]) != set(json.loads(text)["keys"])
