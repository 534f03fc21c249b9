"""Reads all files that resolving a document needs, so that a remembered pipeline depends on all of them."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MOST = 2**24  # bytes: more than any file that is read is allowed to have


class Reading:
    """The reads of one resolution. Each file is read once, because a document may be a pipe."""

    def __init__(self, given: Mapping[str, bytes] | None = None) -> None:
        """Begin; `given` are contents by absolute path that count as read: a document that was never written."""
        self._known: dict[tuple[str, str], bytes] = {("file", path): text for path, text in (given or {}).items()}
        self._taken: dict[tuple[str, str], None] = {}

    def file(self, path: str) -> bytes:
        """Give a file's content, of which at most 16 MiB are read. Raises OSError."""
        return self._take("file", os.path.abspath(path))

    @property
    def record(self) -> list[list[str]]:
        """What was read, as [kind, name, SHA-256], in the order of the requests."""
        return [[kind, name, _digest(self._known[kind, name])] for kind, name in self._taken]

    def holds(self, record: list[list[str]]) -> bool:
        """Tell whether everything that another resolution has read is unchanged."""
        try:
            return all(kind in _READERS and _digest(self._give(kind, name)) == now for kind, name, now in record)
        except OSError:
            return False

    def _take(self, kind: str, name: str) -> bytes:
        content = self._give(kind, name)
        self._taken[kind, name] = None
        return content

    def _give(self, kind: str, name: str) -> bytes:
        if (kind, name) not in self._known:
            self._known[kind, name] = _READERS[kind](name)
        return self._known[kind, name]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(_MOST)


_READERS: dict[str, Callable[[Any], bytes]] = {"file": _file}
"""By kind, the function that reads something of that kind by its name."""
