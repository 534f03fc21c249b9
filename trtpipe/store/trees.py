"""Trees: one artifact's files under their names, in a folder that stages read."""

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
    from trtpipe.store.artifact import Artifact
    from trtpipe.store.blobs import Blobs
    from trtpipe.store.layout import Layout
    from trtpipe.store.state import State


class Trees:
    """The trees of one store."""

    def __init__(self, layout: Layout, state: State, blobs: Blobs) -> None:
        self._layout, self._state, self._blobs = layout, state, blobs

    def folder(self, artifact: Artifact) -> str:
        """Give the folder with an artifact's files, made at the first call. Raises StoreError.

        Files are hard links to the blobs. Weights beside an ONNX file are copies, because onnx refuses external data
        that is linked.
        """
        path = self._layout.tree(artifact.digest)
        if os.path.isdir(path) and self._whole(path, artifact):
            return path
        try:
            temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
            os.makedirs(temporary)
            try:
                copies = self.fill(temporary, artifact)
                swap(temporary, path, artifact)
            except BaseException:
                files.discard(temporary)
                raise
            for name, (sha256, _) in artifact.files.items():
                where = within(path, name)
                if name in copies:
                    with contextlib.suppress(OSError):
                        self._state.remember_good(where, os.stat(where), sha256)
            self._blobs.links_changed([artifact])
        except OSError as error:
            raise self._layout.error(error) from None
        return path

    def discard_damaged(self, artifact: Artifact) -> None:
        """Remove an artifact's tree if it is linked to blobs that were put aside."""
        path = self._layout.tree(artifact.digest)
        if os.path.isdir(path) and not self._whole(path, artifact):
            files.discard(path)

    def fill(self, folder: str, artifact: Artifact) -> set[str]:
        """Put an artifact's files into a folder, as links where possible; give the names of copies. Raises OSError."""
        copies = set()
        for name, (sha256, _) in artifact.files.items():
            target = within(folder, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if _is_external_data(artifact, name) or not files.link(self._layout.blob(sha256), target):
                self._blobs.copy(self._layout.blob(sha256), target)
                os.chmod(target, 0o444)
                copies.add(name)
        return copies

    def _whole(self, path: str, artifact: Artifact) -> bool:
        """Tell whether a tree still has the artifact's files: links by inode, copies by what is known of them."""
        for name, (sha256, size) in artifact.files.items():
            where = within(path, name)
            try:
                here = os.lstat(where)
                blob = os.stat(self._layout.blob(sha256))
                if here.st_ino == blob.st_ino and here.st_dev == blob.st_dev:
                    continue
                if here.st_size != size or here.st_nlink != 1 or not stat.S_ISREG(here.st_mode):
                    return False
                if self._state.known_good(where, here) != sha256:
                    if keys.digest_file(where) != sha256:
                        return False
                    self._state.remember_good(where, here, sha256)
            except OSError:
                return False
        return True


def within(folder: str, name: str) -> str:
    """Give the path of an artifact's file (a posix path) below a folder."""
    return os.path.join(folder, *name.split("/"))


def swap(temporary: str, path: str, artifact: Artifact) -> None:
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


def _is_external_data(artifact: Artifact, name: str) -> bool:
    return artifact.kind in ("model", "network", "config") and not name.endswith((".onnx", ".json"))
