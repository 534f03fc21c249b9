"""How commands print: the only place that writes to the terminal. What it writes has passed the door (`escaping`)."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from trtpipe import escaping
from trtpipe.formatting import width
from trtpipe.row import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOURS = {"hit": "2", "ran": "32", "FAILED": "1;31", "skipped": "33", "bold": "1", "dim": "2"}
_PLAIN = str.maketrans({
    "→": "->", "←": "<-", "·": "-", "…": "...", "–": "-", "—": "-", "×": "x", "±": "+-", "≤": "<=", "≥": ">=",
    "√": "sqrt", "µ": "u", "✓": "ok", "✗": "NO", "├": "|", "└": "`", "─": "-", "“": '"', "”": '"', "‘": "'", "’": "'",
})  # fmt: skip
"""What stands for our own signs on a terminal that has ASCII alone."""
_NARROWEST = 20
_SHORT = 16
"""A reason of fewer characters, such as `never built`, is always told."""


class Ink(Row):
    """A text and how it is painted on a terminal with colours: a name in COLOURS."""

    text: str
    how: str


class Screen:
    """A stream that people read. It knows its width, whether it has colours, and whether it has more than ASCII."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()
        self.has_colour = has_colour(stream)
        self._ascii = not has_unicode(stream)

    @property
    def width(self) -> int | None:
        """The columns of the terminal, at least 20; None if it is none: what a pipe gets is never broken."""
        if not self.is_terminal:
            return None
        import shutil

        return max(_NARROWEST, shutil.get_terminal_size().columns)

    def text(self, text: str) -> str:
        """Give a text as this stream shows it, without colours."""
        shown = escaping.block(text)
        return shown.translate(_PLAIN) if self._ascii and not shown.isascii() else shown

    def paint(self, ink: Ink) -> str:
        """Give a painted text as this stream shows it."""
        shown = self.text(ink.text)
        if not self.has_colour or ink.how not in COLOURS:
            return shown
        return f"\033[{COLOURS[ink.how]}m{shown}\033[0m"

    def line(self, *pieces: str | Ink, hang: int = 0) -> str:
        """Give one line, or several lines with a break between words where the terminal is narrower.

        The lines after the first begin with `hang` spaces. A word that is longer than a line is not cut: it may be a
        path that somebody copies.
        """
        room = self.width
        texts = [piece.text if isinstance(piece, Ink) else piece for piece in pieces]
        if room is None or all(width(line) <= room for line in self.text("".join(texts)).split("\n")):
            return "".join(self.paint(p) if isinstance(p, Ink) else self.text(p) for p in pieces)
        hows = [piece.how if isinstance(piece, Ink) else "" for piece in pieces]
        return "\n".join(
            "".join(self.paint(Ink(*part)) for part in row)
            for row in _broken(list(zip(map(self.text, texts), hows, strict=True)), room, min(hang, room // 3))
        )

    def write(self, *pieces: str | Ink, hang: int = 0) -> None:
        """Write a line and flush it."""
        self.stream.write(self.line(*pieces, hang=hang) + "\n")
        self.stream.flush()


class Reasons:
    """Writes the reasons why stages run; what was told of an earlier stage is not told again, unless it is short."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, reasons: Sequence[str]) -> str:
        """Give the reasons of the next stage in one line."""
        new = [inline for inline in map(escaping.inline, reasons) if len(inline) < _SHORT or inline not in self._told]
        self._told.update(new)
        if len(new) == len(reasons):
            return "; ".join(new)
        return "; ".join([*new, "and as above"]) if new else "as above"


def _broken(pieces: list[tuple[str, str]], room: int, hang: int) -> list[list[tuple[str, str]]]:
    """Break painted texts into rows at spaces, so that each row takes at most `room` columns if its words allow it."""
    import re

    rows: list[list[tuple[str, str]]] = [[]]
    used, words, goes_on = 0, 0, False
    for text, how in pieces:
        for word in re.findall(r"\n| +|[^ \n]+", text):
            if word == "\n":
                rows.append([])
                used, words, goes_on = 0, 0, False
                continue
            is_space = word[0] == " "
            if is_space and goes_on and not words:
                continue
            if not is_space and words and used + width(word) > room:
                rows.append([(" " * hang, "")])
                used, words, goes_on = hang, 0, True
            rows[-1].append((word, how))
            used += width(word)
            words += not is_space
    return [_trimmed(row) for row in rows]


def _trimmed(row: list[tuple[str, str]]) -> list[tuple[str, str]]:
    while row and not row[-1][0].strip():
        row = row[:-1]
    return row


def has_colour(stream: TextIO) -> bool:
    """Tell whether to write colours to a stream: it is a terminal, and NO_COLOR is not set."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def has_unicode(stream: TextIO) -> bool:
    """Tell whether a stream shows more than ASCII: its encoding has it, and the locale was not set to `C` or `POSIX`.

    Python itself takes UTF-8 for these locales (PEP 538), but a terminal may not.
    """
    if (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") not in ("utf8", "utf16", "utf32"):
        return False
    chosen = os.environ.get("LC_ALL") or os.environ.get("LANG") or ""
    return chosen not in ("C", "POSIX")


def out(text: str = "") -> None:
    """Print a text for people on the standard output; where the terminal is narrower, lines break between words."""
    sys.stdout.write(Screen(sys.stdout).line(text, hang=4) + "\n")
    sys.stdout.flush()


def wrapped(*pieces: str | Ink, hang: int = 0) -> None:
    """Print a line for people on the standard output, with breaks between words where the terminal is narrower."""
    sys.stdout.write(Screen(sys.stdout).line(*pieces, hang=hang) + "\n")


def path(text: str) -> None:
    """Print a path, which the shell may use: nothing in it is replaced but what would act on a terminal."""
    sys.stdout.write(escaping.inline(text) + "\n")


def columns() -> int | None:
    """Give the columns of the terminal on the standard output; None if it is none."""
    return Screen(sys.stdout).width


def for_programs(text: str) -> None:
    """Print a text that a program reads: our own, or JSON in ASCII, which does nothing to a terminal."""
    sys.stdout.write(text + "\n")


def err(*pieces: str | Ink, hang: int = 0) -> None:
    """Print a line for people on the error stream; what was printed before is shown first."""
    with contextlib.suppress(OSError):  # it stays in the buffer, and the end of the command says so
        sys.stdout.flush()
    Screen(sys.stderr).write(*pieces, hang=hang)


def message(kind: str, text: str, how: str = "FAILED") -> None:
    """Print a message of a kind, such as `error`, on the error stream; several lines begin below it."""
    err(Ink(kind, how), ":\n" if "\n" in text else ": ", text, hang=2)


def answer(value: Any, *, as_json: bool, lines: Sequence[str]) -> None:
    """Print what a command found: `value` as JSON for programs, or `lines` for people."""
    if as_json:
        for_programs(json.dumps(value))
    elif lines:
        out("\n".join(lines))
