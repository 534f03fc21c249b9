"""What `trtpipe run` shows: what is happening, what came of it, and where it lies; as text or as JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, TextIO

from trtpipe.cli.live import Live, Running
from trtpipe.cli.printing import Ink, Reasons, Screen, err
from trtpipe.escaping import indented, inline
from trtpipe.formatting import number_text, seconds_text, size_text, table
from trtpipe.run import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.documents.action import Figure

MODES = ("auto", "plain", "tty", "json")


class JsonLines:
    """Writes each event as one JSON line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: events.Event) -> None:
        """Write one event."""
        self._stream.write(json.dumps(events.to_dict(event)) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Do nothing; there is nothing to close."""


class Console:
    """Plain lines for events and the closing tables; on a terminal also a live line for each running stage.

    `mode` is `auto` (live lines on a terminal with colours), `plain` (never) or `tty` (always). `document` is the path
    that `trtpipe notes` takes; without one, all notes are shown. Without `results`, the caller says where they lie.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        quiet: bool = False,
        mode: str = "auto",
        document: str | None = None,
        results: bool = True,
    ) -> None:
        self._screen, self._quiet, self._document, self._places = Screen(stream), quiet, document, results
        is_live = mode == "tty" or (mode == "auto" and stream is sys.stdout and self._screen.has_colour)
        self._live = Live(self._screen) if is_live and not quiet else None
        self._order: dict[str, int] = {}
        self._rows: dict[str, list[str]] = {}
        self._figures: dict[tuple[str, str], Figure] = {}
        self._notes: dict[str, list[str]] = {}
        self._gaps: dict[str, tuple[str, ...]] = {}
        """What hits depend on and could not be seen; unlike notes it is repeated each time."""
        """Notes by stage that were not shown, because they are of an earlier run or stand on the screen already."""
        self._told: set[str] = set()
        self._why = Reasons()
        self._failures: list[events.StageFailed] = []
        self._running: dict[str, Running] = {}

    def __call__(self, event: events.Event) -> None:
        """Show one event."""
        handler: Callable[[events.Event], None] | None = getattr(self, f"_{type(event).__name__}", None)
        if handler:
            handler(event)

    def close(self) -> None:
        """Take the live lines off the screen; safe to call twice."""
        if self._live:
            with contextlib.suppress(OSError):  # a terminal that is gone must not hide why this ends
                self._live.close()

    def _line(self, *pieces: str | Ink, hang: int = 6) -> None:
        if self._quiet:
            return
        if self._live:
            self._live.line(self._screen.line(*pieces, hang=hang))
        else:
            self._screen.write(*pieces, hang=hang)

    def _place(self, stage: str) -> str:
        """Name a stage with its number: `[3/8] config`."""
        return f"[{self._order[stage]}/{len(self._order)}] {stage}" if stage in self._order else stage

    # --- what is happening

    def _PipelineStarted(self, event: events.PipelineStarted) -> None:  # noqa: N802 — named after the event
        self._order = {name: number for number, name in enumerate(event.stages, 1)}
        count = f"{len(event.stages)} stage{'s' if len(event.stages) != 1 else ''}"
        where = f" · store {inline(shown_path(event.store))}" if event.store else ""
        about = f" · {event.backend} ({event.backend_reason}) · {count}{where}"
        self._line(Ink(event.pipeline, "bold"), about, hang=2)

    def _StageCached(self, event: events.StageCached) -> None:  # noqa: N802
        self._rows[event.stage] = [event.stage, event.type, "hit", "", size_text(event.size), event.artifact[:12]]
        if event.notes:
            self._notes[event.stage] = list(event.notes)
        if event.gaps:
            self._gaps[event.stage] = event.gaps
        for figure in event.figures:
            self._figures[event.stage, figure.name] = figure

    def _StageStarted(self, event: events.StageStarted) -> None:  # noqa: N802
        why = self._why(event.reasons)
        last = f", took {seconds_text(event.expected_seconds)} last time" if event.expected_seconds is not None else ""
        self._line("  ", Ink("run", "bold"), f" {event.stage} ({event.type}): {why}", Ink(last, "dim"))
        self._running[event.stage] = Running(self._place(event.stage), event.expected_seconds)
        if self._live:
            self._live.started(event.stage, self._running[event.stage])

    def _StageDoing(self, event: events.StageDoing) -> None:  # noqa: N802
        if event.stage in self._running:
            self._running[event.stage].doing(inline(event.what))

    def _StageProgress(self, event: events.StageProgress) -> None:  # noqa: N802
        if event.stage in self._running:
            self._running[event.stage].progress(event.done, event.total, inline(event.unit))

    def _StageRunning(self, event: events.StageRunning) -> None:  # noqa: N802
        if not self._live and event.stage in self._running:  # the live line shows it already
            self._line(f"      {self._running[event.stage].text()}")

    def _StageMeasured(self, event: events.StageMeasured) -> None:  # noqa: N802
        self._figures[event.stage, event.figure.name] = event.figure

    def _StageNote(self, event: events.StageNote) -> None:  # noqa: N802
        text = inline(event.message)
        if text in self._told and event.stage in self._running:
            self._notes.setdefault(event.stage, []).append(text)
            return
        self._told.add(text)
        self._line(f"      {event.stage}: {text}")

    def _Warned(self, event: events.Warned) -> None:  # noqa: N802
        pieces = (Ink("warning", "skipped"), f": {indented(event.message, '  ')}")
        if self._live:
            self._live.line(self._screen.line(*pieces, hang=2))
        else:
            err(*pieces, hang=2)

    def _ended(self, stage: str) -> None:
        self._running.pop(stage, None)
        if self._live:
            self._live.finished(stage)

    def _StageFinished(self, event: events.StageFinished) -> None:  # noqa: N802
        self._rows[event.stage] = [
            event.stage, event.type, "ran", seconds_text(event.seconds), size_text(event.size), event.artifact[:12],
        ]  # fmt: skip
        self._ended(event.stage)

    def _StageFailed(self, event: events.StageFailed) -> None:  # noqa: N802
        self._rows[event.stage] = [event.stage, event.type, "FAILED", seconds_text(event.seconds), "", ""]
        self._failures.append(event)
        self._ended(event.stage)
        self._line("  ", Ink("FAILED", "FAILED"), f" {event.stage} ({event.type})")

    def _StageSkipped(self, event: events.StageSkipped) -> None:  # noqa: N802
        self._rows[event.stage] = [event.stage, event.type, "skipped", "", "", f"because {event.because} failed"]

    # --- what came of it, and where it lies

    def _PipelineFinished(self, event: events.PipelineFinished) -> None:  # noqa: N802
        self.close()
        self._live = None
        rows = [["stage", "type", "result", "time", "size", "artifact"], *self._rows.values()]
        lines = table(rows, right=(3, 4), room=self._screen.width, spare=(5, 1, 4, 3))
        self._line("")
        self._line(Ink(lines[0], "dim"))
        for line, row in zip(lines[1:], rows[1:], strict=True):
            self._line(Ink(line, row[2]) if row[2] != "ran" else line)
        self._show_figures()
        self._show_results(event.results if self._places else ())
        for stage, gaps in self._gaps.items():
            for gap in gaps:
                self._line(f"  {stage}: {inline(gap)}")
        if self._notes and self._document is None:
            for stage, texts in self._notes.items():
                for text in dict.fromkeys(texts):
                    self._line(f"  {stage}: {inline(text)}")
        elif self._notes:
            count = sum(map(len, self._notes.values()))
            what = f"{count} note{'s' if count > 1 else ''} of {', '.join(self._notes)}"
            self._line(f"\n{what}: trtpipe notes {self._document}", hang=2)
        counts = [f"{event.hit} hit", f"{event.ran} ran"]
        counts += [f"{event.failed} failed"] if event.failed else []
        counts += [f"{event.skipped} skipped"] if event.skipped else []
        self._line(f"\n{', '.join(counts)} in {seconds_text(event.seconds)}")
        for failure in self._failures:
            if failure.stage in event.lost:
                text = f"{failure.stage} failed, and the run went on without it: {indented(failure.message, '  ')}"
                err("\n", Ink("note", "skipped"), f": {text}", hang=2)
                continue
            err("\n", Ink("error", "FAILED"), f": stage {failure.stage}: {indented(failure.message, '  ')}", hang=2)
            err(f"  the stage: {inline(failure.place)}", hang=4)
            if failure.log:
                err(f"  its whole log: {inline(os.path.relpath(failure.log))}", hang=4)

    def _show_figures(self) -> None:
        if not self._figures:
            return
        signs = {True: "✓", False: "✗", None: ""}
        rows = [["stage", "figure", "value", "rule", ""]]
        rows += [
            [stage, name, number_text(one.value), one.rule, signs[one.passed]]
            for (stage, name), one in self._figures.items()
        ]
        lines = table(rows, right=(2,), room=self._screen.width, spare=(0, 3))
        self._line("")
        self._line(Ink(lines[0], "dim"))
        for line, one in zip(lines[1:], self._figures.values(), strict=True):
            self._line(Ink(line, "FAILED") if one.passed is False else line)

    def _show_results(self, results: tuple[events.Result, ...]) -> None:
        if not results:
            return
        rows = [[one.stage, inline(shown_path(one.path)), size_text(one.size)] for one in results]
        room = self._screen.width
        lines = table(rows, right=(2,))
        self._line("")
        if room is None or all(len(line) <= room for line in lines):
            for line in lines:
                self._line(line)
            return
        for stage, path, size in rows:  # a path is left whole, so that it can be copied
            self._line(f"{stage}  {size}")
            self._line(f"  {path}", hang=0)


def shown_path(path: str) -> str:
    """Give a path from the current folder if it lies below it, otherwise as it is."""
    near = os.path.relpath(path)
    return path if near.startswith("..") else near
