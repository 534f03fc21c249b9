"""Write docs/stages/ and docs/trtexec.md from the code; with --check, fail if they are not what it says."""

# ruff: noqa: INP001 — a script beside the pages that it writes

from __future__ import annotations

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "docs" / "stages"
TRTEXEC = PROJECT / "docs" / "trtexec.md"
sys.path.insert(0, str(PROJECT))
TRTEXEC_HEAD = """\
# trtexec's words

`--from` takes a line for trtexec, or a script that holds one, and translates its flags:

```sh
trtpipe build --from 'trtexec --onnx=model.onnx --fp16 --saveEngine=model.engine --shapes=images:1x3x64x64'
trtpipe build --from build.sh --emit-yaml model.yaml
```

- Each flag that TensorRT 11 dropped, and each that has no counterpart here, is told in a sentence. A flag that no
  trtexec knows is an error.
- Options beside `--from` come first: `--from build.sh --bf16` builds bfloat16.
- No shell is run. A script may set variables to plain values, and may hold other commands. Command substitutions,
  variables from elsewhere, and two lines for trtexec are errors; give the line itself then.
- Without `--noTF32`, trtexec rounds float32 to TF32 in products. Here float32 stays float32, unless you say
  `--precision tf32`.
- trtexec also measures the engine. `build` does not, and says the `bench` command that measures the same.

The table has every flag of trtexec 8.6, 10 and 11 (and some of `tensorrt_rtx`). It is written from the code by
`make schemas`.
"""


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
    wrong = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
    return wrong + ([TRTEXEC.name] if not TRTEXEC.exists() or TRTEXEC.read_text("utf-8") != trtexec() else [])


def trtexec() -> str:
    """Give the text of docs/trtexec.md."""
    from trtpipe.pipeline.trtexec_flags import FLAGS

    lines = [TRTEXEC_HEAD]
    groups: dict[str, list[str]] = {}
    for flag in FLAGS.values():
        versions = "RTX" if flag.versions == ("rtx",) else ", ".join(flag.versions)
        becomes = flag.becomes or f"not translated: {flag.why}"
        groups.setdefault(flag.group, []).append(f"| `{flag.name}` | {versions} | {becomes} |")
    for group, rows in groups.items():
        lines += [f"## {group.capitalize()} options", "", "| flag | trtexec | here |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Write the pages, or check them."""
    if "--check" in sys.argv[1:]:
        if names := stale():
            sys.exit(f"docs is stale ({', '.join(names)}); write it again: make schemas")
        return
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        path.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")
    TRTEXEC.write_text(trtexec(), "utf-8")


if __name__ == "__main__":
    main()
