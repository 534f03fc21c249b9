"""The project that a document belongs to: its root folder, and how files are named from there."""

from __future__ import annotations

import os
from functools import lru_cache

MARKERS = ("trtpipe.toml", "pyproject.toml", ".git")


def root(folder: str) -> str:
    """Give the root of the project that a document's folder lies in, as a real path.

    It is the nearest folder upward with `trtpipe.toml`, otherwise the nearest with `pyproject.toml`, otherwise with
    `.git`, otherwise the document's own. `/` and the user's home are never a root, because they hold too many other
    files.
    """
    # What "." means may change while a program runs.
    return _root(folder if os.path.isabs(folder) else os.path.join(os.getcwd(), folder))


@lru_cache(maxsize=64)
def _root(folder: str) -> str:
    own = os.path.realpath(folder)
    home = os.path.realpath(os.path.expanduser("~"))
    above = [own]
    while (up := os.path.dirname(above[-1])) != above[-1]:
        above.append(up)
    projects = [one for one in above if one not in ("/", home)]
    for marker in MARKERS:
        for one in projects:
            if os.path.exists(os.path.join(one, marker)):
                return one
    return own


def commit(top: str) -> str | None:
    """Give the commit that is checked out in a project (40 or 64 hex digits), read from `.git` alone; None if unknown.

    What is changed and not committed is not seen.
    """
    folder = top
    while not os.path.exists(os.path.join(folder, ".git")):
        up = os.path.dirname(folder)
        if up == folder:
            return None
        folder = up
    try:
        git = os.path.join(folder, ".git")
        if os.path.isfile(git):  # a worktree or a submodule
            git = os.path.join(folder, _line(git).removeprefix("gitdir:").strip())
        common = git
        if os.path.exists(os.path.join(git, "commondir")):
            common = os.path.join(git, _line(os.path.join(git, "commondir")))
        head = _line(os.path.join(git, "HEAD"))
        if not head.startswith("ref:"):
            return head if _is_commit(head) else None
        ref = head.removeprefix("ref:").strip()
        for one in (os.path.join(git, ref), os.path.join(common, ref)):
            if os.path.isfile(one):
                found = _line(one)
                return found if _is_commit(found) else None
        with open(os.path.join(common, "packed-refs"), encoding="utf-8") as stream:
            packed = (line.split() for line in stream)
            return next((words[0] for words in packed if words[1:] == [ref] and _is_commit(words[0])), None)
    except (OSError, UnicodeDecodeError):
        return None


def _line(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.readline().strip()


def _is_commit(text: str) -> bool:
    return len(text) in (40, 64) and all(c in "0123456789abcdef" for c in text)


def name(path: str, top: str) -> str:
    """Give the name of a file in records: its path from the project's root, in posix form, never absolute."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return os.path.relpath(real, os.path.realpath(top)).replace(os.sep, "/")


def holds(top: str, path: str) -> bool:
    """Tell whether a path, links followed, lies in a folder or is the folder itself."""
    real, inside = os.path.realpath(path), os.path.realpath(top)
    return real == inside or real.startswith(os.path.join(inside, ""))
