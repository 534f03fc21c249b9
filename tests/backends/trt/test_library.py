"""Loading TensorRT: a library that is absent, and what loading prints."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.backends.trt.rtx import needs_rtx
from tests.helpers import PROJECT

PATHS = {"PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]), "PATH": ""}


def run_alone(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**PATHS, **env}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {hidden!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Hide())
from trtpipe import backends
from trtpipe.errors import EnvironmentMissing
try:
    backends.load({backend!r})
except EnvironmentMissing as error:
    print(error)
"""


@pytest.mark.parametrize(("backend", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "rtx")])
def test_a_runtime_that_is_not_installed_is_named_with_the_command_that_installs_it(backend, extra):
    hidden = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
    said = run_alone(HIDE.format(hidden=hidden, backend=backend))
    assert f"{backend} is not installed" in said.stdout, said.stderr
    assert f"pip install 'trtpipe[{extra}]'" in said.stdout


@needs_rtx
def test_loading_prints_nothing_to_stdout(tmp_path):
    said = run_alone("from trtpipe import backends; backends.load('tensorrt_rtx')")
    assert said.returncode == 0
    assert said.stdout == ""
