"""Garbage collection: what must stay, and what is removed until a budget is met."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from typing import TYPE_CHECKING, NamedTuple

from trtpipe import key as keys
from trtpipe.store import actions, disk_usage, edits, files, guard, pins
from trtpipe.store.workspace import sweep

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.store.actions import Listed
    from trtpipe.store.store import Store

_QUARANTINE_SECONDS = 7 * 24 * 3600
_YOUNG_SECONDS = 24 * 3600
_URL = "://"
_OURS = re.compile(r"[0-9a-f]{64}(\.|$)")
"""The names of artifacts' folders. Other folders are not removed: the store's folder may have had other uses before."""


class Budget(NamedTuple):
    """The limits for `gc`: bytes in the store, bytes free on its disk, seconds since the last use.

    With `only`, the results of all other keys are removed.
    """

    max_size: int | None = None
    min_free: int | None = None
    max_age: float | None = None
    only: frozenset[str] | None = None


class Needed(NamedTuple):
    """What must stay: keys, artifacts and blobs, each by its digest with the reason."""

    keys: dict[str, str]
    artifacts: dict[str, str]
    blobs: dict[str, str]

    def why(self, action: Listed) -> str | None:
        """Say why an action must stay, or None if it may be removed."""
        if action.key in self.keys:
            return self.keys[action.key]
        contents = [sha for sha, _ in action.artifact.files.values()]
        return self.blobs[contents[0]] if contents and all(sha in self.blobs for sha in contents) else None


class Collected(NamedTuple):
    """What `gc` removed (or would remove), what it kept and why, and whether the budget is met.

    `orphans` is the number of files to which nothing referred; `freed` and `size` (what remains) are bytes.
    """

    removed: tuple[Listed, ...]
    orphans: int
    freed: int
    kept: dict[str, str]
    size: int
    met: bool


def gc(store: Store, budget: Budget, locked: Callable[[], Needed], *, dry_run: bool = False) -> Collected:
    """Remove what nothing refers to, then the results that were not used for the longest time, until the budget is met.

    It never removes what a pin, a lock file or a running run needs. `locked` gives what lock files need; it is called
    when gc has locked the store. Runs wait with look-ups and commits until gc has ended. Raises StoreError if the store
    cannot be locked, OSError, and what `locked` raises.
    """
    with store.guard(alone=True):
        return _gc(store, budget, locked, dry_run=dry_run)


def _gc(store: Store, budget: Budget, locked: Callable[[], Needed], *, dry_run: bool) -> Collected:
    needed, oldest = _needed(store, locked)
    good, _ = actions.read_all(store.layout)
    blobs = store.blobs.found()
    now = time.time()
    users: dict[str, int] = {}
    makers: dict[str, int] = {}
    for action in good:
        makers[action.artifact.digest] = makers.get(action.artifact.digest, 0) + 1
        for sha in _contents(action):
            users[sha] = users.get(sha, 0) + 1
    size, free = _size(store), shutil.disk_usage(store.folder).free
    kept = {a.key: why for a in good if (why := needed.why(a))}
    gone: set[str] = set()

    def drop(sha: str) -> int:
        if sha not in blobs or sha in needed.blobs or sha in gone:
            return 0
        gone.add(sha)
        return disk_usage.taken(blobs[sha])

    # Content to which nothing refers: its action was removed, or a killed run left it. A running run may be about to
    # refer to content that is newer than the run.
    freed = sum(drop(sha) for sha, s in blobs.items() if not users.get(sha) and s.st_ctime < oldest)
    orphans = len(gone)
    made = {*blobs, *users}
    freed += _remove_folders(store, {*makers, *needed.artifacts}, made, dry_run=dry_run)
    freed += _remove_waste(store, now, dry_run=dry_run)
    removed: list[Listed] = []
    for action in good:
        too_old = budget.max_age is not None and now - action.used > budget.max_age
        too_big = budget.max_size is not None and size - freed > budget.max_size
        too_full = budget.min_free is not None and free + freed < budget.min_free
        unused = budget.only is not None and action.key not in budget.only
        if action.key in kept or not (too_old or too_big or too_full or unused):
            continue
        removed.append(action)
        if not dry_run:
            # The record is removed first: content without a record is only waste, but a record needs its content.
            for suffix in (".json", ".log"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(store.layout.action(action.key, suffix))
        for sha in _contents(action):
            users[sha] -= 1
            if not users[sha]:
                freed += drop(sha)
        makers[action.artifact.digest] -= 1
        if not makers[action.artifact.digest]:
            del makers[action.artifact.digest]
            if not dry_run:
                store.trees.rescue(action.artifact)
            freed += _own_size(store.layout.tree(action.artifact.digest))
    if dry_run:
        size, free = size - freed, free + freed
    else:
        _remove_folders(store, {*makers, *needed.artifacts}, made, dry_run=False)
        _remove_lists(store, good, {a.key for a in removed}, now)
        for sha in gone:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(store.layout.blob(sha))
                store.state.forget(store.layout.blob(sha))
        lost = {a.key for a in removed}
        store.blobs.links_changed(a.artifact for a in good if a.key not in lost)
        store.state.commit()
        size, free = _size(store), shutil.disk_usage(store.folder).free
    met = (budget.max_size is None or size <= budget.max_size) and (budget.min_free is None or free >= budget.min_free)
    return Collected(tuple(removed), orphans, freed, kept, size, met)


def _needed(store: Store, locked: Callable[[], Needed]) -> tuple[Needed, float]:
    """Give what must stay, and the start of the oldest running run (seconds since 1970; infinity if none runs)."""
    needed = Needed({}, {}, {})
    for pin in pins.read_all(store.layout):
        needed.keys[pin.key] = "pinned" if pin.label is None else f"pinned as {pin.label}"
        if pin.artifact is not None:
            needed.artifacts[pin.artifact] = "pinned"
        needed.blobs.update(dict.fromkeys(pin.blobs, "pinned"))
    for mine, more in zip(needed, locked(), strict=True):
        mine.update(more)
    runs = guard.running(store.layout)
    for run in runs:
        needed.keys.update(dict.fromkeys(run.keys, "in use by a run"))
        needed.blobs.update(dict.fromkeys(run.blobs, "in use by a run"))
    return needed, min((run.since for run in runs), default=float("inf"))


def _contents(action: Listed) -> set[str]:
    """Give the content that a record needs: that of its artifact, and of urls that were fetched for it."""
    found = {sha for sha, _ in action.artifact.files.values()}
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        for one in action.record.about.inputs.values():
            if _URL in one.label:
                found.update(one.files.values())
    return found


def _size(store: Store) -> int:
    """Give the bytes of the whole store on its disk."""
    return sum(one for _, one in disk_usage.usage(store.layout).values())


def _own_size(folder: str) -> int:
    """Give the bytes that come free when a folder that shows an artifact goes."""
    size = 0
    for path in files.below(folder):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path)
            size += disk_usage.own(path, status) if status.st_nlink == 1 else 0
    return size


def _remove_folders(store: Store, artifacts: set[str], made: set[str], *, dry_run: bool) -> int:
    """Remove the trees of all other artifacts, people's copies in shown/, and links to them; give the bytes freed.

    What people changed in them is moved to edited/ and told; `made` are the digests of what stages made.
    """
    freed = 0
    for part, keep in (("trees", artifacts), ("shown", set[str]())):
        top = store.layout.part(part)
        for name in sorted(os.listdir(top)) if os.path.isdir(top) else ():
            if name in keep or not _OURS.match(name):
                continue
            path = os.path.join(top, name)
            freed += _own_size(path)
            if not dry_run:
                if told := edits.rescue(store.layout, path, made):
                    store.told.append(told)
                files.discard(path)
    if not dry_run:
        with contextlib.suppress(OSError):
            os.rmdir(store.layout.part("shown"))  # this version makes none
        for folder, folders, names in os.walk(store.layout.part("view")):
            for name in (*folders, *names):
                path = os.path.join(folder, name)
                if os.path.islink(path) and not os.path.exists(path):
                    with contextlib.suppress(OSError):
                        os.unlink(path)
    return freed


def _remove_lists(store: Store, good: list[Listed], removed: set[str], now: float) -> None:
    """Remove lists of names without a record; a young list may be about to get its record."""
    firsts = set()
    for action in good:
        if action.key not in removed:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                firsts.add(keys.of_record(action.record.key).first)
    for path in files.below(store.layout.part("reads")):
        with contextlib.suppress(FileNotFoundError):
            if (
                os.path.basename(path).partition(".")[0] not in firsts
                and now - os.lstat(path).st_mtime > _YOUNG_SECONDS
            ):
                os.unlink(path)


def _remove_waste(store: Store, now: float, *, dry_run: bool) -> int:
    """Remove what killed runs left, and files that were put aside a week ago; give the bytes freed."""
    freed = 0
    parts = ("actions", "reads", "view", "pins", "roots", "timing")
    waste = [p for part in parts for p in files.below(store.layout.part(part)) if p.endswith(".tmp")]
    for part in ("quarantine", "edited", "partial"):
        for path in files.below(store.layout.part(part)):
            with contextlib.suppress(FileNotFoundError):
                if now - os.lstat(path).st_ctime > _QUARANTINE_SECONDS:
                    waste.append(path)
    for path in waste:
        with contextlib.suppress(FileNotFoundError):
            freed += disk_usage.taken(os.lstat(path))
            if not dry_run:
                os.unlink(path)
    if not dry_run:
        sweep(store.layout)
    return freed
