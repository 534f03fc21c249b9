"""Locks between processes and machines that share a store; the kernel releases them when their holder ends.

`flock` is used because it belongs to one open file: a lock ends when its holder ends in any way, also by SIGKILL, and
two runs in one process exclude each other too. Linux turns it into a byte-range lock on NFS (since 2.6.12), so it also
works between machines. The text in the file (host, process, purpose) is for people; nothing depends on it.

No promise of the store depends on these locks: on a file system without locks, work may be done twice.

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
    """A lock, held until `release` or until this process ends. `real` is False if the file system has no locks."""

    def __init__(self, path: str, handle: int | None) -> None:
        self.path, self._handle = path, handle
        self.real = handle is not None

    def write(self, text: str) -> None:
        """Replace the text of the lock's file, for people and for `cache gc`; a full disk is ignored."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._handle, text.encode(), 0)
                os.ftruncate(self._handle, len(text.encode()))

    def append(self, text: str) -> None:
        """Add to the text of the lock's file. Raises OSError, because the caller depends on the text."""
        if self._handle is not None:
            os.lseek(self._handle, 0, os.SEEK_END)
            os.write(self._handle, text.encode())

    def release(self, *, keep: bool = False) -> None:
        """Release the lock; first remove its file, unless `keep` is set. Safe to call twice."""
        if self._handle is not None:
            if not keep:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = None


def take(path: str, *, shared: bool = False) -> Held | None:
    """Take a lock at once, or give None if another holder has it. Raises OSError if its file cannot be made."""
    while True:
        handle = -1
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            # The holder before may have removed the file of this handle.
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
    """Tell whether the file of a handle is the file at a path.

    With `surely`, the server of a network file system is asked: for about a second its client may still see a file that
    another machine has removed (measured on GlusterFS), but only the server can make a link to it.
    """
    try:
        mine, there = os.fstat(handle), os.stat(path)
        if not mine.st_nlink or not os.path.samestat(mine, there):
            return False
        if surely:
            # The name looks like a lock of ours, so `cache gc` removes it if this process is killed here.
            folder, name = os.path.split(path)
            link = os.path.join(folder, f"tmp-{os.urandom(4).hex()}-{name}")
            os.link(path, link)
            try:
                return os.path.samestat(mine, os.stat(link))
            finally:
                os.unlink(link)
    except OSError as error:
        # Without hard links, or without space for one, only the client's knowledge is left.
        return error.errno not in (errno.ENOENT, errno.ESTALE)
    return True


def wait(path: str, *, shared: bool = False, seconds: float) -> Held | None:
    """Wait for a lock; None if it is not free within `seconds`. Raises OSError as `take` does."""
    deadline = time.monotonic() + seconds
    pause = 0.001
    while True:
        held = take(path, shared=shared)
        if held is not None or time.monotonic() > deadline:
            return held
        time.sleep(pause)
        pause = min(0.1, pause * 2)


def text(path: str) -> str:
    """Give the text of a lock's file, or an empty text."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(1 << 26)
    except OSError:
        return ""


def host() -> str:
    """Give this machine's name for the names of files that belong to it."""
    # Not a regular expression: compiling one takes longer than the rest of taking a lock.
    return "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "_" for c in os.uname().nodename) or "_"


def foreign(name: str) -> bool:
    """Tell whether a name that ends in `@` and a machine belongs to another machine."""
    _, at, owner = name.rpartition("@")
    return bool(at) and owner != host()


def is_old(path: str) -> bool:
    """Tell whether a path was last changed more than a day ago. Raises OSError."""
    return time.time() - os.stat(path).st_mtime > _OLD_SECONDS


def in_use_elsewhere(path: str) -> bool:
    """Tell whether another machine may use a path although its lock is free here.

    On some file systems locks hold within one machine only, and nothing tells. So what another machine made counts as
    in use for a day. Raises OSError.
    """
    try:
        return foreign(os.path.basename(path)) and not is_old(path)
    except FileNotFoundError:
        return False


def holder() -> str:
    """Describe this process for a lock's file."""
    return f"process {os.getpid()} on {os.uname().nodename}"
