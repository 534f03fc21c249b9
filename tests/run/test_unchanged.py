"""Stamps tell that nothing has changed only if nothing has: what they do not notice would be a wrong hit."""

import os
import shutil
import sqlite3
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import project, python_stage, trtpipe
from trtpipe.reads import Names
from trtpipe.run import holdings, unchanged
from trtpipe.store.state import State

NAMES = Names(
    files=("a", "b", "d/x", "d/y", "e/f/g", *(f"many/{n}" for n in range(12)), "package:numpy/numpy/no_such.py"),
    folders=("d", "e", "many"),
    links=("b", "d", "l"),
    packages=("numpy", "python"),
    variables=("UNCHANGED_A", "UNCHANGED_B*"),
)
PLACES = ("a", "b", "d/x", "d/y", "d/z", "e/f/g", "e", "l", "many/3", "many/x", "other")


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(unchanged, "_SETTLED_NS", 0)


def small_tree(root):
    shutil.rmtree(root, ignore_errors=True)
    (root / "d").mkdir(parents=True)
    (root / "many").mkdir()
    (root / "a").write_text("1")
    (root / "d" / "x").write_text("1")
    (root / "lists").write_text("")
    (root / "l").symlink_to("a")


def change(root, how, place, other):
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "write" and not path.is_dir():
        path.write_text("22")
    elif how == "in place" and path.is_file():
        with open(path, "r+b") as stream:
            stream.write(b"9")
    elif how == "remove":
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    elif how == "link" and not os.path.lexists(path):
        path.symlink_to(root / other)
    elif how == "move" and os.path.lexists(path) and not (root / other).is_dir():
        (root / other).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(str(path), str(root / other))
    elif how == "touch" and path.exists():
        os.utime(path)
    elif how == "as before" and path.is_file():
        status = path.stat()
        path.write_text("7" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


HOWS = ("write", "in place", "remove", "link", "move", "touch", "as before")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(HOWS), st.sampled_from(PLACES), st.sampled_from(PLACES)), max_size=3))
def test_where_stamps_tell_no_change_every_name_holds_what_it_held(tmp_path_factory, changes):
    root = tmp_path_factory.getbasetemp() / "unchanged"
    before_settled, unchanged._SETTLED_NS = unchanged._SETTLED_NS, 0
    try:
        small_tree(root)
        with State(str(root / "artifacts")) as state:
            looked = unchanged.look(NAMES, str(root / "lists"), str(root), ())
            before = holdings.holds(NAMES, str(root), state)
            time.sleep(0.012)  # the clock of the file system goes in ticks
            for how, place, other in changes:
                try:
                    change(root, how, place, other)
                except OSError:  # such as a link that leads to itself; shutil.Error is one
                    continue
            if looked is not None and unchanged.is_same(looked, ()):
                assert holdings.holds(NAMES, str(root), state) == before
    finally:
        unchanged._SETTLED_NS = before_settled


def test_what_was_noted_is_the_same_while_nothing_changes_and_survives_being_stored(tmp_path, at_once):
    small_tree(tmp_path / "p")
    root = str(tmp_path / "p")
    looked = unchanged.look(NAMES, root + "/lists", root, ())
    assert unchanged.of_text(unchanged.text_of([looked])) == [looked]
    assert unchanged.is_same(looked, ())
    (tmp_path / "p" / "unrelated").write_text("")
    assert unchanged.is_same(looked, ())


@pytest.mark.parametrize(("name", "same"), [("UNCHANGED_A", False), ("UNCHANGED_B_1", False), ("UNCHANGED_C", True)])
def test_variables_count_as_they_do_in_a_key(tmp_path, at_once, monkeypatch, name, same):
    small_tree(tmp_path / "p")
    root = str(tmp_path / "p")
    looked = unchanged.look(NAMES, root + "/lists", root, ())
    monkeypatch.setenv(name, "1")
    assert unchanged.is_same(looked, ()) == same


def test_a_file_that_was_just_written_is_not_trusted(tmp_path):
    small_tree(tmp_path / "p")
    assert unchanged.look(NAMES, str(tmp_path / "p" / "lists"), str(tmp_path / "p"), ()) is None


def test_names_sought_in_vain_are_few_paths(tmp_path, at_once):
    small_tree(tmp_path / "p")
    root = str(tmp_path / "p")
    looked = unchanged.look(NAMES, root + "/lists", root, ())
    elsewhere = {one for one in looked.absent if one.endswith("no_such.py")}
    assert set(looked.absent) - elsewhere == {f"{root}/b", f"{root}/d/y", f"{root}/e"}
    assert "many" in looked.paths[root]


CODE = """import os
import numpy as np
HERE = os.path.dirname(os.path.abspath(__file__))
def f(arrays, samples):
    found = [open(HERE + "/" + n).read() for n in ("w", "over") if os.path.exists(HERE + "/" + n)]
    return {"twice": arrays["x"][:, 0] * len("".join(found))}
"""


def test_a_hit_that_was_told_by_stamps_ends_with_the_first_change(tmp_path):
    (tmp_path / "w").write_text("1")
    project(tmp_path, python_stage("a", "f"), code=CODE)

    def run():
        result = trtpipe("run", "p.yaml", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    run()
    time.sleep(2.1)
    assert "1 hit" in run()
    with sqlite3.connect(tmp_path / "artifacts" / "state.sqlite") as database:
        assert database.execute("SELECT count(*) FROM looked").fetchone() == (1,)
    assert "1 hit" in run()
    (tmp_path / "over").write_text("1")
    assert "over appeared" in run()
    (tmp_path / "over").unlink()
    assert "1 hit" in run()
    (tmp_path / "w").write_text("2")
    assert "w changed" in run()


@pytest.mark.slow
def test_a_result_that_is_damaged_is_no_hit_although_nothing_that_was_read_has_changed(tmp_path):
    (tmp_path / "w").write_text("1")
    project(tmp_path, python_stage("a", "f"), code=CODE)
    trtpipe("run", "p.yaml", cwd=tmp_path)
    time.sleep(2.1)
    trtpipe("run", "p.yaml", cwd=tmp_path)
    for record in (tmp_path / "artifacts" / "actions").rglob("*.json"):
        record.chmod(0o644)
        record.write_bytes(record.read_bytes()[:-20])
    assert "1 ran" in trtpipe("run", "p.yaml", cwd=tmp_path).stdout
