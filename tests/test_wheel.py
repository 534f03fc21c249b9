"""What is installed outside the clone: the wheel's files, and a command that runs from them alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers import PROJECT, surroundings

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel from a copy of what goes into it; give its path."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("trtpipe", "schemas"):
        shutil.copytree(PROJECT / name, copy / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy / name)
    made = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=copy, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return folder / made.stdout.split()[-1]


def test_the_wheel_has_every_module_and_every_schema_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = PROJECT / "trtpipe"
    wanted = {p.relative_to(PROJECT).as_posix() for p in package.rglob("*.py")}
    wanted |= {f"trtpipe/schemas/{p.name}" for p in (PROJECT / "schemas").iterdir()}
    assert names == wanted


def test_the_installed_schema_is_where_the_command_says(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    result = subprocess.run(
        [sys.executable, "-m", "trtpipe", "schema", "--path"],
        cwd=tmp_path,
        env={**surroundings(), "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    path = Path(result.stdout.removesuffix("\n"))
    assert path == tmp_path / "site/trtpipe/schemas/pipeline.schema.json", result.stderr
    assert json.loads(path.read_text()) == json.loads((PROJECT / "schemas/pipeline.schema.json").read_text())
