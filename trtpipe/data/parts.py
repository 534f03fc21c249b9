"""How tensors are cut into parts: the rules, which look at nothing but the size of a row."""

from __future__ import annotations

from trtpipe.errors import StageFailed

STEP = 4096
"""Rows of a part are a multiple of this, and so shards that begin at such rows can be joined by linking their parts."""
TARGET = 64 << 20
"""Bytes of data that a part has at most, unless STEP rows already have more."""
MOST = 100_000
"""Parts that a tensor may have: each is a file."""
LONGEST = 1024
"""Characters of a tensor's name."""


def rows_per_part(row_bytes: int) -> int:
    """Give how many rows each part of a tensor has, but for the last.

    The largest multiple of STEP by a power of two with which a part has no more than TARGET bytes; at least STEP. For
    rows without bytes it is STEP. Powers of two, because then a row at which a part of the one tensor begins is one at
    which a part of another begins, and shards can be cut where that is so for all.
    """
    fitting = TARGET // (row_bytes * STEP) if row_bytes else 1
    return STEP << max(0, fitting.bit_length() - 1)


def count(rows: int, each: int, label: str) -> int:
    """Give the number of parts. Raises StageFailed if there are too many."""
    found = -(-rows // each)
    if found > MOST:
        raise StageFailed(
            f"{label}: found {rows} rows, which are {found} parts of {each} rows; expected at most {MOST} parts"
        )
    return found


def file_name(file: str, number: int) -> str:
    """Give the name of a part's file; sorted names are in the order of the rows."""
    return f"{file}-{number:05d}.npy"


def check_name(name: str, label: str) -> str:
    """Give a tensor's name again. Raises StageFailed if it is longer than LONGEST."""
    if len(name) > LONGEST:
        raise StageFailed(
            f"{label}: found a tensor's name of {len(name)} characters ({name[:32]}…), expected at most {LONGEST}"
        )
    return name
