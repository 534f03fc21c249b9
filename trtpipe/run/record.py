"""The record of a stage: what its key is made of, with the names that people know. `explain` compares two of them.

There are four ways to one: how the stage is now (`Lookup.now`), as the store has it (`of_action`), as a lock has it
(`of_key`), and from a file (`of_file`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe.errors import PipelineInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.key import Key


class Record(NamedTuple):
    """A key's record, and by input what people call it and, where known, the digest of each of its files."""

    key: dict[str, Any]
    labels: Mapping[str, str]
    files: Mapping[str, dict[str, str] | None]


def of_key(key: Key) -> Record:
    """Give the record of a key alone, as a lock has it: nothing is known of the names of its inputs."""
    return Record(key.record, {}, {})


def of_action(action: Mapping[str, Any]) -> Record:
    """Give the record in an action record; one that does not name its inputs well is told without names."""
    labels: dict[str, str] = {}
    files: dict[str, dict[str, str] | None] = {}
    try:
        for port, one in action["inputs"].items():
            labels[port], files[port] = str(one["label"]), dict(one["files"])
    except (KeyError, TypeError, ValueError, AttributeError):
        labels, files = {}, {}
    return Record(action["key"], labels, files)


def of_file(path: str) -> Record:
    """Give the record in a file with an action record. Raises PipelineInvalid if it holds none."""
    try:
        with open(path, "rb") as stream:
            action = json.loads(stream.read())
        if isinstance(action["key"]["params"], dict):
            return of_action(action)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise PipelineInvalid(f"{path}: expected an action record; see trtpipe show PIPELINE STAGE --record")
