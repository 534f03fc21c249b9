"""Blobs: files by content. What is taken in has been digested; what is given out has been checked."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from trtpipe import key as keys
from trtpipe.errors import StoreError
from trtpipe.store import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from trtpipe.store.artifact import Artifact
    from trtpipe.store.layout import Layout
    from trtpipe.store.state import State

_FICLONE = 0x40049409
_GONE = "its content is gone from the store"


class Blobs:
    """The blobs of one store. `told` is the store's list of what people should know."""

    def __init__(self, layout: Layout, state: State, told: list[str]) -> None:
        self._layout, self._state, self._told = layout, state, told
        self.refetch: Callable[[str, int], bool] | None = None
        """Asked for content (SHA-256, bytes) that is gone or damaged: puts it into the store, or gives False."""
        self._no_reflinks = False

    # --- checking

    def damage(self, sha256: str, size: int) -> str | None:
        """Say what is wrong with a blob, or None if it is good. Raises StoreError if the disk says no.

        A blob that is gone or damaged is fetched again if it can be. Content that does not fit its name goes to
        quarantine/, so that nobody reads it.
        """
        damage = self._damage(sha256, size)
        if damage is not None and self.refetch is not None and self.refetch(sha256, size):
            again = self._damage(sha256, size)
            if again is None:
                self._told.append(f"{sha256[:12]}: {damage}; it was fetched again")
            return again
        return damage

    def _damage(self, sha256: str, size: int) -> str | None:
        path = self._layout.blob(sha256)
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return _GONE
        except OSError as error:
            raise self._layout.error(error) from None
        if status.st_size == size and self._state.known_good(path, status) == sha256:
            return None
        return self._examine(path, sha256, size)

    def _examine(self, path: str, sha256: str, size: int) -> str | None:
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
            self._state.remember_good(path, status, sha256)
            return None
        self.quarantine(path)
        return "its content was damaged in the store and is put aside in quarantine/"

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
            self.copy(path, path + ".copy")
            os.replace(path + ".copy", path)
            status = os.stat(path)
        sha256 = keys.digest_file(path)
        self.place(path, sha256, status.st_size)
        return sha256, status.st_size

    def place(self, path: str, sha256: str, size: int) -> None:
        """Move a file whose digest was checked to its place, unless a good blob is there. Raises OSError."""
        target = self._layout.blob(sha256)
        with contextlib.suppress(FileNotFoundError):
            there = os.stat(target)
            if there.st_size == size and self._state.known_good(target, there) == sha256:
                return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.chmod(path, 0o444)
        files.sync(path)
        os.replace(path, target)
        files.sync(os.path.dirname(target))
        self._state.remember_good(target, os.stat(target), sha256)

    # --- giving out

    def copy(self, source: str, target: str) -> None:
        """Copy a file by reflink where possible, else by bytes; later changes to one do not reach the other.

        Raises OSError.
        """
        with open(source, "rb", buffering=0) as reading, open(target, "wb", buffering=0) as writing:
            if not self._no_reflinks:
                import fcntl

                try:
                    fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
                except OSError as error:
                    # What lies on another file system says nothing of the rest.
                    self._no_reflinks = error.errno != errno.EXDEV
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
