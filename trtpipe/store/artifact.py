"""What a stage made, and the results of a look-up: hit or miss."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from trtpipe import key as keys
from trtpipe.row import Row

if TYPE_CHECKING:
    from trtpipe.documents.action import Figure


class _Artifact(Row):
    kind: str
    files: dict[str, tuple[str, int]]


class Artifact(_Artifact):
    """What a stage made. `files` maps a posix path to (SHA-256, bytes) and must not be changed."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the kind, the names and the contents."""
        return keys.digest({"kind": self.kind, "files": {name: sha for name, (sha, _) in self.files.items()}})

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files.values())


class Hit(Row):
    """A cache hit: the whole artifact of a key is in the store."""

    artifact: Artifact
    seconds: float
    notes: tuple[str, ...]
    """The stage's notes for people from when it ran."""
    gaps: tuple[str, ...] = ()
    """What the stage depended on and trtpipe could not see."""
    figures: tuple[Figure, ...] = ()
    """What the stage measured."""


class Miss(Row):
    """A cache miss: a key has no usable artifact; `damage` says what is wrong with a damaged one."""

    damage: str | None = None
