"""Users' own Python: loaded by `file.py:callable`, and watched for files that the key does not know."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from trtpipe.errors import StageFailed
from trtpipe.texts import is_file, split_entrypoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

_undeclared: list[str] = []


def load(sources: Mapping[str, Path], entrypoint: str) -> Callable[..., Any]:
    """Import what an entrypoint names and give the callable.

    A file's own folder is put on `sys.path`, so that it can import its neighbours (which must be among the
    stage's sources). Raises StageFailed if the file or module fails to import, or has no such callable.
    """
    where, name = split_entrypoint(entrypoint)
    try:
        if is_file(entrypoint):
            path = sources[where]
            sys.path.insert(0, str(path.parent))
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None:
                raise StageFailed(f"{where} cannot be imported")
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
    except StageFailed:
        raise
    except Exception as error:
        raise StageFailed(f"{where} fails to import: {type(error).__name__}: {error}") from error
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise StageFailed(f"{where} has no callable {name}")
    return found  # type: ignore[no-any-return]


def guard(root: Path, folder: Path, declared: Iterable[Path], own: Iterable[Path]) -> None:
    """From now on, refuse to read a file of the project that is neither declared nor below a folder in `own`.

    The project lies below `root`; the message names files as the document in `folder` would. What a stage reads behind
    its key's back would make a wrong cache hit, so it is an error at the line that reads. This sees files that Python
    opens, not those that native code opens by itself.
    """
    top = os.path.realpath(root) + os.sep
    allowed = {os.path.realpath(path) for path in declared}
    # Installed code is read freely. A folder on sys.path that the document lies in is not: trtpipe's own source
    # tree is one, for the recipes beside it, and everything there would be free to read.
    installed = [os.path.realpath(f) + os.sep for f in sys.path if f]
    prefixes = [
        sys.prefix,
        sys.base_prefix,
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        *map(str, own),
    ]
    folders = (
        *(os.path.realpath(f) + os.sep for f in prefixes),
        *(f for f in installed if not top.startswith(f)),
    )
    sys.dont_write_bytecode = True
    # Without this, a stale __pycache__ beside a source would be read in its place.
    sys.pycache_prefix = os.path.join(os.fspath(next(iter(own))), "pycache")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(args[0], (str, bytes)) or _writes(args[1], args[2]):
            return
        path = os.path.realpath(os.fsdecode(args[0]))
        if not path.startswith(top) or path in allowed or path.startswith(folders) or _is_metadata(path):
            return
        if os.path.isfile(path):
            name = os.path.relpath(path, os.path.realpath(folder))
            _undeclared.append(name)
            raise StageFailed(_message(name))

    sys.addaudithook(hook)


def _is_metadata(path: str) -> bool:
    """Tell whether a path lies in a distribution's metadata, which importing an installed package may read."""
    return os.path.dirname(path).endswith((".egg-info", ".dist-info"))


def _writes(mode: str | None, flags: int | None) -> bool:
    if isinstance(mode, str):
        return any(c in mode for c in "wax")
    return bool((flags or 0) & (os.O_WRONLY | os.O_CREAT))


def _message(name: str) -> str:
    return f"the stage reads {name}, which its key does not know; add it to the stage's params.sources"


def check_guard() -> None:
    """Raise StageFailed if an undeclared file was asked for and the users' code swallowed the refusal."""
    if _undeclared:
        raise StageFailed(_message(_undeclared[0]))
