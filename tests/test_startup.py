"""An all-cached run is fast because of what it does not import."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.helpers import PROJECT, project, python_stage, trtpipe

HEAVY = ("torch", "tensorrt", "tensorrt_rtx", "onnx", "onnxruntime", "numpy", "polygraphy", "jsonschema", "rich",
         "yaml", "msgspec", "importlib.metadata", "subprocess", "fsspec")  # fmt: skip


def imported_by(folder, *args):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "trtpipe", *args], cwd=folder, capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    return {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time")}


def test_an_all_cached_run_imports_nothing_heavy(tmp_path):
    project(tmp_path, python_stage("a"))
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    for command in (["run", "p.yaml"], ["status", "p.yaml"], ["run", "p.yaml", "--json"]):
        names = imported_by(tmp_path, *command)
        assert "trtpipe.run.lookup" in names
        assert not names & set(HEAVY)


def test_an_all_cached_run_of_variants_imports_nothing_heavy(tmp_path):
    document = project(tmp_path, python_stage("a", "${matrix.how}"))
    document.write_text("matrix: {how: [double, slow]}\n" + document.read_text())
    assert trtpipe("run", "p.yaml", "--target", "a@how=double", cwd=tmp_path).returncode == 0
    for command in (["run", "p.yaml", "--target", "a@how=double"], ["status", "p.yaml", "--target", "a@how=double"]):
        names = imported_by(tmp_path, *command)
        assert "trtpipe.run.lookup" in names
        assert not names & set(HEAVY)


def test_help_imports_nothing_heavy(tmp_path):
    assert not imported_by(tmp_path, "--help") & set(HEAVY)
