"""The shells' completion scripts, and the words that they ask for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers import PATHS, project, python_stage, trtpipe
from trtpipe.cli import completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_completion_is_a_script_that_the_shell_accepts(tmp_path, shell):
    script = trtpipe("completion", shell, cwd=tmp_path).stdout
    assert "trtpipe" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Give a folder with a document whose two stages have variants; it is the current one."""
    document = project(tmp_path, python_stage("first", "${matrix.how}") + python_stage("second"))
    document.write_text("matrix: {how: [double, slow]}\n" + document.read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["va"], ["validate"]), (["cache", "p"], ["push", "pull", "pin"]), (["run", ""], []),
        (["run", "p.yaml", "--target", "f"], ["first", "first@how=double", "first@how=slow"]),
        (["run", "p.yaml", "--force", "s"], ["second"]), (["explain", "p.yaml", "s"], ["second"]),
        (["explain", "--backend", "onnxruntime", "p.yaml", "s"], ["second"]), (["show", "p.yaml", "s"], ["second"]),
        (["notes", "p.yaml", "first", "s"], ["second"]), (["verify", "gone.yaml", ""], []),
        (["run", "--backend", "tens"], ["tensorrt", "tensorrt_rtx"]), (["run", "p.yaml", "--progress", "t"], ["tty"]),
        (["run", "p.yaml", "--fr"], ["--frozen"]), (["nonsense", "x", ""], []), (["run", "p.yaml", "more", ""], []),
    ],
)  # fmt: skip
def test_the_words_that_may_stand_next(here, typed, found):
    assert completion.words(typed) == found


def test_a_document_that_is_not_valid_completes_nothing_and_says_nothing(here):
    (here / "p.yaml").write_text("name: [")
    result = trtpipe("completion", "words", "run", "p.yaml", "--target", "", cwd=here)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_bash_completes_a_stage(here):
    (here / "trtpipe").write_text(f'#!/bin/sh\nexec {sys.executable} -m trtpipe "$@"\n')
    (here / "trtpipe").chmod(0o755)
    line = (
        "source <(trtpipe completion bash); COMP_WORDS=(trtpipe run p.yaml --target se); COMP_CWORD=4; _trtpipe; "
        'echo "${COMPREPLY[@]}"'
    )
    around = {**os.environ, "PATH": f"{here}:/usr/bin:/bin", "PYTHONPATH": PATHS}
    result = subprocess.run(["bash", "-c", line], cwd=here, env=around, capture_output=True, text=True, check=True)
    assert result.stdout == "second\n", result.stderr
