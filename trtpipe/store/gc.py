"""Care of the store: what lies in it, whether it is whole, what may go, what must stay."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import errors
from trtpipe import key as keys
from trtpipe.pipeline.graph import lock_path
from trtpipe.store import disk_usage, locks
from trtpipe.store.store import Artifact, Store, artifact_of, discard, sound, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_QUARANTINE_SECONDS = 7 * 24 * 3600
_URL = "://"
_COPIES = ("trees", "shown", "edited")
_OURS = re.compile(r"[0-9a-f]{64}(\.|$)")
"""How folders of artifacts are called: what else lies there, in a folder that was no store, is not ours to remove."""


class Action(NamedTuple):
    """What a key made, and when it was last made or used (seconds since 1970)."""

    key: str
    record: dict[str, Any]
    artifact: Artifact
    used: float

    @property
    def label(self) -> str:
        """Name the stage that made it."""
        return f"{self.record.get('pipeline', '?')}/{self.record.get('stage', '?')}"


class Finding(NamedTuple):
    """One thing in the store that is not as it should be; `fixed` says what was done about it.

    `damage` is False where no stored content or record is meant, only a folder that shows some.
    """

    what: str
    trouble: str
    fixed: str
    damage: bool = True


class Budget(NamedTuple):
    """What `gc` is to reach: bytes in the store, bytes free on its disk, seconds since the last use."""

    max_size: int | None = None
    min_free: int | None = None
    max_age: float | None = None


class Collected(NamedTuple):
    """What `gc` removed (or would remove), what it kept for whom, and whether the budget is met."""

    removed: tuple[Action, ...]
    orphans: int
    freed: int
    kept: dict[str, str]
    size: int
    met: bool


def actions(store: Store) -> tuple[list[Action], list[str]]:
    """Read all action records: those that are sound, oldest use first, and the paths of those that are not."""
    good, bad = [], []
    for path in _files(os.path.join(store.folder, "actions")):
        digest, suffix = os.path.splitext(os.path.basename(path))
        if suffix != ".json":
            continue
        try:
            with open(path, "rb") as stream:
                record = json.loads(stream.read())
                used = os.fstat(stream.fileno()).st_mtime
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError):
            bad.append(path)
            continue
        if sound(record, digest):
            good.append(Action(digest, record, artifact_of(record), used))
        else:
            bad.append(path)
    return sorted(good, key=lambda a: (a.used, a.key)), bad


def _files(top: str) -> Iterator[str]:
    for folder, _, names in os.walk(top):
        for name in sorted(names):
            yield os.path.join(folder, name)


def _blobs(store: Store) -> dict[str, os.stat_result]:
    found = {}
    for path in _files(os.path.join(store.folder, "blobs")):
        with contextlib.suppress(FileNotFoundError):
            found[os.path.basename(path)] = os.lstat(path)
    return found


def usage(store: Store) -> dict[str, tuple[int, int]]:
    """Give for each part of the store (files, bytes on disk).

    A file with several links counts at the first part, and so does what reflinked copies share with the blobs.
    """
    seen: set[tuple[int, int]] = set()
    found: dict[str, tuple[int, int]] = {}
    parts: tuple[str, ...] = ("blobs", "actions", "trees", "shown", "edited", "quarantine", "timing", "tmp")
    with contextlib.suppress(OSError):
        more = [n for n in sorted(os.listdir(store.folder)) if n not in parts and n != "view"]
        parts = (*parts, *more)
    for part in parts:
        top = os.path.join(store.folder, part)
        files = size = 0
        for path in [top] if os.path.isfile(top) else _files(top):
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            files += 1
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                size += disk_usage.own(path, status) if part in _COPIES else status.st_blocks * 512
        if files:
            found[part] = (files, size)
    return found


# --- verify


def verify(store: Store, progress: Callable[[int, int], None] = lambda *_: None) -> tuple[int, int, list[Finding]]:
    """Read everything and compare it with its digests; put aside what is damaged.

    Gives the number of files read, their bytes, and what was found. What is put aside is made or fetched again by
    the next run that needs it.
    """
    from concurrent.futures import ThreadPoolExecutor

    found: list[Finding] = []
    good, bad = actions(store)
    for path in bad:
        if os.path.exists(path):
            store.quarantine(path)
            found.append(Finding(os.path.relpath(path, store.folder), "is no sound action record", "put aside"))
    users: dict[str, list[str]] = {}
    for action in good:
        for name, (sha256, _) in action.artifact.files.items():
            users.setdefault(sha256, []).append(f"{action.label}/{name}")
    sizes = {sha: size for action in good for sha, size in action.artifact.files.values()}
    blobs = _blobs(store)
    total = sum(s.st_size for s in blobs.values())
    done = 0

    def examine(name: str, status: os.stat_result) -> tuple[str, int, str | None]:
        path = store.blob_path(name)
        if not stat.S_ISREG(status.st_mode):
            return name, 0, "is no file"
        try:
            same = keys.digest_file(path) == name
        except FileNotFoundError:
            return name, 0, None  # cache gc was here meanwhile
        except OSError as error:
            return name, 0, f"cannot be read: {error.strerror}"
        return name, status.st_size, None if same else "has another content than its name says"

    # Digesting lets go of the interpreter's lock, so threads use the cores.
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        for name, size, trouble in pool.map(lambda item: examine(*item), blobs.items()):
            done += size
            progress(done, total)
            if trouble is None:
                store.state.remember_good(store.blob_path(name), blobs[name], name)
                continue
            store.quarantine(store.blob_path(name))
            fixed = "put aside"
            if name in sizes and store.refetch is not None and store.refetch(name, sizes[name]):
                fixed = "fetched again"
            of = f" ({', '.join(sorted(users[name])[:3])})" if name in users else ""
            found.append(Finding(f"blobs/{name[:12]}{of}", trouble, fixed))
    for action in good:
        for name, (sha256, size) in action.artifact.files.items():
            if sha256 not in blobs:
                fixed = "a run makes it again"
                if store.refetch is not None and store.refetch(sha256, size):
                    fixed = "fetched again"
                found.append(Finding(f"{action.label}/{name}", "its content is not in the store", fixed))
    found += _verify_trees(store, {a.artifact.digest: a.artifact for a in good})
    store.state.commit()
    return len(blobs), total, found


def _verify_trees(store: Store, known: dict[str, Artifact]) -> list[Finding]:
    """Check the folders that show artifacts; one that is not right is removed, since it can be made again."""
    found = []
    for part in ("trees", "shown"):
        top = os.path.join(store.folder, part)
        for name in sorted(os.listdir(top)) if os.path.isdir(top) else ():
            artifact = known.get(name)
            if artifact is None:
                continue
            changed = []
            for file, (sha256, _) in artifact.files.items():
                path = os.path.join(top, name, *file.split("/"))
                try:
                    blob = store.blob_path(sha256)
                    linked = os.path.exists(blob) and os.path.samefile(path, blob)
                    if not linked and keys.digest_file(path) != sha256:
                        changed.append(file)
                except OSError:
                    changed.append(file)
            if changed and part == "trees":
                discard(os.path.join(top, name))
                found.append(
                    Finding(f"trees/{name[:12]}/{changed[0]}", "is not what the stage made", "removed", damage=False)
                )
            elif changed:
                found.append(Finding(f"shown/{name[:12]}/{changed[0]}", "somebody changed it",
                                     "the next run shows the right one and keeps this in edited/",
                                     damage=False))  # fmt: skip
    return found


# --- what must stay


def pin(store: Store, found: Iterable[tuple[str, str, Artifact]]) -> None:
    """Keep artifacts, given as (label, key, artifact), until they are unpinned."""
    folder = os.path.join(store.folder, "pins")
    os.makedirs(folder, exist_ok=True)
    for label, key, artifact in found:
        pinned = {"label": label, "key": key, "kind": artifact.kind, "files": artifact.files, "digest": artifact.digest}
        write_file(os.path.join(folder, f"{key}.json"), json.dumps(pinned, indent=1).encode())


def unpin(store: Store, wanted: Iterable[str]) -> list[str]:
    """Let pinned keys go; give the labels of those that were pinned."""
    gone = []
    for key in wanted:
        path = os.path.join(store.folder, "pins", f"{key}.json")
        try:
            with open(path, "rb") as stream:
                label = str(json.loads(stream.read()).get("label"))
        except (OSError, ValueError, AttributeError):
            label = key[:12]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            gone.append(label)
    return gone


class _Kept(NamedTuple):
    """What must stay: keys and contents, each with why; artifacts; and when the oldest running run began."""

    keys: dict[str, str]
    blobs: dict[str, str]
    artifacts: set[str]
    oldest: float

    def why(self, action: Action) -> str | None:
        """Say why an action must stay, or None if it may go."""
        if action.key in self.keys:
            return self.keys[action.key]
        contents = [sha for sha, _ in action.artifact.files.values()]
        return self.blobs[contents[0]] if contents and all(sha in self.blobs for sha in contents) else None


def _kept(store: Store) -> _Kept:
    """Find what must stay. Raises PipelineInvalid if a lock cannot be read: who knows what it needs."""
    from trtpipe.trust import lockfile

    kept = _Kept({}, {}, set(), float("inf"))
    for path in _files(os.path.join(store.folder, "pins")):
        key = os.path.splitext(os.path.basename(path))[0]
        kept.keys[key] = "pinned"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError), open(path, "rb") as stream:
            value = json.loads(stream.read())
            kept.keys[key] = f"pinned as {value['label']}"
            kept.artifacts.add(str(value["digest"]))
            kept.blobs.update({str(sha): "pinned" for sha, _ in value["files"].values()})
    for path in _files(os.path.join(store.folder, "roots")):
        if path.endswith(".tmp"):
            continue
        root = lockfile.read_root(path)
        where = lock_path(root.document)
        if os.path.exists(where):
            entries = [entry for them in lockfile.read(where).stages.values() for entry in them]
            used = [entry.key.digest for entry in entries]
            artifacts = [entry.artifact.digest for entry in entries]
            blobs = [sha for entry in entries for sha, _ in entry.artifact.files.values()]
        elif root.host != locks.host():
            # Another machine's: it cannot be seen from here, so what it named counts.
            where = f"{root.host}:{where}"
            used, artifacts, blobs = list(root.keys), list(root.artifacts), list(root.blobs)
        else:
            continue
        kept.keys.update(dict.fromkeys(used, f"locked by {where}"))
        kept.artifacts.update(artifacts)
        kept.blobs.update(dict.fromkeys(blobs, f"locked by {where}"))
    top = os.path.join(store.folder, "locks")
    for name in os.listdir(top) if os.path.isdir(top) else ():
        path = os.path.join(top, name)
        if not name.startswith(("run-", "key-", "tmp-")):
            continue
        held = None if store.may_live(path) else locks.take(path)
        if held is not None and held.real:
            held.release()  # whoever had it is gone, and with this its file
            continue
        if name.startswith("run-"):
            with contextlib.suppress(ValueError, IndexError):
                # A minute, since the clocks of several machines never agree.
                kept = kept._replace(oldest=min(kept.oldest, float(name.split("-")[1]) - 60))
            for line in locks.text(path).splitlines():
                kind, _, digest = line.partition(" ")
                (kept.keys if kind == "key" else kept.blobs)[digest] = "in use by a run"
    return kept


def gc(store: Store, budget: Budget, *, dry_run: bool = False) -> Collected:
    """Remove what was not used for longest, until the budget is met; and what nothing refers to.

    Never removes what a pin, the lock of a known document or a running run needs. Runs wait meanwhile with look-ups
    and commits. Raises StoreError if the store cannot be had alone, PipelineInvalid if a known lock cannot be read.
    """
    with store.guard(alone=True):
        return _gc(store, budget, dry_run=dry_run)


def _gc(store: Store, budget: Budget, *, dry_run: bool) -> Collected:
    kept_for = _kept(store)
    good, _ = actions(store)
    blobs = _blobs(store)
    now = time.time()
    users: dict[str, int] = {}
    makers: dict[str, int] = {}
    for action in good:
        makers[action.artifact.digest] = makers.get(action.artifact.digest, 0) + 1
        for sha in _needs(action):
            users[sha] = users.get(sha, 0) + 1
    size = sum(one for _, one in usage(store).values())
    free = shutil.disk_usage(store.folder).free
    kept = {a.key: why for a in good if (why := kept_for.why(a))}
    gone: set[str] = set()

    def drop(sha: str) -> int:
        if sha not in blobs or sha in kept_for.blobs or sha in gone:
            return 0
        gone.add(sha)
        return blobs[sha].st_blocks * 512

    # What nothing refers to: content of actions that are gone, or that a killed run left. A running run may be about
    # to refer to what is newer than itself.
    freed = sum(drop(sha) for sha, s in blobs.items() if not users.get(sha) and s.st_ctime < kept_for.oldest)
    orphans = len(gone)
    freed += _copies(store, {*makers, *kept_for.artifacts}, dry_run=dry_run) + _clear(store, now, dry_run=dry_run)
    removed: list[Action] = []
    for action in good:
        too_old = budget.max_age is not None and now - action.used > budget.max_age
        too_big = budget.max_size is not None and size - freed > budget.max_size
        too_full = budget.min_free is not None and free + freed < budget.min_free
        if action.key in kept or not (too_old or too_big or too_full):
            continue
        removed.append(action)
        if not dry_run:
            # The record goes first: content without a record is waste, a record without content a broken promise.
            for suffix in (".json", ".log"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(store.action_path(action.key, suffix))
        for sha in _needs(action):
            users[sha] -= 1
            if not users[sha]:
                freed += drop(sha)
        makers[action.artifact.digest] -= 1
        if not makers[action.artifact.digest]:
            del makers[action.artifact.digest]
            if not dry_run:
                store.rescue(action.artifact)
            freed += _copy_size(store, action.artifact.digest)
    if dry_run:
        size, free = size - freed, free + freed
    else:
        _copies(store, {*makers, *kept_for.artifacts}, dry_run=False)
        for sha in gone:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(store.blob_path(sha))
                store.state.forget(store.blob_path(sha))
        lost = {a.key for a in removed}
        store.links_changed(a.artifact for a in good if a.key not in lost)
        store.state.commit()
        size = sum(one for _, one in usage(store).values())
        free = shutil.disk_usage(store.folder).free
    met = (budget.max_size is None or size <= budget.max_size) and (budget.min_free is None or free >= budget.min_free)
    return Collected(tuple(removed), orphans, freed, kept, size, met)


def _needs(action: Action) -> set[str]:
    """Give the content that a record needs: its artifact's, and what was fetched for it from a url."""
    found = {sha for sha, _ in action.artifact.files.values()}
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        for one in action.record["inputs"].values():
            if _URL in one["label"]:
                found.update(one["files"].values())
    return found


def _copy_size(store: Store, artifact: str) -> int:
    """Give the bytes that only the folders that show an artifact take."""
    size = 0
    for part in ("trees", "shown"):
        for path in _files(os.path.join(store.folder, part, artifact)):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                size += disk_usage.own(path, status) if status.st_nlink == 1 else 0
    return size


def _copies(store: Store, artifacts: set[str], *, dry_run: bool) -> int:
    """Remove folders that show artifacts which no record names, and views of them; give the bytes freed."""
    freed = 0
    for part in ("trees", "shown"):
        top = os.path.join(store.folder, part)
        for name in sorted(os.listdir(top)) if os.path.isdir(top) else ():
            if name in artifacts or not _OURS.match(name):
                continue
            path = os.path.join(top, name)
            freed += sum(disk_usage.own(p, s) for p in _files(path) if (s := os.lstat(p)).st_nlink == 1)
            if not dry_run:
                discard(path)
    if not dry_run:
        for folder, folders, names in os.walk(os.path.join(store.folder, "view")):
            for name in (*folders, *names):
                path = os.path.join(folder, name)
                if os.path.islink(path) and not os.path.exists(path):
                    with contextlib.suppress(OSError):
                        os.unlink(path)
    return freed


def _clear(store: Store, now: float, *, dry_run: bool) -> int:
    """Remove what killed runs left, and what was put aside a week ago; give the bytes freed."""
    freed = 0
    parts = ("actions", "view", "pins", "roots", "timing")
    waste = [p for part in parts for p in _files(os.path.join(store.folder, part)) if p.endswith(".tmp")]
    for part in ("quarantine", "edited", "partial"):
        for path in _files(os.path.join(store.folder, part)):
            with contextlib.suppress(FileNotFoundError):
                if now - os.lstat(path).st_ctime > _QUARANTINE_SECONDS:
                    waste.append(path)
    for path in waste:
        with contextlib.suppress(FileNotFoundError):
            freed += os.lstat(path).st_blocks * 512
            if not dry_run:
                os.unlink(path)
    if not dry_run:
        store.sweep()
    return freed


def find(store: Store, pieces: Sequence[str]) -> list[Action]:
    """Give the actions whose key or artifact starts with one of the texts. Raises UnknownReference for others."""
    good, _ = actions(store)
    found = []
    for piece in pieces:
        mine = [a for a in good if a.key.startswith(piece) or a.artifact.digest.startswith(piece)]
        if len(piece) < 6 or not mine:
            raise errors.UnknownReference(f"{piece}: no key or artifact in the store starts so (6 digits or more)")
        found += mine
    return found
