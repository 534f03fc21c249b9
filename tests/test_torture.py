"""The short torture suite; `make torture` runs the long one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers import PROJECT


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "part",
    [
        "kills",
        "faults",
        pytest.param("flips", marks=pytest.mark.slow),
        "mutations",
    ],
)
def test_nothing_is_lost_whatever_is_done(part):
    command = [sys.executable, str(PROJECT / "tests" / "torture.py"), "--only", part]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=580, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
