"""The record of a stage: the fields of its key, with names for people. `explain` compares two records.

A record comes from the stage as it is now (`Lookup.now`), from the store (`of_action`), from a lock file (`of_key`), or
from a file with an action record (`of_file`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trtpipe import key as keys
from trtpipe.documents.action import parse
from trtpipe.errors import PipelineInvalid
from trtpipe.row import Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.documents.action import Action
    from trtpipe.key import Key


class Record(Row):
    """A key's record, and for each input its name for people and, if known, the digest of each of its files."""

    key: dict[str, Any]
    labels: Mapping[str, str]
    files: Mapping[str, dict[str, str] | None]


def of_key(key: Key) -> Record:
    """Give the record of a key alone, as in a lock file; the names of its inputs are not known."""
    return Record(key.record, {}, {})


def of_action(action: Action) -> Record:
    """Give the record in an action record."""
    read = action.about.inputs.items()
    return Record(action.key, {port: one.label for port, one in read}, {port: one.files for port, one in read})


def of_file(path: str) -> Record:
    """Give the record in a file with an action record. Raises PipelineInvalid if the file holds none."""
    try:
        with open(path, "rb") as stream:
            value = json.loads(stream.read())
        return of_action(parse(value, keys.digest(value["key"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise PipelineInvalid(f"{path}: expected an action record; see trtpipe show PIPELINE STAGE --record") from None
