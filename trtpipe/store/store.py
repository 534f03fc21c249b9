"""The content-addressed store below `artifacts/`: blobs, action records, trees, the people's view.

    blobs/sha256/ab/<digest>      files by content, read-only
    actions/ab/<key>.json, .log   what a key made, when, where, and the full log of the stage
    trees/<artifact>/             one artifact's files under their names, linked to the blobs; for stages to read
    shown/<artifact>/             the same files, as people's own copies: whatever they do to them harms no blob
    view/<pipeline>/<stage>       links for people, each to a folder in shown/
    edited/                       what people changed in shown/, put aside when a run shows the artifact again
    quarantine/                   content that was not what its name says
    pins/, roots/                 what `cache gc` keeps: pinned artifacts, documents that have a lock
    tmp/, locks/, timing/         work in progress, locks of keys and of runs, TensorRT timing caches

Nothing half-written is ever visible: write in tmp/, hash, fsync, rename; the action record comes last.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import key as keys
from trtpipe.errors import StoreError
from trtpipe.store import locks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from trtpipe.key import Key
    from trtpipe.store.state import State

_HEX = frozenset("0123456789abcdef")
_WORKSPACE = re.compile(r"\d+-[0-9a-f]+(@|$)")
_STALE_SECONDS = 24 * 3600
_USED_SECONDS = 3600
_GUARD_SECONDS = 120.0
_FICLONE = 0x40049409


class _Artifact(NamedTuple):
    kind: str
    files: dict[str, tuple[str, int]]


class Artifact(_Artifact):
    """What a stage made: `files` maps a posix path to (SHA-256, bytes), and does not change once it is given."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the kind, the names and the contents."""
        return keys.digest({"kind": self.kind, "files": {name: sha for name, (sha, _) in self.files.items()}})

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files.values())


class Hit(NamedTuple):
    """A key's artifact is in the store, whole."""

    artifact: Artifact
    seconds: float
    notes: tuple[str, ...]
    """What the stage said to people when it ran."""


class Miss(NamedTuple):
    """A key has no usable artifact; `damage` says what is wrong with one that was there."""

    damage: str | None = None


class Store:
    """The store below one folder. Raises StoreError where the disk says no."""

    def __init__(self, folder: str, state: State) -> None:
        self.folder = os.path.abspath(folder)
        self.state = state
        self.refetch: Callable[[str, int], bool] | None = None
        """Asked for content (SHA-256, bytes) that is gone or damaged: puts it into the store, or says False."""
        self.told: list[str] = []
        """What people should know of what was found in the store; the runner takes it from here."""
        self._use: locks.Held | None = None
        self._guards = 0
        self._no_clones = False

    @staticmethod
    def make(folder: str) -> None:
        """Make a store's folder, which git ignores, if it is not there; whether it can be written shows later."""
        with contextlib.suppress(OSError):
            if not os.path.isdir(folder):
                os.makedirs(folder)
                with open(os.path.join(folder, ".gitignore"), "x", encoding="utf-8") as stream:
                    stream.write("*\n")

    # --- paths

    def action_path(self, digest: str, suffix: str = ".json") -> str:
        """Give the path of a key's action record or log."""
        return os.path.join(self.folder, "actions", digest[:2], digest + suffix)

    def blob_path(self, sha256: str) -> str:
        """Give the path of a file by content."""
        return os.path.join(self.folder, "blobs", "sha256", sha256[:2], sha256)

    def tree_path(self, artifact: str) -> str:
        """Give the path of an artifact's folder of named files."""
        return os.path.join(self.folder, "trees", artifact)

    def timing_path(self) -> str:
        """Give the folder of TensorRT's timing caches."""
        return os.path.join(self.folder, "timing")

    def view_path(self, pipeline: str, stage: str) -> str:
        """Give the path at which people find a stage's artifact."""
        return os.path.join(self.folder, "view", pipeline, stage)

    # --- reading

    def action(self, digest: str) -> dict[str, Any] | None:
        """Give a key's action record, or None if there is none or it does not say what it should."""
        try:
            with open(self.action_path(digest), "rb") as stream:
                record = json.loads(stream.read())
                if time.time() - os.fstat(stream.fileno()).st_mtime > _USED_SECONDS:
                    # `cache gc` takes the time of change for that of the last use, to the hour.
                    with contextlib.suppress(OSError):
                        os.utime(stream.fileno())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, RecursionError):
            return None
        except OSError as error:
            raise self._error(error) from None
        return record if sound(record, digest) else None

    def lookup(self, digest: str) -> Hit | Miss:
        """Look a key up; a hit has been checked: the record is this key's, and every file is there.

        A file's size and stat are checked always, its content when its stat is not known to be good.
        """
        record = self.action(digest)
        if record is None:
            there = os.path.exists(self.action_path(digest))
            return Miss("its action record is damaged" if there else None)
        artifact = artifact_of(record)
        for name, (sha256, size) in artifact.files.items():
            if damage := self.damage(sha256, size):
                return Miss(f"{name}: {damage}")
        return Hit(artifact, float(record["seconds"]), tuple(map(str, record.get("notes", ()))))

    def damage(self, sha256: str, size: int) -> str | None:
        """Say what is wrong with stored content, or None if it is good; what can be had again from afar is.

        What is not what its name says goes to quarantine/, so that it is made again and nobody reads it.
        """
        damage = self._damage(sha256, size)
        if damage is not None and self.refetch is not None and self.refetch(sha256, size):
            again = self._damage(sha256, size)
            if again is None:
                self.told.append(f"{sha256[:12]}: {damage}; it was fetched again")
            return again
        return damage

    def _damage(self, sha256: str, size: int) -> str | None:
        path = self.blob_path(sha256)
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return "its content is gone from the store"
        except OSError as error:
            raise self._error(error) from None
        if status.st_size == size and self.state.known_good(path, status) == sha256:
            return None
        return self.examine(sha256, size)

    def examine(self, sha256: str, size: int | None = None) -> str | None:
        """Read stored content whatever is known of it; say what is wrong, or None. Raises StoreError."""
        path = self.blob_path(sha256)
        try:
            status = os.stat(path)
            good = size in (None, status.st_size) and keys.digest_file(path) == sha256
        except (FileNotFoundError, NotADirectoryError):
            return "its content is gone from the store"
        except OSError as error:
            if error.errno != errno.EIO:
                raise self._error(error) from None
            good = False  # the disk cannot read it: it is as good as gone
        if good:
            self.state.remember_good(path, status, sha256)
            return None
        self.quarantine(path)
        return "its content was damaged in the store and is put aside in quarantine/"

    def quarantine(self, path: str) -> None:
        """Put a file of the store aside that is not what it should be."""
        self.state.forget(path)
        aside = os.path.join(self.folder, "quarantine")
        with contextlib.suppress(OSError):
            os.makedirs(aside, exist_ok=True)
            os.replace(path, os.path.join(aside, f"{os.path.basename(path)}.{os.urandom(4).hex()}"))

    # --- several runs, and cache gc

    @contextlib.contextmanager
    def guard(self, *, alone: bool = False) -> Iterator[None]:
        """Keep `cache gc` out while things are looked up or put into the store; `alone` is for gc, which waits.

        Where nothing can be locked (a read-only store, say) there is nothing to keep out either.
        Raises StoreError if gc has to wait too long.
        """
        if self._guards:
            yield
            return
        path = os.path.join(self.folder, "locks", "gc")
        try:
            held = locks.wait(path, shared=not alone, seconds=_GUARD_SECONDS)
        except OSError as error:
            if alone:
                raise self._error(error) from None
            held = locks.Held(path, None)
        if held is None:
            what = "other runs use the store all the time" if alone else "cache gc takes very long"
            raise StoreError(f"{path} cannot be locked within {_GUARD_SECONDS:.0f} s: {what}")
        self._guards += 1
        try:
            yield
        finally:
            self._guards -= 1
            held.release(keep=True)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Say to `cache gc` that a run goes on, from which `use` takes what it needs."""
        name = f"run-{time.time():.3f}-{os.getpid()}-{os.urandom(4).hex()}@{locks.host()}"
        try:
            self._use = locks.take(os.path.join(self.folder, "locks", name))
        except OSError:
            self._use = None
        try:
            yield
        finally:
            if self._use is not None:
                self._use.release()
            self._use = None

    def use(self, keys_used: Iterable[str], blobs: Iterable[str] = ()) -> None:
        """Keep keys' artifacts, and blobs, from `cache gc` until this run ends; call it within `guard`."""
        if self._use is not None:
            lines = [f"key {k}\n" for k in keys_used] + [f"blob {b}\n" for b in blobs]
            try:
                self._use.append("".join(lines))
            except OSError as error:
                raise self._error(error) from None

    def lock(self, digest: str, about: str) -> locks.Held | None:
        """Take the lock of a key at once, or give None if another run makes that key now. Raises StoreError."""
        try:
            held = locks.take(self._lock_path(digest))
        except OSError as error:
            raise self._error(error) from None
        if held is not None:
            held.write(f"{locks.holder()} makes {about}\n")
        return held

    def holder(self, digest: str) -> str:
        """Say who makes a key now."""
        return locks.text(self._lock_path(digest)).strip() or "another run makes it"

    def _lock_path(self, digest: str) -> str:
        return os.path.join(self.folder, "locks", f"key-{digest}")

    # --- writing

    @contextlib.contextmanager
    def workspace(self) -> Iterator[str]:
        """Give an empty folder for work in progress, gone afterwards. Raises StoreError if it can't be made."""
        top = os.path.join(self.folder, "tmp")
        name = f"{os.getpid()}-{os.urandom(6).hex()}@{locks.host()}"
        path = os.path.join(top, name)
        held = None
        try:
            self.sweep()
            held = locks.take(self._tmp_lock(name))
            os.makedirs(path)
        except OSError as error:
            if held is not None:
                held.release()
            raise self._error(error) from None
        try:
            yield path
        finally:
            discard(path)
            if held is not None:
                held.release()

    def _tmp_lock(self, name: str) -> str:
        return os.path.join(self.folder, "locks", f"tmp-{name}")

    def sweep(self) -> None:
        """Remove folders of killed runs: nobody holds them, and where a lock may say nothing they are a day old."""
        top = os.path.join(self.folder, "tmp")
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(top):
                path = os.path.join(top, name)
                if not _WORKSPACE.match(name):
                    continue  # --artifacts may name a folder that had a tmp/ of its own
                with contextlib.suppress(OSError):
                    held = None if self.may_live(path) else locks.take(self._tmp_lock(name))
                    if held is None:
                        continue
                    if held.real or _is_old(path):
                        discard(path)
                    held.release()

    @staticmethod
    def may_live(path: str) -> bool:
        """Tell whether what lies there may be in use by another machine though its lock is to be had here.

        Some file systems keep locks within one machine, and nothing says so.
        """
        try:
            return locks.foreign(os.path.basename(path)) and not _is_old(path)
        except FileNotFoundError:
            return False

    def commit(
        self,
        key: Key,
        kind: str,
        folder: str,
        record: Mapping[str, Any],
        known: Iterable[Artifact] = (),
    ) -> Artifact:
        """Move a finished folder into the store and write its action record.

        `record` is what else the action record says; `known` are artifacts whose files the folder may hold links to.
        Raises StoreError if the folder holds anything but plain files, or the disk says no.
        """
        try:
            have = self._inodes(known)
            with self.guard():
                files = {}
                for name, path in sorted(_walk(folder)):
                    files[name] = self._take(path, have)
                artifact = Artifact(kind, files)
                self.write_action(key, artifact, record)
                self.use([key.digest])
                tree = self.tree_path(artifact.digest)
                if os.path.isdir(tree) and not self._tree_is_whole(tree, artifact):
                    discard(tree)  # it is linked to content that was put aside
        except OSError as error:
            raise self._error(error) from None
        return artifact

    def write_action(self, key: Key, artifact: Artifact, record: Mapping[str, Any]) -> None:
        """Write the record that a key made an artifact whose files are all in the store."""
        action = {
            "key": key.record,
            "artifact": {"kind": artifact.kind, "digest": artifact.digest, "files": artifact.files},
            **record,
        }
        action["check"] = _check_of(action)
        text = json.dumps(action, indent=1, sort_keys=True, ensure_ascii=False)
        path = self.action_path(key.digest)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_file(path, text.encode())

    def _inodes(self, known: Iterable[Artifact]) -> dict[tuple[int, int], tuple[str, int]]:
        """Give (device, inode) → (digest, size) of stored files that a body may have linked to."""
        found = {}
        for artifact in known:
            for sha256, size in artifact.files.values():
                path = self.blob_path(sha256)
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(path)
                    self.state.linked(path, status)  # the body's link moved its ctime
                    if self.state.known_good(path, status) == sha256:
                        found[status.st_dev, status.st_ino] = (sha256, size)
        return found

    def _take(self, path: str, have: dict[tuple[int, int], tuple[str, int]]) -> tuple[str, int]:
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in have:
            sha256, size = have[status.st_dev, status.st_ino]
            if size == status.st_size:
                return sha256, size
        if status.st_nlink > 1:
            # Somebody else has this file too, and could change it in the store: take a copy.
            self.copy(path, path + ".copy")
            os.replace(path + ".copy", path)
            status = os.stat(path)
        sha256 = keys.digest_file(path)
        self._place(path, sha256, status.st_size)
        return sha256, status.st_size

    def _place(self, path: str, sha256: str, size: int) -> None:
        """Move a file that has this digest to its blob, unless a good one is there."""
        target = self.blob_path(sha256)
        with contextlib.suppress(FileNotFoundError):
            there = os.stat(target)
            if there.st_size == size and self.state.known_good(target, there) == sha256:
                return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.chmod(path, 0o444)
        _sync(path)
        os.replace(path, target)
        _sync(os.path.dirname(target))
        self.state.remember_good(target, os.stat(target), sha256)

    def take_file(self, path: str, sha256: str, size: int) -> None:
        """Move a file from tmp/ whose digest was checked into the store. Raises StoreError."""
        try:
            with self.guard():
                self._place(path, sha256, size)
                self.use((), [sha256])
        except OSError as error:
            raise self._error(error) from None

    def keep_log(self, path: str, digest: str) -> str:
        """Move a stage's log beside its action record; give its path there."""
        target = self.action_path(digest, ".log")
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(path, target)
        except OSError as error:
            raise self._error(error) from None
        return target

    # --- trees and the view

    def tree(self, artifact: Artifact) -> str:
        """Give the folder with an artifact's files under their names, made at the first call.

        It is for stages to read. Files are hard links to the blobs; weights beside an ONNX file are copies,
        because onnx refuses external data that is linked.
        """
        path = self.tree_path(artifact.digest)
        if os.path.isdir(path) and self._tree_is_whole(path, artifact):
            return path
        try:
            temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
            os.makedirs(temporary)
            try:
                copies = self._fill(temporary, artifact)
                self._swap(temporary, path, artifact)
            except BaseException:
                discard(temporary)
                raise
            for name, (sha256, _) in artifact.files.items():
                where = os.path.join(path, *name.split("/"))
                if name in copies:
                    with contextlib.suppress(OSError):
                        self.state.remember_good(where, os.stat(where), sha256)
            self.links_changed([artifact])
        except OSError as error:
            raise self._error(error) from None
        return path

    def _fill(self, folder: str, artifact: Artifact) -> set[str]:
        """Put an artifact's files into a folder, linked where that may be; give the names of copies."""
        copies = set()
        for name, (sha256, _) in artifact.files.items():
            target = os.path.join(folder, *name.split("/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if _is_external_data(artifact, name) or not _link(self.blob_path(sha256), target):
                self.copy(self.blob_path(sha256), target)
                os.chmod(target, 0o444)
                copies.add(name)
        return copies

    def copy(self, source: str, target: str) -> None:
        """Copy a file so that neither's changes reach the other: by reflink where possible, else by bytes."""
        with open(source, "rb", buffering=0) as reading, open(target, "wb", buffering=0) as writing:
            if not self._no_clones:
                import fcntl

                try:
                    fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
                except OSError as error:
                    self._no_clones = error.errno != errno.EXDEV  # what lies elsewhere says nothing of the rest
                else:
                    return
            left = os.fstat(reading.fileno()).st_size
            try:
                # Within the kernel: no bytes pass through this process, and NFS 4.2 copies on the server.
                while left and (done := os.copy_file_range(reading.fileno(), writing.fileno(), left)):
                    left -= done
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                    raise
            reading.seek(writing.seek(0, os.SEEK_END))
            while block := memoryview(reading.read(1 << 20)):
                while block:  # where a disk is nearly full, less is written than was given, with no error yet
                    block = block[writing.write(block) :]

    def links_changed(self, artifacts: Iterable[Artifact]) -> None:
        """Take note that links to artifacts' files were made or removed: that moved their ctime, not their content."""
        for artifact in artifacts:
            for sha256, _ in artifact.files.values():
                path = self.blob_path(sha256)
                with contextlib.suppress(OSError):
                    self.state.linked(path, os.stat(path))

    def _tree_is_whole(self, path: str, artifact: Artifact) -> bool:
        """Tell whether a tree still has the artifact's files: linked ones by inode, copies by what is known of them."""
        for name, (sha256, size) in artifact.files.items():
            where = os.path.join(path, *name.split("/"))
            try:
                here = os.lstat(where)
                blob = os.stat(self.blob_path(sha256))
                if here.st_ino == blob.st_ino and here.st_dev == blob.st_dev:
                    continue
                if here.st_size != size or here.st_nlink != 1 or not stat.S_ISREG(here.st_mode):
                    return False
                if self.state.known_good(where, here) != sha256:
                    if keys.digest_file(where) != sha256:
                        return False
                    self.state.remember_good(where, here, sha256)
            except OSError:
                return False
        return True

    def _swap(self, temporary: str, path: str, artifact: Artifact) -> None:
        """Put a finished folder into its place, unless another run has just done so."""
        for _ in range(20):
            try:
                os.rename(temporary, path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                if not os.path.islink(path) and _holds(path, artifact):
                    discard(temporary)
                    return
                away = f"{temporary}.old"
                with contextlib.suppress(FileNotFoundError):
                    os.rename(path, away)
                discard(away)
            else:
                return
        raise StoreError(f"{path} cannot be replaced: other runs replace it all the time")

    def show(self, pipeline: str, stage: str, artifact: Artifact) -> str:
        """Point the people's view of a stage at files of their own; give that folder.

        What somebody changed in it is put aside and told.
        """
        path = self.view_path(pipeline, stage)
        wanted = os.path.join("..", "..", "shown", artifact.digest)
        folder = self.shown(artifact)
        try:
            if os.readlink(path) == wanted:
                return folder
        except OSError:
            pass
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
            os.symlink(wanted, temporary, target_is_directory=True)
            try:
                if os.path.isdir(path) and not os.path.islink(path):
                    raise StoreError(f"{path} is a folder, expected a link that trtpipe made; move it away")
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise self._error(error) from None
        return folder

    def shown(self, artifact: Artifact) -> str:
        """Give the folder with people's own copies of an artifact's files, made or mended now if need be.

        Copies cost no space where the file system has reflinks. TRTPIPE_VIEW=link makes them hard links, which
        cost none anywhere, but through which root, or whoever makes them writable, can harm the store.
        """
        path = os.path.join(self.folder, "shown", artifact.digest)
        known = self.state.shown(artifact.digest)
        if known is not None and known == _stamps(path, artifact):
            return path
        try:
            # One that was copied here, say, has other stamps and is whole: then nothing is written, which a read-only
            # store could not do.
            if not self._put_edits_aside(path, artifact):
                self._copy_shown(path, artifact)
        except OSError as error:
            raise self._error(error) from None
        stamps = _stamps(path, artifact)
        if stamps is not None:
            self.state.remember_shown(artifact.digest, stamps)
        return path

    def _copy_shown(self, path: str, artifact: Artifact) -> None:
        links = os.environ.get("TRTPIPE_VIEW") == "link"
        temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        os.makedirs(temporary)
        try:
            if links:
                self._fill(temporary, artifact)
            else:
                for name, (sha256, _) in artifact.files.items():
                    target = os.path.join(temporary, *name.split("/"))
                    if "/" in name:
                        os.makedirs(os.path.dirname(target), exist_ok=True)
                    self.copy(self.blob_path(sha256), target)
            self._swap(temporary, path, artifact)
        except BaseException:
            discard(temporary)
            raise
        if links:
            self.links_changed([artifact])

    def rescue(self, artifact: Artifact) -> None:
        """Put people's changes to an artifact's files aside, before those go, and tell. Raises StoreError."""
        path = os.path.join(self.folder, "shown", artifact.digest)
        known = self.state.shown(artifact.digest)
        try:
            if known is None or known != _stamps(path, artifact) or _others(path, artifact):
                self._put_edits_aside(path, artifact, "it is in")
        except OSError as error:
            raise self._error(error) from None

    def _put_edits_aside(self, path: str, artifact: Artifact, done: str = "it is restored, the other is in") -> bool:
        """Move a folder aside in which somebody changed or added a file; one that is only incomplete stays.

        Tells whether it is there and whole.
        """
        edited, whole = [], os.path.isdir(path) and not os.path.islink(path)
        for name, (sha256, _) in artifact.files.items():
            where = os.path.join(path, *name.split("/"))
            try:
                same = stat.S_ISREG(os.lstat(where).st_mode) and keys.digest_file(where) == sha256
            except OSError:
                whole = False
                continue
            if not same:
                edited.append(name)
        edited += _others(path, artifact)
        if not edited:
            return whole
        aside = os.path.join(self.folder, "edited", f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}")
        os.makedirs(os.path.dirname(aside), exist_ok=True)
        shutil.move(path, aside)  # the view may lie on another disk
        few = ", ".join(edited[:3]) + (f" and {len(edited) - 3} more" if len(edited) > 3 else "")
        self.told.append(f"{few} in the view is not what the stage made; {done} {aside}")
        return False

    # --- errors

    def _error(self, error: OSError) -> StoreError:
        where = error.filename or self.folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(f"the disk is full: {where}; free some space or use --artifacts on another disk")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StoreError(f"{where} is not writable ({error.strerror}); use --artifacts DIR for another place")
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            return StoreError(f"{where}: {error.strerror}; the artifacts folder must be a folder: use --artifacts DIR")
        return StoreError(f"{where}: {error.strerror or error}; use --artifacts DIR for another place")


def _check_of(record: Mapping[str, Any]) -> str:
    """Give the digest of an action record, so that a flipped byte in what no other digest covers is seen too."""
    # A signature that it came with is checked by itself, and is of the record without it.
    rest = {name: value for name, value in record.items() if name not in ("check", "signed")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def artifact_of(record: Mapping[str, Any]) -> Artifact:
    """Give the artifact that an action record names."""
    files = {name: (sha, size) for name, (sha, size) in record["artifact"]["files"].items()}
    return Artifact(record["artifact"]["kind"], files)


def sound(record: Any, digest: str) -> bool:
    """Tell whether an action record is whole and this key's."""
    try:
        if record.get("check", "") != _check_of(record) and "check" in record:
            return False
        if keys.digest(record["key"]) != digest or not isinstance(record["seconds"], (int, float)):
            return False
        artifact = artifact_of(record)
        for name, (sha256, size) in artifact.files.items():
            parts = name.split("/")
            if not all(parts) or ".." in parts or "." in parts or "\0" in name:
                return False
            if len(sha256) != 64 or not set(sha256) <= _HEX or type(size) is not int or size < 0:
                return False
        return bool(artifact.digest == record["artifact"]["digest"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _walk(folder: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give (posix path, path) of every file; anything but files and folders is an error."""
    with os.scandir(folder) as entries:
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif stat.S_ISREG(mode):
                yield prefix + entry.name, entry.path
            else:
                raise StoreError(f"the stage made {prefix}{entry.name}, which is no plain file")


def _is_old(path: str) -> bool:
    return time.time() - os.stat(path).st_mtime > _STALE_SECONDS


def _is_external_data(artifact: Artifact, name: str) -> bool:
    return artifact.kind in ("model", "network", "config") and not name.endswith((".onnx", ".json"))


def discard(folder: str) -> None:
    """Remove a folder as far as that goes, or what somebody put in its place; what stays is swept some other time."""
    with contextlib.suppress(OSError):  # ignore_errors does not ignore all of them
        if os.path.islink(folder) or not os.path.isdir(folder):
            os.unlink(folder)  # never what a link leads to
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _others(folder: str, artifact: Artifact) -> list[str]:
    """Give the files in an artifact's folder that are none of its own."""
    found = []
    for top, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(top, name), folder) for name in names]
    return sorted({name.replace(os.sep, "/") for name in found} - set(artifact.files))


def _stamps(folder: str, artifact: Artifact) -> str | None:
    """Give what changes when one of the artifact's files in a folder does; None if one is missing."""
    found = []
    try:
        for name in artifact.files:
            status = os.lstat(f"{folder}/{name}")
            # Other links to a file move its ctime.
            changed = status.st_ctime_ns if status.st_nlink == 1 else 0
            found.append(f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{changed}")
    except OSError:
        return None
    return ",".join(found)


def _holds(folder: str, artifact: Artifact) -> bool:
    """Tell whether a folder has all of an artifact's files, by content."""
    try:
        return all(
            keys.digest_file(os.path.join(folder, *name.split("/"))) == sha256
            for name, (sha256, _) in artifact.files.items()
        )
    except OSError:
        return False


def _link(source: str, target: str) -> bool:
    """Make a hard link, or say False where that cannot be."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES):
            raise
        return False
    return True


def write_file(path: str, data: bytes) -> None:
    """Write a file into a folder that is there: it appears whole or not at all, with nothing left behind.

    Raises OSError.
    """
    temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync(os.path.dirname(path) or ".")


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
