"""The demonstration in docs/two-clones.sh does what docs/remote.md says."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests import s3
from tests.helpers import PROJECT


@pytest.mark.slow
def test_clone_two_takes_what_clone_one_built_and_refuses_one_tampered_byte(tmp_path):
    s3.needed()
    server = s3.Server(tmp_path / "server")
    server.start()
    try:
        done = subprocess.run(
            [PROJECT / "docs" / "two-clones.sh", tmp_path / "demo"], capture_output=True, text=True, check=False,
            env={**os.environ, **s3.WRITER, "AWS_ENDPOINT_URL": server.url, "AWS_DEFAULT_REGION": "us-east-1",
                 "PYTHON": sys.executable, "PYTHONPATH": str(PROJECT)},
        )  # fmt: skip
    finally:
        server.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 hit, 0 ran" in done.stdout
    assert "not here, taken as locked: digits/model.py, digits/weights.npz" in done.stdout
    assert re.search(r"the engines are equal: [0-9a-f]{64}\n", done.stdout)
    assert "found content that does not have the digest in its name" in done.stderr
    assert done.stdout.endswith("refused with exit code 5; nothing of the engine was kept\n")
    shown = (PROJECT / "docs" / "remote.md").read_text()
    for line in done.stdout.splitlines():
        if line.startswith("--- "):
            assert line in shown, f"docs/remote.md does not show: {line}"
