"""Where things lie in a store's folder.

blobs/sha256/ab/<digest>      files by content, read-only
actions/ab/<key>.json, .log   what a key made, when, where, and the full log of the stage
reads/ab/<first part>.json    lists of names: where users' code looked when a key with this first part was made
trees/<artifact>/             one artifact's files under their names: hard links to the blobs, which stages read
view/<pipeline>/<stage>       links for people, each to a folder in trees/
edited/                       files that people changed in the view or put there, moved here before anything reads them
quarantine/                   files whose content did not fit their name, and what failed stages had made
pins/, roots/                 pinned artifacts, and documents that have a lock: `cache gc` keeps what they need
partial/                      downloads that are not complete
tmp/, locks/, timing/         work in progress, locks of keys and of runs, TensorRT timing caches

Stores of earlier versions have shown/<artifact>/, copies for people, to which the view led; `cache gc` removes them.
`state.sqlite` beside these folders holds what was learnt and can be learnt again.
"""

from __future__ import annotations

import errno

from trtpipe.errors import StoreError
from trtpipe.row import Row


class Layout(Row):
    """The paths of one store; `folder` is absolute. A run asks for thousands, and os.path.join takes its time."""

    folder: str

    def action(self, key: str, suffix: str = ".json") -> str:
        """Give the path of a key's action record or log."""
        return f"{self.folder}/actions/{key[:2]}/{key}{suffix}"

    def lists(self, first: str) -> str:
        """Give the path of the lists of names under the first part of a key."""
        return f"{self.folder}/reads/{first[:2]}/{first}.json"

    def blob(self, sha256: str) -> str:
        """Give the path of a file by content."""
        return f"{self.folder}/blobs/sha256/{sha256[:2]}/{sha256}"

    def tree(self, artifact: str) -> str:
        """Give the path of an artifact's folder."""
        return f"{self.folder}/trees/{artifact}"

    def view(self, pipeline: str, stage: str) -> str:
        """Give the path of the link at which people find a stage's artifact."""
        return f"{self.folder}/view/{pipeline}/{stage}"

    def lock(self, name: str) -> str:
        """Give the path of a lock."""
        return f"{self.folder}/locks/{name}"

    def part(self, name: str) -> str:
        """Give the path of one of the folders listed above, such as `pins`."""
        return f"{self.folder}/{name}"

    def error(self, error: OSError) -> StoreError:
        """Give the error that tells people what the disk said, and what they can do."""
        where = error.filename or self.folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(f"the disk is full: {where}; free some space or use --artifacts on another disk")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StoreError(f"{where} is not writable ({error.strerror}); use --artifacts DIR for another place")
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            return StoreError(f"{where}: {error.strerror}; the artifacts folder must be a folder: use --artifacts DIR")
        return StoreError(f"{where}: {error.strerror or error}; use --artifacts DIR for another place")
