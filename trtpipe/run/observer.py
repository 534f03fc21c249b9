"""Sees what a process and all its children look at: files, folders, absent paths, links, addresses, variables.

One file for both sides, with nothing but the standard library, for CPython 3.8 and later: interpreters that do not have
trtpipe run it by its path. The worker calls `begin` before any users' code and `end` after it; the run serves it with a
`Supervisor`, in another process, and gets a `Seen`.

How it is watched (`Seen.watched`):

seccomp: The kernel stops each system call of `_CALLS` and tells the supervisor, which reads the path from the caller's
memory, asks a policy, and lets the call go on or answers with an error. That holds for Python, native code, threads and
children alike. It needs Linux 5.7 or later on x86-64 or arm64, and no other listener around it; on 6.6 or later a call
costs a fifth of what it costs before. Source: seccomp_unotify(2), seccomp(2).

inotify: Python's audit hook sees what Python opens, inotify sees opens in the given folders, whoever made them, and
Landlock refuses reads elsewhere. What is not seen: a failed open of native code, `stat`, a file reached through
another hard link, and native reads below `readable` but outside the folders. Landlock needs Linux 5.19, because earlier
ones forbid every rename into another folder. Sources: landlock(7), inotify(7), PEP 578.

audit: The audit hook alone. What native code and children read is not seen.

What is recorded are facts about paths without links. A look at `/p/now/a.bin`, where `now` leads to `v1`, gives the
link `/p/now` with its target and the read `/p/v1/a.bin`. The first look counts: what the watched processes made or
emptied themselves and read afterwards is not what they depend on. A file that is in `absent` and in `read` appeared
meanwhile, and not by their doing. A stamp is that of the first look, so that a later change can be told. A folder is
listed when its names are read (getdents64); to open it is no more than to look whether it is there.

What no way of watching sees: what a socket answers, the clock, random numbers of the hardware, variables that native
code or a child reads, extended attributes, the status of a name that is asked for below a folder's descriptor with
AT_EMPTY_PATH (which is for names that are empty), the program loader that the kernel opens for an executable, memory
and open descriptors that other processes share, addresses in sendmsg and sendmmsg. 32-bit programs do not run, and
calls that would open files unseen or change what names mean (io_uring, open_by_handle_at, mount, chroot, new mount and
user namespaces) are refused; clone3 is not, because its flags lie in memory.

This is for code that is careless, not for code that is hostile: between the supervisor's look and the kernel's own, a
thread of the caller can write another path into the memory, and a link can be changed. Likewise a policy that refuses
protects nothing from someone who tries.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import FrameType

SECCOMP, INOTIFY, AUDIT = "seccomp", "inotify", "audit"
"""The ways of watching, best first."""
SEEN, UNOWNED, UNSEEN = "seen", "seen without owner", "not seen"
"""What may be said of the reads of native code and of children."""
ALL = "*"
"""At the end of a variable's name: the code asked for all whose names begin so; alone: for all."""


class Seen(NamedTuple):
    """What was seen; `_asdict()` becomes JSON. Paths are absolute and have no links in them.

    `read`, `run`, `listed` and `stat` give each path a stamp: device, inode, size, and the times of change of content
    and of status in nanoseconds, with colons between. `stat` has only what was not read, run or listed as well. `links`
    gives each link its target. `connects` has pairs of family and address, `variables` names. `refused` has what the
    policy refused, with `kind`, `path`, `named` (as it was asked for), `errno` and `where` (file:line of Python code,
    or empty). `why` says why there is no seccomp, `gaps` why the rest is incomplete; with a gap, or if not `ended`,
    nothing may be concluded from it.
    """

    watched: str
    native: str
    why: str
    ended: bool
    gaps: list[str]
    read: dict[str, str]
    run: dict[str, str]
    listed: dict[str, str]
    stat: dict[str, str]
    links: dict[str, str]
    absent: list[str]
    written: list[str]
    connects: list[list[str]]
    variables: list[str]
    refused: list[dict[str, Any]]


class Refusal(NamedTuple):
    """What the policy refused: the path and as it was asked for, and file:line of the Python code, or empty."""

    kind: str
    path: str
    named: str
    errno: int
    where: str


class Fact(NamedTuple):
    """One thing that a look depends on. A link's value is its target, the others' the stamp of what is there.

    `fresh` is 1 if the call makes or empties a file, and 2 if what it makes may be a folder.
    """

    kind: str
    path: str
    stamp: str
    value: str
    fresh: int


# ---- System calls and how their arguments are read. A minus: not among the arguments. The numbers are those of Linux's
# arch/x86/entry/syscalls/syscall_64.tbl and, for arm64, include/uapi/asm-generic/unistd.h.

_AT_FDCWD = -100
_AT_NOFOLLOW, _AT_FOLLOW, _AT_EMPTY = 0x100, 0x400, 0x1000
_CLONE_NAMESPACES = 0x00020000 | 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
_RESOLVE_IN_ROOT = 0x10
_TOLD = -0x70_1D
"""In place of a folder's descriptor, which the kernel ignores for absolute paths: it has been told of this one."""

_CALLS = {  # name: (what is done, folder's descriptor, path, flags), as places among the arguments
    "open": ("open", -1, 0, 1),
    "openat": ("open", 0, 1, 2),
    "openat2": ("openat2", 0, 1, 2),
    "creat": ("creat", -1, 0, -1),
    "stat": ("stat", -1, 0, -1),
    "lstat": ("lstat", -1, 0, -1),
    "newfstatat": ("stat", 0, 1, 3),
    "statx": ("stat", 0, 1, 2),
    "access": ("stat", -1, 0, -1),
    "faccessat": ("stat", 0, 1, -1),
    "faccessat2": ("stat", 0, 1, 3),
    "readlink": ("lstat", -1, 0, -1),
    "readlinkat": ("lstat", 0, 1, -1),
    "chdir": ("stat", -1, 0, -1),
    "execve": ("run", -1, 0, -1),
    "execveat": ("run", 0, 1, 4),
    "getdents": ("list", 0, -1, -1),
    "getdents64": ("list", 0, -1, -1),
    "mkdir": ("make", -1, 0, -1),
    "mkdirat": ("make", 0, 1, -1),
    "symlink": ("make", -1, 1, -1),
    "symlinkat": ("make", 1, 2, -1),
    "rename": ("rename", -1, 0, -1),
    "renameat": ("rename", 0, 1, -1),
    "renameat2": ("rename", 0, 1, -1),
    "link": ("link", -1, 0, -1),
    "linkat": ("link", 0, 1, 4),
    "connect": ("connect", -1, 1, 2),
    "sendto": ("connect", -1, 4, 5),
}
_TO = {"rename": (-1, 1), "link": (-1, 1), "renameat": (2, 3), "renameat2": (2, 3), "linkat": (2, 3)}
"""Where the second path is, of calls that have two: its folder's descriptor and the path."""

_REFUSED = {
    "io_uring_setup": errno.ENOSYS,
    "open_tree": errno.ENOSYS,
    "open_tree_attr": errno.ENOSYS,
    "open_by_handle_at": errno.EPERM,
    "mount": errno.EPERM,
    "move_mount": errno.EPERM,
    "chroot": errno.EPERM,
    "pivot_root": errno.EPERM,
    "setns": errno.EPERM,
}


class _Machine(NamedTuple):
    audit: int  # AUDIT_ARCH_* of linux/audit.h
    numbers: dict[str, int]


_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        {
            "open": 2, "stat": 4, "lstat": 6, "access": 21, "connect": 42, "sendto": 44, "clone": 56, "execve": 59,
            "getdents": 78, "chdir": 80, "rename": 82, "mkdir": 83, "creat": 85, "link": 86, "symlink": 88,
            "readlink": 89, "pivot_root": 155, "chroot": 161, "mount": 165, "getdents64": 217, "openat": 257,
            "mkdirat": 258, "newfstatat": 262, "renameat": 264, "linkat": 265, "symlinkat": 266, "readlinkat": 267,
            "faccessat": 269, "unshare": 272, "open_by_handle_at": 304, "setns": 308, "renameat2": 316, "seccomp": 317,
            "execveat": 322, "statx": 332, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "openat2": 437,
            "faccessat2": 439, "open_tree_attr": 467,
        },
    ),
    "aarch64": _Machine(
        0xC00000B7,
        {
            "mkdirat": 34, "symlinkat": 36, "linkat": 37, "renameat": 38, "mount": 40, "pivot_root": 41,
            "faccessat": 48, "chdir": 49, "chroot": 51, "openat": 56, "getdents64": 61, "readlinkat": 78,
            "newfstatat": 79, "unshare": 97, "connect": 203, "sendto": 206, "clone": 220, "execve": 221,
            "open_by_handle_at": 265, "setns": 268, "renameat2": 276, "seccomp": 277, "execveat": 281, "statx": 291,
            "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "openat2": 437, "faccessat2": 439,
            "open_tree_attr": 467,
        },
    ),
}  # fmt: skip


def _machine() -> _Machine:
    """Give this machine's table. Raises OSError where there is none."""
    name = os.uname().machine if sys.platform == "linux" else sys.platform
    if name not in _MACHINES or sys.maxsize < 2**32 or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, f"no table of system calls for {name}")
    return _MACHINES[name]


# ---- Looks: what a call depends on. Both sides use this, the worker where only the audit hook sees Python.

_LINKS = 40  # as many as the kernel follows
_NOT_FOLLOWED = ("lstat", "make", "move", "replace")
_O_PATH = getattr(os, "O_PATH", 0)
_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


def stamp_of(status: os.stat_result | None) -> str:
    """Give what changes when a file's content does, or nothing where no file is."""
    if status is None:
        return ""
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


class _Folder(NamedTuple):
    """A folder whose name has been walked before, and the links on the way."""

    real: str
    links: tuple[Fact, ...]
    inode: int
    device: int


def resolve(
    path: str, follow: bool, thread: int, folders: dict[str, _Folder]
) -> tuple[str, os.stat_result | None, list[Fact]]:
    """Walk an absolute path as the kernel would for a thread; give the path without links, what is there, the links.

    What cannot be reached counts as absent. Descriptors below `/proc` lead to what they are open on, if that still has
    a name. `thread` is for `/proc/self`. `folders` keeps the way to a path's folder for the next path in it.
    """
    head, _, tail = path.rpartition("/")
    if tail in ("", ".", "..") or not head or head.startswith("/proc"):
        return _walk("", path.split("/"), follow, thread, ())
    try:
        there = os.stat(head)
    except OSError:
        return _walk("", path.split("/"), follow, thread, ())
    folder = folders.get(head)
    if folder is None or folder.inode != there.st_ino or folder.device != there.st_dev:
        real, status, links = _walk("", head.split("/"), True, thread, ())
        if status is None or not os.path.samestat(status, there):
            return _walk("", path.split("/"), follow, thread, ())
        folder = folders[head] = _Folder("" if real == "/" else real, tuple(links), there.st_ino, there.st_dev)
    return _walk(folder.real, [tail], follow, thread, folder.links)


def _walk(
    real: str, names: list[str], follow: bool, thread: int, passed: tuple[Fact, ...]
) -> tuple[str, os.stat_result | None, list[Fact]]:
    """Walk names from a folder on; `resolve` says what it gives."""
    links, left, status = list(passed), names[::-1], None
    while left:
        name = left.pop()
        if not name or name == ".":
            continue
        if name == "..":
            real, status = real.rpartition("/")[0], None
            continue
        if real == "/proc" and name in ("self", "thread-self"):
            real, status = f"/proc/{thread}", None
            continue
        here = f"{real}/{name}"
        try:
            status = os.lstat(here)
            if not stat.S_ISLNK(status.st_mode) or not (left or follow):
                real = here
                continue
            target = os.readlink(here)
            if real.startswith("/proc/"):
                real, status = _open_on(here, target)
                continue
        except OSError:
            rest = [n for n in reversed(left) if n and n != "."]
            return (here if ".." in rest else "/".join([here, *rest])), None, links
        if len(links) == _LINKS:
            return here, None, links
        if real != "/proc":
            links.append(Fact("link", here, stamp_of(status), target, 0))
        if target.startswith("/"):
            real = ""
        status = None
        left.extend(target.split("/")[::-1])
    if status is None:
        try:
            status = os.lstat(real or "/")
        except OSError:
            return real or "/", None, links
    return real or "/", status, links


def _open_on(here: str, target: str) -> tuple[str, os.stat_result]:
    """Follow a link below `/proc/PID` whose text is only a name for what it leads to (a pipe has one, too)."""
    status = os.stat(here)
    try:
        if target.startswith("/") and os.path.samestat(status, os.lstat(target)):
            return target.rstrip("/"), status
    except OSError:
        pass
    return here, status


def look(what: str, flags: int, path: str, thread: int, folders: dict[str, _Folder]) -> list[Fact]:
    """Give the facts that a call depends on, its own last. `what` as in `_CALLS`; the path is absolute.

    `move` is the source of a rename or link, `replace` the target of a rename.
    """
    created = flags & os.O_CREAT if what == "open" else 0
    exclusive = created and flags & os.O_EXCL
    follow = what not in _NOT_FOLLOWED
    if what == "open" and (flags & _O_NOFOLLOW or exclusive):
        follow = False
    real, status, facts = resolve(path, follow, thread, folders)
    stamp = value = stamp_of(status)
    kind, fresh = "stat", 0
    if what == "replace":
        kind, fresh = "written", 2
    elif status is None:
        kind, fresh = ("written", 1 if created else 2) if created or what == "make" else ("absent", 0)
    elif stat.S_ISLNK(status.st_mode):
        kind, value = "link", os.readlink(real)
    elif stat.S_ISDIR(status.st_mode):
        kind = "listed" if what == "list" else "stat"
    elif what == "open" and not exclusive and not flags & _O_PATH:
        # What remains of a file's old content counts as read, also where one only writes; not where one only appends.
        appends = flags & os.O_APPEND and flags & (os.O_WRONLY | os.O_RDWR) == os.O_WRONLY
        if (flags & os.O_TRUNC or appends) and stat.S_ISREG(status.st_mode):
            kind, fresh = "written", 0 if appends else 1
        elif stat.S_ISREG(status.st_mode) or flags & (os.O_WRONLY | os.O_RDWR) != os.O_WRONLY:
            kind = "read"
        else:
            kind = "written"
    elif what == "move":
        kind = "read"
    elif what == "run":
        kind = "run"
        program = _interpreter(real, status)
        if program and len(facts) < _LINKS:
            facts += look("run", 0, program, thread, folders)
    if kind == "written" and status is None and not os.path.isdir(os.path.dirname(real)):
        kind, real, fresh = "absent", os.path.dirname(real), 0  # nothing can be made there, for want of a folder
    facts.append(Fact(kind, real, stamp, value, fresh))
    return facts


def _interpreter(path: str, status: os.stat_result) -> str:
    """Give the interpreter that a script names, which the kernel opens by itself; nothing for other programs."""
    if not stat.S_ISREG(status.st_mode):
        return ""
    try:
        with open(path, "rb") as stream:
            line = stream.readline(256)
    except OSError:
        return ""
    words = line[2:].split() if line.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words and words[0].startswith(b"/") else ""


# ---- The worker's side.

_STDLIB = os.path.dirname(os.__file__) + os.sep
_THIS = sys._getframe().f_code.co_filename  # noqa: SLF001 — there is no other door to frames
_WHERE_LIMIT = 10_000
_TOLD_LIMIT = 200_000
_PATH_MAX = 4096
_MESSAGE = 1 << 17
_GREETING = json.dumps({"watched": SECCOMP, "why": ""}).encode()
_EVENTS = {
    "open": 0, "os.listdir": 0, "os.scandir": 0, "sqlite3.connect": 0, "ctypes.dlopen": 0, "subprocess.Popen": 0,
    "os.exec": 0, "os.posix_spawn": 0, "import": 1, "socket.connect": 1,
}  # fmt: skip
"""Audit events that name a path or an address, and which of their arguments that is."""


def begin(fd: int, *, mode: str = "", readable: Iterable[str] = (), ours: Iterable[str] = ()) -> str:
    """Be watched from now on; give how (SECCOMP, INOTIFY or AUDIT). `fd` is the supervisor's `fd`, inherited.

    Call it first: before users' code, and before NumPy starts threads. `mode` forces one way (the default takes the
    best). `readable` are the folders and files that may be read where seccomp is not to be had; without any, nothing
    is refused there. Reading of variables by code below the folders in `ours` is not recorded, nor what the standard
    library does without others having called it. It cannot be undone. Raises OSError if the forced way is not to be
    had, and ConnectionError if the supervisor is gone.
    """
    global _worker  # noqa: PLW0603 — a process is watched once and for all
    worker = _Worker(fd, readable, ours)
    listener, why = -1, "not asked for"
    if mode in ("", SECCOMP):
        try:
            listener = _listen()
        except OSError as error:
            if mode:
                raise
            why = f"seccomp: {error.strerror}"
    if listener >= 0:
        # Until the supervisor has the listener, a look at any file (fstat, too) would wait for ever. And if this
        # process kept it, the kernel would not notice that the supervisor is gone.
        try:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", listener))
            worker.channel.sendmsg([_GREETING], [rights])
        finally:
            os.close(listener)
    else:
        confined = False
        if mode != AUDIT and worker.readable:
            try:
                _confine(worker.readable)
                confined = True
            except OSError as error:
                if mode:
                    raise
                why += f"; Landlock: {error.strerror}"
        worker.tell({"watched": AUDIT if mode == AUDIT else INOTIFY, "why": why, "confined": confined})
    answer = worker.channel.recv(_MESSAGE)
    if not answer:
        raise ConnectionError(errno.ECONNRESET, "the supervisor is gone")
    watched = str(json.loads(answer)["watched"])
    worker.looks = watched != SECCOMP
    _worker = worker

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # There are tens of thousands of events a second: this is called faster than a method.
        if event in _EVENTS:
            worker.heard(event, arguments)

    sys.addaudithook(hook)
    if watched == SECCOMP:
        _tell_once("stat")
        _tell_once("lstat")
    _tell_what_is_sought()
    for environ in (os.environ, getattr(os, "environb", None)):
        if environ is not None:
            environ.__class__ = _Variables
    return watched


def refusals() -> list[Refusal]:
    """Give what was refused so far, with the line of Python that asked for it where that is known."""
    return _worker.refusals() if _worker is not None else []


def end() -> list[Refusal]:
    """Tell the supervisor that the users' code has ended, and give what was refused. Watching goes on.

    Without seccomp, the policy's own refusals come too late to be refusals, and some too late for this list; they are
    all in `Seen.refused`. Raises OSError if the code has closed the descriptor to the supervisor, or the supervisor is
    gone.
    """
    if _worker is None:
        return []
    found = _worker.refusals()
    for refused in found:
        if refused.where:
            _worker.tell({"named": refused.named, "where": refused.where})
    for path in _worker.not_found():
        _worker.tell({"fact": Fact("absent", path, "", "", 0), "flags": 0, "named": path, "where": ""})
    _worker.tell({"ended": True})
    return found


class _Worker:
    """The watched process's own part: the socket to the supervisor, and what only Python can tell."""

    def __init__(self, fd: int, readable: Iterable[str], ours: Iterable[str]) -> None:
        self.channel = socket.socket(fileno=fd)
        peer, _, _ = struct.unpack("3i", self.channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if peer == os.getpid():
            self.channel.detach()
            raise ValueError("the supervisor must be in another process: it would wait for itself")
        self.channel.set_inheritable(False)
        self.inode = os.fstat(fd).st_ino
        self.readable = [os.path.realpath(f) for f in readable]
        self.folders = tuple(os.path.join(f, "") for f in self.readable)
        self.ours = tuple(os.path.join(os.path.abspath(f), "") for f in ours)
        self.looks = False
        self.names: set[str] = set()
        self.given: set[str] = set()
        self.told: set[tuple[str, str]] = set()
        self.sought: set[str] = set()
        self.where: dict[str, str] = {}
        self.walked: dict[str, _Folder] = {}
        self.refused: list[Refusal] = []

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message. Raises OSError."""
        if os.fstat(self.channel.fileno()).st_ino != self.inode:
            raise OSError(errno.EBADF, "the code has closed the descriptor to the supervisor")
        self.channel.send(json.dumps(message).encode())

    def asked(self, name: str) -> None:
        """Remember that a variable was asked for, unless the standard library or our own code did by itself."""
        if name in self.names or name in self.given or len(name) > _PATH_MAX:
            return
        caller = next(_callers(), "")
        if not caller or caller.startswith(self.ours):
            return
        self.names.add(name)
        with contextlib.suppress(OSError):  # `end` will say so
            self.tell({"variable": name})

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Remember who asks for a path. Where only this sees Python: tell what it looks at, and refuse it."""
        given = arguments[_EVENTS[event]]
        if event == "socket.connect":
            named = _address(given)
        elif isinstance(given, (str, bytes)) and given and given not in (":memory:", b":memory:"):
            named = os.fsdecode(given)
            if "/" not in named and event in ("ctypes.dlopen", "subprocess.Popen", "os.exec", "os.posix_spawn"):
                return  # searched for elsewhere
            if not named.startswith("/"):
                try:
                    named = os.path.join(os.getcwd(), named)
                except OSError:
                    return
        elif given is None and event in ("os.listdir", "os.scandir"):
            named = os.path.join(os.getcwd(), ".")
        else:
            return
        if len(named) > _PATH_MAX:
            return  # the kernel refuses it
        if named not in self.where and len(self.where) < _WHERE_LIMIT and not _imports():
            self.where[named] = self.line()
        if self.looks and named:
            self.look(event, named, arguments)

    def look(self, event: str, named: str, arguments: tuple[Any, ...]) -> None:
        """Tell the supervisor what Python is about to look at. Raises PermissionError outside `readable`."""
        flags = int(arguments[2] or 0) if event == "open" else 0
        if event == "socket.connect":
            flags = int(arguments[0].family)
            facts = [Fact("connect", named, "", "", 0)]
        else:
            lists = event in ("os.listdir", "os.scandir")
            runs = event in ("subprocess.Popen", "os.exec", "os.posix_spawn")
            facts = look("list" if lists else "run" if runs else "open", flags, named, os.getpid(), self.walked)
        fact = facts[-1]
        if fact.kind in ("read", "listed", "run") and self.folders and not self.may(fact.path):
            refused = Refusal(fact.kind, fact.path, named, errno.EACCES, self.where.get(named, ""))
            if refused not in self.refused:
                self.refused.append(refused)
                self.tell({"refused": refused._asdict()})
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), named)
        for each in facts:
            if each[:2] not in self.told or each.fresh:
                self.told.add(each[:2])
                self.tell({"fact": each, "flags": flags, "named": named, "where": self.where.get(named, "")})

    def seek(self, module: Any) -> None:
        """Remember that a module was looked for: imports list folders, so no call names what is not there."""
        if isinstance(module, str) and len(self.sought) < _WHERE_LIMIT:
            self.sought.add(module.partition(".")[0])

    def not_found(self) -> list[str]:
        """Give the paths at which modules that were looked for in vain would be."""
        import importlib.machinery

        suffixes = ("", *importlib.machinery.SOURCE_SUFFIXES, *importlib.machinery.EXTENSION_SUFFIXES)
        names = sorted(name for name in self.sought if name and "/" not in name and sys.modules.get(name) is None)
        folders = [os.path.realpath(folder) for folder in dict.fromkeys(sys.path) if folder and os.path.isdir(folder)]
        paths = (os.path.join(folder, name + suffix) for folder in folders for name in names for suffix in suffixes)
        return [path for path in paths if not os.path.lexists(path)]

    def may(self, path: str) -> bool:
        """Tell whether a path lies in what may be read."""
        return path in self.readable or path.startswith(self.folders)

    def line(self) -> str:
        """Give file:line of the nearest code that is neither the standard library's, nor installed, nor ours."""
        frame: FrameType | None = sys._getframe()  # noqa: SLF001
        first = ""
        while frame is not None:
            name = frame.f_code.co_filename
            if _counts(name):
                first = first or f"{name}:{frame.f_lineno}"
                if "-packages" not in name and not name.startswith(self.ours):
                    return f"{name}:{frame.f_lineno}"
            frame = frame.f_back
        return first

    def refusals(self) -> list[Refusal]:
        """Take in what the supervisor said that it refused; it says so before the refused call returns."""
        while True:
            try:
                data = self.channel.recv(_MESSAGE, socket.MSG_DONTWAIT)
            except OSError:
                return list(self.refused)
            if not data:
                return list(self.refused)
            refused = Refusal(*json.loads(data))
            self.refused.append(refused._replace(where=self.where.get(refused.named, "")))


_worker: _Worker | None = None


def _counts(name: str) -> bool:
    """Tell whether a file of code is other than this one and the standard library."""
    if name.startswith("<frozen ") or name == _THIS:
        return False
    return not name.startswith(_STDLIB) or "-packages" in name


def _imports() -> bool:
    """Tell whether it is the import system that asks: its thousands of files have the line of an import anyway."""
    asking = sys._getframe(2).f_back  # noqa: SLF001 — behind `heard` and the hook; native code may have no frame
    return asking is None or asking.f_code.co_filename.startswith("<frozen importlib")


def _callers() -> Iterator[str]:
    """Give the files of the code that is running, innermost first, without the standard library."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001
    while frame is not None:
        if _counts(frame.f_code.co_filename):
            yield frame.f_code.co_filename
        frame = frame.f_back


if TYPE_CHECKING:
    _Environ = os._Environ[Any]  # noqa: SLF001
else:
    _Environ = type(os.environ)


class _Variables(_Environ):
    """`os.environ` that remembers what it was asked for. All of its other methods call these.

    Who goes through all variables takes what fits, so what they hold is not remembered one by one.
    """

    def __getitem__(self, key: Any) -> Any:
        _asked(key)
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[Any]:
        _asked(_pattern())
        return super().__iter__()

    def __len__(self) -> int:
        _asked(_pattern())
        return super().__len__()

    def __repr__(self) -> str:
        _asked(_pattern())
        return super().__repr__()

    def copy(self) -> dict[Any, Any]:
        _asked(_pattern())
        names = list(super().__iter__())
        return {name: super(_Variables, self).__getitem__(name) for name in names}

    def items(self) -> Any:
        return self.copy().items()

    def values(self) -> Any:
        return self.copy().values()

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        _given(key)

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        _given(key)


def _tell_once(name: str) -> None:
    """Let `os.stat` or `os.lstat` be told once for each absolute path that is there.

    Python's own import system and `inspect` ask for the status of the same few thousand paths tens of thousands of
    times. Each asks the kernel anew all the same; only the telling is left out.
    """
    import functools

    real = getattr(os, name)
    told: set[str] = set()

    @functools.wraps(real)
    def status(path: Any, *, dir_fd: int | None = None, **more: Any) -> os.stat_result:
        if dir_fd is not None or more or path.__class__ is not str:
            return real(path, dir_fd=dir_fd, **more)  # type: ignore[no-any-return]
        if path in told:
            return real(path, dir_fd=_TOLD)  # type: ignore[no-any-return]
        result: os.stat_result = real(path)
        if path.startswith("/") and len(told) < _TOLD_LIMIT:
            told.add(path)
        return result

    for module in (os, sys.modules["posix"]):  # the latter is what the import system asks
        setattr(module, name, status)
    for kind in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        if real in kind:
            kind.add(status)


def _pattern() -> str:
    """Give which variables code may want that goes through all of them.

    An installed package looks for its own in this way, and they begin with its name. Anybody else may want any.
    """
    _, packages, inner = next(_callers(), "").rpartition("-packages" + os.sep)
    name = inner.split(os.sep, 1)[0].partition(".")[0]
    return f"{name.upper()}_{ALL}" if packages and name else ALL


def _tell_what_is_sought() -> None:
    """Let every search for a module be seen: by an import, `import_module`, `find_spec` or what else asks the finder.

    The audit event "import" is raised for the first of these only.
    """
    import importlib.machinery

    real = importlib.machinery.PathFinder.find_spec

    def find_spec(_: Any, name: str, path: Any = None, target: Any = None) -> Any:
        if _worker is not None and path is None:
            _worker.seek(name)
        return real(name, path, target)

    importlib.machinery.PathFinder.find_spec = classmethod(find_spec)  # type: ignore[assignment]


def _asked(key: Any) -> None:
    if _worker is not None and isinstance(key, (str, bytes)):
        _worker.asked(os.fsdecode(key))


def _given(key: Any) -> None:
    """Remember that the code has set a variable itself: then it does not come from outside any more."""
    if _worker is not None:
        _worker.given.add(os.fsdecode(key))


def _libc() -> Any:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _check(result: int) -> int:
    """Give a call's result. Raises OSError if it is an error."""
    if result < 0:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _listen() -> int:
    """Install the filter for all threads of this process and give the listener. Raises OSError."""
    import ctypes

    machine, libc = _machine(), _libc()
    code = b"".join(struct.pack("HBBI", *line) for line in filter_program(machine.audit, machine.numbers))
    lines = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(lines)), 16)
    _check(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    # TSYNC 1, SPEC_ALLOW 4, NEW_LISTENER 8, TSYNC_ESRCH 16, WAIT_KILLABLE_RECV 32. Without the second, the filter would
    # slow the code down on Linux before 5.16 (no speculative stores). The fourth came with 5.7, so whoever knows it
    # knows also how to let a call go on. The last (5.19) keeps signals from starting a call anew while it is judged.
    number = ctypes.c_long(machine.numbers["seccomp"])
    for flags in (1 | 4 | 8 | 16 | 32, 1 | 4 | 8 | 16):
        listener = int(libc.syscall(number, ctypes.c_long(1), ctypes.c_long(flags), program))
        if listener >= 0 or ctypes.get_errno() != errno.EINVAL:
            break
    return _check(listener)


def filter_program(audit: int, numbers: dict[str, int]) -> list[tuple[int, int, int, int]]:
    """Give the filter as instructions of classic BPF: code, two jumps, constant.

    Offsets are those of `struct seccomp_data`: number 0, machine 4, halves of argument i 16 + 8i (low) and 20 + 8i.
    Programs for another machine (32-bit ones, x32 with bit 30 in the number) get ENOSYS for every call.
    """
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, notify = 0x7FFF0000, 0x7FC00000

    def error(number: int) -> tuple[int, int, int, int]:
        return give, 0, 0, 0x00050000 | number

    program = [(load, 0, 0, 4), (equal, 1, 0, audit), error(errno.ENOSYS), (load, 0, 0, 0)]
    program += [(at_least, 0, 1, 0x40000000), error(errno.ENOSYS)]
    for name in ("clone", "unshare"):
        program += [(equal, 0, 4, numbers[name]), (load, 0, 0, 16), (any_bit, 0, 1, _CLONE_NAMESPACES)]
        program += [error(errno.EPERM), (give, 0, 0, allow)]
    # Only a message with an address of its own goes anywhere else than connect has led.
    program += [(equal, 0, 6, numbers["sendto"]), (load, 0, 0, 48), (equal, 0, 2, 0), (load, 0, 0, 52)]
    program += [(equal, 1, 0, 0), (give, 0, 0, notify), (give, 0, 0, allow)]
    # fstat is, in many C libraries, one of these with AT_EMPTY_PATH and a descriptor that is none of a folder to start
    # from. It is half of all calls, and of a file that is open already.
    for name, place in (("newfstatat", 40), ("statx", 32)):
        program += [(equal, 0, 7, numbers[name]), (load, 0, 0, 16), (equal, 4, 0, _TOLD & 0xFFFFFFFF)]
        program += [(at_least, 2, 0, 0x80000000), (load, 0, 0, place), (any_bit, 1, 0, _AT_EMPTY)]
        program += [(give, 0, 0, notify), (give, 0, 0, allow)]
    for name, number in _REFUSED.items():
        program += [(equal, 0, 1, numbers[name]), error(number)]
    for name in _CALLS:
        if name in numbers and name not in ("sendto", "newfstatat", "statx"):
            program += [(equal, 0, 1, numbers[name]), (give, 0, 0, notify)]
    return [*program, (give, 0, 0, allow)]


_READ_FILE, _READ_DIR, _REFER = 1 << 2, 1 << 3, 1 << 13
_LANDLOCK = (444, 445, 446)  # create_ruleset, add_rule, restrict_self; the same numbers on all machines


def _confine(readable: Sequence[str]) -> None:
    """Refuse this process all reads outside some folders and files. Raises OSError where that cannot be had."""
    import ctypes

    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "not on this system")
    if len(os.listdir("/proc/self/task")) > 1:
        raise OSError(errno.EBUSY, "threads had been started")
    libc = _libc()
    create, add, restrict = (ctypes.c_long(number) for number in _LANDLOCK)
    version = _check(libc.syscall(create, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))
    if version < 2:
        raise OSError(errno.ENOSYS, "this version would forbid renames into other folders")

    def rule(path: str, access: int) -> None:
        try:
            fd = os.open(path, _O_PATH | os.O_CLOEXEC)
        except OSError:
            return  # what is not there cannot be read either
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                access &= ~_READ_DIR
            beneath = ctypes.create_string_buffer(struct.pack("=Qi", access, fd), 12)
            _check(libc.syscall(add, ruleset, ctypes.c_int(1), beneath, ctypes.c_uint32(0)))
        finally:
            os.close(fd)

    handled = ctypes.create_string_buffer(struct.pack("Q", _READ_FILE | _READ_DIR | _REFER), 8)
    number = _check(libc.syscall(create, handled, ctypes.c_size_t(8), ctypes.c_uint32(0)))
    ruleset = ctypes.c_int(number)
    try:
        rule("/", _REFER)  # without it, no file could be renamed into another folder
        for path in readable:
            rule(path, _READ_FILE | _READ_DIR)
        _check(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
        _check(libc.syscall(restrict, ruleset, ctypes.c_uint32(0)))
    finally:
        os.close(number)


# ---- The run's side.

_RECEIVE, _SEND, _VALID, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x80082102, 0x40082104  # ioctls of linux/seccomp.h
_NOTICE, _ANSWER = struct.Struct("QIIiIQ6Q"), struct.Struct("QqiI")
_ZEROES = bytes(_NOTICE.size)
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_PAGE = 4096
_REFUSALS_TOLD = 100
_FOLDERS = 20_000
# What inotify tells: access 1, close after writing 8, moved here 0x80, made 0x100, open 0x20; 0x01000000 only folders.
_WATCHED = 0x01000000 | 0x1 | 0x20 | 0x80 | 0x100


class Supervisor:
    """Serves one worker in a thread. Start the worker with `fd` inherited, then `start`, and `stop` when it has ended.

    `decide(kind, path, flags)` gives 0 or the errno to refuse with. It is called in that thread, once for each kind
    (read, run, listed, stat, link, absent, written, connect) and path; flags are those of `open`. The path of a connect
    is `inet 127.0.0.1:80`, `inet6 [::1]:80`, `unix /a/socket`, `unix @abstract` or `family N`, its flags are the
    family's number. An error in it refuses, and becomes a gap. `folders` are watched through inotify if need be. Of
    more than `limit` facts the rest is a gap.

    It never waits for the worker. If it ends in whatever way, the kernel answers ENOSYS to the watched processes.
    """

    def __init__(
        self, decide: Callable[[str, str, int], int], *, folders: Iterable[str] = (), limit: int = 200_000
    ) -> None:
        self._decide = decide
        self._folders = [os.path.realpath(f) for f in folders]
        self._limit = limit
        self._channel, self._worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._thread: threading.Thread | None = None
        self._wake, self._waker = os.pipe()
        self._listener = self._inotify = -1
        self._watched, self._native, self._why, self._ended = AUDIT, UNSEEN, "the worker never began", False
        self._gaps: list[str] = []
        self._facts: dict[str, dict[str, str]] = {kind: {} for kind in _KINDS}
        self._count = 0
        self._variables: set[str] = set()
        self._refused: list[dict[str, Any]] = []
        self._answers: dict[tuple[str, str], int] = {}
        self._known: dict[tuple[str, int, str], tuple[int, int, int]] = {}
        self._there: set[str] = set()
        self._own: dict[str, str] = {}
        self._made_folders: tuple[str, ...] = ()
        self._walked: dict[str, _Folder] = {}
        self._folder_of: dict[int, str] = {}
        self._request, self._response = bytearray(_NOTICE.size), bytearray(_ANSWER.size)
        self._notice = self._caller = 0
        self._memory, self._memory_of = -1, -1
        self._calls: dict[int, tuple[str, int, int, int, tuple[int, int] | None]] = {}

    @property
    def fd(self) -> int:
        """The worker's end: for `pass_fds`, and for `begin` there."""
        return self._worker.fileno()

    def start(self) -> None:
        """Serve the worker, which has its own copy of `fd` now."""
        import threading

        self._worker.close()
        self._thread = threading.Thread(target=self._serve, name="observer", daemon=True)
        self._thread.start()

    def stop(self) -> Seen:
        """End the watching and give what was seen. What still runs then gets ENOSYS for whatever it looks at."""
        if self._thread is None:
            self._worker.close()
        else:
            os.write(self._waker, b"x")
            self._thread.join()
        self._channel.close()
        os.close(self._wake)
        os.close(self._waker)
        facts = self._facts
        more = facts["read"].keys() | facts["run"].keys() | facts["listed"].keys()
        return Seen(
            watched=self._watched,
            native=self._native,
            why=self._why,
            ended=self._ended,
            gaps=list(self._gaps),
            read=dict(sorted(facts["read"].items())),
            run=dict(sorted(facts["run"].items())),
            listed=dict(sorted(facts["listed"].items())),
            stat={p: s for p, s in sorted(facts["stat"].items()) if p not in more},
            links=dict(sorted(facts["link"].items())),
            absent=sorted(facts["absent"]),
            written=sorted(facts["written"]),
            connects=[name.split(" ", 1) for name in sorted(facts["connect"])],
            variables=sorted(self._variables),
            refused=list(self._refused),
        )

    def _gap(self, text: str) -> None:
        if text not in self._gaps and len(self._gaps) < 100:
            self._gaps.append(text)

    # -- The thread.

    def _serve(self) -> None:
        import select

        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        channel, listener = self._channel.fileno(), -1
        try:
            while True:
                for fd, event in poll.poll():
                    if fd == listener and event & select.POLLIN:
                        self._answer()
                    elif fd == self._inotify:
                        self._take_events()
                    elif fd == channel and event & select.POLLIN and self._take_message():
                        if self._listener != listener:
                            listener = self._listener
                            poll.register(listener, select.POLLIN)
                        if self._inotify >= 0:
                            poll.register(self._inotify, select.POLLIN)
                    elif fd == self._wake:
                        while self._take_message(socket.MSG_DONTWAIT):
                            pass
                        return
                    else:
                        # The worker's end is closed; or nobody is left whom the listener watches (Linux 5.9).
                        poll.unregister(fd)
        except Exception as error:  # noqa: BLE001 — the thread's own end must not go unnoticed
            self._gap(f"the supervisor failed: {type(error).__name__}: {error}")
        finally:
            self._close()

    def _close(self) -> None:
        if self._inotify >= 0:
            self._take_events()
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)  # so that the worker does not wait, should this be too early
        for fd in (self._listener, self._inotify, self._memory):
            if fd >= 0:
                os.close(fd)
        self._listener = self._inotify = self._memory = -1

    def _take_message(self, flags: int = 0) -> bool:
        """Take one message of the worker; give whether there may be more."""
        flags |= getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            data, extra, _, _ = self._channel.recvmsg(_MESSAGE, socket.CMSG_SPACE(4), flags)
        except (BlockingIOError, ConnectionResetError):
            return False
        if not data:
            return False
        message = json.loads(data)
        for level, kind, content in extra:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._listener = struct.unpack("i", content[:4])[0]
        if "watched" in message:
            self._greet(message)
        elif "variable" in message:
            if len(self._variables) < self._limit:
                self._variables.add(message["variable"])
            else:
                self._gap(f"more than {self._limit:,} variables")
        elif "fact" in message:
            self._record(Fact(*message["fact"]), message["flags"], message["named"], message["where"])
        elif "refused" in message:
            self._refused.append(message["refused"])
        elif "where" in message:
            for refused in self._refused:
                if refused["named"] == message["named"]:
                    refused["where"] = message["where"]
        elif "ended" in message:
            self._ended = True
        return True

    def _greet(self, message: dict[str, Any]) -> None:
        """Do this side's part of the way of watching that the worker could have, and let it go on."""
        import fcntl

        self._watched, self._why = message["watched"], message["why"]
        if self._watched == SECCOMP:
            if self._listener < 0:
                raise OSError(errno.EMFILE, "the listener could not be taken over")
            self._native = SEEN
            numbers = _machine().numbers
            self._calls = {numbers[n]: (*spec, _TO.get(n)) for n, spec in _CALLS.items() if n in numbers}
            with contextlib.suppress(OSError):  # before Linux 6.6
                fcntl.ioctl(self._listener, _SET_FLAGS, 1)  # both sides take turns on one core: five times as fast
        elif self._watched == INOTIFY:
            try:
                self._inotify = _check(_libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
                for folder in self._folders:
                    self._watch(folder)
                self._native = UNOWNED if message["confined"] and self._folders else UNSEEN
            except OSError as error:
                self._watched = AUDIT
                self._why += f"; inotify: {error.strerror}"
        self._channel.send(json.dumps({"watched": self._watched}).encode())

    # -- Facts.

    def _record(self, fact: Fact, flags: int, named: str, where: str = "") -> int:
        """Take a fact in and give 0, or the errno with which the policy refuses it."""
        kind, path = fact.kind, fact.path
        known = self._answers.get((kind, path))
        if known is not None:
            if fact.fresh and not known:
                self._make(fact)
            return known
        if self._own and self._made(fact):
            return 0
        if kind == "absent" and path in self._there:
            return 0  # what was there before has been moved or deleted since
        try:
            answer = self._decide(kind, path, flags)
        except Exception as error:  # noqa: BLE001 — the watched process must get an answer
            self._gap(f"the policy failed: {type(error).__name__}: {error}")
            answer = errno.EACCES
        if self._count >= self._limit:
            self._gap(f"more than {self._limit:,} files, folders and addresses")
            return answer
        self._count += 1
        self._answers[kind, path] = answer
        if answer:
            self._refuse(Refusal(kind, path, named, answer, where))
            return answer
        self._facts[kind][path] = fact.value
        if fact.stamp and kind != "connect":
            self._there.add(path)
        if fact.fresh:
            self._make(fact)
        return 0

    def _make(self, fact: Fact) -> None:
        """Remember that the watched processes make or empty a file, and what was there before."""
        self._own.setdefault(fact.path, fact.stamp)
        folder = fact.path + os.sep
        if fact.fresh > 1 and not fact.stamp and not folder.startswith(self._made_folders):
            self._made_folders += (folder,)

    def _made(self, fact: Fact) -> bool:
        """Tell whether the watched processes made what is there: what was there before they did is no more."""
        if fact.kind == "connect":
            return False
        before = self._own.get(fact.path)
        if before is not None and before != fact.stamp:
            return True
        # A folder that they were about to make, but could not, is not there.
        return fact.path.startswith(self._made_folders) and any(
            os.path.isdir(folder) for folder in self._made_folders if fact.path.startswith(folder)
        )

    def _refuse(self, refused: Refusal) -> None:
        self._refused.append(refused._asdict())
        if len(self._refused) > _REFUSALS_TOLD:
            return
        with contextlib.suppress(OSError):  # it knows of enough others, or is gone
            self._channel.send(json.dumps(refused).encode(), socket.MSG_DONTWAIT)

    # -- Notifications.

    def _answer(self) -> None:
        """Take one notification and answer it."""
        self._request[:] = _ZEROES
        if not _control(self._listener, _RECEIVE, self._request):
            return
        self._notice, self._caller, _, call, _, _, *arguments = _NOTICE.unpack(self._request)
        try:
            answer = self._judge(call, arguments)
        except Exception as error:  # noqa: BLE001 — the watched process must get an answer
            self._gap(f"a call could not be judged: {type(error).__name__}: {error}")
            answer = errno.EACCES
        _ANSWER.pack_into(self._response, 0, self._notice, 0, -answer, 0 if answer else _CONTINUE)
        _control(self._listener, _SEND, self._response)

    def _valid(self) -> bool:
        """Tell whether the caller still waits. If not, what was read may be another process's memory."""
        return _control(self._listener, _VALID, bytearray(struct.pack("Q", self._notice)))

    def _judge(self, call: int, arguments: list[int]) -> int:
        """Record what a call looks at; give 0 to let it go on, or an errno."""
        what, at, place, flags_at, to = self._calls[call]
        if what == "list":
            return self._list(arguments[at])
        if what == "connect":
            return self._connect(arguments[place], arguments[flags_at] & 0xFFFFFFFF)
        flags = arguments[flags_at] & 0xFFFFFFFF if flags_at >= 0 else 0
        name = self._name(arguments[place])
        if what == "run":
            self._forget_memory()  # the program that is run has one of its own
        if not name:
            # The kernel itself says so of a bad address or an empty name; and a descriptor's own status is no look.
            if name is None or what != "run" or not flags & _AT_EMPTY:
                return 0
            name = f"/proc/{self._caller}/fd/{arguments[at]}"
        if what == "openat2":
            what = "open"
            how = self._read(arguments[flags_at], 24)
            flags, _, way = struct.unpack("QQQ", how) if how is not None and len(how) == 24 else (0, 0, 0)
            if way & _RESOLVE_IN_ROOT:
                name = name.lstrip("/") or "."
        elif what == "creat":
            what, flags = "open", os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        elif what == "stat":
            what, flags = ("lstat" if flags & _AT_NOFOLLOW else "stat"), 0
        folder = arguments[at] if at >= 0 else _AT_FDCWD
        if to is None:
            return self._look(what, flags, name, folder)
        source = "open" if flags & _AT_FOLLOW and what == "link" else "move"
        answer = self._look(source, 0, name, folder)
        name = self._name(arguments[to[1]])
        if answer or not name:
            return answer
        folder = arguments[to[0]] if to[0] >= 0 else _AT_FDCWD
        return self._look("replace" if what == "rename" else "make", 0, name, folder)

    def _look(self, what: str, flags: int, name: str, folder: int) -> int:
        """Record a look at a name, which is relative to a folder's descriptor; give 0 or an errno."""
        path = walked = name
        if not name.startswith("/"):
            folder = (folder & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
            link = f"/proc/{self._caller}/cwd" if folder == _AT_FDCWD else f"/proc/{self._caller}/fd/{folder}"
            try:
                path, walked = os.path.join(os.readlink(link), name), f"{link}/{name}"
            except OSError:
                return 0  # no such descriptor; the kernel says so itself
        # The same look at the same file needs no more than one stat here. At another file, it is a look of its own.
        key = (what, flags, path)
        known = self._known.get(key)
        if known is not None:
            try:
                now = os.lstat(path) if what in _NOT_FOLLOWED else os.stat(path)
                if now.st_ino == known[0] and now.st_dev == known[1]:
                    return known[2]
            except OSError:
                if not known[0]:
                    return known[2]
        facts = look(what, flags, walked, self._caller, self._walked)
        if not self._valid():
            return 0
        answer = 0
        for fact in facts:
            answer = answer or self._record(_of_self(fact, self._caller), flags, path)
        if path.startswith("/") and not path.startswith("/proc/") and not facts[-1].fresh:
            if len(self._known) > self._limit:
                self._known.clear()
                self._walked.clear()
            device, inode = (facts[-1].stamp or "0:0").split(":")[:2]
            self._known[key] = (int(inode), int(device), answer)
        return answer

    def _list(self, fd: int) -> int:
        try:
            path = os.readlink(f"/proc/{self._caller}/fd/{fd & 0xFFFFFFFF}")
            known = self._answers.get(("listed", path))
            if known is not None:
                return known
            stamp = stamp_of(os.lstat(path))
        except OSError:
            return 0  # no such descriptor, or a folder that has no name any more
        fact = _of_self(Fact("listed", path, stamp, stamp, 0), self._caller)
        return self._record(fact, 0, path) if self._valid() else 0

    def _connect(self, address: int, size: int) -> int:
        data = self._read(address, min(size, 128)) or b""
        name = _socket_address(data)
        if not name or not self._valid():
            return 0
        return self._record(Fact("connect", name, "", "", 0), int.from_bytes(data[:2], sys.byteorder), name)

    # -- The caller's memory.

    def _name(self, address: int) -> str | None:
        """Read a path, which ends with a zero byte; None if it cannot be read or is too long for the kernel."""
        # What lies behind the end of the page may not be mapped.
        data = self._read(address, _PAGE - address % _PAGE) if address else None
        if data is None:
            return None
        end = data.find(b"\0")
        if end < 0:
            data += self._read(address + len(data), _PATH_MAX - len(data)) or b""
            end = data.find(b"\0")
            if end < 0:
                return None
        return os.fsdecode(data[:end])

    def _read(self, address: int, size: int) -> bytes | None:
        """Read the caller's memory; None where none is, or the caller is gone. Raises PermissionError."""
        try:
            if self._caller == self._memory_of:
                data = os.pread(self._memory, size, address)
                if data:
                    return data
            # One descriptor is kept, for calls that follow one another.
            self._forget_memory()
            self._memory = os.open(f"/proc/{self._caller}/mem", os.O_RDONLY | os.O_CLOEXEC)
            self._memory_of = self._caller
            return os.pread(self._memory, size, address)
        except PermissionError:
            raise
        except (OSError, OverflowError):
            return None

    def _forget_memory(self) -> None:
        if self._memory >= 0:
            os.close(self._memory)
        self._memory, self._memory_of = -1, -1

    # -- inotify.

    def _watch(self, top: str) -> None:
        """Watch a folder and all below it. Raises OSError if the first cannot be watched."""
        libc = _libc()
        folders = [top, *(os.path.join(at, name) for at, names, _ in os.walk(top) for name in names)]
        for folder in folders:
            if len(self._folder_of) >= _FOLDERS:
                self._gap(f"more than {_FOLDERS:,} folders to watch")
                return
            try:
                self._folder_of[_check(libc.inotify_add_watch(self._inotify, os.fsencode(folder), _WATCHED))] = folder
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    self._gap(f"a folder cannot be watched: {error.strerror}")

    def _take_events(self) -> None:
        """Take what inotify has to tell. Who read is unknown, so the policy is not asked."""
        while True:
            try:
                data = os.read(self._inotify, 1 << 16)
            except OSError:
                return
            at = 0
            while at < len(data):
                watch, mask, _, size = struct.unpack_from("iIII", data, at)
                name = os.fsdecode(data[at + 16 : at + 16 + size].rstrip(b"\0"))
                at += 16 + size
                folder = self._folder_of.get(watch)
                if mask & 0x4000:  # IN_Q_OVERFLOW
                    self._gap("inotify lost events")
                if folder is None:
                    continue
                path = os.path.join(folder, name) if name else folder
                is_folder = bool(mask & 0x40000000)
                if is_folder and mask & (0x80 | 0x100):
                    self._watch(path)
                if not mask & (0x1 | 0x20) or (is_folder and not mask & 0x1):
                    continue
                try:
                    stamp = stamp_of(os.lstat(path))
                except OSError:
                    stamp = ""
                fact = Fact("listed" if is_folder else "read", path, stamp, stamp, 0)
                if not self._made(fact) and self._answers.setdefault((fact.kind, path), 0) == 0:
                    self._facts[fact.kind].setdefault(path, stamp)


def _of_self(fact: Fact, thread: int) -> Fact:
    """Name what a process sees of itself alike in every process."""
    own = f"/proc/{thread}/"
    return fact._replace(path="/proc/self/" + fact.path[len(own) :]) if fact.path.startswith(own) else fact


_KINDS = ("read", "run", "listed", "stat", "link", "absent", "written", "connect")


def _control(fd: int, request: int, buffer: bytearray) -> bool:
    """Make a call on the listener; give whether the notification still waits. Raises OSError for other errors."""
    import fcntl

    while True:
        try:
            fcntl.ioctl(fd, request, buffer)
            return True
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINPROGRESS):
                return False
            raise


def _socket_address(data: bytes) -> str:
    """Give `family address` of a `sockaddr`, or nothing for what leads nowhere (netlink, or to forget an address)."""
    family = int.from_bytes(data[:2], sys.byteorder)
    if family == socket.AF_INET and len(data) >= 8:
        return f"inet {socket.inet_ntop(family, data[4:8])}:{int.from_bytes(data[2:4], 'big')}"
    if family == socket.AF_INET6 and len(data) >= 24:
        return f"inet6 [{socket.inet_ntop(family, data[8:24])}]:{int.from_bytes(data[2:4], 'big')}"
    if family == socket.AF_UNIX:
        path = data[2:]
        return "unix " + (f"@{os.fsdecode(path[1:])}" if path[:1] == b"\0" else os.fsdecode(path.split(b"\0")[0]))
    return "" if family in (socket.AF_UNSPEC, 16) else f"family {family}"


def _address(address: Any) -> str:
    """Give `family address` of what Python's `connect` was given."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"inet6 [{host}]:{port}" if ":" in str(host) else f"inet {host}:{port}"
    return f"unix {os.fsdecode(address)}" if isinstance(address, (str, bytes)) else ""
