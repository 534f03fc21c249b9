"""The one way from a file to a pipeline: read, parse, override, substitute, expand, check, resolve, in this order.

A valid document is remembered in resolved form, under the digest of everything on which the result depends.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from trtpipe import key
from trtpipe.pipeline.graph import Pipeline, from_json, to_json
from trtpipe.pipeline.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.store.state import State


def load(file: str, settings: Sequence[str], state: State | None, text: str | None = None) -> Pipeline:
    """Read, check and resolve a document; if nothing has changed, the result comes from `state`.

    With `text`, that is the document, and nothing needs to be at `file`, from whose folder its paths start.

    Raises PipelineInvalid or one of its kinds with everything that is wrong.
    """
    known = key.digest([code_stamp(), os.path.abspath(file), file, *settings])
    reading = Reading() if text is None else Reading({os.path.abspath(file): text.encode()})
    if state is not None and (found := state.resolved(known)):
        remembered = json.loads(found)
        if reading.holds(remembered["read"]):
            return from_json(file, remembered["pipeline"])
    from trtpipe.pipeline import checking, document, resolving, schema, variables

    parsed = variables.override(document.parse(document.read(file, reading.file), file), settings)
    checking.check_format(parsed)
    filled = variables.substitute(parsed)
    pipeline = resolving.resolve(filled, resolving.expand(filled, schema.pipeline_schema()))
    if state is not None:
        remembered = {"read": reading.record, "pipeline": to_json(pipeline)}
        state.remember_resolved(known, json.dumps(remembered))
    return pipeline


def code_stamp() -> str:
    """Give a text that changes whenever trtpipe's own code changes: names, sizes and times of all its modules."""
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
