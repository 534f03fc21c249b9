"""A project's own defaults: `trtpipe.toml` in its root, and where its store lies."""

from __future__ import annotations

import os
from typing import Any

from trtpipe import project
from trtpipe.errors import PipelineInvalid
from trtpipe.row import Row

FILE = "trtpipe.toml"
STORE = "artifacts"
VARIABLE = "TRTPIPE_ARTIFACTS"
_BACKENDS = ("auto", "tensorrt", "tensorrt_rtx", "onnxruntime")


class Defaults(Row):
    """What `trtpipe.toml` says; None for what it does not say. `store` starts from the file's folder."""

    store: str | None = None
    remote: str | None = None
    backend: str | None = None
    jobs: int | None = None


def top_of(document: str | None) -> str:
    """Give the root of the project in which a document lies or would lie; the current folder's if there is none.

    A document that comes through a pipe lies in no project.
    """
    if document is None or document.startswith(("/dev/", "/proc/")):
        return project.root(".")
    folder = os.path.dirname(document) or "."
    return project.root(folder if os.path.isdir(folder) else ".")


def read(top: str) -> Defaults:
    """Read the defaults of a project. Raises PipelineInvalid with everything that is wrong in the file."""
    path = os.path.join(top, FILE)
    try:
        with open(path, "rb") as stream:
            text = stream.read(1 << 20).decode("utf-8-sig")
    except FileNotFoundError:
        return Defaults()
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineInvalid(f"{path}: cannot be read: {error}") from None
    if not text.strip():
        return Defaults()
    toml = _toml()
    try:
        found = toml.loads(text)
    except ValueError as error:  # what both libraries raise is one
        raise PipelineInvalid(f"{path}: not TOML: {error}") from None
    if problems := [f"{path}: {problem}" for problem in _problems(found)]:
        raise PipelineInvalid(problems)
    return Defaults(**found)


def _toml() -> Any:
    import importlib

    try:
        return importlib.import_module("tomllib")
    except ImportError:  # Python 3.10
        return importlib.import_module("tomli")


def _problems(found: dict[str, Any]) -> list[str]:
    from trtpipe.words import suggest

    problems = []
    for name, value in found.items():
        if name not in Defaults._fields:
            problems.append(f"unknown key {name}{suggest(name, Defaults._fields)}")
        elif name == "jobs":
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                problems.append(f"jobs: found {value!r}, expected a whole number of at least 1")
        elif not isinstance(value, str) or not value:
            problems.append(f"{name}: found {value!r}, expected a text")
        elif name == "backend" and value not in _BACKENDS:
            problems.append(f"backend: found {value}, expected one of {', '.join(_BACKENDS)}")
    return problems


def store(document: str | None, given: str | None = None, *, folder: str | None = None) -> str:
    """Give the folder of the store for a document: `given`, else TRTPIPE_ARTIFACTS, else the project's own.

    `folder` is where a document will lie that is not written yet.

    The project's is what `trtpipe.toml` names, or `artifacts` in the root. It is relative to the current folder if it
    lies below that. Raises PipelineInvalid for a wrong `trtpipe.toml`.
    """
    named = given if given is not None else os.environ.get(VARIABLE) or None
    if named is not None:
        return named
    top = top_of(document) if folder is None else project.root(folder)
    path = os.path.join(top, os.path.expanduser(read(top).store or STORE))
    near = os.path.relpath(path)
    return path if near.split(os.sep)[0] == os.pardir else near
