"""Trees: one artifact's files under their names, in a folder that stages read and people see."""

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
    from collections.abc import Iterator

    from trtpipe.store.artifact import Artifact
    from trtpipe.store.blobs import Blobs
    from trtpipe.store.layout import Layout
    from trtpipe.store.state import State

_NFS = ".nfs"
"""How the names of files begin that an NFS client keeps while somebody still has them open."""


class Trees:
    """The trees of one store. `told` is the store's list of what people should know.

    Their files are hard links to read-only blobs. Their folders are writable: read-only ones could not be removed by
    who wants to be rid of the store, would not stop root, and make editors that cannot write a new file beside the old
    one write into the blob.
    """

    def __init__(self, layout: Layout, state: State, blobs: Blobs, told: list[str]) -> None:
        self._layout, self._state, self._blobs, self._told = layout, state, blobs, told
        self._links = self._quiet = True
        """Until the disk was seen to take no link, and until that was told."""

    def folder(self, artifact: Artifact) -> str:
        """Give the folder with an artifact's files, made or mended if need be. Raises StoreError.

        What somebody changed in it or put there is moved to edited/ and told. Where the file system has no hard links,
        or no more of them, files are copies, which is told.
        """
        path = self._layout.tree(artifact.digest)
        try:
            if not self._mended(path, artifact, "it is restored, the other is in"):
                self._make(path, artifact)
        except OSError as error:
            raise self._layout.error(error) from None
        return path

    def discard_damaged(self, artifact: Artifact) -> None:
        """Remove an artifact's tree if it is linked to blobs that were put aside. Raises OSError."""
        path = self._layout.tree(artifact.digest)
        if os.path.isdir(path) and not self._mended(path, artifact, "the other is in"):
            files.discard(path)

    def rescue(self, artifact: Artifact) -> None:
        """Move people's changes to edited/ and tell, before an artifact's tree is removed. Raises StoreError."""
        try:
            self._mended(self._layout.tree(artifact.digest), artifact, "it is in")
        except OSError as error:
            raise self._layout.error(error) from None

    def _mended(self, path: str, artifact: Artifact, then: str) -> bool:
        """Put people's changes to a tree aside and tell; tell whether it has all of the artifact's files."""
        whole, changed = self._look(path, artifact)
        if changed:
            aside = edits.move(self._layout, [(within(path, name) if name else path, name) for name in changed])
            what = edits.few(name or "the folder" for name in changed)
            self._told.append(f"{what} in the view is not what the stage made; {'it is in' if whole else then} {aside}")
        return whole

    def _look(self, path: str, artifact: Artifact) -> tuple[bool, list[str]]:
        """Tell whether a tree has all of an artifact's files, and name what somebody changed or added.

        Changed is what has no other name: of a file with several links, nothing is lost if this one goes, such as one
        that was changed in place and is in edited/ already.
        """
        try:
            top = os.lstat(path)
        except FileNotFoundError:
            return False, []
        if not stat.S_ISDIR(top.st_mode):
            return False, [""]
        whole, changed = True, []
        for name, (sha256, size) in artifact.files.items():
            where, blob = f"{path}/{name}", self._layout.blob(sha256)
            try:
                here = os.lstat(where)
            except (FileNotFoundError, NotADirectoryError):
                whole = False
                continue
            try:
                there = os.stat(blob)
                if here.st_ino == there.st_ino and here.st_dev == there.st_dev:
                    continue
            except FileNotFoundError:
                pass
            if self._is(where, here, sha256, size):
                self._relink(blob, where, sha256)
                continue
            whole = False
            if not stat.S_ISDIR(here.st_mode) and here.st_nlink == 1:
                changed.append(name)
        with contextlib.suppress(FileNotFoundError):  # another run replaces the tree just now
            changed += [name for name in _names(path) if name not in artifact.files]
        return whole, changed

    def _is(self, path: str, status: os.stat_result, sha256: str, size: int) -> bool:
        """Tell whether a file that is no link to the blob has its content, by what is known of it or by reading it."""
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
        if self._state.known_good(path, status) == sha256:
            return True
        try:
            if keys.digest_file(path) != sha256:
                return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False  # the disk cannot read it
        self._state.remember_good(path, status, sha256)
        return True

    def _relink(self, blob: str, path: str, sha256: str) -> None:
        """Put a link to a blob in the place of a copy of it, which earlier versions made, if the disk can."""
        if not self._links:
            return
        temporary = f"{self._layout.part('trees')}{os.sep}{sha256}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        with contextlib.suppress(OSError):
            self._links = files.link(blob, temporary)
            if self._links:
                try:
                    os.replace(temporary, path)
                except BaseException:
                    os.unlink(temporary)
                    raise
                self._state.forget(path)
                self._state.linked(blob, os.stat(blob))

    def _make(self, path: str, artifact: Artifact) -> None:
        temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        os.makedirs(temporary)
        try:
            copies = self._fill(temporary, artifact)
            _swap(temporary, path, artifact)
        except BaseException:
            files.discard(temporary)
            raise
        for name in copies:
            where, (sha256, _) = within(path, name), artifact.files[name]
            with contextlib.suppress(OSError):
                self._state.remember_good(where, os.stat(where), sha256)
        self._blobs.links_changed([artifact])

    def _fill(self, folder: str, artifact: Artifact) -> list[str]:
        """Put an artifact's files into a folder, as links where possible; give the names of copies. Raises OSError."""
        copies = []
        for name, (sha256, _) in artifact.files.items():
            target, blob = within(folder, name), self._layout.blob(sha256)
            if "/" in name:
                os.makedirs(os.path.dirname(target), exist_ok=True)
            if not files.link(blob, target):
                copying.copy(blob, target)
                os.chmod(target, 0o444)
                copies.append(name)
        if copies and self._quiet:
            self._links = self._quiet = False
            self._told.append(
                f"{self._layout.folder} takes no hard links (or no more of them), so files lie in blobs/ and as "
                "copies in trees/"
            )
        return copies


def within(folder: str, name: str) -> str:
    """Give the path of an artifact's file (a posix path) below a folder."""
    return os.path.join(folder, *name.split("/"))


def _names(folder: str, prefix: str = "") -> Iterator[str]:
    """Give the posix path of everything below a folder that is no folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _names(entry.path, f"{prefix}{entry.name}/")
            elif not entry.name.startswith(_NFS):
                yield prefix + entry.name


def _swap(temporary: str, path: str, artifact: Artifact) -> None:
    """Move a finished folder to its place, unless another run has just put a whole one there.

    Raises OSError, and StoreError if it never comes to that.
    """
    for _ in range(20):
        try:
            os.rename(temporary, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            if not os.path.islink(path) and _holds(path, artifact):
                files.discard(temporary)
                return
            away = f"{temporary}.old"
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, away)
            files.discard(away)
        else:
            return
    raise StoreError(f"{path} cannot be replaced: other runs replace it all the time")


def _holds(folder: str, artifact: Artifact) -> bool:
    """Tell whether a folder has all of an artifact's files, by content."""
    try:
        return all(keys.digest_file(within(folder, name)) == sha256 for name, (sha256, _) in artifact.files.items())
    except OSError:
        return False
