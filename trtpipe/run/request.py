"""The request to a worker: one stage, what it reads, and where it may write."""

from __future__ import annotations

import json
from typing import Any

from trtpipe.row import Row


class Given(Row):
    """One input of a stage: an artifact's kind, its folder, its files (posix paths), and its name for people."""

    kind: str
    folder: str
    files: tuple[str, ...]
    label: str


class Request(Row):
    """All that a worker needs; it goes to the process as JSON.

    `inputs` are by port. `failed` says why inputs of a tolerant stage are missing. `sources` start from `folder`, the
    document's folder; `root` is the project's. `out` and `scratch` are the stage's own folders, `shared` is for state
    that outlives a run. `env` names the variables that the stage gets even if they look like secrets. A worker that
    takes more than `timeout` (seconds) or `memory` (bytes) is stopped. Users' code is `watched` through the descriptor
    `watch_fd`. `readable` is what it may read if the kernel offers no better way. `network` allows connections, and
    `allow_outside` allows reads anywhere.
    """

    stage: str
    type: str
    params: dict[str, Any]
    inputs: dict[str, Given]
    failed: dict[str, str]
    sources: tuple[str, ...]
    folder: str
    root: str
    out: str
    scratch: str
    shared: str
    store: str
    key: str
    backend: str
    env: tuple[str, ...]
    watched: bool = False
    network: bool = False
    allow_outside: bool = False
    watch_fd: int = -1
    readable: tuple[str, ...] = ()
    timeout: int | None = None
    memory: int | None = None

    def to_json(self) -> bytes:
        """Give the request as JSON."""
        inputs = {port: given._asdict() for port, given in self.inputs.items()}
        return json.dumps({**self._asdict(), "inputs": inputs}).encode()

    @classmethod
    def from_json(cls, text: bytes | str) -> Request:
        """Read a request that `to_json` wrote."""
        value = json.loads(text)
        inputs = {port: Given(**{**given, "files": tuple(given["files"])}) for port, given in value["inputs"].items()}
        lists = {name: tuple(value[name]) for name in ("sources", "env", "readable")}
        return cls(**{**value, **lists, "inputs": inputs})
