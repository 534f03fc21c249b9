"""The house: which room is on which floor, and docs/floors.svg, the picture of it made from the code's own imports.

`python docs/floors.py` writes the picture; with --check it fails if the code says otherwise. `tests/test_floors.py`
holds that imports point down.
"""

# ruff: noqa: INP001 — a script beside the picture that it makes

from __future__ import annotations

import ast
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "trtpipe"
PICTURE = PROJECT / "docs" / "floors.svg"


class Floor(NamedTuple):
    """A floor: the rooms on it, and what is done there."""

    rooms: tuple[str, ...]
    what: str


FLOORS = (
    Floor(
        (
            "batch", "copying", "defaults", "documents", "environment", "errors", "escaping", "formatting",
            "gates", "interrupts", "key", "project", "reads", "row", "runtime", "stage", "texts", "typed", "users_code",
            "variant", "violations", "words",
        ),
        "the ground: errors, keys, what a stage type is, what this machine has, documents between stages",
    ),
    Floor(("store",), "content by digest, action records, the people's view, garbage collection"),
    Floor(("data",), "tensors, pictures, labels, metrics, decisions"),
    Floor(("models",), "ONNX files and what is done to them: opset, precision, quantisation, comparison"),
    Floor(("backends",), "the runtimes: TensorRT and TensorRT-RTX, ONNX Runtime"),
    Floor(("stages",), "one file a stage type, in one table"),
    Floor(("pipeline",), "a document: read, checked, resolved into an ordered graph of stages"),
    Floor(("run",), "keys and look-ups, the loop of a run, worker processes"),
    Floor(("remote",), "the team's store: transport, signatures, what is fetched and pushed"),
    Floor(("trust",), "what one can hold an engine to: lock, rebuild, attestation"),
    Floor(("deploy",), "the way out: bundles, written, checked and served from"),
    Floor(("api", "cli"), "the command line: options, commands, what is shown; and what programs call"),
)  # fmt: skip
"""From the ground up. A room is a folder of the package, or a file beside them; all of those are on the ground."""
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor.rooms}
OUTSIDE = ("", "__main__")
"""The package itself, and its door."""


class Import(NamedTuple):
    """One import of trtpipe's own: where it stands, and the module that it names."""

    path: Path
    line: int
    module: str


def modules() -> dict[str, Path]:
    """Give each module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join((PACKAGE.name, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def room(module: str) -> str:
    """Give the room of a module: `trtpipe.run.work` is in `run`."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path, known: dict[str, Path]) -> Iterator[Import]:
    """Give each import of trtpipe's own, wherever in the file it stands. Raises ValueError on a relative one."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}:{node.lineno}: found a relative import, expected the whole name")
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else str(node.module) for name in names]
        else:
            continue
        yield from (Import(path, node.lineno, name) for name in names if name.split(".")[0] == PACKAGE.name)


# --- the picture

WIDTH, LEFT, LINE, WRAP = 980, 150, 19, 92


def drawn() -> str:
    """Give the picture: the floors from the top, with their files and the rooms that each imports from."""
    known = modules()
    uses: dict[int, set[str]] = {number: set() for number in range(len(FLOORS))}
    for name, path in known.items():
        if room(name) in FLOOR:
            below = {room(found.module) for found in imports(path, known)} & FLOOR.keys()
            uses[FLOOR[room(name)]] |= {one for one in below if FLOOR[one] < FLOOR[room(name)]}
    parts, top = [], 8
    for number in range(len(FLOORS) - 1, -1, -1):
        floor = FLOORS[number]
        title = floor.rooms[0] if len(floor.rooms) == 1 else "ground"
        lines = textwrap.wrap(_files(floor), WRAP)
        from_rooms = sorted({"ground" if FLOOR[n] == 0 else n for n in uses[number]}, key=lambda n: -FLOOR.get(n, 0))
        height = LINE * (len(lines) + 1 + bool(from_rooms)) + 14
        parts.append(f'<rect x="8" y="{top}" width="{WIDTH - 16}" height="{height}" rx="4"/>')
        y = top + LINE
        parts += [
            f'<text x="20" y="{y}" class="number">{number}</text>',
            f'<text x="48" y="{y}" class="room">{escape(title)}</text>',
            f'<text x="{LEFT}" y="{y}">{escape(floor.what)}</text>',
        ]
        for line in lines:
            y += LINE
            parts.append(f'<text x="{LEFT}" y="{y}" class="files">{escape(line)}</text>')
        if from_rooms:
            y += LINE
            parts.append(f'<text x="{LEFT}" y="{y}" class="uses">imports from {escape(", ".join(from_rooms))}</text>')
        top += height + 6
    style = (
        "rect{fill:#f6f7f9;stroke:#b9c0cc}text{font:13px ui-sans-serif,system-ui,sans-serif;fill:#1d2430}"
        ".room{font-weight:600}.number{fill:#6b7585}.files{font-family:ui-monospace,monospace;font-size:12px}"
        ".uses{fill:#6b7585;font-size:12px}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 2}" role="img">'
    return "\n".join([head, "<title>The floors of trtpipe</title>", f"<style>{style}</style>", *parts, "</svg>", ""])


def _files(floor: Floor) -> str:
    """Name the files of a floor's rooms; those of a folder inside a room as `trt/(backend, session)`."""
    found: dict[str, list[str]] = {}
    for one in floor.rooms:
        for path in sorted((PACKAGE / one).rglob("*.py")):
            if path.name != "__init__.py":
                inner = path.relative_to(PACKAGE / one).parent.as_posix()
                inner = "" if inner == "." else f"{inner}/"
                found.setdefault((f"{one}/" if len(floor.rooms) > 1 else "") + inner, []).append(path.stem)
        if (PACKAGE / f"{one}.py").exists():
            found.setdefault("", []).append(one)
    return ", ".join(", ".join(sorted(n)) if not inner else f"{inner}({', '.join(n)})" for inner, n in found.items())


def main() -> None:
    """Write the picture, or check it."""
    if "--check" not in sys.argv[1:]:
        PICTURE.write_text(drawn(), "utf-8")
    elif not PICTURE.exists() or PICTURE.read_text("utf-8") != drawn():
        sys.exit("docs/floors.svg is not what the code's imports say; write it again: make schemas")


if __name__ == "__main__":
    main()
