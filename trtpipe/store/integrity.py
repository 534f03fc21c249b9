"""Verification of the whole store: every blob, record and folder of files is read and compared with its digest."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from trtpipe import key as keys
from trtpipe.store import actions, files
from trtpipe.store.trees import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trtpipe.store.actions import Listed
    from trtpipe.store.artifact import Artifact
    from trtpipe.store.store import Store


class Finding(NamedTuple):
    """One thing in the store that is not as it should be; `fixed` says what was done about it.

    `damage` is False where stored content and records are good, and only a folder that shows them is not.
    """

    what: str
    trouble: str
    fixed: str
    damage: bool = True


def verify(store: Store, progress: Callable[[int, int], None] = lambda *_: None) -> tuple[int, int, list[Finding]]:
    """Read everything and compare it with its digests; put aside what is damaged.

    Gives the number of blobs read, their bytes, and what was found. What is put aside is made or fetched again by the
    next run that needs it. `progress` is told the bytes done and the bytes in all. Raises OSError and StoreError.
    """
    good, bad = actions.read_all(store.layout)
    found: list[Finding] = []
    for path in bad:
        if os.path.exists(path):
            store.blobs.quarantine(path)
            found.append(Finding(os.path.relpath(path, store.folder), "is no sound action record", "put aside"))
    blobs = store.blobs.found()
    found += _blobs(store, blobs, good, progress)
    found += _absent(store, blobs, good)
    found += _folders(store, {a.artifact.digest: a.artifact for a in good})
    store.state.commit()
    return len(blobs), sum(s.st_size for s in blobs.values()), found


def _blobs(
    store: Store, blobs: dict[str, os.stat_result], good: list[Listed], progress: Callable[[int, int], None]
) -> Iterator[Finding]:
    """Read all blobs; one that is not what its name says is put aside, or fetched again if it can be."""
    from concurrent.futures import ThreadPoolExecutor

    users: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    names: dict[str, str] = {}
    for action in good:
        for name, (sha256, size) in action.artifact.files.items():
            users.setdefault(sha256, []).append(f"{action.label}/{name}")
            sizes[sha256], names[sha256] = size, name
    total, done = sum(s.st_size for s in blobs.values()), 0

    def examine(item: tuple[str, os.stat_result]) -> tuple[str, int, str | None]:
        sha256, status = item
        if not stat.S_ISREG(status.st_mode):
            return sha256, 0, "is no file"
        try:
            same = keys.digest_file(store.layout.blob(sha256)) == sha256
        except FileNotFoundError:
            return sha256, 0, None  # cache gc was here meanwhile
        except OSError as error:
            return sha256, 0, f"cannot be read: {error.strerror}"
        return sha256, status.st_size, None if same else "has another content than its name says"

    # Digesting lets go of the interpreter's lock, so threads use the cores.
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        for sha256, size, trouble in pool.map(examine, blobs.items()):
            done += size
            progress(done, total)
            path = store.layout.blob(sha256)
            if trouble is None:
                store.state.remember_good(path, blobs[sha256], sha256)
                continue
            its, why = sorted(users.get(sha256, ())), trouble
            if aside := store.blobs.put_aside(path, blobs[sha256], names.get(sha256, sha256)):
                why = f"was changed by somebody, whose version is in {aside}/"
            fetched = sha256 in sizes and _refetched(store, sha256, sizes[sha256])
            of = f" ({', '.join(its[:3])})" if its else ""
            yield Finding(f"blobs/{sha256[:12]}{of}", why, "fetched again" if fetched else "put aside")


def _absent(store: Store, blobs: dict[str, os.stat_result], good: list[Listed]) -> Iterator[Finding]:
    """Find content that records name and that is not there."""
    for action in good:
        for name, (sha256, size) in action.artifact.files.items():
            if sha256 not in blobs:
                fixed = "fetched again" if _refetched(store, sha256, size) else "a run makes it again"
                yield Finding(f"{action.label}/{name}", "its content is not in the store", fixed)


def _refetched(store: Store, sha256: str, size: int) -> bool:
    return store.refetch is not None and store.refetch(sha256, size)


def _folders(store: Store, known: dict[str, Artifact]) -> Iterator[Finding]:
    """Check the trees; one that is not right is removed, since it can be made again, and people's changes are kept."""
    top = store.layout.part("trees")
    for name in sorted(os.listdir(top)) if os.path.isdir(top) else ():
        folder, artifact = os.path.join(top, name), known.get(name)
        if artifact is not None and (changed := _changed(store, folder, artifact)) is not None:
            store.trees.rescue(artifact)
            files.discard(folder)
            yield Finding(f"trees/{name[:12]}/{changed}", "is not what the stage made", "removed", damage=False)


def _changed(store: Store, folder: str, artifact: Artifact) -> str | None:
    """Give the first of an artifact's files in a folder that is not what the stage made, or None."""
    for name, (sha256, _) in artifact.files.items():
        path, blob = within(folder, name), store.layout.blob(sha256)
        try:
            linked = os.path.exists(blob) and os.path.samefile(path, blob)
            if not linked and keys.digest_file(path) != sha256:
                return name
        except OSError:
            return name
    return None
