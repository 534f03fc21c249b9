"""The one way from a file to a pipeline: read, parse, override, substitute, expand, check, resolve, in this order.

A document that passed once is remembered in resolved form, under everything that this depended on.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

from trtpipe.pipeline.graph import Pipeline, from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.store.state import State

_GLANCE = 2**24  # bytes: more than any document that is read


def load(file: str, settings: Sequence[str], state: State | None) -> Pipeline:
    """Read, check and resolve a document; an unchanged one comes from `state`.

    Raises PipelineInvalid or one of its kinds with everything that is wrong.
    """
    stamp = [code_stamp(), os.path.abspath(file), file, *settings]
    data = _glance(file)
    if state is not None and data is not None:
        resolved = state.resolved(_known(stamp, data))
        if resolved:
            return from_json(file, json.loads(resolved))
    from trtpipe.pipeline import document, resolving, schema, variables

    parsed = document.parse(document.read(file, data), file)
    filled = variables.substitute(variables.override(parsed, settings))
    pipeline = resolving.resolve(filled, resolving.expand(filled, schema.pipeline_schema()))
    if state is not None and data is not None:
        state.remember_resolved(_known(stamp, data), json.dumps(to_json(pipeline)))
    return pipeline


def _glance(file: str) -> bytes | None:
    """Read a document, once, since it may be a pipe; what is wrong with it is `document.read`'s to say."""
    try:
        with open(file, "rb") as stream:
            return stream.read(_GLANCE)
    except OSError:
        return None


def _known(stamp: list[str], data: bytes) -> str:
    return hashlib.sha256("\0".join([*stamp, ""]).encode() + data).hexdigest()


def code_stamp() -> str:
    """Give a text that changes whenever trtpipe's own code does: names, sizes and times of all its modules."""
    waiting = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    found = []
    for folder in waiting:  # grows while it is read
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    found.append(f"{entry.path} {status.st_size} {status.st_mtime_ns}")
                elif entry.name != "__pycache__" and entry.is_dir():
                    waiting.append(entry.path)
    return "\n".join(sorted(found))
