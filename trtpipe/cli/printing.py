"""How commands print what they found: for people or as JSON, in colours or without."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence


def has_colour(stream: TextIO) -> bool:
    """Tell whether to write colours to a stream: it is a terminal, and NO_COLOR is not set."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def answer(value: Any, *, as_json: bool, lines: Sequence[str]) -> None:
    """Print what a command found: `value` as JSON for programs, or `lines` for people."""
    if as_json:
        print(json.dumps(value))
    elif lines:
        print("\n".join(lines))
