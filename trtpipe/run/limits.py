"""Stops a worker, and all its processes, if it takes more time or memory than its stage's `run:` allows."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

from trtpipe.formatting import size_text
from trtpipe.texts import plain_duration, plain_size

_LOOK_SECONDS = 0.2
"""The time between two measurements of a worker's memory."""
_HELD = ("RssAnon:", "RssShmem:", "VmSwap:")
"""Memory that the kernel cannot read again from a file. Source: Linux's documentation, filesystems/proc."""
_SHARED_OUT = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")
"""The same, with memory that several processes share divided among them."""


class Limit:
    """The limits of one worker, which leads a session of its own: seconds, and bytes of memory."""

    def __init__(self, worker: int, timeout: int | None, memory: int | None) -> None:
        self.why: str | None = None
        """Why the worker was stopped, or None."""
        self._worker, self._timeout, self._memory = worker, timeout, memory
        self._over = threading.Event()
        if timeout is not None or memory is not None:
            threading.Thread(target=self._hold, daemon=True).start()

    def over(self) -> None:
        """Note that the worker has ended."""
        self._over.set()

    def _hold(self) -> None:
        begun = time.monotonic()
        while True:
            left = None if self._timeout is None else begun + self._timeout - time.monotonic()
            looks = [pause for pause in (left, None if self._memory is None else _LOOK_SECONDS) if pause is not None]
            if self._over.wait(max(0.0, min(looks))):
                return
            if self._timeout is not None and time.monotonic() - begun >= self._timeout:
                self.why = f"timed out after {plain_duration(self._timeout)}, which is its run.timeout"
            elif self._memory is not None and (used := memory(self._worker, self._memory)) > self._memory:
                allowed = plain_size(f"{self._memory}B")
                self.why = f"held {size_text(used)} of memory, and its run.memory is {allowed}"
            if self.why is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._worker, signal.SIGKILL)
                return


def memory(session: int, enough: int = 0) -> int:
    """Give the bytes of memory that the processes of a session hold, without pages of files.

    Memory that several of them share counts once. Finding that takes longer, so it is left out if the sum without it is
    at most `enough`.
    """
    processes = _processes(session)
    held = sum(_sum(f"/proc/{process}/status", _HELD) or 0 for process in processes)
    if held <= enough or len(processes) == 1:
        return held
    divided = [_sum(f"/proc/{process}/smaps_rollup", _SHARED_OUT) for process in processes]
    known = [part for part in divided if part is not None]
    return sum(known) if known else held  # older kernels do not divide it


def _processes(session: int) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stream:
                # The program's name, in brackets, may hold any characters; the fields after it are state, parent,
                # group, session.
                if int(stream.read().rpartition(b")")[2].split()[3]) == session:
                    found.append(name)
    return found


def _sum(file: str, names: tuple[str, ...]) -> int | None:
    """Add up lines such as `RssAnon:   116 kB`, in bytes; None if there are none; 0 if the process has ended."""
    try:
        with open(file, encoding="ascii", errors="replace") as stream:
            found = [int(line.split()[1]) * 1024 for line in stream if line.startswith(names)]
    except OSError:
        return 0
    return sum(found) if found else None
