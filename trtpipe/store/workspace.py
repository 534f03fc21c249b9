"""Workspaces: folders for work in progress below tmp/, each with a lock that shows whether its owner is alive."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from trtpipe.store import files, locks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.store.layout import Layout

_NAME = re.compile(r"\d+-[0-9a-f]+(@|$)")


@contextlib.contextmanager
def workspace(layout: Layout) -> Iterator[str]:
    """Give an empty folder for work in progress and remove it afterwards. Raises StoreError if it cannot be made."""
    name = f"{os.getpid()}-{os.urandom(6).hex()}@{locks.host()}"
    path = os.path.join(layout.part("tmp"), name)
    held = None
    try:
        sweep(layout)
        held = locks.take(_lock(layout, name))
        os.makedirs(path)
    except OSError as error:
        if held is not None:
            held.release()
        raise layout.error(error) from None
    try:
        yield path
    finally:
        files.discard(path)
        if held is not None:
            held.release()


def sweep(layout: Layout) -> None:
    """Remove the workspaces of runs that were killed: their locks are free.

    If the locks of a file system may not hold, a workspace must also be a day old.
    """
    top = layout.part("tmp")
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(top):
            path = os.path.join(top, name)
            if not _NAME.match(name):
                continue  # --artifacts may name a folder that had a tmp/ of its own
            with contextlib.suppress(OSError):
                held = None if locks.in_use_elsewhere(path) else locks.take(_lock(layout, name))
                if held is None:
                    continue
                if held.real or locks.is_old(path):
                    files.discard(path)
                held.release()


def _lock(layout: Layout, name: str) -> str:
    return layout.lock(f"tmp-{name}")
