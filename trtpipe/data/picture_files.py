"""Which files of a stage's input are its pictures, in which order, and what their samples are called."""

from __future__ import annotations

import csv
import difflib
import io
import posixpath
from collections import Counter
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from trtpipe.data.pictures import SUFFIXES
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.stage import Input


def names(source: Input, *, listed: str | None, patterns: Sequence[str]) -> list[str]:
    """Name the pictures among the input's files, in the order of the samples.

    `listed` is a file of the input that names them, `patterns` say which files count where there is none; both are
    params of preprocess. Raises StageFailed if there are no pictures, or if the list does not fit the input.
    """
    if listed is not None:
        return _listed(source, listed)
    if source.kind == "file" and source.files[0].endswith((".txt", ".csv")):
        raise StageFailed(
            f"input images ({source.label}) is a list; the pictures that it names would not be in the stage's key. "
            f"Give the folder as the input, and the list's path in it as params.list"
        )
    wanted = [p.lower() for p in patterns] or [f"*{suffix}" for suffix in SUFFIXES]
    found = [f for f in source.files if any(_matches(f.lower(), p) for p in wanted)]
    if not found:
        some = ", ".join(source.files[:5]) + (", …" if len(source.files) > 5 else "")
        raise StageFailed(
            f"input images ({source.label}) has no file that fits {', '.join(wanted)}; it has {some or 'no files'}"
        )
    return found


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(posixpath.basename(name), pattern)


def _listed(source: Input, name: str) -> list[str]:
    try:
        text = source.path(name).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageFailed(f"{name} is not UTF-8: byte {error.start}") from error
    if name.endswith(".csv"):
        rows = csv.DictReader(io.StringIO(text, newline=""))
        columns = rows.fieldnames or [""]
        column = next((c for c in ("path", "file", "image") if c in columns), columns[0])
        lines = [row[column] or "" for row in rows]
    else:
        lines = text.splitlines()
    found = []
    for line in filter(None, map(str.strip, lines)):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), line))
        if path not in source.files:
            near = difflib.get_close_matches(path, source.files, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise StageFailed(f"{name} names {line}, which is not in input images ({source.label}){hint}")
        found.append(path)
    if not found:
        raise StageFailed(f"{name} names no pictures")
    if twice := [path for path, count in Counter(found).items() if count > 1]:
        raise StageFailed(f"{name} names {twice[0]} more than once")
    return found


def identities(files: Sequence[str]) -> list[str]:
    """Give each picture's id: its path without the suffix, or with it where two would be one."""
    stems = [posixpath.splitext(name)[0] for name in files]
    count = Counter(stems)
    return [stem if count[stem] == 1 else name for stem, name in zip(stems, files, strict=True)]
