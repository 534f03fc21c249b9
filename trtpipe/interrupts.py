"""Ctrl-C, SIGTERM and SIGHUP: the first one ends the command in order, a second one makes that faster.

Only the first signal raises an exception. Later exceptions would interrupt the clean-up that the first one began. After
the clean-up, a signal ends the process at once, with the same exit code.

Only `python -m trtpipe` and the command `trtpipe` call `handle`. Before that, a signal has the effect that it has on
every Python program. Source: signal(7); CPython's Doc/library/signal.rst, "Note on Signal Handlers and Exceptions".
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_PATIENCE_SECONDS = 10.0
"""A signal later than this after the first one ends the process: the clean-up hangs."""
_SOON_SECONDS = 0.01


class _Seen:
    first: int | None = None
    """The number of the signal that ends the command."""
    at = 0.0
    count = 0
    over = False


def handle() -> None:
    """From now on, raise KeyboardInterrupt (with the signal's number) for the first signal; ignored ones stay so."""
    sys.unraisablehook = _lost
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _signalled)


def code(interrupt: KeyboardInterrupt) -> int:
    """Give the exit code of a command that ends with this exception."""
    return 128 + int(interrupt.args[0] if interrupt.args else signal.SIGINT)


def again() -> bool:
    """Tell whether a second signal has come; the clean-up then waits no longer."""
    return _Seen.count > 1


def over() -> None:
    """Note that the clean-up is done: from now on, a signal ends the process at once."""
    _Seen.over = True


def _signalled(number: int, _frame: FrameType | None) -> None:
    _Seen.count += 1
    first = _Seen.first
    if _Seen.over or (first is not None and time.monotonic() - _Seen.at > _PATIENCE_SECONDS):
        os._exit(128 + (first or number))
    if first is None:
        _Seen.first, _Seen.at = number, time.monotonic()
        raise KeyboardInterrupt(number)


def _lost(what: Any) -> None:
    """Raise the interrupt again a moment later: Python drops exceptions in destructors and weak references."""
    first = _Seen.first
    if first is None or not isinstance(what.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(what)
        return

    def once_more(_number: int, frame: FrameType | None) -> None:
        if _Seen.first is None:
            _signalled(first, frame)

    _Seen.first, _Seen.count = None, 0
    signal.signal(signal.SIGALRM, once_more)
    signal.setitimer(signal.ITIMER_REAL, _SOON_SECONDS)
