"""What tests of several modules need as fixtures."""

from __future__ import annotations

import contextlib
import signal

import pytest

from trtpipe.store.state import State
from trtpipe.store.store import Store

# What an example takes says how busy the machine is. Machines with a GPU may be without Hypothesis.
with contextlib.suppress(ImportError):
    from hypothesis import HealthCheck, settings

    settings.register_profile("trtpipe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("trtpipe")

# A process inherits what is ignored: under nohup, or in the background of a shell without job control, Ctrl-C would not
# reach the commands that the tests start.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _usual)


@pytest.fixture(scope="session")
def recipe_artifacts(tmp_path_factory):
    """One store for all recipes, as in users' projects: what two of them share is made once."""
    return tmp_path_factory.mktemp("recipes") / "artifacts"


@pytest.fixture
def store(tmp_path):
    (tmp_path / "artifacts").mkdir()
    with State(str(tmp_path / "artifacts")) as state:
        yield Store(str(tmp_path / "artifacts"), state)
