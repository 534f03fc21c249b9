"""Action records: what a key made. A record that is not whole, or is another key's, counts as none."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import errors
from trtpipe import key as keys
from trtpipe.store import files
from trtpipe.store.artifact import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.key import Key
    from trtpipe.store.layout import Layout

_HEX = frozenset("0123456789abcdef")
_USED_SECONDS = 3600
_LEAST_DIGITS = 6


class Action(NamedTuple):
    """What a key made, and when it was last made or used (seconds since 1970)."""

    key: str
    record: dict[str, Any]
    artifact: Artifact
    used: float

    @property
    def label(self) -> str:
        """Name the stage that made it."""
        return f"{self.record.get('pipeline', '?')}/{self.record.get('stage', '?')}"


def read(layout: Layout, key: str) -> dict[str, Any] | None:
    """Give a key's action record, or None if there is no sound one. Raises StoreError.

    To read a record is to use it: `cache gc` takes the file's time of change for that of the last use, to the hour.
    """
    try:
        with open(layout.action(key), "rb") as stream:
            record = json.loads(stream.read())
            if time.time() - os.fstat(stream.fileno()).st_mtime > _USED_SECONDS:
                with contextlib.suppress(OSError):
                    os.utime(stream.fileno())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        raise layout.error(error) from None
    return record if sound(record, key) else None


def write(layout: Layout, key: Key, artifact: Artifact, more: Mapping[str, Any]) -> None:
    """Write the record that a key made an artifact; `more` is what else it says. Raises OSError."""
    record = {
        "key": key.record,
        "artifact": {"kind": artifact.kind, "digest": artifact.digest, "files": artifact.files},
        **more,
    }
    record["check"] = _check_of(record)
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
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


def read_all(layout: Layout) -> tuple[list[Action], list[str]]:
    """Read all records without using them: those that are sound, oldest use first, and the paths of the others."""
    good, bad = [], []
    for path in files.below(layout.part("actions")):
        key, suffix = os.path.splitext(os.path.basename(path))
        if suffix != ".json":
            continue
        try:
            with open(path, "rb") as stream:
                record = json.loads(stream.read())
                used = os.fstat(stream.fileno()).st_mtime
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError):
            bad.append(path)
            continue
        if sound(record, key):
            good.append(Action(key, record, artifact_of(record), used))
        else:
            bad.append(path)
    return sorted(good, key=lambda a: (a.used, a.key)), bad


def find(layout: Layout, pieces: Sequence[str]) -> list[Action]:
    """Give the actions whose key or artifact starts with one of the texts. Raises UnknownReference for others."""
    good, _ = read_all(layout)
    found = []
    for piece in pieces:
        mine = [a for a in good if a.key.startswith(piece) or a.artifact.digest.startswith(piece)]
        if len(piece) < _LEAST_DIGITS or not mine:
            raise errors.UnknownReference(
                f"{piece}: no key or artifact in the store starts so ({_LEAST_DIGITS} digits or more)"
            )
        found += mine
    return found


def artifact_of(record: Mapping[str, Any]) -> Artifact:
    """Give the artifact that an action record names."""
    its_files = {name: (sha, size) for name, (sha, size) in record["artifact"]["files"].items()}
    return Artifact(record["artifact"]["kind"], its_files)


def sound(record: Any, key: str) -> bool:
    """Tell whether an action record is whole and this key's."""
    try:
        if record.get("check", "") != _check_of(record) and "check" in record:
            return False
        if keys.digest(record["key"]) != key or not isinstance(record["seconds"], (int, float)):
            return False
        artifact = artifact_of(record)
        for name, (sha256, size) in artifact.files.items():
            parts = name.split("/")
            if not all(parts) or ".." in parts or "." in parts or "\0" in name:
                return False
            if len(sha256) != 64 or not set(sha256) <= _HEX or type(size) is not int or size < 0:
                return False
        return bool(artifact.digest == record["artifact"]["digest"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _check_of(record: Mapping[str, Any]) -> str:
    """Give the digest of an action record, so that a flipped byte in what no other digest covers is seen too."""
    # A signature that it came with is checked by itself, and is of the record without it.
    rest = {name: value for name, value in record.items() if name not in ("check", "signed")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
