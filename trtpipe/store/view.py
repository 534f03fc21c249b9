"""The view: what people see of artifacts. They may change it; the store is not harmed, and no change is lost."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

from trtpipe import key as keys
from trtpipe.errors import StoreError
from trtpipe.store import files
from trtpipe.store.trees import swap, within

if TYPE_CHECKING:
    from trtpipe.store.artifact import Artifact
    from trtpipe.store.blobs import Blobs
    from trtpipe.store.layout import Layout
    from trtpipe.store.state import State
    from trtpipe.store.trees import Trees


class View:
    """The view of one store. `told` is the store's list of what people should know."""

    def __init__(self, layout: Layout, state: State, blobs: Blobs, trees: Trees, told: list[str]) -> None:
        self._layout, self._state, self._blobs, self._trees, self._told = layout, state, blobs, trees, told

    def show(self, pipeline: str, stage: str, artifact: Artifact) -> str:
        """Let the link of a stage lead to an artifact's files for people; give their folder. Raises StoreError."""
        path = self._layout.view(pipeline, stage)
        wanted = os.path.join("..", "..", "shown", artifact.digest)
        folder = self.folder(artifact)
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
            raise self._layout.error(error) from None
        return folder

    def folder(self, artifact: Artifact) -> str:
        """Give the folder with people's copies of an artifact's files, made or mended if need be. Raises StoreError.

        What somebody changed in it is moved to edited/ and told. Copies cost no space where the file system has
        reflinks. TRTPIPE_VIEW=link makes hard links instead, which cost none anywhere; but root, or whoever makes
        them writable, can damage the store through them.
        """
        path = self._layout.shown(artifact.digest)
        known = self._state.shown(artifact.digest)
        if known is not None and known == _stamps(path, artifact):
            return path
        try:
            # A folder that was copied here, say, has other stamps and is whole: then nothing is written, which a
            # read-only store could not do.
            if not self._put_edits_aside(path, artifact):
                self._make(path, artifact)
        except OSError as error:
            raise self._layout.error(error) from None
        stamps = _stamps(path, artifact)
        if stamps is not None:
            self._state.remember_shown(artifact.digest, stamps)
        return path

    def _make(self, path: str, artifact: Artifact) -> None:
        links = os.environ.get("TRTPIPE_VIEW") == "link"
        temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        os.makedirs(temporary)
        try:
            if links:
                self._trees.fill(temporary, artifact)
            else:
                for name, (sha256, _) in artifact.files.items():
                    target = within(temporary, name)
                    if "/" in name:
                        os.makedirs(os.path.dirname(target), exist_ok=True)
                    self._blobs.copy(self._layout.blob(sha256), target)
            swap(temporary, path, artifact)
        except BaseException:
            files.discard(temporary)
            raise
        if links:
            self._blobs.links_changed([artifact])

    def rescue(self, artifact: Artifact) -> None:
        """Move people's changes to edited/ and tell, before an artifact's folder is removed. Raises StoreError."""
        path = self._layout.shown(artifact.digest)
        known = self._state.shown(artifact.digest)
        try:
            if known is None or known != _stamps(path, artifact) or _others(path, artifact):
                self._put_edits_aside(path, artifact, "it is in")
        except OSError as error:
            raise self._layout.error(error) from None

    def _put_edits_aside(self, path: str, artifact: Artifact, done: str = "it is restored, the other is in") -> bool:
        """Move a folder to edited/ if somebody changed or added a file; one that only lacks files stays.

        Tells whether the folder is there and whole.
        """
        edited, whole = [], os.path.isdir(path) and not os.path.islink(path)
        for name, (sha256, _) in artifact.files.items():
            where = within(path, name)
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
        import shutil

        aside = os.path.join(self._layout.part("edited"), f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}")
        os.makedirs(os.path.dirname(aside), exist_ok=True)
        shutil.move(path, aside)  # the view may lie on another disk
        few = ", ".join(edited[:3]) + (f" and {len(edited) - 3} more" if len(edited) > 3 else "")
        self._told.append(f"{few} in the view is not what the stage made; {done} {aside}")
        return False


def _others(folder: str, artifact: Artifact) -> list[str]:
    """Give the files in an artifact's folder that are none of its own."""
    found = {os.path.relpath(path, folder).replace(os.sep, "/") for path in files.below(folder)}
    return sorted(found - set(artifact.files))


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
