"""What tests of several modules need as fixtures."""

from __future__ import annotations

import pytest

from trtpipe.state import State
from trtpipe.store import Store


@pytest.fixture
def store(tmp_path):
    (tmp_path / "artifacts").mkdir()
    with State(str(tmp_path / "artifacts")) as state:
        yield Store(str(tmp_path / "artifacts"), state)
