"""Users' own code: how it is found, and that it reads nothing behind the key's back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.helpers import PROJECT, further, project, python_stage, trtpipe


@pytest.mark.parametrize(
    ("code", "function", "message"),
    [
        ("def f(:\n", "f", "step.py fails to import: SyntaxError"),
        *further(
            ("import no_such_module\n", "f", "step.py fails to import: ModuleNotFoundError"),
            ("x = 1\n", "f", "step.py has no callable f"),
            ("f = 1\n", "f", "step.py has no callable f"),
        ),
    ],
)
def test_an_entrypoint_that_cannot_be_loaded_fails_its_stage_by_name(tmp_path, code, function, message):
    project(tmp_path, python_stage("a", function), code=code)
    result = trtpipe("run", "p.yaml", cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr


NEIGHBOUR = """\
from neighbour import factor
def f(arrays, samples):
    return {"y": (arrays["x"][:, 0] * factor).astype(int)}
"""


def test_a_neighbour_that_is_imported_counts_without_being_declared(tmp_path):
    project(tmp_path, python_stage("a", "f"), code=NEIGHBOUR)
    (tmp_path / "neighbour.py").write_text("factor = 3\n")
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "neighbour.py").write_text("factor = 4\n")
    assert trtpipe("explain", "p.yaml", "a", cwd=tmp_path).stdout.splitlines()[1:] == ["  neighbour.py changed"]


def test_a_declared_neighbour_counts(tmp_path):
    document = project(tmp_path, python_stage("a", "f"), code=NEIGHBOUR)
    document.write_text(document.read_text().replace('"args"', '"sources": ["neighbour.py"], "args"'))
    (tmp_path / "neighbour.py").write_text("factor = 3\n")
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "neighbour.py").write_text("factor = 4\n")
    assert "source neighbour.py changed" in trtpipe("explain", "p.yaml", "a", cwd=tmp_path).stdout


def test_a_module_of_a_package_works_and_its_files_are_in_the_key(tmp_path):
    document = project(tmp_path / "p", python_stage("a"))
    package = tmp_path / "lib" / "mypackage"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "steps.py").write_text(
        "from mypackage.other import k\ndef f(arrays, samples):\n    return {'y': [k] * 4}\n"
    )
    (package / "other.py").write_text("k = 1\n")
    document.write_text(document.read_text().replace("step.py:double", "mypackage.steps:f"))
    env = {"PYTHONPATH": f"{tmp_path / 'lib'}:{sys.path[0] or '.'}:{__file__.rsplit('/', 2)[0]}"}
    assert trtpipe("run", "p.yaml", cwd=tmp_path / "p", env=env).returncode == 0
    (package / "other.py").write_text("k = 2\n")
    explained = trtpipe("explain", "p.yaml", "a", cwd=tmp_path / "p", env=env).stdout
    assert "source mypackage/other.py changed" in explained


def test_a_module_that_is_not_there_is_exit_3(tmp_path):
    document = project(tmp_path, python_stage("a"))
    document.write_text(document.read_text().replace("step.py:double", "no_such_package.steps:f"))
    result = trtpipe("run", "p.yaml", cwd=tmp_path)
    assert result.returncode == 3
    assert "no_such_package" in result.stderr


def test_the_users_folder_gets_no_bytecode(tmp_path):
    project(tmp_path, python_stage("a"))
    env = {"PYTHONDONTWRITEBYTECODE": ""}
    assert trtpipe("run", "p.yaml", cwd=tmp_path, env=env).returncode == 0
    assert not list(tmp_path.glob("__pycache__"))


def test_stale_bytecode_beside_a_source_is_not_what_runs(tmp_path):
    project(tmp_path, python_stage("a", "f"), code="def f(arrays, samples):\n    return {'y': [2] * 4}\n")
    old = tmp_path / "old.py"
    old.write_text("def f(arrays, samples):\n    return {'y': [1] * 4}\n")
    cached = tmp_path / "__pycache__"
    subprocess.run([sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", old], check=True)
    (next(cached.glob("old.*.pyc"))).rename(cached / f"step.{sys.implementation.cache_tag}.pyc")
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    assert '"y": 2' in (tmp_path / "artifacts/view/p/a/results.jsonl").read_text()


@pytest.mark.slow
def test_a_document_below_a_folder_of_imports_is_watched_all_the_same(tmp_path):
    project(tmp_path / "pipelines", python_stage("a", "f"), code=NEIGHBOUR)
    neighbour = tmp_path / "pipelines" / "neighbour.py"
    for folder in (tmp_path, tmp_path / "pipelines"):
        env = {"PYTHONPATH": f"{folder}:{PROJECT}"}
        neighbour.write_text("factor = 3\n")
        assert trtpipe("run", "p.yaml", cwd=tmp_path / "pipelines", env=env).returncode == 0
        neighbour.write_text("factor = 4\n")
        result = trtpipe("explain", "p.yaml", "a", cwd=tmp_path / "pipelines", env=env)
        assert "neighbour.py changed" in result.stdout


@pytest.mark.slow
def test_a_recipe_beside_trtpipes_own_source_is_watched(tmp_path):
    setting = "--set=stages.model.params.sources=[]"
    result = trtpipe("run", "pipelines/digits.yaml", setting, "--target", "model", "--artifacts", tmp_path, cwd=PROJECT)
    assert result.returncode == 0, result.stderr
    (record,) = (tmp_path / "actions").rglob("*.json")
    assert json.loads(record.read_text())["key"]["reads"]["files"].keys() >= {"pipelines/digits/weights.npz"}


TWO = """\
import util
def f(arrays, samples):
    import late
    return {"NAME": [util.V + late.V for _ in samples]}
"""


def test_two_hooks_in_two_folders_have_each_its_own_modules(tmp_path):
    document = project(tmp_path, python_stage("a", "f"))
    steps = [{"op": "python", "entrypoint": f"{name}/step_{name}.py:f"} for name in ("one", "two")]
    text = document.read_text()
    start, end = text.index("steps: "), text.index("]}}")
    document.write_text(text[:start] + "steps: " + json.dumps(steps) + text[end + 1 :])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"step_{name}.py").write_text(TWO.replace("NAME", name))
        (tmp_path / name / "util.py").write_text(f"V = 'util of {name}, '\n")
        (tmp_path / name / "late.py").write_text(f"V = 'late of {name}'\n")
    result = trtpipe("run", "p.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first = json.loads((tmp_path / "artifacts/view/p/a/results.jsonl").read_text().splitlines()[0])
    assert {name: first[name] for name in ("one", "two")} == {
        "one": "util of one, late of one",
        "two": "util of two, late of two",
    }


def test_what_lies_beside_a_hook_and_is_not_looked_for_does_not_count(tmp_path):
    project(tmp_path, python_stage("a", "f"), code=NEIGHBOUR)
    (tmp_path / "neighbour.py").write_text("factor = 3\n")
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "other.py").write_text("x = 1\n")
    assert trtpipe("lock", "p.yaml", cwd=tmp_path).returncode == 0
    assert trtpipe("status", "p.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "neighbour").mkdir()
    (tmp_path / "neighbour" / "__init__.py").write_text("factor = 5\n")
    said = trtpipe("explain", "p.yaml", "a", cwd=tmp_path).stdout
    assert "neighbour appeared" in said  # a package comes before a module of its name
