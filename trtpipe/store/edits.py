"""What people changed in folders of the store: it is moved to edited/, neither lost nor taken for a stage's result."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import TYPE_CHECKING

from trtpipe import key as keys
from trtpipe.store import files

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from trtpipe.store.layout import Layout

_SHOWN = 3


def move(layout: Layout, found: Iterable[tuple[str, str]]) -> str:
    """Move files, given as (path, posix name), to a new folder below edited/; give that folder. Raises OSError.

    A name may be empty: then the path is a whole folder, or what somebody put in its place.
    """
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"
    aside = os.path.join(layout.part("edited"), name)
    for path, name in found:
        target = os.path.join(aside, *name.split("/")) if name else aside
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another run was faster
            import shutil

            shutil.move(path, target)  # a folder of the store may lie on another disk
            if stat.S_ISREG(os.lstat(target).st_mode):
                os.chmod(target, 0o644)  # it is theirs from now on
    return aside


def few(names: Iterable[str]) -> str:
    """Name the first of several files and say how many more there are."""
    names = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def rescue(layout: Layout, folder: str, known: Container[str]) -> str | None:
    """Move what only a folder has to edited/ before the folder goes; say so, or give None. Raises OSError.

    `known` are the digests of what stages made. A file with several links is somewhere else, too.
    """
    if os.path.islink(folder):
        return None  # what it leads to stays
    mine = []
    for path in files.below(folder):
        status = os.lstat(path)
        made = stat.S_ISREG(status.st_mode) and (status.st_nlink > 1 or keys.digest_file(path) in known)
        if not made:
            mine.append((path, os.path.relpath(path, folder).replace(os.sep, "/")))
    if not mine:
        return None
    return f"{few(name for _, name in mine)} in the view is not what the stage made; it is in {move(layout, mine)}"
