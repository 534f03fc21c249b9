"""The locks between runs and `cache gc`.

`cache gc` holds `locks/gc` alone; all others hold it shared during look-ups and commits. Each run holds `locks/run-…`
and lists in it what it uses. A run that makes a key holds `locks/key-<digest of the key's first part>`.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from trtpipe.errors import StoreError
from trtpipe.row import Row
from trtpipe.store import locks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trtpipe.store.layout import Layout

_CLOCKS_DIFFER_SECONDS = 60.0


class Run(Row):
    """A running run: its start (seconds since 1970, one minute early), and the keys and blobs that it uses."""

    since: float
    keys: tuple[str, ...]
    blobs: tuple[str, ...]


class Guard:
    """The locks of one store that one process holds."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._run: locks.Held | None = None
        self._depth = 0

    @contextlib.contextmanager
    def hold(self, *, alone: bool = False) -> Iterator[None]:
        """Keep `cache gc` out during look-ups and commits; `alone` is for gc itself, which waits.

        If nothing can be locked (for instance in a read-only store), gc cannot run either. May be nested. Raises
        StoreError if the lock takes too long.
        """
        if self._depth:
            yield
            return
        path = self._layout.lock("gc")
        try:
            held = locks.wait(path, shared=not alone, seconds=locks.WAIT_SECONDS)
        except OSError as error:
            if alone:
                raise self._layout.error(error) from None
            held = locks.Held(path, None)
        if held is None:
            what = "other runs use the store all the time" if alone else "cache gc is still running"
            raise StoreError(f"{path} cannot be locked within {locks.WAIT_SECONDS:.0f} s: {what}; try again later")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            held.release(keep=True)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Tell `cache gc` that a run is running; `use` says what it needs."""
        name = f"run-{time.time():.3f}-{os.getpid()}-{os.urandom(4).hex()}@{locks.host()}"
        try:
            self._run = locks.take(self._layout.lock(name))
        except OSError:
            self._run = None
        try:
            yield
        finally:
            if self._run is not None:
                self._run.release()
            self._run = None

    def use(self, keys: Iterable[str], blobs: Iterable[str] = ()) -> None:
        """Keep keys' artifacts, and blobs, from `cache gc` until this run ends; call it within `hold`.

        Raises StoreError.
        """
        if self._run is not None:
            lines = [f"key {k}\n" for k in keys] + [f"blob {b}\n" for b in blobs]
            try:
                self._run.append("".join(lines))
            except OSError as error:
                raise self._layout.error(error) from None

    def lock(self, key: str, about: str) -> locks.Held | None:
        """Take the lock of a key's first part at once; None if another run makes it now. Raises StoreError."""
        try:
            held = locks.take(self._layout.lock(f"key-{key}"))
        except OSError as error:
            raise self._layout.error(error) from None
        if held is not None:
            held.write(f"{locks.holder()} makes {about}\n")
        return held

    def holder(self, key: str) -> str:
        """Say who makes a key now."""
        return locks.text(self._layout.lock(f"key-{key}")).strip() or "another run makes it"


def running(layout: Layout) -> list[Run]:
    """Give the running runs. Remove all locks of runs that have ended."""
    found = []
    top = layout.part("locks")
    for name in os.listdir(top) if os.path.isdir(top) else ():
        path = layout.lock(name)
        if not name.startswith(("run-", "key-", "tmp-")):
            continue
        held = None if locks.in_use_elsewhere(path) else locks.take(path)
        if held is not None and held.real:
            held.release()  # its owner has ended; this removes the file
        elif name.startswith("run-"):
            since = float("inf")
            with contextlib.suppress(ValueError):
                # A little earlier, because the clocks of several machines differ.
                since = float(name.split("-")[1]) - _CLOCKS_DIFFER_SECONDS
            lines = [line.partition(" ") for line in locks.text(path).splitlines()]
            keys = tuple(digest for kind, _, digest in lines if kind == "key")
            found.append(Run(since, keys, tuple(digest for kind, _, digest in lines if kind != "key")))
    return found
