"""The view: links by which people find what each stage made last."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trtpipe.errors import StoreError

if TYPE_CHECKING:
    from trtpipe.store.artifact import Artifact
    from trtpipe.store.layout import Layout
    from trtpipe.store.trees import Trees


class View:
    """The view of one store."""

    def __init__(self, layout: Layout, trees: Trees) -> None:
        self._layout, self._trees = layout, trees

    def show(self, pipeline: str, stage: str, artifact: Artifact) -> str:
        """Let the link of a stage lead to an artifact's tree; give the tree. Raises StoreError."""
        path = self._layout.view(pipeline, stage)
        wanted = f"../../trees/{artifact.digest}"
        folder = self._trees.folder(artifact)
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
