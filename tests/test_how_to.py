"""The how-to pages: their blocks are written and run, in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import onnx
import pytest

from tests import onnx_models
from tests.helpers import PATHS, PROJECT, surroundings, within
from tests.test_readme import FENCE

FOLDER = PROJECT / "docs" / "how-to"
RUN_ALWAYS = ("your-model", "own-repository")
PAGES = [
    pytest.param(path, id=path.stem, marks=[] if path.stem in RUN_ALWAYS else [pytest.mark.slow])
    for path in sorted(FOLDER.glob("*.md"))
]
COMMENT = {"yaml": "# ", "toml": "# "}


@pytest.fixture
def around(tmp_path):
    """Give the environment of the pages' shell blocks: `trtpipe` and `python` are those of the tests."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, words in (("trtpipe", "-m trtpipe "), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
        (tools / name).chmod(0o755)
    return {**surroundings(), "PATH": f"{tools}:/usr/bin:/bin", "PYTHONPATH": PATHS, "NO_COLOR": "1"}


@pytest.mark.parametrize("path", PAGES)
def test_every_block_of_a_page_works(path, tmp_path, around):
    here = tmp_path / "here"
    here.mkdir()
    if path.stem in ("own-repository", "ci"):  # these say where a model lies, and take any
        for name in ("vision", "pipelines"):
            (here / name).mkdir()
            onnx.save(onnx_models.conv(), here / name / "model.onnx")
    ran = 0
    for language, body in FENCE.findall(path.read_text("utf-8")):
        if language in COMMENT and (named := re.match(r"# (\S+\.\w+)\n", body)):
            file = here / named[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(body, "utf-8")
            continue
        if language not in ("python", "sh"):
            assert language == "", f"{path.name}: a block in {language} that no test runs"
            continue
        lines = [shlex.split(line, comments=True) for line in body.splitlines()]
        if language == "sh" and all(line[:1] == ["trtpipe"] for line in lines):  # nothing that only a shell can do
            for line in lines:
                result = within(*line[1:], cwd=here, env=around)
                assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
            ran += 1
            continue
        command = [sys.executable, "-c", body] if language == "python" else ["bash", "-euo", "pipefail", "-c", body]
        result = subprocess.run(command, cwd=here, env=around, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{body}\n{result.stdout}{result.stderr}"
        ran += 1
    if path.stem == "ci":
        ran += _run_workflow(here, around)
    assert ran > 1


def _run_workflow(here, around):
    """Run what the workflow runs, after the lock and the pipeline that it takes for given."""
    import yaml

    (here / "pipelines" / "model.yaml").write_text(
        "name: model\nbackend: onnxruntime\nstages:\n  network: {type: parse, inputs: {model: {file: model.onnx}}}\n"
    )
    steps = yaml.safe_load((here / ".github/workflows/engine.yml").read_text())["jobs"]["check"]["steps"]
    lines = [step["run"] for step in steps if step.get("run", "").startswith("trtpipe ")]
    for line in ("trtpipe run pipelines/model.yaml", "trtpipe lock pipelines/model.yaml", *lines):
        result = subprocess.run(["bash", "-c", line], cwd=here, env=around, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    return len(lines)


def test_every_page_is_named_in_the_readme():
    text = (PROJECT / "README.md").read_text("utf-8")
    assert [p.name for p in FOLDER.glob("*.md") if f"docs/how-to/{p.name}" not in text] == []
