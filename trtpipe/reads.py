"""What users' code was seen to read: lists of names, and what the names hold.

A key has two parts. The first is known before a stage runs. The second is what the stage's code read when it ran:
files, folders that it listed, paths that did not exist, installed distributions, environment variables. A *list of
names* says where to look; the store keeps it under the digest of the first part. The *reads* in a key say what these
names hold.

Names are never absolute. A file of the project is named from the project's root. Other names begin with a place:
`package:` and a distribution's name, `python:` for other folders on the module search path, `cache:` and the variable
of a known model cache, or `system:` for the folders of the operating system.
"""

from __future__ import annotations

from typing import Any

from trtpipe import key as keys
from trtpipe.row import Row

KINDS = ("files", "folders", "links", "packages", "variables")
MAX_LISTS = 16
"""The largest number of lists under one first part."""
MAX_NAMES = 100_000
"""The largest number of names in one list."""
METADATA = ".dist-info"
"""In the name of a package's file: its metadata folder, whose own name has the version in it."""
PLACES = ("cache:", "package:", "python:", "system:")

Reads = dict[str, dict[str, "str | None"]]
"""By kind, what each name holds: a digest (for a package, its version and a digest), or None if it is absent."""


class Names(Row):
    """A list of names: what users' code read. Each tuple is sorted and holds each name once."""

    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """The number of names."""
        return sum(map(len, self))

    @property
    def digest(self) -> str:
        """SHA-256 of the list."""
        return keys.digest(self.record)

    @property
    def record(self) -> dict[str, list[str]]:
        """The list as a JSON object, without empty kinds."""
        return {kind: list(names) for kind, names in zip(KINDS, self, strict=True) if names}


def of(reads: Any) -> Names:
    """Give the names in the reads of a key. Raises ValueError if the reads are not valid."""
    try:
        return parse({kind: sorted(holds) for kind, holds in reads.items()})
    except (TypeError, AttributeError):
        raise ValueError("found reads that are no mapping of names") from None


def parse(record: Any) -> Names:
    """Read a list of names from JSON, which may come from a remote store. Raises ValueError if it is not valid."""
    if not isinstance(record, dict) or record.keys() - set(KINDS):
        raise ValueError(f"found a list of names with other fields than {', '.join(KINDS)}")
    found = []
    for kind in KINDS:
        names = record.get(kind, [])
        if not isinstance(names, list) or not all(isinstance(name, str) and _is_name(name) for name in names):
            raise ValueError(f"{kind}: found an entry that is not a valid name")
        found.append(tuple(sorted(set(names))))
    if sum(map(len, found)) > MAX_NAMES:
        raise ValueError(f"found more than {MAX_NAMES} names, which is the limit of a list")
    return Names(*found)


def _is_name(name: str) -> bool:
    return bool(name) and not name.startswith("/") and "\0" not in name and len(name) <= 4096


def in_order(lists: list[Names]) -> list[Names]:
    """Put lists into the order of look-ups, the same on every machine: the longest first, then by digest."""
    return sorted(lists, key=lambda names: (-names.number, names.digest))
