"""Blobs: files by content. What is taken in has been digested; what is given out has been checked."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from trtpipe import copying
from trtpipe import key as keys
from trtpipe.errors import StoreError
from trtpipe.store import edits, files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from trtpipe.store.artifact import Artifact
    from trtpipe.store.layout import Layout
    from trtpipe.store.state import State

_GONE = "its content is gone from the store"


class Blobs:
    """The blobs of one store. `told` is the store's list of what people should know."""

    def __init__(self, layout: Layout, state: State, told: list[str]) -> None:
        self._layout, self._state, self._told = layout, state, told
        self.refetch: Callable[[str, int], bool] | None = None
        """Asked for content (SHA-256, bytes) that is gone or damaged: puts it into the store, or gives False."""

    # --- checking

    def damage(self, sha256: str, size: int, name: str | None = None) -> str | None:
        """Say what is wrong with a blob, or None if it is good. Raises StoreError if the disk says no.

        `name` is what it is called in the artifact that is looked at. A blob that is gone or damaged is fetched again
        if it can be. Content that does not fit its digest is put aside, so that nobody reads it: in edited/ if somebody
        wrote to the file since it was last seen to be good, which the view allows root, else in quarantine/.
        """
        name = name or sha256[:12]
        damage = self._damage(sha256, size, name)
        if damage is not None and self.refetch is not None and self.refetch(sha256, size):
            again = self._damage(sha256, size, name)
            if again is None:
                self._told.append(f"{name}: {damage}; it was fetched again")
            return again
        return damage

    def _damage(self, sha256: str, size: int, name: str) -> str | None:
        path = self._layout.blob(sha256)
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return _GONE
        except OSError as error:
            raise self._layout.error(error) from None
        if status.st_size == size and self._state.known_good(path, status) == sha256:
            return None
        return self._examine(path, sha256, size, name)

    def _examine(self, path: str, sha256: str, size: int, name: str) -> str | None:
        """Read a blob whatever is known of it; say what is wrong with it, or None."""
        try:
            status = os.stat(path)
            good = status.st_size == size and keys.digest_file(path) == sha256
        except (FileNotFoundError, NotADirectoryError):
            return _GONE
        except OSError as error:
            if error.errno != errno.EIO:
                raise self._layout.error(error) from None
            good = False  # the disk cannot read it: it is as good as gone
        if good:
            if status.st_mode & 0o222:
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o444)  # somebody made it writable, and did not write yet
                    status = os.stat(path)
            self._state.remember_good(path, status, sha256)
            return None
        if aside := self.put_aside(path, status, name):
            return f"its content was changed by somebody, whose version is in {aside}/"
        return "its content was damaged in the store and is put aside in quarantine/"

    def put_aside(self, path: str, status: os.stat_result, name: str) -> str | None:
        """Move a blob that is not what its digest says out of the way.

        If somebody wrote to it since it was seen to be good (`status` is its stat), it goes to edited/ under what it is
        called in an artifact (`name`), and the folder there is given, relative to the store; else to quarantine/.
        """
        if self._state.written(path, status):
            with contextlib.suppress(OSError):
                aside = edits.move(self._layout, [(path, name)])
                self._state.forget(path)
                return os.path.relpath(aside, self._layout.folder)
        self.quarantine(path)
        return None

    def quarantine(self, path: str) -> None:
        """Move a file of the store to quarantine/, because it is not what it should be."""
        self._state.forget(path)
        aside = self._layout.part("quarantine")
        with contextlib.suppress(OSError):
            os.makedirs(aside, exist_ok=True)
            os.replace(path, os.path.join(aside, f"{os.path.basename(path)}.{os.urandom(4).hex()}"))

    def found(self) -> dict[str, os.stat_result]:
        """Give the digest and the lstat of every blob that is there."""
        there = {}
        for path in files.below(self._layout.part("blobs")):
            with contextlib.suppress(FileNotFoundError):
                there[os.path.basename(path)] = os.lstat(path)
        return there

    # --- taking in

    def take_folder(self, folder: str, known: Iterable[Artifact]) -> dict[str, tuple[str, int]]:
        """Move every file of a folder into the store; give posix path → (SHA-256, bytes).

        `known` are artifacts in the store whose files the folder may hold links to: these are not digested again.
        Raises StoreError if the folder holds anything but plain files and folders, and OSError.
        """
        have = self._inodes(known)
        return {name: self._take(path, have) for name, path in sorted(_walk(folder))}

    def _inodes(self, known: Iterable[Artifact]) -> dict[tuple[int, int], tuple[str, int]]:
        """Give (device, inode) → (SHA-256, bytes) of blobs that a stage may have linked to."""
        found = {}
        for artifact in known:
            for sha256, size in artifact.files.values():
                path = self._layout.blob(sha256)
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(path)
                    self._state.linked(path, status)  # the stage's link moved its ctime
                    if self._state.known_good(path, status) == sha256:
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
            copying.copy(path, path + ".copy")
            os.replace(path + ".copy", path)
            status = os.stat(path)
        sha256 = keys.digest_file(path)
        self.place(path, sha256, status.st_size)
        return sha256, status.st_size

    def place(self, path: str, sha256: str, size: int) -> None:
        """Move a file whose digest was checked to its place, unless a good blob is there. Raises OSError."""
        target = self._layout.blob(sha256)
        # A good one is never replaced: trees are linked to it.
        if os.path.exists(target) and self._damage(sha256, size, sha256[:12]) is None:
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.chmod(path, 0o444)
        files.sync(path)
        os.replace(path, target)
        files.sync(os.path.dirname(target))
        self._state.remember_good(target, os.stat(target), sha256)

    # --- giving out

    def links_changed(self, artifacts: Iterable[Artifact]) -> None:
        """Take note that links to artifacts' blobs were made or removed: that moved their ctime, not their content."""
        for artifact in artifacts:
            for sha256, _ in artifact.files.values():
                path = self._layout.blob(sha256)
                with contextlib.suppress(OSError):
                    self._state.linked(path, os.stat(path))


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
