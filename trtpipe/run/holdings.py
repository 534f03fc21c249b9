"""What the names of a list hold here and now: files by content, folders by their entries, packages by version."""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import TYPE_CHECKING

from trtpipe import environment
from trtpipe import key as keys
from trtpipe.errors import StoreError
from trtpipe.reads import METADATA, PLACES
from trtpipe.run import surroundings

if TYPE_CHECKING:
    from collections.abc import Collection

    from trtpipe.reads import Names, Reads
    from trtpipe.store.state import State

_NOT_CONTENT = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD")
"""Files of a distribution's metadata that differ between two installations of one wheel."""
_QUERIES = 100
"""For more names than this, one query for all digests is cheaper than one each."""
MANY = 200_000
"""Up to this number of entries, a folder is digested by its names; above, by its modification time."""


def holds(names: Names, root: str, state: State, declared: Collection[str] = ()) -> Reads:
    """Give what a list of names holds; `declared` are variables that the stage gets even if they look like secrets.

    Raises StoreError if a file changes while it is read.
    """
    reads: Reads = {}
    if names.number > _QUERIES:
        state.expect_many()
    for kind, found in (
        ("files", {name: _file(path_of(name, root), state) for name in names.files}),
        ("folders", {name: _folder(path_of(name, root), state) for name in names.folders}),
        ("links", {name: _link(path_of(name, root)) for name in names.links}),
        ("packages", {name: package(name, state) for name in names.packages}),
        ("variables", {name: surroundings.held(name, declared) for name in names.variables}),
    ):
        if found:
            reads[kind] = dict(found)
    return reads


def path_of(name: str, root: str) -> str | None:
    """Give the path of a named file or folder here, or None if its package or cache is missing here."""
    places = places_of(name, root)
    if name.startswith("python:"):
        return next(filter(os.path.lexists, places), None)
    return places[0] if places else None


def places_of(name: str, root: str) -> list[str]:
    """Give the paths at which a name may lie here; the first at which there is something is the one that counts."""
    place, colon, rest = name.partition(":")
    if not colon or f"{place}:" not in PLACES:
        return [f"{root}/{name.removeprefix('./')}"]
    if place == "system":
        return ["/" + rest]
    if place == "python":
        return [f"{top}/{rest}" for top in surroundings.module_path()]
    first, _, inner = rest.partition("/")
    if place == "package" and inner.partition("/")[0] == METADATA:
        folder = environment.metadata_folder(first)
        return [folder + inner[len(METADATA) :]] if folder is not None else []
    top = surroundings.cache(first) if place == "cache" else environment.site_of(first)
    return [f"{top}/{inner}"] if top is not None else []


def _file(path: str | None, state: State) -> str | None:
    if path is None:
        return None
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(status.st_mode):
        return "a folder"
    if not stat.S_ISREG(status.st_mode):
        return "no plain file"
    try:
        return state.file_digest(path, status)
    except OSError:
        return "unreadable"


def _link(path: str | None) -> str | None:
    """Give where a link leads, None if there is none. A link out of its folder by an absolute path counts by that."""
    try:
        return None if path is None else os.readlink(path)
    except OSError:
        return None


def _folder(path: str | None, state: State) -> str | None:
    """Digest the names in a folder; they are listed again only when the folder's stamp has changed."""
    try:
        return None if path is None else state.remembered(path, os.stat(path), _entries)
    except StoreError:
        assert path is not None
        return _entries(path)  # somebody writes into it: what is true now is not remembered
    except (OSError, ValueError):
        return None


def _entries(path: str) -> str:
    """Digest what a folder holds: names and what each is, hidden ones too but not Python's compiled files.

    Without what two installations of one wheel have different. Raises OSError.
    """
    beside = _NOT_CONTENT if path.endswith(".dist-info") else ()
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name != "__pycache__" and entry.name not in beside:
                kind = "link" if entry.is_symlink() else "folder" if entry.is_dir() else "file"
                found.append([os.fsencode(entry.name).hex(), kind])
            if len(found) > MANY:
                return f"more than {MANY} entries, {os.stat(path).st_mtime_ns}"
    return keys.digest(sorted(found))


def package(name: str, state: State) -> str | None:
    """Give an installed distribution's version and a digest of its files; None if it is not installed.

    The digest is over those lines of its RECORD that are the same in each installation of a wheel. Without a RECORD the
    version alone is given.
    """
    if name == "python":
        return ".".join(map(str, sys.version_info[:3]))
    version = environment.version(name)
    folder = environment.metadata_folder(name)
    if version is None or folder is None:
        return None
    path = os.path.join(folder, "RECORD")
    try:
        sha256 = state.file_digest(path)
    except OSError:
        return version
    known = state.derived("record", sha256)
    if known is None:
        with open(path, encoding="utf-8") as stream:
            known = keys.digest(_lines(stream.read(), os.path.basename(folder)))
        state.remember_derived("record", sha256, known)
    return f"{version} {known[:16]}"


def _lines(record: str, metadata: str) -> list[list[str]]:
    """Give (path, hash) of what a distribution installed in site-packages. Source: PEP 376, PEP 627."""
    import csv  # only where a RECORD is new

    found = []
    for row in csv.reader(io.StringIO(record)):
        path = row[0] if row else ""
        own = path.startswith(f"{metadata}/") and path.rpartition("/")[2] in _NOT_CONTENT
        if not path or path.startswith(("..", "/")) or path.endswith(".pyc") or own:
            continue
        found.append([path, row[1] if len(row) > 1 else ""])
    return sorted(found)
