"""Canonical JSON, digests and the cache key of a stage."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from trtpipe.row import Row

CHUNK = 1 << 20
FORMAT = 2
"""The format of a key's record. Format 1 had no reads and named sources from the document's folder."""


def canonical(value: Any) -> bytes:
    """Give the canonical JSON text of a value: sorted names, no spaces, ASCII, no NaN.

    Source: the subset of RFC 8785 that needs no number formatting of its own (Python's shortest
    float text is deterministic). Raises TypeError on a type that JSON cannot hold, or on a mapping
    with a name that is not a string, and ValueError on NaN and infinities: an unknown value in a
    key must never become a constant.
    """
    _check(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _check(value: Any) -> None:
    kind = type(value)
    if kind is dict:
        for name, item in value.items():
            if type(name) is not str:
                raise TypeError(f"a name in a key must be a string, not {type(name).__name__}")
            _check(item)
    elif kind is list or kind is tuple:
        for item in value:
            _check(item)
    elif value is not None and kind not in (str, int, float, bool):
        raise TypeError(f"a key cannot hold a {kind.__name__}")


def digest(value: Any) -> str:
    """Give the SHA-256 (64 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_file(path: str) -> str:
    """Give the SHA-256 (64 hex digits) of a file's content, read in bounded memory. Raises OSError."""
    hasher = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            hasher.update(view[:count])
    return hasher.hexdigest()


class Key(Row):
    """Everything that can change a stage's output, as a readable record.

    `params` are resolved (defaults filled in). `inputs` maps an input's name to its artifact digest. `sources` maps the
    path of a declared file, from the project's root, to its content digest. `environment` is the part of the
    environment on which this stage type depends. These fields are the first part, which is known before the stage runs.
    `reads` says what users' code was seen to read (see trtpipe.reads); a stage without users' code has no reads.
    """

    type: str
    version: int
    params: dict[str, Any]
    inputs: dict[str, str]
    sources: dict[str, str]
    environment: dict[str, Any]
    reads: dict[str, dict[str, str | None]] = {}  # noqa: RUF012 — no code changes a key's fields

    @property
    def record(self) -> dict[str, Any]:
        """The key as a JSON object."""
        return {"format": FORMAT, **self._asdict()}

    @property
    def digest(self) -> str:
        """SHA-256 of the record."""
        return digest(self.record)

    @property
    def first(self) -> str:
        """SHA-256 of the first part: the record without the reads."""
        return digest({name: value for name, value in self.record.items() if name != "reads"})


def of_record(record: dict[str, Any]) -> Key:
    """Make a key from its record. Raises TypeError or KeyError if the record is not valid or has another format."""
    if record["format"] != FORMAT:
        raise TypeError(f"found a key of format {record['format']}, expected {FORMAT}")
    return Key(**{name: value for name, value in record.items() if name != "format"})


def difference(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """List where two JSON values differ, as (path, old, new); a missing side is None."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[tuple[str, Any, Any]] = []
        for name in sorted(old.keys() | new.keys()):
            where = f"{path}.{name}" if path else name
            if name in old and name in new:
                found += difference(old[name], new[name], where)
            else:  # also if the value is null, because the digests differ
                found.append((where, old.get(name), new.get(name)))
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        found = []
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            found += difference(a, b, f"{path}[{index}]")
        return found
    return [] if type(old) is type(new) and old == new else [(path, old, new)]
