"""Lists of names: under the first part of a key, where users' code was seen to look. See trtpipe.reads."""

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
    """Give the lists under a first part (its digest), in the order in which they are tried; damaged ones are none.

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
    """Give the lists as a JSON object that says whose they are."""
    value = {"format": FORMAT, "first": first, "lists": [names.record for names in lists]}
    return {**value, "check": keys.digest(value)}


def parse(value: object, first: str) -> list[Names]:
    """Read what `record` gave. Raises ValueError if it is not that, or of another first part."""
    if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("first") != first:
        raise ValueError("these are no lists of names of that key")
    if value.get("check") != keys.digest({name: item for name, item in value.items() if name != "check"}):
        raise ValueError("the lists are damaged")
    found = value.get("lists")
    if not isinstance(found, list) or len(found) > reads.MAX_LISTS:
        raise ValueError("the lists are no list")
    return [reads.parse(one) for one in found]


def add(layout: Layout, first: str, more: Iterable[Names]) -> None:
    """Put lists under a first part; of more than there may be, the oldest go. Raises StoreError."""
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
