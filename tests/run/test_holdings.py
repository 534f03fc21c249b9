"""What names hold: content of files, listings of folders, versions of packages, values of variables."""

import os
import sys

import pytest

from trtpipe import environment
from trtpipe.reads import Names
from trtpipe.run import holdings
from trtpipe.store.state import State


@pytest.fixture
def state(tmp_path):
    with State(str(tmp_path / "artifacts")) as opened:
        yield opened


def held(state, root, **names):
    return holdings.holds(Names(**{kind: tuple(found) for kind, found in names.items()}), str(root), state)


def test_a_file_counts_by_content_and_so_does_that_it_is_not_there(tmp_path, state):
    (tmp_path / "a").write_text("1")
    first = held(state, tmp_path, files=["a", "b"])
    assert first["files"]["b"] is None
    os.utime(tmp_path / "a", (1, 1))
    assert held(state, tmp_path, files=["a", "b"]) == first
    (tmp_path / "b").write_text("1")
    assert held(state, tmp_path, files=["a", "b"])["files"] == dict.fromkeys("ab", first["files"]["a"])


def test_a_folder_counts_by_the_names_in_it(tmp_path, state):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "x").write_text("1")
    first = held(state, tmp_path, folders=["data", "none"])
    assert first["folders"]["none"] is None
    (folder / "x").write_text("2")
    (folder / "__pycache__").mkdir()
    assert held(state, tmp_path, folders=["data", "none"]) == first
    (folder / ".hidden").write_text("")
    assert held(state, tmp_path, folders=["data", "none"]) != first


def test_an_installed_package_counts_by_version_and_by_what_it_installed(state, tmp_path):
    first = held(state, tmp_path, packages=["numpy", "no-such-package"])["packages"]
    version, _, digest = first["numpy"].partition(" ")
    assert (version, len(digest), first["no-such-package"]) == (environment.version("numpy"), 16, None)


def test_two_installations_of_one_wheel_are_one(state, tmp_path, monkeypatch):
    def install(where, version, record):
        folder = tmp_path / where / f"mylib-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "RECORD").write_text(record)
        monkeypatch.setattr(sys, "path", [sys.path[0], str(tmp_path / where), *sys.path[1:]])
        environment._distributions.cache_clear()
        return holdings.package("mylib", state)

    lines = "mylib/a.py,sha256=abc,1\nmylib-{v}.dist-info/METADATA,sha256=d,2\n"
    one = install(
        "one", "1.0", lines.format(v="1.0") + "../../bin/tool,sha256=1,9\nmylib-1.0.dist-info/INSTALLER,x,1\n"
    )
    two = install("two", "1.0", "mylib/__pycache__/a.pyc,,\n" + lines.format(v="1.0") + "../../bin/tool,sha256=2,9\n")
    other = install("three", "1.0", lines.format(v="1.0").replace("abc", "abd"))
    newer = install("four", "1.1", lines.format(v="1.1"))
    environment._distributions.cache_clear()
    assert one == two
    assert len({one, other, newer}) == 3


def test_a_variable_counts_by_its_value_which_is_not_told(state, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENIZER", "secret")
    monkeypatch.delenv("NOT_SET", raising=False)
    first = held(state, tmp_path, variables=["NOT_SET", "TOKENIZER"])["variables"]
    assert first["NOT_SET"] is None
    assert "secret" not in first["TOKENIZER"]
    monkeypatch.setenv("TOKENIZER", "")
    second = held(state, tmp_path, variables=["NOT_SET", "TOKENIZER"])["variables"]
    assert None is not second["TOKENIZER"] != first["TOKENIZER"]


def test_names_outside_the_project_say_what_they_lie_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    where = {
        "a/b.txt": str(tmp_path / "a" / "b.txt"),
        "system:usr/share/x": "/usr/share/x",
        "cache:HF_HOME/models/m": str(tmp_path / "hub" / "models" / "m"),
        "package:numpy/numpy/version.py": os.path.join(environment.site_of("numpy"), "numpy", "version.py"),
        "package:no-such/x": None,
        "cache:HOME/x": None,
        "odd:name": str(tmp_path / "odd:name"),
    }
    assert {name: holdings.path_of(name, str(tmp_path)) for name in where} == where
