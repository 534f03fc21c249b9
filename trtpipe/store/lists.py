"""Lists of names in the store, under the first part of a key. See trtpipe.reads."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from trtpipe import key as keys
from trtpipe import reads
from trtpipe.store.files import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.reads import Names
    from trtpipe.store.layout import Layout

FORMAT = 1


def read(layout: Layout, first: str) -> list[Names]:
    """Give the lists under a first part (its digest), in the order of look-ups; damaged ones count as missing.

    Raises StoreError if the disk cannot be read.
    """
    return reads.in_order(_stored(layout, first))


def _stored(layout: Layout, first: str) -> list[Names]:
    try:
        with open(layout.lists(first), "rb") as stream:
            value = json.loads(stream.read())
        return parse(value, first)
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return []
    except OSError as error:
        raise layout.error(error) from None


def record(first: str, lists: Iterable[Names]) -> dict[str, object]:
    """Give the lists as a JSON object that names their first part."""
    value = {"format": FORMAT, "first": first, "lists": [names.record for names in lists]}
    return {**value, "check": keys.digest(value)}


def parse(value: object, first: str) -> list[Names]:
    """Read the JSON object of `record`. Raises ValueError if it is not valid, or has another first part."""
    if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("first") != first:
        raise ValueError("found no lists of names for this key")
    if value.get("check") != keys.digest({name: item for name, item in value.items() if name != "check"}):
        raise ValueError("the lists are damaged")
    found = value.get("lists")
    if not isinstance(found, list) or len(found) > reads.MAX_LISTS:
        raise ValueError(f"expected at most {reads.MAX_LISTS} lists")
    return [reads.parse(one) for one in found]


def add(layout: Layout, first: str, more: Iterable[Names]) -> None:
    """Put lists under a first part; if there are too many, remove the oldest. Raises StoreError."""
    known = _stored(layout, first)
    wanted = [names for names in dict.fromkeys(more) if names not in known]
    if not wanted:
        return
    kept = [*known, *wanted][-reads.MAX_LISTS :]
    path = layout.lists(first)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_file(path, json.dumps(record(first, kept), indent=1, ensure_ascii=False).encode())
    except OSError as error:
        raise layout.error(error) from None
