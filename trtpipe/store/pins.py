"""Pins: artifacts that `cache gc` keeps until they are unpinned."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from trtpipe.store import files

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.store.artifact import Artifact
    from trtpipe.store.layout import Layout


class Pin(NamedTuple):
    """A pinned key, its artifact's digest and blobs. `key` is known even if the pin's file is damaged."""

    key: str
    label: str | None = None
    artifact: str | None = None
    blobs: tuple[str, ...] = ()


def pin(layout: Layout, found: Iterable[tuple[str, str, Artifact]]) -> None:
    """Keep artifacts, given as (label, key, artifact), until they are unpinned. Raises OSError."""
    os.makedirs(layout.part("pins"), exist_ok=True)
    for label, key, artifact in found:
        pinned = {"label": label, "key": key, "kind": artifact.kind, "files": artifact.files, "digest": artifact.digest}
        files.write_file(_path(layout, key), json.dumps(pinned, indent=1).encode())


def unpin(layout: Layout, keys: Iterable[str]) -> list[str]:
    """Unpin keys; give the labels of those that were pinned. Raises OSError."""
    gone = []
    for key in keys:
        path = _path(layout, key)
        try:
            with open(path, "rb") as stream:
                label = str(json.loads(stream.read()).get("label"))
        except (OSError, ValueError, AttributeError):
            label = key[:12]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            gone.append(label)
    return gone


def read_all(layout: Layout) -> list[Pin]:
    """Read all pins. The name of a pin's file gives its key, even if the file is damaged."""
    found = []
    for path in files.below(layout.part("pins")):
        one = Pin(os.path.splitext(os.path.basename(path))[0])
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError), open(path, "rb") as stream:
            value = json.loads(stream.read())
            one = one._replace(label=str(value["label"]))
            one = one._replace(artifact=str(value["digest"]))
            one = one._replace(blobs=tuple(str(sha) for sha, _ in value["files"].values()))
        found.append(one)
    return found


def _path(layout: Layout, key: str) -> str:
    return os.path.join(layout.part("pins"), f"{key}.json")
