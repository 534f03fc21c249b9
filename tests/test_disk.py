"""From a user's file to a result each content lies on the disk once; and stores of the version before are read."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests import onnx_models as models
from tests.helpers import events, inference, project, python_stage, trtpipe

RUN = ("run", "p.yaml", "--backend", "onnxruntime")
HALF_MIB = 2**19


@pytest.fixture
def big(tmp_path):
    """Give a project with a model whose weights, half a MiB, lie in external data."""
    weights = np.random.default_rng(0).standard_normal((512, 256), np.float32)
    model = models.model([helper.make_node("MatMul", ["image", "w"], ["y"])], [models.value("image", ["batch", 512])],
                         [models.value("y", ["batch", 256])], {"w": weights})  # fmt: skip
    models.with_external(tmp_path / "m.onnx", model, "weights.bin")
    np.save(tmp_path / "image.npy", np.ones((4, 512), np.float32))
    profile = "{profiles: [{image: {min: [1, 512], opt: [4, 512], max: [8, 512]}}]}"
    project(tmp_path, inference(profile, allocate="{shapes: {image: [4, 512]}}"))
    return tmp_path


def run(folder, *more):
    result = trtpipe(*RUN, "--json", *more, cwd=folder)
    assert result.returncode == 0, result.stderr
    end = events(result)[-1]
    notes = [e["text"] for e in events(result) if e["event"] == "note"]
    return end["hit"], end["ran"], notes


def contents(top):
    """Give for each inode of half a MiB or more below a folder the names that lead to it, without the view's."""
    found = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = Path(folder, name)
            if path.lstat().st_size >= HALF_MIB:
                found.setdefault(path.lstat().st_ino, []).append(path)
    return found


def as_before(store):
    """Lay a store out as the version before did: people's copies in shown/, and copies of external data in trees."""
    for tree in (store / "trees").iterdir():
        shutil.copytree(tree, store / "shown" / tree.name)
        for path in tree.rglob("*.bin"):
            shutil.copyfile(path, tree / "copy")
            os.replace(tree / "copy", path)
            path.chmod(0o444)
    for path in (store / "shown").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for link in (store / "view" / "p").iterdir():
        digest = os.readlink(link).rpartition("/")[2]
        link.unlink()
        link.symlink_to(f"../../shown/{digest}")
    database = sqlite3.connect(store / "state.sqlite")
    database.execute("CREATE TABLE shown (artifact TEXT PRIMARY KEY, stamps TEXT NOT NULL) WITHOUT ROWID")
    database.commit()
    database.close()


def test_the_weights_of_a_model_lie_in_the_store_once_and_in_its_plan(big):
    assert run(big)[:2] == (0, 5)
    store = big / "artifacts"
    weights = (big / "weights.bin").read_bytes()
    found = [paths for paths in contents(store).values() if paths[0].read_bytes() == weights]
    assert [sorted(p.relative_to(store).parts[0] for p in paths) for paths in found] == [
        ["blobs", "trees", "trees", "trees"]
    ]
    plans = [paths for paths in contents(store).values() if paths[0].read_bytes() != weights]
    assert [sorted({p.name for p in paths if "trees" in p.parts}) for paths in plans] == [["engine.onnx"]]
    for stage in ("network", "config", "engine/parsed"):
        seen = store / "view" / "p" / stage / "weights.bin"
        assert seen.samefile(found[0][0])
    assert (big / "weights.bin").stat().st_nlink == 1


@pytest.mark.slow
def test_a_plan_that_was_written_to_through_the_view_is_kept_aside_and_built_again(big):
    run(big)
    seen = big / "artifacts" / "view" / "p" / "engine" / "engine.onnx"
    right = seen.read_bytes()
    seen.chmod(0o644)
    with seen.open("r+b") as stream:
        stream.write(b"mine")
    result = trtpipe(*RUN, cwd=big)
    assert result.returncode == 0, result.stderr
    assert "run engine (build): engine.onnx: its content was changed by somebody, whose version is in" in result.stdout
    assert seen.read_bytes() == right
    (kept,) = (big / "artifacts" / "edited").glob("*/engine.onnx")
    assert kept.read_bytes()[:4] == b"mine"
    assert run(big)[:2] == (5, 0)


@pytest.mark.slow
def test_a_store_of_the_version_before_is_read_and_its_copies_become_links(big):
    run(big)
    store = big / "artifacts"
    as_before(store)
    assert len(contents(store)) == 2 + 3 + 4
    assert run(big) == (5, 0, [])
    assert {os.readlink(p).split("/")[2] for p in (store / "view" / "p").iterdir()} == {"trees"}
    assert len(contents(store)) == 2 + 4
    assert trtpipe("cache", "verify", cwd=big).returncode == 0
    (mine,) = (store / "shown").glob("*/manifest.json")
    mine.write_text("mine")
    (mine.parent / "notes.txt").write_text("more of mine")
    result = trtpipe("cache", "gc", cwd=big)
    assert result.returncode == 0
    assert "manifest.json, notes.txt in the view is not what the stage made; it is in" in result.stdout
    assert not (store / "shown").exists()
    assert len(contents(store)) == 2
    assert [p.read_text() for p in sorted((store / "edited").glob("*/*"))] == ["mine", "more of mine"]
    assert run(big)[:2] == (5, 0)


@pytest.mark.slow
def test_a_store_of_the_version_before_can_be_built_upon(big):
    run(big)
    as_before(big / "artifacts")
    assert run(big, "--force", "config", "--force", "scores")[:2] == (3, 2)


def test_content_from_a_url_that_was_written_to_in_the_store_is_fetched_again(tmp_path):
    import hashlib

    project(tmp_path / "p", python_stage("a"))
    data = tmp_path / "p" / "data.npz"
    sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
    data.rename(tmp_path / "far.npz")
    url = f'{{url: "file://{tmp_path}/far.npz", sha256: "{sha256}"}}'
    (tmp_path / "p" / "p.yaml").write_text(f"name: p\nstages:\n{python_stage('a', data=url)}")
    run(tmp_path / "p")
    (stored,) = (tmp_path / "p" / "artifacts" / "trees").glob("*/far.npz")
    stored.chmod(0o644)
    with stored.open("r+b") as stream:
        np.savez(stream, x=np.full((4, 1), 7, np.float32))
    assert run(tmp_path / "p", "--force")[:2] == (0, 1)
    made = (tmp_path / "p" / "artifacts" / "view" / "p" / "a" / "results.jsonl").read_text()
    assert [line.split('"twice":')[1][:2].strip(" }") for line in made.splitlines()] == ["0", "2", "4", "6"]
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == sha256
