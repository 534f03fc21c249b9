"""Locks between processes and machines that share a store; the kernel drops them with their holder.

`flock` is used because it belongs to one open file: a lock goes when its holder ends in any way, SIGKILL included,
and two runs in one process exclude each other too. Linux turns it into a byte-range lock on NFS (since 2.6.12), so it
also works between machines. What the file says (host, process, what for) is for people; nothing depends on it.

No promise of the store rests on these locks: without them (a file system that has none) work may be done twice.

Source: flock(2), nfs(5).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time

WAIT_SECONDS = 120.0
"""How long a run waits for the store while `cache gc` has it, and gc while runs have it; then it is an error."""
TELL_SECONDS = 60
"""How often a run says what it waits for, or what still runs. For a key that another run makes, it waits for ever."""
_NONE_HERE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)
_OLD_SECONDS = 24 * 3600


class Held:
    """A lock, held until `release` or until this process ends. `real` is False where locks are not to be had."""

    def __init__(self, path: str, handle: int | None) -> None:
        self.path, self._handle = path, handle
        self.real = handle is not None

    def write(self, text: str) -> None:
        """Replace what the lock's file says, for people and for `cache gc`; a full disk is no reason to stop."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._handle, text.encode(), 0)
                os.ftruncate(self._handle, len(text.encode()))

    def append(self, text: str) -> None:
        """Add to what the lock's file says. Raises OSError: whoever adds counts on it being read."""
        if self._handle is not None:
            os.lseek(self._handle, 0, os.SEEK_END)
            os.write(self._handle, text.encode())

    def release(self, *, keep: bool = False) -> None:
        """Give the lock back; its file goes first, unless `keep`, so that none is left. Safe to call twice."""
        if self._handle is not None:
            if not keep:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = None


def take(path: str, *, shared: bool = False) -> Held | None:
    """Take a lock at once, or give None if somebody else has it. Raises OSError if its file cannot be made."""
    while True:
        handle = -1
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            # Whoever held it before may have removed the file that this handle is for.
            if _same(handle, path, surely=not shared):
                return Held(path, handle)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except OSError as error:
            _close(handle)
            # ESTALE: another machine removed the file just now, and this one has yet to see that.
            if error.errno == errno.ESTALE or (handle >= 0 and error.errno in _BUSY):
                return None
            if handle >= 0 and error.errno in _NONE_HERE:
                return Held(path, None)
            raise
        _close(handle)


def _close(handle: int) -> None:
    if handle >= 0:
        with contextlib.suppress(OSError):
            os.close(handle)


def _same(handle: int, path: str, *, surely: bool) -> bool:
    """Tell whether the file of a handle is the one that lies at a path.

    `surely` asks the file system itself: a network file system's client believes for a second or so that a file is
    there which another machine removed (seen on GlusterFS), but a link to it can be made by the server only.
    """
    try:
        mine, there = os.fstat(handle), os.stat(path)
        if not mine.st_nlink or not os.path.samestat(mine, there):
            return False
        if surely:
            # Its beginning and its end are those of a lock of ours: who is killed here leaves it to `cache gc`.
            folder, name = os.path.split(path)
            link = os.path.join(folder, f"tmp-{os.urandom(4).hex()}-{name}")
            os.link(path, link)
            try:
                return os.path.samestat(mine, os.stat(link))
            finally:
                os.unlink(link)
    except OSError as error:
        # Where there are no hard links, or no room for one, what the client knows has to do.
        return error.errno not in (errno.ENOENT, errno.ESTALE)
    return True


def wait(path: str, *, shared: bool = False, seconds: float) -> Held | None:
    """Take a lock, waiting for it; None if it is not to be had within `seconds`. Raises OSError as `take` does."""
    deadline = time.monotonic() + seconds
    pause = 0.001
    while True:
        held = take(path, shared=shared)
        if held is not None or time.monotonic() > deadline:
            return held
        time.sleep(pause)
        pause = min(0.1, pause * 2)


def text(path: str) -> str:
    """Give what a lock's file says, or nothing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(1 << 26)
    except OSError:
        return ""


def host() -> str:
    """Name this machine as it stands in the names of files that say whose they are."""
    # No regular expression: each run asks, and to compile one takes longer than all else that a lock costs.
    return "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "_" for c in os.uname().nodename) or "_"


def foreign(name: str) -> bool:
    """Tell whether a name that ends in `@` and its owner's machine is another machine's."""
    _, at, owner = name.rpartition("@")
    return bool(at) and owner != host()


def is_old(path: str) -> bool:
    """Tell whether what lies at a path was last changed more than a day ago. Raises OSError."""
    return time.time() - os.stat(path).st_mtime > _OLD_SECONDS


def in_use_elsewhere(path: str) -> bool:
    """Tell whether another machine may use what lies at a path, although its lock is to be had here.

    Some file systems keep locks within one machine, and nothing says so: what another machine made counts as in use
    for a day. Raises OSError.
    """
    try:
        return foreign(os.path.basename(path)) and not is_old(path)
    except FileNotFoundError:
        return False


def holder() -> str:
    """Give what a lock's file says about this process."""
    return f"process {os.getpid()} on {os.uname().nodename}"
