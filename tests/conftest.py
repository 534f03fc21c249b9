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

    usual = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("trtpipe", usual)
    settings.register_profile("quick", usual, max_examples=30)
    settings.load_profile("trtpipe")


def pytest_configure(config):
    """Try fewer examples in `make test` than in `make test-all`, where a test does not say how many."""
    if config.option.markexpr == "not slow":
        with contextlib.suppress(ImportError, NameError):
            settings.load_profile("quick")


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
