"""The shells' completion scripts."""

from __future__ import annotations

import subprocess

import pytest

from tests.helpers import trtpipe


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_is_a_script_that_the_shell_accepts(tmp_path, shell):
    script = trtpipe("completion", shell, cwd=tmp_path).stdout
    assert "trtpipe" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
