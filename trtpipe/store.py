"""The content-addressed store below `artifacts/`: blobs, action records, trees, the people's view.

    blobs/sha256/ab/<digest>      files by content, read-only
    actions/ab/<key>.json, .log   what a key made, when, where, and the full log of the stage
    trees/<artifact>/             one artifact's files under their names, linked to the blobs
    view/<pipeline>/<stage>       links for people, each to a tree
    tmp/, locks/, timing/         work in progress, one lock a key, TensorRT timing caches

Nothing half-written is ever visible: write in tmp/, hash, fsync, rename; the action record comes last.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import key as keys
from trtpipe.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from trtpipe.key import Key
    from trtpipe.state import State

_HEX = frozenset("0123456789abcdef")
_STALE_SECONDS = 24 * 3600


class Artifact(NamedTuple):
    """What a stage made: `files` maps a posix path to (SHA-256, bytes)."""

    kind: str
    files: dict[str, tuple[str, int]]

    @property
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
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, RecursionError):
            return None
        except OSError as error:
            raise self._error(error) from None
        return record if _sound(record, digest) else None

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
            if damage := self._damage(sha256, size):
                return Miss(f"{name}: {damage}")
        return Hit(artifact, float(record["seconds"]), tuple(map(str, record.get("notes", ()))))

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
        try:
            good = status.st_size == size and keys.digest_file(path) == sha256
        except OSError as error:
            raise self._error(error) from None
        if good:
            self.state.remember_good(path, status, sha256)
            return None
        # Put aside what is not what its name says, so that it is made again and nobody reads it.
        with contextlib.suppress(OSError):
            os.makedirs(os.path.join(self.folder, "quarantine"), exist_ok=True)
            os.replace(path, os.path.join(self.folder, "quarantine", sha256))
        return "its content was damaged in the store and is put aside in quarantine/"

    # --- writing

    @contextlib.contextmanager
    def workspace(self) -> Iterator[str]:
        """Give an empty folder for work in progress, gone afterwards. Raises StoreError if it can't be made."""
        top = os.path.join(self.folder, "tmp")
        try:
            self._sweep(top)
            path = os.path.join(top, f"{os.getpid()}-{os.urandom(6).hex()}")
            os.makedirs(path)
        except OSError as error:
            raise self._error(error) from None
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @staticmethod
    def _sweep(top: str) -> None:
        """Remove what killed runs left: folders whose process is gone, or (on a shared disk) that are a day old."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(top):
                path = os.path.join(top, name)
                pid = name.partition("-")[0]
                with contextlib.suppress(OSError):
                    alive = pid.isdigit() and os.path.exists(f"/proc/{pid}")
                    old = time.time() - os.stat(path).st_mtime > _STALE_SECONDS
                    if old or (not alive and time.time() - os.stat(path).st_mtime > 60):
                        shutil.rmtree(path, ignore_errors=True)

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
            files = {}
            for name, path in sorted(_walk(folder)):
                files[name] = self._take(path, have)
            artifact = Artifact(kind, files)
            self.write_action(key, artifact, record)
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
        text = json.dumps(action, indent=1, sort_keys=True, ensure_ascii=False)
        self._write(self.action_path(key.digest), text.encode())

    def _inodes(self, known: Iterable[Artifact]) -> dict[tuple[int, int], tuple[str, int]]:
        """Give (device, inode) → (digest, size) of stored files that a body may have linked to."""
        found = {}
        for artifact in known:
            for sha256, size in artifact.files.values():
                path = self.blob_path(sha256)
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(path)
                    if self.state.known_good(path, status) == sha256:
                        found[status.st_dev, status.st_ino] = (sha256, size)
        return found

    def _take(self, path: str, have: dict[tuple[int, int], tuple[str, int]]) -> tuple[str, int]:
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in have:
            return have[status.st_dev, status.st_ino]
        if status.st_nlink > 1:
            # Somebody else has this file too, and could change it in the store: take a copy.
            shutil.copyfile(path, path + ".copy")
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
            self._place(path, sha256, size)
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

    def _write(self, path: str, data: bytes) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
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
        _sync(os.path.dirname(path))

    # --- trees and the view

    def tree(self, artifact: Artifact) -> str:
        """Give the folder with an artifact's files under their names, made at the first call.

        Files are hard links to the blobs; weights beside an ONNX file are copies, because onnx refuses
        external data that is linked.
        """
        path = self.tree_path(artifact.digest)
        if os.path.isdir(path) and self._tree_is_whole(path, artifact):
            return path
        try:
            temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
            os.makedirs(temporary)
            for name, (sha256, _) in artifact.files.items():
                target = os.path.join(temporary, *name.split("/"))
                os.makedirs(os.path.dirname(target), exist_ok=True)
                if _is_external_data(artifact, name):
                    shutil.copyfile(self.blob_path(sha256), target)
                    os.chmod(target, 0o444)
                else:
                    _link(self.blob_path(sha256), target)
            self._swap(temporary, path)
        except OSError as error:
            raise self._error(error) from None
        return path

    def _tree_is_whole(self, path: str, artifact: Artifact) -> bool:
        """Tell whether a tree still has the artifact's files: linked ones by inode, copies by size."""
        for name, (sha256, size) in artifact.files.items():
            try:
                here = os.lstat(os.path.join(path, *name.split("/")))
                blob = os.stat(self.blob_path(sha256))
            except (FileNotFoundError, NotADirectoryError):
                return False
            linked = here.st_ino == blob.st_ino and here.st_dev == blob.st_dev
            if not linked and not (here.st_size == size and here.st_mtime_ns >= 0 and here.st_nlink == 1):
                return False
        return True

    def _swap(self, temporary: str, path: str) -> None:
        for _ in range(3):
            try:
                os.rename(temporary, path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                away = f"{temporary}.old"
                with contextlib.suppress(FileNotFoundError):
                    os.rename(path, away)
                shutil.rmtree(away, ignore_errors=True)
            else:
                return
        raise StoreError(f"{path} cannot be replaced: other runs replace it all the time")

    def show(self, pipeline: str, stage: str, artifact: Artifact) -> None:
        """Point the people's view of a stage at its artifact."""
        path = self.view_path(pipeline, stage)
        wanted = os.path.join("..", "..", "trees", artifact.digest)
        try:
            if os.readlink(path) == wanted and os.path.isdir(path):
                return
        except OSError:
            pass
        self.tree(artifact)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
            os.symlink(wanted, temporary, target_is_directory=True)
            if os.path.isdir(path) and not os.path.islink(path):
                os.unlink(temporary)
                raise StoreError(f"{path} is a folder, expected a link that trtpipe made; move it away")
            os.replace(temporary, path)
        except OSError as error:
            raise self._error(error) from None

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


def artifact_of(record: Mapping[str, Any]) -> Artifact:
    """Give the artifact that an action record names."""
    files = {name: (sha, size) for name, (sha, size) in record["artifact"]["files"].items()}
    return Artifact(record["artifact"]["kind"], files)


def _sound(record: Any, digest: str) -> bool:
    """Tell whether an action record is whole and this key's."""
    try:
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


def _is_external_data(artifact: Artifact, name: str) -> bool:
    return artifact.kind in ("model", "network", "config") and not name.endswith((".onnx", ".json"))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES):
            raise
        shutil.copyfile(source, target)
        os.chmod(target, 0o444)


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
