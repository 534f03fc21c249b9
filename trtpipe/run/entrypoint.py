"""Users' own Python: found, imported and called, each hook with modules of its own."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from trtpipe.errors import StageFailed
from trtpipe.texts import is_file, split_entrypoint
from trtpipe.users_code import said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import CodeType, ModuleType

_SUFFIXES = (*importlib.machinery.EXTENSION_SUFFIXES, *importlib.machinery.SOURCE_SUFFIXES)


def load(sources: Mapping[str, Path], entrypoint: str) -> Callable[..., Any]:
    """Import what an entrypoint names and give the callable.

    A file can import its neighbours. The modules of one folder are not those of another: two hooks, each with its own
    `util.py`, compute each with its own. Raises StageFailed if the file or module fails to import, or has no such
    callable.
    """
    where, name = split_entrypoint(entrypoint)
    try:
        if is_file(entrypoint):
            path = sources[where]
            folder = _Folder.of(os.path.dirname(os.path.realpath(path)))
            with folder.current():
                module = _imported(path)
        else:
            folder, module = None, importlib.import_module(where)
    except StageFailed:
        raise
    except Exception as error:
        raise StageFailed(f"{where} fails to import: {said(error)}") from error
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise StageFailed(f"{where} has no callable {name}")
    return found if folder is None else folder.wrapped(found)


def _imported(path: Path) -> ModuleType:
    if path.stem in sys.modules and _file_of(sys.modules[path.stem]) == os.path.realpath(path):
        return sys.modules[path.stem]
    spec = importlib.util.spec_from_file_location(path.stem, path, loader=_Source(path.stem, os.fspath(path)))
    if spec is None or spec.loader is None:
        raise StageFailed(f"{path.name} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _file_of(module: object) -> str:
    return os.path.realpath(getattr(module, "__file__", None) or "/")


class _Folder:
    """The modules of one folder with hooks: they are there while code of that folder is imported or called."""

    _all: dict[str, _Folder] = {}  # noqa: RUF012 — one for each folder in a process
    _now: list[_Folder] = []  # noqa: RUF012

    def __init__(self, path: str) -> None:
        self._path = path
        self._modules: dict[str, ModuleType] = {}

    @classmethod
    def of(cls, path: str) -> _Folder:
        """Give the one of a folder."""
        return cls._all.setdefault(path, cls(path))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Let this folder's modules be those that an import finds."""
        before = self._now[-1] if self._now else None
        if before is self:
            yield
            return
        if before is not None:
            before.leave()
        self._now.append(self)
        self.enter()
        try:
            yield
        finally:
            self.leave()
            self._now.pop()
            if before is not None:
                before.enter()

    def enter(self) -> None:
        """Put its modules and its path where imports look."""
        sys.path.insert(0, self._path)
        sys.modules.update(self._modules)

    def leave(self) -> None:
        """Take them away again."""
        top = os.path.join(self._path, "")
        # A copy first: an import in another thread changes it meanwhile.
        mine = {name: module for name, module in dict(sys.modules).items() if _file_of(module).startswith(top)}
        self._modules.update(mine)
        for name in mine:
            sys.modules.pop(name, None)
        if self._path in sys.path:
            sys.path.remove(self._path)

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give the function so that what it imports when it is called comes from its own folder too."""

        @wraps(function, updated=())
        def call(*arguments: Any, **named: Any) -> Any:
            with self.current():
                return function(*arguments, **named)

        return call


class _Source(importlib.machinery.SourceFileLoader):
    """Compiles a source file anew: a stale `__pycache__` beside it would be read in its place."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class _Probing:
    """Finds modules in one folder by looking for each name, not by listing the folder.

    So what counts for a stage is whether a module is there, not what else lies beside it.
    """

    def __init__(self, path: str, source: Callable[[str, str], Any]) -> None:
        self._path, self._source = path, source

    def find_spec(self, fullname: str, target: object = None) -> importlib.machinery.ModuleSpec | None:  # noqa: ARG002
        """Find a module or package in this folder."""
        base = os.path.join(self._path, fullname.rpartition(".")[2])
        if os.path.isdir(base):
            for suffix in _SUFFIXES:
                if os.path.isfile(inner := os.path.join(base, "__init__" + suffix)):
                    return self._spec(fullname, inner, [base])
        for suffix in _SUFFIXES:
            if os.path.isfile(base + suffix):
                return self._spec(fullname, base + suffix, None)
        if os.path.isdir(base):
            spec = importlib.machinery.ModuleSpec(fullname, None)
            spec.submodule_search_locations = [base]
            return spec
        return None

    def _spec(self, name: str, path: str, folders: list[str] | None) -> importlib.machinery.ModuleSpec | None:
        loader = self._source(name, path)
        if path.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
            loader = importlib.machinery.ExtensionFileLoader(name, path)
        return importlib.util.spec_from_file_location(name, path, loader=loader, submodule_search_locations=folders)

    def invalidate_caches(self) -> None:
        """Nothing is kept."""


def probe(root: str) -> None:
    """From now on, find modules by their names in folders of the project and of PYTHONPATH, and write no bytecode.

    Modules of the project are compiled anew. The folders of installed packages are listed, as always: which package a
    module came from is in the key.
    """
    top = os.path.join(os.path.realpath(root), "")
    prefixes = tuple(os.path.join(os.path.realpath(p), "") for p in (sys.prefix, sys.base_prefix))
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    given = {os.path.realpath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p}
    given.discard(os.path.realpath(package))

    def hook(path: str) -> _Probing:
        real = os.path.realpath(path)
        own = f"{real}/".startswith(top) and not f"{real}/".startswith(prefixes)
        if not os.path.isdir(real) or not (own or real in given):
            raise ImportError(f"{path} is neither the project's nor on PYTHONPATH")
        return _Probing(path, _Source if own else importlib.machinery.SourceFileLoader)

    sys.dont_write_bytecode = True
    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()
