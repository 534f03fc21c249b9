"""Write docs/stages/ from the stage types themselves; with --check, fail if it is not what they say."""

# ruff: noqa: INP001 — a script beside the pages that it writes

from __future__ import annotations

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "docs" / "stages"
sys.path.insert(0, str(PROJECT))


def pages() -> dict[str, str]:
    """Give each page's text by its file name."""
    from trtpipe import stages
    from trtpipe.cli import reference

    table = stages.table().values()
    index = ["# Stage types", "", "Written from the code by `make schemas`; `trtpipe stages TYPE` shows the same.", ""]
    index += ["| type | reads | makes | |", "| --- | --- | --- | --- |"]
    for one in table:
        reads = ", ".join(f"`{name}`" if p.required else f"`{name}`?" for name, p in one.inputs.items()) or "–"
        index.append(f"| [{one.name}]({one.name}.md) | {reads} | {one.output} | {one.doc.split('. ')[0].rstrip('.')} |")
    return {"README.md": "\n".join(index) + "\n", **{f"{one.name}.md": reference.markdown(one.name) for one in table}}


def stale() -> list[str]:
    """Name the pages that are missing, different, or of no stage type."""
    made = pages()
    there = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.md")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def main() -> None:
    """Write the pages, or check them."""
    if "--check" in sys.argv[1:]:
        if names := stale():
            sys.exit(f"docs/stages is stale ({', '.join(names)}); write it again: make schemas")
        return
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        path.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
