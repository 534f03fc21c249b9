"""Make docs/screen.svg: what `trtpipe run pipelines/digits.yaml` really prints on a terminal, in its colours.

The pipeline is run whole first; then one param is changed, and that run, on a pseudo-terminal, is the picture: it has
hits, stages that run, and the reason why. What the run leaves on the screen is drawn as it is.
"""

# ruff: noqa: INP001 — a script beside the picture that it makes

from __future__ import annotations

import argparse
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PICTURE = PROJECT / "docs" / "screen.svg"
COLUMNS = 118
FIRST = ["run", "pipelines/digits.yaml"]
COMMAND = [*FIRST, "--set", "stages.labels.params.steps[1].k=3"]

# rich's own frame has a window's buttons and loads a font from the network; this has neither.
FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
 font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="#16181d" width="{width}" height="{height}" rx="6"/>
<g transform="translate(9, 25)">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


THEME = (
    (22, 24, 29),
    (216, 219, 226),
    [(22, 24, 29), (226, 106, 106), (135, 201, 123), (226, 190, 102), (110, 163, 235), (200, 130, 220), (98, 194, 200),
     (216, 219, 226)],
)  # fmt: skip


def run(arguments: list[str], artifacts: str | Path) -> str:
    """Run the command on a pseudo-terminal; give all it wrote."""
    main, side = pty.openpty()
    environment = {
        **os.environ, "COLUMNS": str(COLUMNS), "LINES": "50", "TERM": "xterm-256color", "PYTHONPATH": str(PROJECT),
        "TRTPIPE_ARTIFACTS": str(artifacts),
    }  # fmt: skip
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "trtpipe", *arguments], stdin=side, stdout=side, stderr=side, cwd=PROJECT,
        env=environment,
    )  # fmt: skip
    os.close(side)
    written = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # on Linux the end of a pseudo-terminal is an error
            break
        if not chunk:
            break
        written += chunk
    os.close(main)
    if process.wait() != 0:
        sys.exit(written.decode())
    return written.decode()


def left_on_screen(written: str) -> str:
    """Give what stays on the screen: the live display's lines are overwritten, as a terminal does it.

    Knows the few controls that the live lines use: up, erase all below, carriage return, colours.
    """
    lines: list[str] = [""]
    row = 0
    start = False
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if piece == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif piece == "\r":
            start = True
            continue
        elif piece.endswith("A") and piece.startswith("\x1b"):
            row = max(0, row - int(piece[2:-1] or 1))
        elif piece == "\x1b[J":
            lines = [*lines[:row], ""]
        elif piece.endswith(("h", "l")) and piece.startswith("\x1b"):
            pass
        else:
            if start and not piece.startswith("\x1b"):
                lines[row] = ""
            lines[row] += piece
        start = False
    return "\n".join(line.rstrip() for line in lines).rstrip()


def main() -> None:
    """Run, draw, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--artifacts", type=Path, help="where it runs; default: a new folder")
    options.add_argument("--picture", type=Path, default=PICTURE)
    args = options.parse_args()
    from rich.console import Console
    from rich.terminal_theme import TerminalTheme
    from rich.text import Text

    with tempfile.TemporaryDirectory() as temporary:
        artifacts = args.artifacts.resolve() if args.artifacts else temporary
        run(FIRST, artifacts)
        # What a user sees, whose store is the project's own.
        screen = left_on_screen(run(COMMAND, artifacts)).replace(str(artifacts), "artifacts")
    text = Text.from_ansi("\x1b[1m$ trtpipe " + " ".join(COMMAND) + "\x1b[0m\n" + screen)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=max(map(len, text.plain.splitlines())), file=nowhere, force_terminal=True)
        console.print(text)
    picture = console.export_svg(title="", theme=TerminalTheme(*THEME), code_format=FORMAT, unique_id="screen")
    args.picture.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n", "utf-8")


if __name__ == "__main__":
    main()
