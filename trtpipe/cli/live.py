"""The lines at the foot of a terminal while stages run: one for each, painted again a few times a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trtpipe.formatting import clock_text, width

if TYPE_CHECKING:
    from threading import Thread

    from trtpipe.cli.printing import Screen

_SECONDS = 0.2
_BAR = 20
_WIDE = 72
"""A bar needs a terminal of so many columns."""


class Running:
    """What is known of one running stage."""

    def __init__(self, place: str, expected: float | None) -> None:
        self.place = place
        self.expected = expected
        self.begun = time.monotonic()
        self.what = ""
        self.done: int | None = None
        self.total: int | None = None
        self.unit = ""

    def doing(self, what: str) -> None:
        """Note what it is at now; how far the work before had come says nothing of this."""
        self.what, self.done, self.total, self.unit = what, None, None, ""

    def progress(self, done: int, total: int | None, unit: str) -> None:
        """Note how far it is."""
        self.done, self.total, self.unit = done, total, unit

    @property
    def far(self) -> str:
        """How far it is, such as `64 of 128 samples`; empty if it does not say."""
        if self.done is None:
            return ""
        return f"{self.done}{f' of {self.total}' if self.total is not None else ''} {self.unit}"

    @property
    def clock(self) -> str:
        """Its time, and what it took last time: `0:12 of ~0:18`."""
        now = clock_text(time.monotonic() - self.begun)
        return now if self.expected is None else f"{now} of ~{clock_text(self.expected)}"

    def text(self, room: int | None = None) -> str:
        """Give one line, such as `[3/8] config: checking fp16 on 8 samples, 0:12 of ~0:18`.

        Where it is wider than `room`, parts are left out; a word is never cut.
        """
        bar = ""
        if self.done is not None and self.total and room is not None and room >= _WIDE:
            full = min(_BAR, _BAR * self.done // self.total)
            bar = f"[{'#' * full}{'-' * (_BAR - full)}] "
        what, far, clock = self.what or "running", self.far, self.clock
        short = clock.partition(" ")[0]
        forms = [
            f"{self.place}: {', '.join(filter(None, (what, bar + far, clock)))}",
            f"{self.place}: {', '.join(filter(None, (what, far, clock)))}",
            f"{self.place}: {', '.join(filter(None, (far or what, short)))}",
            f"{self.place}: {short}",
            f"{self.place}",
            f"{self.place.partition(' ')[0]} {short}",
        ]
        return next((form for form in forms if room is None or width(form) <= room), forms[-1])


class Live:
    """The lines of all running stages. Other lines are printed above them."""

    def __init__(self, screen: Screen) -> None:
        from threading import Event, Lock  # only for a terminal

        self._screen = screen
        self._stages: dict[str, Running] = {}
        self._shown = 0
        """How many lines are on the screen now."""
        self._lock = Lock()
        self._over = Event()
        self._thread: Thread | None = None

    def started(self, stage: str, running: Running) -> None:
        """Add a running stage."""
        with self._lock:
            self._stages[stage] = running
            self._paint()
        if self._thread is None:
            from threading import Thread

            self._thread = Thread(target=self._repaint, daemon=True)
            self._thread.start()

    def finished(self, stage: str) -> None:
        """Take a stage off."""
        with self._lock:
            self._stages.pop(stage, None)
            self._paint()

    def line(self, text: str) -> None:
        """Print a line that has passed the screen above those of the running stages."""
        with self._lock:
            self._paint(text + "\n")

    def close(self) -> None:
        """Take all lines off the screen; safe to call twice."""
        self._over.set()
        with self._lock:
            self._stages.clear()
            self._paint()

    def _repaint(self) -> None:
        while not self._over.wait(_SECONDS):
            with self._lock:
                if self._over.is_set():
                    return
                try:
                    self._paint()
                except (OSError, ValueError):
                    return  # the terminal is gone; what the run prints next says so

    def _paint(self, above: str = "") -> None:
        room = (self._screen.width or _WIDE) - 1  # the last column would wrap on some terminals
        lines = [self._screen.text(one.text(room)) for one in self._stages.values()]
        erase = f"\033[{self._shown}A\033[J" if self._shown else ""
        self._shown = len(lines)
        text = erase + above + "".join(f"{line}\n" for line in lines)
        if text:
            self._screen.stream.write(text)
            self._screen.stream.flush()
