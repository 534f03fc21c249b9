"""Whether all that a stage's lists of names looked at is as it was when the stage last hit, told by stamps alone.

What thousands of names hold takes longer to find than all the rest of a look-up. So after a hit trtpipe remembers where
the lists looked, with one digest of all stamps, and which keys came of it. While nothing of that has changed, the keys
are the same. Whatever cannot be told from stamps for certain is not remembered, and is looked at name by name.
"""

from __future__ import annotations

import hashlib
import json
import marshal
import os
import sys
import time
from typing import TYPE_CHECKING

from trtpipe import environment
from trtpipe import key as keys
from trtpipe.reads import METADATA
from trtpipe.row import Row
from trtpipe.run import surroundings
from trtpipe.run.holdings import places_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from trtpipe.reads import Names

_SETTLED_NS = 2_000_000_000
"""A file that was just written could be written again within one tick of its clock, without a new time."""

_SOUGHT = 8
"""If more names than this are sought in vain in one folder, its own stamp is looked at instead of each name."""


class Looked(Row):
    """Where one list of names looked, and the digest of the full key that came of it.

    `paths` count by the stamp of what is there, links followed; `links` by their own stamp. Both are names by folder,
    which is a third of the text; `stamps` is a digest of the stamps. `absent` are paths at which there was nothing.
    """

    around: str
    paths: dict[str, list[str]]
    links: dict[str, list[str]]
    stamps: str
    absent: list[str]
    variables: dict[str, str | None]
    key: str = ""


def name_of(first: str, root: str) -> str:
    """Name what is remembered of the lists under a first part (its digest) in one project."""
    return keys.digest([first, root])


def text_of(lists: Iterable[Looked]) -> str:
    """Give as JSON where the lists looked that were tried up to a hit, in the order of look-ups."""
    return json.dumps(list(lists))


def of_text(text: str) -> list[Looked]:
    """Read what `text_of` gave."""
    return [Looked(*one) for one in json.loads(text)]


def look(names: Names, lists: str, root: str, declared: Collection[str]) -> Looked | None:
    """Note where a list looks and the stamps of what is there; call it before what its names hold is found.

    `lists` is the path of the file that holds the list. Gives None where stamps cannot tell whether it stays the same.
    """
    paths: dict[str, None] = {lists: None}
    links: dict[str, None] = {}
    absent: dict[str, None] = {}
    packages = [f"package:{name}/{METADATA}/RECORD" for name in names.packages if name != "python"]
    for name in (*names.files, *names.folders, *packages):
        _note(name, root, paths, absent)
    for name in names.links:
        _note(name, root, links, absent)
    lacking, folders = _fewer(absent)
    paths.update(dict.fromkeys(folders))
    there, linked = _by_folder(paths), _by_folder(links)
    found = _stamps(_each(there), _each(linked))
    if found is None or time.time_ns() - max(max(one[3:]) for one in found) < _SETTLED_NS:
        return None
    variables = {name: surroundings.held(name, declared) for name in names.variables}
    return Looked(_around(), there, linked, _digest(found), lacking, variables)


def _note(name: str, root: str, there: dict[str, None], absent: dict[str, None]) -> None:
    """Note where one name looks: at the first of its places where something is."""
    for path in places_of(name, root):
        if os.path.lexists(path):
            there[path] = None
            return
        absent[path] = None


def _fewer(absent: Iterable[str]) -> tuple[list[str], list[str]]:
    """Give fewer paths that say the same of absent ones: (absent, folders whose stamps say it).

    Where a folder is missing, that says it of all in it. A folder that is there in which many names are sought in vain,
    as Python does for modules, changes its stamp when one of them appears.
    """
    lacking: dict[str, dict[str, None]] = {}
    for path in absent:
        top, folder = path, os.path.dirname(path)
        while folder != top and not os.path.lexists(folder):
            top, folder = folder, os.path.dirname(folder)
        lacking.setdefault(folder, {})[top] = None
    many = [folder for folder, paths in lacking.items() if len(paths) > _SOUGHT and os.path.isdir(folder)]
    return [path for folder, paths in lacking.items() if folder not in many for path in paths], many


def is_same(looked: Looked, declared: Collection[str]) -> bool:
    """Tell whether what the lists look at is certainly as it was."""
    if looked.around != _around() or any(map(os.path.lexists, looked.absent)):
        return False
    # Code that asks for all variables has hundreds of names here, most of them of variables that are not set.
    there = set(os.environ)
    asked = ((n, held) for n, held in looked.variables.items() if n in there or held is not None or n.endswith("*"))
    if any(surroundings.held(name, declared) != held for name, held in asked):
        return False
    found = _stamps(_each(looked.paths), _each(looked.links))
    return found is not None and _digest(found) == looked.stamps


def _around() -> str:
    """Digest what decides to which path a name leads, and what a key holds without a path."""
    caches = [surroundings.cache(name) for name in surroundings.CACHES]
    folders = sorted(environment.metadata_folders().items())
    return keys.digest([environment.search_path(), folders, caches, list(sys.version_info[:3]), os.geteuid()])


def _by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        found.setdefault(folder, []).append(name)
    return found


def _each(by_folder: dict[str, list[str]]) -> list[str]:
    return [f"{folder}/{name}" for folder, names in by_folder.items() for name in names]


def _stamps(paths: Iterable[str], links: Iterable[str]) -> list[tuple[int, ...]] | None:
    """Give device, inode, size and both times (ns) of what lies at paths; None if one has nothing."""
    found: list[tuple[int, ...]] = []
    try:
        for ask, asked in ((os.stat, paths), (os.lstat, links)):
            for path in asked:
                status = ask(path)
                found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except (OSError, ValueError):
        return None
    return found


def _digest(stamps: list[tuple[int, ...]]) -> str:
    # Version 2 of marshal has no references, so equal numbers give equal bytes; the version of Python is in `around`.
    return hashlib.sha256(marshal.dumps(stamps, 2)).hexdigest()
