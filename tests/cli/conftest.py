"""What several of these tests need."""

from __future__ import annotations

import pytest

DOC = """\
name: graph
stages:
  config: {type: configure, inputs: {network: network}}
  network: {type: parse, inputs: {model: {file: my model.onnx}}}
"""


@pytest.fixture
def graph(tmp_path):
    """Give a folder with the valid document g.yaml, of which nothing is built."""
    (tmp_path / "g.yaml").write_text(DOC)
    (tmp_path / "my model.onnx").write_bytes(b"x")
    return tmp_path
