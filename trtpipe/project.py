"""The project that a document belongs to: its root folder, and how files are named from there."""

from __future__ import annotations

import os
from functools import lru_cache

MARKERS = ("trtpipe.toml", "pyproject.toml", ".git")


@lru_cache(maxsize=64)
def root(folder: str) -> str:
    """Give the root of the project that a document's folder lies in, as a real path.

    It is the nearest folder upward with `trtpipe.toml`, otherwise the nearest with `pyproject.toml`, otherwise with
    `.git`, otherwise the document's own. `/` and the user's home are never a root, because they hold too many other
    files.
    """
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


def name(path: str, top: str) -> str:
    """Give the name of a file in records: its path from the project's root, in posix form, never absolute."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return os.path.relpath(real, os.path.realpath(top)).replace(os.sep, "/")


def holds(top: str, path: str) -> bool:
    """Tell whether a path, links followed, lies in a folder or is the folder itself."""
    real, inside = os.path.realpath(path), os.path.realpath(top)
    return real == inside or real.startswith(os.path.join(inside, ""))
