"""Action records: what a key made. A damaged record, or the record of another key, counts as missing."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING

from trtpipe import errors
from trtpipe.documents.action import Action, Figure, parse
from trtpipe.row import Row
from trtpipe.store import files
from trtpipe.store.artifact import Artifact, Hit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.documents.action import About
    from trtpipe.key import Key
    from trtpipe.store.layout import Layout
    from trtpipe.store.state import State

_USED_SECONDS = 3600
_LEAST_DIGITS = 6
_LARGE = 64 << 10
"""From this size (bytes) on, it takes longer to parse a record than to ask the state for its summary."""


class Listed(Row):
    """A key's record, its artifact, and the time of its last use (seconds since 1970)."""

    key: str
    record: Action
    artifact: Artifact
    used: float

    @property
    def label(self) -> str:
        """Name the stage that made it."""
        return self.record.label


def read(layout: Layout, key: str) -> Action | None:
    """Give a key's action record, or None if there is no valid one. Raises StoreError.

    Reading a record is a use of it: for `cache gc` the file's modification time is the time of the last use, to the
    hour.
    """
    try:
        with open(layout.action(key), "rb") as stream:
            record = parse(json.loads(stream.read()), key)
            if time.time() - os.fstat(stream.fileno()).st_mtime > _USED_SECONDS:
                with contextlib.suppress(OSError):
                    os.utime(stream.fileno())
            return record
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        raise layout.error(error) from None


def made(layout: Layout, state: State, key: str) -> Hit | None:
    """Give what a look-up needs of a key's action record, or None if there is no valid one. Raises StoreError.

    The record of a stage that runs users' code names all that it read; while its stamp stays, it is not parsed again.
    """
    path = layout.action(key)
    try:
        status = os.stat(path)
    except OSError:
        return _made(read(layout, key))
    if status.st_size < _LARGE or time.time() - status.st_mtime > _USED_SECONDS:
        return _made(read(layout, key))

    def summary(_: str) -> str:
        found = _made(read(layout, key))
        return json.dumps(None if found is None else [found.artifact, *found[1:]])

    try:
        value = json.loads(state.remembered_text(path, status, summary))
    except OSError as error:
        raise layout.error(error) from None
    if value is None:
        return None
    (kind, listed), *rest = value
    artifact = Artifact(kind, {name: (sha256, size) for name, (sha256, size) in listed.items()})
    seconds, notes, gaps, figures = rest
    return Hit(artifact, seconds, tuple(notes), tuple(gaps), tuple(Figure(*one) for one in figures))


def _made(record: Action | None) -> Hit | None:
    if record is None:
        return None
    about = record.about
    return Hit(artifact_of(record), about.seconds, about.notes, about.gaps, about.figures)


def write(layout: Layout, key: Key, artifact: Artifact, about: About) -> None:
    """Write the record that a key made an artifact. Raises OSError."""
    record = Action(key.record, artifact.kind, artifact.digest, artifact.files, about)
    text = json.dumps(record.to_json(), indent=1, sort_keys=True, ensure_ascii=False)
    path = layout.action(key.digest)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_file(path, text.encode())


def keep_log(layout: Layout, path: str, key: str) -> str:
    """Move a stage's log to its place beside the record; give its path there. Raises StoreError."""
    target = layout.action(key, ".log")
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.replace(path, target)
    except OSError as error:
        raise layout.error(error) from None
    return target


def read_all(layout: Layout) -> tuple[list[Listed], list[str]]:
    """Read all records without using them: the valid ones, oldest use first, and the paths of the others."""
    good, bad = [], []
    for path in files.below(layout.part("actions")):
        key, suffix = os.path.splitext(os.path.basename(path))
        if suffix != ".json":
            continue
        try:
            with open(path, "rb") as stream:
                record = parse(json.loads(stream.read()), key)
                good.append(Listed(key, record, artifact_of(record), os.fstat(stream.fileno()).st_mtime))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError):
            bad.append(path)
    return sorted(good, key=lambda a: (a.used, a.key)), bad


def find(layout: Layout, pieces: Sequence[str]) -> list[Listed]:
    """Give the actions whose key or artifact starts with one of the texts. Raises UnknownReference for others."""
    good, _ = read_all(layout)
    found = []
    for piece in pieces:
        mine = [a for a in good if a.key.startswith(piece) or a.artifact.digest.startswith(piece)]
        if len(piece) < _LEAST_DIGITS or not mine:
            raise errors.UnknownReference(
                f"{piece}: no key or artifact in the store begins with it; give at least {_LEAST_DIGITS} digits"
            )
        found += mine
    return found


def artifact_of(record: Action) -> Artifact:
    """Give the artifact that an action record names."""
    return Artifact(record.kind, record.files)
