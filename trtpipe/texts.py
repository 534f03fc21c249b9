"""Texts with a special meaning in a document: sizes, durations, paths, entrypoints.

Each has one plain spelling, so that two documents that mean the same have the same key.
"""

from __future__ import annotations

import re

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SIZE_PATTERN = r"^(0|[1-9][0-9]*)(B|KiB|MiB|GiB|TiB)$"
DURATION_PATTERN = r"^[1-9][0-9]{0,5}(s|min|h)$"
ENTRYPOINT_PATTERN = r"^([^:]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
_SECONDS = {"s": 1, "min": 60, "h": 3600}


def size_in_bytes(size: str) -> int:
    """Give the bytes of a size such as `1GiB`. Raises ValueError if it is not valid."""
    match = re.match(SIZE_PATTERN, size)
    if not match:
        raise ValueError(f"found {size!r}, expected a whole number and B, KiB, MiB or GiB, such as 512MiB")
    return int(match[1]) * UNITS[match[2]]


def duration_in_seconds(duration: str) -> int:
    """Give the seconds of a duration such as `15min`. Raises ValueError if it is not valid."""
    match = re.match(DURATION_PATTERN, duration)
    if not match:
        raise ValueError(f"found {duration!r}, expected a whole number and s, min or h, such as 15min")
    return int(duration[: -len(match[1])]) * _SECONDS[match[1]]


def plain_duration(seconds: int) -> str:
    """Write whole seconds, at least one, with the largest unit that needs no fraction: 900 is `15min`."""
    unit = next(u for u in reversed(_SECONDS) if seconds % _SECONDS[u] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def split_entrypoint(entrypoint: str) -> tuple[str, str]:
    """Split `file.py:callable` or `package.module:callable` at its last colon."""
    where, _, name = entrypoint.rpartition(":")
    return where, name


def is_file(entrypoint: str) -> bool:
    """Tell whether the entrypoint names a file beside the document, not an importable module."""
    return split_entrypoint(entrypoint)[0].endswith(".py")


def plain_size(size: str) -> str:
    """Write a size with the largest unit that needs no fraction: `1024MiB` is `1GiB`. Raises ValueError."""
    count = size_in_bytes(size)
    unit = next(u for u in reversed(UNITS) if count % UNITS[u] == 0) if count else "B"
    return f"{count // UNITS[unit]}{unit}"


def plain_path(path: str) -> str:
    """Write a posix path without `.`, doubled slashes and a last slash: `./a//b/` is `a/b`.

    `..` stays, because `a/..` depends on whether `a` is a link.
    """
    parts = "/".join(part for part in path.split("/") if part not in ("", "."))
    return ("/" if path.startswith("/") else "") + parts or "."


def plain_entrypoint(entrypoint: str) -> str:
    """Write the file of `file.py:callable` in its plain spelling; a module's name has only one."""
    where, name = split_entrypoint(entrypoint)
    return f"{plain_path(where)}:{name}" if is_file(entrypoint) else entrypoint


def moved_path(path: str, folder: str) -> str:
    """Give a path relative to `folder` as one relative to the place from which `folder` starts; keep absolute ones."""
    return plain_path(path if path.startswith("/") else f"{folder}/{path}")


def moved_entrypoint(entrypoint: str, folder: str) -> str:
    """Give an entrypoint relative to `folder` as one relative to the place from which `folder` starts."""
    where, name = split_entrypoint(entrypoint)
    return f"{moved_path(where, folder)}:{name}" if is_file(entrypoint) else entrypoint
