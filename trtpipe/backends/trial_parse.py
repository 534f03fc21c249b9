"""Ask a runtime's own parser whether it takes a model, in a process of its own, because native code may crash.

`python -m trtpipe.backends.trial_parse NAME MODEL OUT` is that process; it writes its answer to the file OUT.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import NamedTuple

_MOST_SECONDS = 600
_LISTED = 5


class Answer(NamedTuple):
    """Whether a parser takes a model (None: it could not be asked), and its own words if not."""

    takes: bool | None
    lines: tuple[str, ...]


def ask(name: str, model: str) -> Answer:
    """Ask the parser of an installed runtime."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "answer.json")
        command = [sys.executable, "-m", "trtpipe.backends.trial_parse", name, os.path.abspath(model), out]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, timeout=_MOST_SECONDS, check=False, env=_environment()
            )
        except subprocess.TimeoutExpired:
            return Answer(None, (f"it did not finish within {_MOST_SECONDS // 60} minutes",))
        try:
            with open(out, encoding="utf-8") as stream:
                takes, lines = json.load(stream)
        except (OSError, ValueError):
            last = done.stderr.decode(errors="replace").strip().splitlines()[-_LISTED:]
            return Answer(None, (f"its process ended with code {done.returncode}", *last))
    return Answer(takes, tuple(lines))


def _environment() -> dict[str, str]:
    """Give an environment in which this package is found from any folder."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def main(name: str, model: str, out: str) -> None:
    """Parse, and write the answer."""
    from pathlib import Path

    from trtpipe import backends
    from trtpipe.errors import EnvironmentMissing, TrtpipeError

    takes: bool | None = True
    lines: list[str] = []
    try:
        backends.load(name).parse(Path(model))
    except EnvironmentMissing as error:
        takes, lines = None, str(error).splitlines()
    except TrtpipeError as error:
        takes, lines = False, str(error).splitlines()
    with open(out, "w", encoding="utf-8") as stream:
        json.dump([takes, lines], stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
