"""Users' code is watched while it runs: what it may look at, and how what it looked at is named in keys and records."""

from __future__ import annotations

import errno
import fnmatch
import importlib.util
import os
import socket
import subprocess
import sys
import sysconfig
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import environment, reads
from trtpipe.pipeline.inputs import source_files
from trtpipe.reads import METADATA
from trtpipe.run import observer, surroundings

if TYPE_CHECKING:
    from trtpipe.reads import Names
    from trtpipe.run.observer import Seen
    from trtpipe.run.request import Request

_LOOKS = ("read", "listed", "run")
_INSTALLED = ("package:", "python")
_ANY = "\0"
"""The name of no file: it stands for any."""
_KERNEL = ("/dev", "/proc", "/run", "/sys")
_SYSTEM = (
    "/.dockerenv", "/bin", "/etc", "/gnu", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/opt", "/sbin", "/snap",
    "/usr", "/var",
)  # fmt: skip
"""Folders that the operating system brings."""
_MACHINES_OWN = (
    "/.dockerenv", "/etc/*.conf", "/etc/OpenCL/*", "/etc/alternatives/*", "/etc/debian_version", "/etc/group",
    "/etc/hosts",
    "/etc/ld.so.*", "/etc/locale*", "/etc/localtime", "/etc/machine-id", "/etc/mime.types", "/etc/mtab", "/etc/passwd",
    "/etc/pki/*", "/etc/protocols", "/etc/services", "/etc/ssl/*", "/etc/timezone", "/etc/vulkan/*", "*-release",
    "/usr/lib/locale/*", "/usr/lib/ssl/*", "/usr/share/locale/*", "/usr/share/terminfo/*", "/usr/share/zoneinfo/*",
)  # fmt: skip
"""What differs from machine to machine and says nothing of a model: it is recorded as the system, and in no key."""


class Watched(NamedTuple):
    """What users' code looked at: the names for its key, and what stays unknown, in sentences."""

    names: Names
    gaps: tuple[str, ...]
    refused: str | None
    """What the code did that no key could hold, in a sentence, if it did."""


class Watch:
    """Watches one worker: the policy of the observer, and the translation of what it saw."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._root = os.path.realpath(request.root)
        self._folder = os.path.realpath(request.folder)
        self._outside, self._network = request.allow_outside, request.network
        package = os.path.realpath(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        work = os.path.dirname(os.path.realpath(request.out))
        self._ours = tuple(os.path.join(one, "") for one in (work, os.path.realpath(request.store), package))
        self._above = os.path.dirname(package)
        self._given = {
            os.path.realpath(os.path.join(one.folder, *file.split("/")))
            for one in request.inputs.values()
            for file in one.files
        }
        # What is declared is in the first part of the key.
        self._given |= {
            os.path.realpath(os.path.join(self._folder, *one.split("/")))
            for source in request.sources
            for one in source_files(source, self._folder, store=request.store)
        }
        self._caches = [(name, os.path.realpath(str(surroundings.cache(name)))) for name in surroundings.CACHES]
        self._paths = _search_path(self._root)
        self._standard = _standard_library()
        tops = (self._root, *self._paths)
        self._special = {"", "/", self._above, *_KERNEL, *_SYSTEM, *self._given, *tops, *self._standard}
        self._special |= {top.rstrip("/") for top in self._ours} | {top for _, top in self._caches}
        self._special |= {one for top in tops for one in _folders_above(top)}
        """Paths whose name does not follow from their folder's, and folders that are so for what is in them."""
        self._places: dict[str, str | None] = {}
        """By folder, what the name of any other file in it is."""
        self._read: set[str] = set()
        """Names of files that were read, as far as a list has room."""
        self.supervisor = observer.Supervisor(self.decide, folders=[self._root])

    def decide(self, kind: str, path: str, flags: int) -> int:
        """Give 0 to allow a look, or the error number with which it is refused."""
        if kind == "connect":
            return 0 if self._network or flags == socket.AF_UNIX else errno.ENETUNREACH
        if kind in _LOOKS:
            name = self._place(path)
            if name is None and not self._outside:
                return errno.EACCES
            if kind == "read" and not (name or "python").startswith(_INSTALLED):
                if len(self._read) >= reads.MAX_NAMES and name not in self._read:
                    return errno.EACCES  # now, and not after an hour of reading
                self._read.add(str(name))
        return 0

    def request(self) -> Request:
        """Give the request with what the worker needs to be watched."""
        readable = (self._root, *self._ours, *self._paths, *self._standard, *_KERNEL, *_SYSTEM)
        caches = (top for _, top in self._caches)
        there = [path for path in (*readable, *caches, *self._given) if os.path.exists(path)]
        return self._request._replace(watch_fd=self.supervisor.fd, readable=() if self._outside else tuple(there))

    def end(self, verdict: dict[str, Any]) -> dict[str, Any]:
        """End the watching of a worker that has ended; give its verdict with what was seen.

        What the code was refused, and what changed under it, makes it fail whatever it made of that.
        """
        seen = self.supervisor.stop()
        found = self.names(seen)
        why = found.refused
        if verdict["error"] is None and why is None:
            changed = self._changed(seen)
            if changed:
                why = f"{', '.join(changed)} changed while the stage ran, so its result is not kept; run again"
            elif not seen.ended or seen.gaps:
                why = f"the stage could not be watched ({'; '.join(seen.gaps) or seen.why}), so its result is not kept"
        if why is not None and verdict["error"] in (None, "StageFailed"):
            # Not a failure of its own: with other flags, or when nobody writes, the same code would not fail.
            verdict = {**verdict, "error": "StageFailed", "text": why, "own": False}
        elif verdict["error"] == "StageFailed" and (address := _refused_address(seen)):
            hint = f"a library was not let connect to {address}; params.network: true allows it"
            verdict = {**verdict, "text": f"{verdict['text']}\n{hint}"}
        return {**verdict, "seen": found.names.record, "gaps": list(found.gaps)}

    def _changed(self, seen: Seen) -> list[str]:
        """Give the names of files that somebody else changed after the code had looked at them."""
        written = set(seen.written)
        changed = []
        # A module that came from its bytecode was looked at, and not read.
        modules = {path: stamp for path, stamp in seen.stat.items() if path.endswith(".py")}
        for path, stamp in {**modules, **seen.read}.items():
            name = self._place(path)
            if name and name != "python" and path not in written and not path.endswith(".pyc"):
                try:
                    now = os.stat(path)
                except OSError:
                    changed.append(name)
                    continue
                if f"{now.st_ino}:{now.st_size}:{now.st_mtime_ns}" != ":".join(stamp.split(":")[1:4]):
                    changed.append(name)
        return changed

    # --- names

    def _place(self, path: str) -> str | None:
        """Give the name of a path, an empty text if it is in no key, or None if it lies where nothing may be read.

        The files of one folder lie in one place, but for those that count by themselves; a stage asks for thousands.
        """
        folder, _, name = path.rpartition("/")
        if path in self._special or folder in self._special:
            return self._place_of(path)
        if folder not in self._places:
            self._places[folder] = self._place_of(f"{folder}/{_ANY}")
        place = self._places[folder]
        if not place or place == "python":
            return place
        return self._place_of(path) if place.startswith("system:") else place.removesuffix(_ANY) + name

    def _place_of(self, path: str) -> str | None:
        if path in self._given or f"{path}/".startswith(self._ours) or path in ("/", self._above, *_KERNEL, *_SYSTEM):
            return ""
        if _below(path, _KERNEL) or _parent_of(path, (self._root, *self._paths)):
            return ""
        for name, top in self._caches:
            if _below(path, (top,)):
                return f"cache:{name}/{os.path.relpath(path, top)}"
        for top in self._paths:
            if _below(path, (top,)):
                return self._installed(path, top)
        if _below(path, self._standard):
            return "python"
        if _below(path, (self._root,)):
            return _plain(os.path.relpath(path, self._root))
        if _below(path, _SYSTEM):
            return "" if _is_system_own(path) else f"system:{path[1:]}"
        return None

    def _installed(self, path: str, top: str) -> str:
        inner = os.path.relpath(path, top)
        if inner == ".":
            return ""  # everybody who imports lists it; what was found in it is what counts
        first = inner.split(os.sep, 1)[0]
        owner = _owners(top).get(first)
        if owner and first.endswith(".dist-info"):
            inner = METADATA + inner[len(first) :]
        return f"package:{owner}/{inner}" if owner else f"python:{inner}"

    def names(self, seen: Seen) -> Watched:
        """Give the names of what was seen."""
        files: set[str] = set()
        folders: set[str] = set()
        packages: set[str] = set()
        links: set[str] = set()
        for kind, paths in (
            ("listed", seen.listed), ("read", [*seen.read, *seen.run]), ("stat", seen.stat), ("absent", seen.absent),
            ("link", seen.links),
        ):  # fmt: skip
            for looked in paths:
                path = _source_of(looked)
                name = self._place(path)
                if name is None:
                    name = os.path.relpath(path, self._root) if self._outside else f"system:{path[1:]}"
                if name == "python":
                    packages.add("python")
                elif not name:
                    continue
                elif kind == "stat" and os.path.isdir(path):
                    continue  # that it is one shows in what is found in it
                elif name.startswith("package:") and kind in ("stat", "link"):
                    continue  # what a distribution installs is in its version and digest
                elif kind == "listed":
                    folders.add(name)
                elif kind == "link":
                    links.add(name)
                elif kind == "absent" and name.rpartition("/")[0] in folders:
                    continue  # the names in that folder count
                else:
                    files.add(name)
                    owner, _, inner = name.removeprefix("package:").partition("/")
                    # Who looks for plugins reads the metadata of all distributions, and uses only some.
                    if name.startswith("package:") and kind == "read" and not inner.startswith(METADATA):
                        packages.add(owner)
        variables = {name for name in seen.variables if not surroundings.is_made(name)}
        gaps = list(seen.gaps)
        if seen.watched != observer.SECCOMP:
            gaps.append(f"native reads: {seen.native} ({seen.why})")
        if self._network and any(family != "unix" for family, _ in seen.connects):
            gaps.append("network: what it answers is not seen")
        kinds = (files, folders, links, packages, variables)
        gaps = list(dict.fromkeys(gaps))
        if len(self._read) >= reads.MAX_NAMES or sum(map(len, kinds)) > reads.MAX_NAMES:
            return Watched(reads.Names(), tuple(gaps), _too_many(self._read | files))
        record = {kind: sorted(found) for kind, found in zip(reads.KINDS, kinds, strict=True)}
        return Watched(reads.parse(record), tuple(gaps), self._refusal(seen))

    def _refusal(self, seen: Seen) -> str | None:
        for one in seen.refused:
            where = f"{self._line(str(one['where']))}: " if one["where"] else ""
            if one["kind"] == "connect" and not one["where"]:
                continue  # A library tried on its own (onnxruntime does). It got no answer, so nothing depends on one.
            if one["kind"] == "connect":
                address = str(one["path"]).partition(" ")[2]
                return (
                    f"{where}the code connects to {address}, and what a network answers is in no key; "
                    "fetch it before and give it as an input, or set params.network: true"
                )
            verb = "lists" if one["kind"] == "listed" else "runs" if one["kind"] == "run" else "reads"
            return (
                f"{where}the code {verb} {one['path']}, which lies outside of the project, of installed packages and "
                "of known model caches; move it into the project, give it as an input, or allow it with --allow-outside"
            )
        return None

    def _line(self, where: str) -> str:
        path, _, line = where.rpartition(":")
        name = os.path.relpath(path, self._folder)
        return f"{path if name.startswith('..') else name}:{line}"


def _folders_above(path: str) -> list[str]:
    found = []
    while (up := os.path.dirname(path)) != path:
        found.append(up)
        path = up
    return found


def _too_many(names: set[str]) -> str:
    """Say that the code looked at more files than a list of names holds, and where most of them are."""
    tops = Counter(name.split("/", 1)[0] for name in names if "/" in name and not name.startswith(reads.PLACES))
    top, number = tops.most_common(1)[0] if tops else ("", 0)
    where = f", {number:,} of them in {top}" if top else ""
    return (
        f"the code looks at more files than the {reads.MAX_NAMES:,} that a list of names holds{where}; declare their "
        f"folder in sources ([{top or 'FOLDER'}]), or give it as an input: then it counts as one"
    )


def _refused_address(seen: Seen) -> str:
    return next((str(one["path"]).partition(" ")[2] for one in seen.refused if one["kind"] == "connect"), "")


def way() -> str:
    """Try how users' code is watched on this machine; give it in a few words."""
    supervisor = observer.Supervisor(lambda *_: 0)
    start = "import runpy, sys; runpy.run_path(sys.argv[1])['begin'](int(sys.argv[2]))"
    command = [sys.executable, "-I", "-c", start, observer.__file__, str(supervisor.fd)]
    with subprocess.Popen(command, pass_fds=[supervisor.fd], stderr=subprocess.DEVNULL) as child:
        supervisor.start()
        child.wait()
    seen = supervisor.stop()
    if seen.watched == observer.SECCOMP:
        return "by the kernel (seccomp): Python, native code and children"
    return f"{seen.watched}: native reads: {seen.native} ({seen.why})"


def _below(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _parent_of(path: str, folders: tuple[str, ...]) -> bool:
    """Tell whether a path is a folder above one of these: everybody passes through it, and nothing is read there."""
    return any(folder.startswith(path.rstrip("/") + "/") for folder in folders)


def _source_of(path: str) -> str:
    """Give the source of compiled bytecode: it is the source that counts."""
    if not path.endswith(".pyc"):
        return path
    try:
        return importlib.util.source_from_cache(path)
    except (ValueError, NotImplementedError):
        return path


def _plain(name: str) -> str:
    return f"./{name}" if name.startswith(reads.PLACES) else name


def _is_system_own(path: str) -> bool:
    """Tell whether a path of the system is in no key: its libraries, programs and settings, recorded as the system."""
    file = os.path.basename(path)
    return (
        file.endswith((".so", ".a", ".cache"))
        or ".so." in file
        or path.startswith(("/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/usr/local/bin/", "/usr/local/nvidia/"))
        or os.path.isdir(path)
        or any(fnmatch.fnmatchcase(path, pattern) for pattern in _MACHINES_OWN)
    )


@lru_cache(maxsize=8)
def _search_path(root: str) -> tuple[str, ...]:
    """Give the folders on the worker's module search path that are not the project's own, the deepest first."""
    found = []
    prefixes = tuple({os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)})
    standard = _standard_library()
    for entry in surroundings.module_path():
        path = os.path.realpath(entry)
        own = _below(path, (root,)) and not _below(path, prefixes)
        built_in = _below(path, standard) and "-packages" not in path
        if os.path.isdir(path) and not own and not _below(root, (path,)) and not built_in:
            found.append(path)
    return tuple(sorted(dict.fromkeys(found), key=len, reverse=True))


@lru_cache(maxsize=1)
def _standard_library() -> tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    tops = {os.path.realpath(path) for path in paths if path}
    programs = {os.path.realpath(sys.executable), os.path.join(os.path.realpath(sys.prefix), "pyvenv.cfg")}
    links = {os.path.abspath(sys.executable), os.path.dirname(os.path.abspath(sys.executable))}
    libraries = {os.path.join(os.path.realpath(sys.base_prefix), "lib"), os.path.realpath(sys.prefix)}
    # Python looks for the settings of its own build beside its program.
    beside = os.path.dirname(os.path.realpath(sys.executable))
    links |= set() if _below(beside, _SYSTEM) else {beside}
    return tuple(sorted(tops | programs | links | libraries, key=len, reverse=True))


@lru_cache(maxsize=8)
def _owners(top: str) -> dict[str, str]:
    """Give for each name right below a folder of installed packages the distribution that it belongs to."""
    found: dict[str, str] = {}
    for name, folder in environment.metadata_folders().items():
        if os.path.realpath(os.path.dirname(folder)) != top:
            continue
        found[os.path.basename(folder)] = name
        try:
            with open(os.path.join(folder, "RECORD"), encoding="utf-8") as stream:
                firsts = {line.split(",", 1)[0].strip('"').split("/", 1)[0] for line in stream}
        except OSError:
            continue
        for first in firsts - {"..", ""}:
            if not first.endswith((".dist-info", ".pth", ".egg-link")) and not first.startswith("__editable__"):
                found.setdefault(first, name)
    return found
