"""The backend that every test of this room may ask for."""

from __future__ import annotations

import pytest

from trtpipe import backends


@pytest.fixture
def rtx():
    return backends.load("tensorrt_rtx")
