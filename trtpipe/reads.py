"""What users' code was seen to look at: lists of names, and what the names hold.

A key has two parts. The first is known before a stage runs. The second is what the stage's code looked at when it ran:
files, folders that it listed, paths that were not there, installed distributions, environment variables. A *list of
names* says where to look, and lies under the digest of the first part; the *reads* in a key say what those names hold.

Names are never absolute. A file of the project is named from the project's root. Others begin with what they lie in:
`package:` and a distribution's name, `python:` for other folders on the module search path, `cache:` and the variable
of a known model cache, or `system:` for the folders that the operating system brings.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from trtpipe import key as keys

KINDS = ("files", "folders", "links", "packages", "variables")
MAX_LISTS = 16
"""Lists that are kept under one first part."""
MAX_NAMES = 100_000
"""Names in one list."""
PLACES = ("cache:", "package:", "python:", "system:")

Reads = dict[str, dict[str, "str | None"]]
"""By kind, what each name holds: a digest (of a package, its version and a digest), or None where there is none."""


class Names(NamedTuple):
    """A list of names: where users' code looked. Each tuple is sorted and holds a name once."""

    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """How many names there are."""
        return sum(map(len, self))

    @property
    def digest(self) -> str:
        """SHA-256 of the list."""
        return keys.digest(self.record)

    @property
    def record(self) -> dict[str, list[str]]:
        """The list as a JSON object, without kinds of which there are none."""
        return {kind: list(names) for kind, names in zip(KINDS, self, strict=True) if names}


def of(reads: Any) -> Names:
    """Give the names in the reads of a key. Raises ValueError if that is what no key holds."""
    try:
        return parse({kind: sorted(holds) for kind, holds in reads.items()})
    except (TypeError, AttributeError):
        raise ValueError("the reads are no mapping of names") from None


def parse(record: Any) -> Names:
    """Read a list of names from JSON. Raises ValueError if it is none: it may come from elsewhere."""
    if not isinstance(record, dict) or record.keys() - set(KINDS):
        raise ValueError("a list of names has other fields than it should")
    found = []
    for kind in KINDS:
        names = record.get(kind, [])
        if not isinstance(names, list) or not all(isinstance(name, str) and _is_name(name) for name in names):
            raise ValueError(f"{kind}: found what no name is")
        found.append(tuple(sorted(set(names))))
    if sum(map(len, found)) > MAX_NAMES:
        raise ValueError(f"a list of more than {MAX_NAMES} names")
    return Names(*found)


def _is_name(name: str) -> bool:
    return bool(name) and not name.startswith("/") and "\0" not in name and len(name) <= 4096


def in_order(lists: list[Names]) -> list[Names]:
    """Put lists into the order in which they are tried: the longest first, then by digest, on every machine alike."""
    return sorted(lists, key=lambda names: (-names.number, names.digest))
