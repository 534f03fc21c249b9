"""constraints.txt pins all that `make demo` and `make test` install, once for each Python."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers import PROJECT

EXTRAS = ("demo", "test", "models", "rtx")
LINES = (PROJECT / "constraints.txt").read_text("utf-8").splitlines()
PINS = [Requirement(line) for line in LINES if not line.startswith("#")]


def pins(**environment):
    """Give the pins that hold in an environment, by name: one or several."""
    found = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(environment):
            found.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier))
    return found


def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def wanted(name, extras, seen):
    """Walk through what a distribution needs here, and what that needs; give all names."""
    if (name, extras) in seen:
        return seen
    seen.add((name, extras))
    for text in importlib.metadata.requires(name) or () if version(name) else ():
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            wanted(canonicalize_name(need.name), tuple(sorted(need.extras)), seen)
    return seen


def test_all_that_the_extras_bring_is_pinned_and_is_the_release_that_is_installed():
    stamp = Path(sys.prefix, "test.stamp")
    if not stamp.exists():
        pytest.skip("this environment was not made by make: make install")
    if stamp.stat().st_mtime < (PROJECT / "constraints.txt").stat().st_mtime:
        pytest.skip("this environment is older than constraints.txt: make install")
    here, problems = pins(), []
    for name in sorted({name for name, _ in wanted("trtpipe", EXTRAS, set())} - {"trtpipe", "pip", "setuptools"}):
        found = version(name)
        if name not in here:
            problems.append(f"{name} ({found or 'not installed'}) is not pinned: make update")
        elif found is None or not Requirement(name + here[name][0]).specifier.contains(found, prereleases=True):
            problems.append(f"{name} is pinned {here[name][0]}, found {found or 'none'}: make install")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_each_python_gets_one_release_of_each(python, platform):
    found = pins(python_version=python, python_full_version=f"{python}.1", sys_platform=platform)
    assert {name: several for name, several in found.items() if len(several) > 1} == {}
    assert {"numpy", "onnx", "onnxruntime", "torch", "pytest", "ruff", "mypy", "pip", "setuptools"} <= found.keys()


def test_it_names_releases_and_nothing_else():
    assert [line for line in LINES if not re.fullmatch(r"#.*|[a-z0-9-]+==[\w.]+( ; [^;@]+)?", line)] == []


def test_pytorch_stays_the_release_whose_cpu_build_is_at_hand():
    assert 'constraint-dependencies = ["torch==2.13.0"]' in (PROJECT / "pyproject.toml").read_text("utf-8")
    assert pins()["torch"] == ["==2.13.0"]
