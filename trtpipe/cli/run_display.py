"""What `trtpipe run` shows: stages as they run, the closing table; on a terminal live, elsewhere as lines or JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any, TextIO

from trtpipe.cli.printing import Ink, Screen, err
from trtpipe.escaping import indented, inline
from trtpipe.formatting import seconds_text, size_text, table
from trtpipe.run import events


def far(event: events.StageProgress) -> str:
    """Give a stage's progress, such as `64 of 128 samples`."""
    of = f" of {event.total}" if event.total is not None else ""
    return f"{event.done}{of} {event.unit}"


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
    """Plain lines for events and a closing table; on a terminal also a live display of the running stages."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._screen, self._quiet = Screen(stream), quiet
        self._live = _Live() if stream is sys.stdout and self._screen.has_colour and not quiet else None
        self._rows: dict[str, list[str]] = {}
        self._notes: list[tuple[str, str]] = []
        self._failures: list[events.StageFailed] = []
        self._far: dict[str, events.StageProgress] = {}
        """The last progress of each stage, for the lines that replace the live display."""

    def __call__(self, event: events.Event) -> None:
        """Show one event."""
        handler = getattr(self, f"_{type(event).__name__}", None)
        if handler:
            handler(event)

    def close(self) -> None:
        """Take the live display off the screen; safe to call twice."""
        if self._live:
            with contextlib.suppress(OSError):  # a terminal that is gone must not hide why this ends
                self._live.close()

    def _line(self, *pieces: str | Ink, hang: int = 6) -> None:
        if self._quiet:
            return
        if self._live and self._live.shown:
            self._live.line(self._screen.line(*pieces, hang=hang))
        else:
            self._screen.write(*pieces, hang=hang)

    def _PipelineStarted(self, event: events.PipelineStarted) -> None:  # noqa: N802 — named after the event
        count = f"{len(event.stages)} stage{'s' if len(event.stages) != 1 else ''}"
        self._line(Ink(event.pipeline, "bold"), f" · {event.backend} ({event.backend_reason}) · {count}", hang=2)

    def _StageCached(self, event: events.StageCached) -> None:  # noqa: N802
        self._rows[event.stage] = [event.stage, event.type, "hit", "", size_text(event.size), event.artifact[:12]]
        self._notes += [(event.stage, note) for note in event.notes]

    def _StageStarted(self, event: events.StageStarted) -> None:  # noqa: N802
        why = "; ".join(event.reasons)
        last = f", took {seconds_text(event.expected_seconds)} last time" if event.expected_seconds is not None else ""
        self._line("  ", Ink("run", "bold"), f" {event.stage} ({event.type}): {inline(why)}", Ink(last, "dim"))
        if self._live:
            self._live.started(event)

    def _StageProgress(self, event: events.StageProgress) -> None:  # noqa: N802
        if self._live:
            self._live.progress(event)
        self._far[event.stage] = event

    def _StageRunning(self, event: events.StageRunning) -> None:  # noqa: N802
        if not self._live:  # the live display shows the time already
            how_far = f", {far(self._far[event.stage])}" if event.stage in self._far else ""
            self._line(f"      {event.stage}: still running, {seconds_text(event.seconds)}{how_far}")

    def _StageNote(self, event: events.StageNote) -> None:  # noqa: N802
        self._line(f"      {event.stage}: {inline(event.message)}")

    def _Warned(self, event: events.Warned) -> None:  # noqa: N802
        text = indented(event.message, "  ")
        if self._live and self._live.shown:
            self._live.line(self._screen.line(Ink("warning", "skipped"), f": {text}", hang=2))
        else:
            err(Ink("warning", "skipped"), f": {text}", hang=2)

    def _StageFinished(self, event: events.StageFinished) -> None:  # noqa: N802
        self._rows[event.stage] = [
            event.stage, event.type, "ran", seconds_text(event.seconds), size_text(event.size), event.artifact[:12],
        ]  # fmt: skip
        if self._live:
            self._live.finished(event.stage)

    def _StageFailed(self, event: events.StageFailed) -> None:  # noqa: N802
        self._rows[event.stage] = [event.stage, event.type, "FAILED", seconds_text(event.seconds), "", ""]
        self._failures.append(event)
        if self._live:
            self._live.finished(event.stage)
        self._line("  ", Ink("FAILED", "FAILED"), f" {event.stage} ({event.type})")

    def _StageSkipped(self, event: events.StageSkipped) -> None:  # noqa: N802
        self._rows[event.stage] = [event.stage, event.type, "skipped", "", "", f"because {event.because} failed"]

    def _PipelineFinished(self, event: events.PipelineFinished) -> None:  # noqa: N802
        self.close()
        rows = [["stage", "type", "result", "time", "size", "artifact"], *self._rows.values()]
        lines = table(rows, right=(3, 4))
        self._line("")
        self._line(Ink(lines[0], "dim"))
        for line, row in zip(lines[1:], rows[1:], strict=True):
            self._line(Ink(line, row[2]) if row[2] != "ran" else line)
        shown = dict.fromkeys(f"  {stage}: {note}" for stage, note in self._notes)
        if shown:
            self._line("")
            for text in shown:
                self._line(text)
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


class _Live:
    """A line for each running stage: its name, time, progress, and the time that it took last time."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}

    @property
    def shown(self) -> bool:
        """Whether the display is on the screen."""
        return self._progress is not None

    def _start(self) -> Any:
        if self._progress is None:
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[detail]}", style="dim"),
                TimeElapsedColumn(),
                transient=True,
            )
            self._progress.start()
        return self._progress

    def line(self, text: str) -> None:
        """Print a line above the display."""
        from rich.text import Text

        self._progress.console.print(Text.from_ansi(text), soft_wrap=True)

    def started(self, event: events.StageStarted) -> None:
        """Add a running stage."""
        last = f"last time {seconds_text(event.expected_seconds)}" if event.expected_seconds is not None else ""
        label = f"{event.stage} ({event.type})"
        self._tasks[event.stage] = self._start().add_task(label, total=None, detail=last)

    def progress(self, event: events.StageProgress) -> None:
        """Show a stage's progress."""
        if event.stage in self._tasks:
            self._progress.update(self._tasks[event.stage], completed=event.done, total=event.total, detail=far(event))

    def finished(self, stage: str) -> None:
        """Take a stage off the display, and the display off the screen with the last one."""
        task = self._tasks.pop(stage, None)
        if task is not None:
            self._progress.remove_task(task)

    def close(self) -> None:
        """Take the display off the screen."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
