"""Where a file comes from, by its content: what the store, the project's lock files and the remote store know of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import errors
from trtpipe.store import actions
from trtpipe.trust import lockfile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trtpipe.documents.action import Action
    from trtpipe.remote.settings import Settings
    from trtpipe.store.actions import Listed
    from trtpipe.store.layout import Layout
    from trtpipe.store.store import Store

FIGURES = ("metrics", "comparison", "benchmark")
"""Kinds of artifacts that hold figures."""
_COPIES = ("network", "config", "engine")
"""Kinds of artifacts that carry the model; one that a network carries is as it was read."""
_MODEL = "model.onnx"
_MOST_FOLDERS = 5000
_NOT_LOOKED_INTO = ("node_modules", "__pycache__", "venv", "site-packages")


class Origin(NamedTuple):
    """One place that knows a content: who made it, as which file of which artifact, and what is recorded beside that.

    `where` is `store`, `remote store` or the path of a lock file. What is None is not known there. A stage that only
    `reads` a model has a copy of it in its artifact, and did not make it.
    """

    where: str
    pipeline: str
    stage: str
    type: str
    key: str
    artifact: str
    kind: str
    file: str
    reads: bool = False
    made: str | None = None
    seconds: float | None = None
    commit: str | None = None
    host: str | None = None
    gpu: str | None = None
    runtime: str | None = None
    signed_by: str | None = None
    fetched_from: str | None = None


class Found(NamedTuple):
    """All origins of a content, best first, and a sentence for each place that was asked in vain."""

    origins: list[Origin]
    asked: list[str]


def has(store: Store, sha256: str) -> bool:
    """Tell whether a file of this content is in an artifact of a store."""
    return any(_files(one.record, sha256) for one in actions.read_all(store.layout)[0])


def find(
    sha256: str, store: Store | None, top: str, *, key: str | None = None, remote: Settings | None = None
) -> Found:
    """Look for a content (SHA-256) in a store, in the lock files of the project `top`, and in a remote store.

    A remote store is asked by key: by `key`, which a manifest beside a plan names, or by the one that was found here.
    """
    origins: list[Origin] = []
    asked = []
    if store is None:
        asked.append("no store is here")
    else:
        good, _ = actions.read_all(store.layout)
        here = [_of_action("store", a.key, a.record, file) for a in reversed(good) for file in _files(a.record, sha256)]
        origins += here
        asked += [] if here else [f"the store in {store.folder} does not have it"]
    locked = [(path, one) for path in _locks(top) for one in _of_lock(path, sha256, top)]
    origins += [one for _, one in locked]
    asked += [] if locked else [f"no lock file in {top} names it"]
    if remote is None:
        asked.append("no remote store is named")
    else:
        wanted = key or next((one.key for one in origins), None)
        asked += _ask(remote, store, wanted, sha256, origins)
    read = any(one.kind == "network" for one in origins)
    marked = [
        one._replace(reads=read and one.kind in _COPIES and os.path.basename(one.file) == _MODEL) for one in origins
    ]
    return Found(sorted(marked, key=_order), asked)


def _order(one: Origin) -> tuple[bool, int]:
    """Give what made a content before what read it, and there the first reader before others."""
    return one.reads, _COPIES.index(one.kind) if one.reads else 0


def _files(record: Action, sha256: str) -> list[str]:
    return [name for name, (digest, _) in record.files.items() if digest == sha256]


def _of_action(where: str, key: str, record: Action, file: str) -> Origin:
    about, given = record.about, record.key
    known = about.environment
    gpus = known.get("gpus") or []
    settings: Mapping[str, Any] = given.get("environment") or {}
    signed = about.signed or {}
    return Origin(
        where, about.pipeline, about.stage, str(given.get("type", "?")), key, record.artifact, record.kind, file,
        made=about.finished or None,
        seconds=about.seconds,
        commit=known.get("commit"),
        host=known.get("host"),
        gpu=settings.get("gpu") or (gpus[0].get("name") if gpus else None),
        runtime=f"{settings['backend']} {settings['backend_version']}" if "backend" in settings else None,
        signed_by=signed.get("signer"),
        fetched_from=signed.get("from"),
    )  # fmt: skip


def _locks(top: str) -> Iterator[str]:
    """Give the lock files of a project; hidden folders and those of packages are not looked into."""
    for number, (folder, names, files) in enumerate(os.walk(top)):
        if number >= _MOST_FOLDERS:
            return
        names[:] = sorted(
            n
            for n in names
            if not n.startswith(".") and n not in _NOT_LOOKED_INTO
            and not os.path.isdir(os.path.join(folder, n, "blobs", "sha256"))
        )  # fmt: skip
        yield from (os.path.join(folder, name) for name in sorted(files) if name.endswith(".lock"))


def _of_lock(path: str, sha256: str, top: str) -> Iterator[Origin]:
    try:
        lock = lockfile.read(path)
    except errors.PipelineInvalid:
        return  # another program's lock file, or a damaged one, which `lock --check` tells
    for stage, entries in lock.stages.items():
        for entry in entries:
            for file, (digest, _) in entry.artifact.files.items():
                if digest == sha256:
                    yield Origin(
                        os.path.relpath(path, top), lock.pipeline, stage, entry.key.type, entry.key.digest,
                        entry.artifact.digest, entry.artifact.kind, file, runtime=", ".join(entry.where),
                    )  # fmt: skip


def _ask(remote: Settings, store: Store | None, key: str | None, sha256: str, origins: list[Origin]) -> list[str]:
    from trtpipe.remote.signed_store import Remote
    from trtpipe.remote.transport import TransportError

    if key is None or store is None:
        return [f"{remote.name} is asked by key, and none is known here"]
    with Remote(remote, store) as connected:
        try:
            found = connected.record(key)
        except (TransportError, errors.TrtpipeError) as error:
            return [f"{remote.name}: {error}"]
    if found is None:
        return [f"{remote.name} does not have key {key[:12]}"]
    record, verified = found
    files = _files(record, sha256)
    if not files:
        return [f"{remote.name} has another content under key {key[:12]}"]
    one = _of_action("remote store", key, record, files[0])
    origins.append(one._replace(signed_by=verified.signer, fetched_from=remote.name))
    return []


# --- what else the store knows of it


def readers(layout: Layout, artifact: str) -> list[Listed]:
    """Give the records of what was made of an artifact, directly or through others, and holds figures; newest first."""
    good, _ = actions.read_all(layout)
    known = {artifact}
    grows = True
    while grows:
        made = {a.artifact.digest for a in good if known & set(a.record.key.get("inputs", {}).values())}
        grows = not made <= known
        known |= made
    found = [a for a in good if a.artifact.kind in FIGURES and a.artifact.digest in known]
    return sorted(found, key=lambda a: a.record.about.finished, reverse=True)


def maker(layout: Layout, artifact: str) -> Listed | None:
    """Give the newest record of what made an artifact."""
    good, _ = actions.read_all(layout)
    return next((a for a in reversed(good) if a.artifact.digest == artifact), None)
