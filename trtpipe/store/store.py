"""The store, which other rooms use, made of its parts.

Nothing half-written is ever visible: content is written in tmp/, digested, synced and renamed; the action record comes
last.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from trtpipe.store import actions, lists
from trtpipe.store.artifact import Artifact, Hit, Miss
from trtpipe.store.blobs import Blobs
from trtpipe.store.guard import Guard
from trtpipe.store.layout import Layout
from trtpipe.store.trees import Trees
from trtpipe.store.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trtpipe.documents.action import About, Action
    from trtpipe.key import Key
    from trtpipe.reads import Names
    from trtpipe.store.locks import Held
    from trtpipe.store.state import State


class Store:
    """The store in one folder. Its methods raise StoreError if the disk refuses.

    Other rooms call its methods. Its parts (`blobs`, `trees`, `view`) are for the other files of this room. Code that
    needs only paths takes the `layout`.
    """

    def __init__(self, folder: str, state: State) -> None:
        self.layout = Layout(os.path.abspath(folder))
        self.folder = self.layout.folder
        self.state = state
        self.told: list[str] = []
        """Notes for people about the store; the code that runs a pipeline prints and clears them."""
        self.blobs = Blobs(self.layout, state, self.told)
        self.trees = Trees(self.layout, state, self.blobs, self.told)
        self.view = View(self.layout, self.trees)
        self._guard = Guard(self.layout)

    @staticmethod
    def make(folder: str) -> None:
        """Make the store's folder, which git ignores, if it does not exist; an unwritable folder is an error later."""
        with contextlib.suppress(OSError):
            if not os.path.isdir(folder):
                os.makedirs(folder)
                with open(os.path.join(folder, ".gitignore"), "x", encoding="utf-8") as stream:
                    stream.write("*\n")

    # --- paths

    def action_path(self, key: str, suffix: str = ".json") -> str:
        """Give the path of a key's action record or log."""
        return self.layout.action(key, suffix)

    def blob_path(self, sha256: str) -> str:
        """Give the path of a file by content."""
        return self.layout.blob(sha256)

    def timing_path(self) -> str:
        """Give the folder of TensorRT's timing caches."""
        return self.layout.part("timing")

    def view_path(self, pipeline: str, stage: str) -> str:
        """Give the path at which people find a stage's artifact."""
        return self.layout.view(pipeline, stage)

    # --- looking up

    def lookup(self, key: str) -> Hit | Miss:
        """Look a key (digest) up. A hit is checked: the record belongs to this key, and every file exists.

        The size and stat of a file are always checked, and its content if its stat is not known to be good.
        """
        made = actions.made(self.layout, self.state, key)
        if made is None:
            there = os.path.exists(self.layout.action(key))
            return Miss("its action record is damaged" if there else None)
        for name, (sha256, size) in made.artifact.files.items():
            if damage := self.blobs.damage(sha256, size, name):
                return Miss(f"{name}: {damage}")
        return made

    def action(self, key: str) -> Action | None:
        """Give a key's action record, or None if there is no valid one."""
        return actions.read(self.layout, key)

    def lists(self, first: str) -> list[Names]:
        """Give the lists of names under the first part of a key (its digest), in the order of look-ups."""
        return lists.read(self.layout, first)

    def add_lists(self, first: str, more: Iterable[Names]) -> None:
        """Put lists of names under the first part of a key."""
        lists.add(self.layout, first, more)

    def damage(self, sha256: str, size: int, name: str | None = None) -> str | None:
        """Say what is wrong with stored content, or None if it is good (or could be fetched again).

        `name` is what it is called in the artifact that is looked at.
        """
        return self.blobs.damage(sha256, size, name)

    @property
    def refetch(self) -> Callable[[str, int], bool] | None:
        """Called for missing or damaged content (SHA-256, bytes): fetches it into the store, or gives False."""
        return self.blobs.refetch

    @refetch.setter
    def refetch(self, refetch: Callable[[str, int], bool] | None) -> None:
        self.blobs.refetch = refetch

    # --- putting in

    def workspace(self) -> contextlib.AbstractContextManager[str]:
        """Give an empty folder for work in progress, gone afterwards."""
        from trtpipe.store.workspace import workspace

        return workspace(self.layout)

    def commit(
        self,
        key: Key,
        kind: str,
        folder: str,
        about: About,
        known: Iterable[Artifact] = (),
    ) -> Artifact:
        """Move a finished folder into the store and write its action record.

        `about` is what else the action record says; `known` are artifacts whose files the folder may hold links to.
        Raises StoreError also if the folder holds anything but plain files and folders.
        """
        try:
            with self.guard():
                artifact = Artifact(kind, self.blobs.take_folder(folder, known))
                self.write_action(key, artifact, about)
                self.use([key.digest])
                self.trees.discard_damaged(artifact)
        except OSError as error:
            raise self.layout.error(error) from None
        return artifact

    def write_action(self, key: Key, artifact: Artifact, about: About) -> None:
        """Write the record that a key made an artifact whose files are all in the store. Raises OSError."""
        actions.write(self.layout, key, artifact, about)

    def take_file(self, path: str, sha256: str, size: int) -> None:
        """Move a file from tmp/ whose digest was checked into the store."""
        try:
            with self.guard():
                self.blobs.place(path, sha256, size)
                self.use((), [sha256])
        except OSError as error:
            raise self.layout.error(error) from None

    def keep_log(self, path: str, key: str) -> str:
        """Move a stage's log beside its action record; give its path there."""
        return actions.keep_log(self.layout, path, key)

    # --- files under their names

    def tree(self, artifact: Artifact) -> str:
        """Give the folder with an artifact's files under their names, read-only, for stages and people.

        What somebody changed in it or put there is moved to edited/ and told, and the folder is made whole again.
        """
        return self.trees.folder(artifact)

    def show(self, pipeline: str, stage: str, artifact: Artifact) -> str:
        """Let people find an artifact as what a stage made; give its folder."""
        return self.view.show(pipeline, stage, artifact)

    def links_changed(self, artifacts: Iterable[Artifact]) -> None:
        """Take note that links to artifacts' files were made or removed by us or by a stage."""
        self.blobs.links_changed(artifacts)

    # --- several runs, and cache gc

    def guard(self, *, alone: bool = False) -> contextlib.AbstractContextManager[None]:
        """Keep `cache gc` out while things are looked up or put in; `alone` is for gc itself, which waits."""
        return self._guard.hold(alone=alone)

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Tell `cache gc` that a run goes on; `use` says what it needs."""
        return self._guard.in_use()

    def use(self, keys: Iterable[str], blobs: Iterable[str] = ()) -> None:
        """Keep keys' artifacts, and blobs, from `cache gc` until this run ends; call it within `guard`."""
        self._guard.use(keys, blobs)

    def lock(self, key: str, about: str) -> Held | None:
        """Take the lock of a key at once, or give None if another run makes that key now."""
        return self._guard.lock(key, about)

    def holder(self, key: str) -> str:
        """Say who makes a key now."""
        return self._guard.holder(key)
