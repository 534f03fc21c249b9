"""Turns YAML text into a mapping with line numbers.

YAML is read strictly: where two parsers could disagree, the text is an error or a plain string.
"""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe.errors import PipelineInvalid
from trtpipe.violations import dotted
from trtpipe.words import suggest

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.violations import Path

MAX_BYTES = 8 * 2**20
MAX_DEPTH = 32
MAX_NODES = 400_000
MAX_ERRORS = 50
FORMAT = 1
"""The only format of documents that this version reads."""

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$")
_WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}


class Place(NamedTuple):
    """A place in a document: a file (or `--set …`) with line and column, both from 1; 0 is none."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Document(NamedTuple):
    """A document's value with the place of each of its parts."""

    file: str
    value: Any
    places: dict[Path, Place]

    def place(self, path: Path) -> Place:
        """Give the place of a part, or of the nearest part around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(self.file))

    def problem(self, path: Path, message: str) -> str:
        """Give one line: place, path in the document, message."""
        return f"{self.place(path)} {dotted(path) or 'document'}: {message}"


def _other_kind(file: str, data: bytes) -> str | None:
    """Say what to do with a file that is no document but a model or a plan; None for all else."""
    expected = "expected a pipeline in YAML"
    if file.endswith(".onnx"):
        return f"found an ONNX model, {expected}; build an engine of it: trtpipe build {file}"
    if data[:4] in (b"ftrt", b"vtrt") or file.endswith((".plan", ".engine", ".trt")):
        return f"found a plan, {expected}; ask whether it can load here: trtpipe doctor {file}"
    return None


def read(file: str, take: Callable[[str], bytes] | None = None) -> str:
    """Read a document's text. Raises PipelineInvalid if it is missing, too large, not UTF-8.

    `take` gives a file's content; it may give only a part of a file that is too large.
    """
    try:
        if take is not None:
            data = take(file)
        else:
            with open(file, "rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        if (other := _other_kind(file, data)) is not None:
            raise PipelineInvalid(f"{file}: {other}")
    except FileNotFoundError:
        folder = os.path.dirname(file) or "."
        near = [f for f in (os.listdir(folder) if os.path.isdir(folder) else []) if f.endswith((".yaml", ".yml"))]
        hint = suggest(os.path.basename(file), near) if near else ""
        raise PipelineInvalid(f"{file}: there is no such file{hint}") from None
    except IsADirectoryError:
        held = [f for f in sorted(os.listdir(file)) if f.endswith((".yaml", ".yml"))]
        hint = f"; it holds {', '.join(os.path.join(file, f) for f in held[:4])}" if held else ""
        raise PipelineInvalid(f"{file}: found a folder, expected a document{hint}") from None
    except OSError as error:
        raise PipelineInvalid(f"{file}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise PipelineInvalid(f"{file}: found more than {MAX_BYTES // 2**20} MiB, which is the limit of a document")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PipelineInvalid(f"{file}:{line}: found a byte that is not UTF-8, expected UTF-8 text") from None


class _Open:
    """A mapping or sequence that is not complete yet."""

    __slots__ = ("anchor", "height", "key", "path", "start", "value")

    def __init__(self, value: Any, path: Path, anchor: str | None, start: int) -> None:
        self.value, self.path, self.anchor, self.start = value, path, anchor, start
        self.key: str | None = None
        self.height = 0  # levels below it so far


def parse(text: str, file: str) -> Document:
    """Read YAML strictly, without recursion and with bounds on depth and size.

    Raises PipelineInvalid on syntax errors, duplicate keys, tags, names that are no strings, more than one
    document, too deep nesting, and aliases that would blow the document up.
    """
    import yaml

    places: dict[Path, Place] = {}
    anchors: dict[str, tuple[Any, int, int]] = {}
    stack: list[_Open] = []
    result: list[Any] = []
    nodes = 0
    event: Any = None

    def fail(event: Any, message: str) -> PipelineInvalid:
        mark = event.start_mark
        path = stack[-1].path if stack else ()
        return PipelineInvalid(f"{file}:{mark.line + 1}:{mark.column + 1} {dotted(path) or 'document'}: {message}")

    def where() -> Path:
        if not stack:
            return ()
        top = stack[-1]
        return (*top.path, len(top.value) if isinstance(top.value, list) else str(top.key))

    def put(value: Any) -> None:
        if not stack:
            result.append(value)
            return
        top = stack[-1]
        if isinstance(top.value, list):
            top.value.append(value)
        else:
            assert top.key is not None
            top.value[top.key] = value
            top.key = None

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            kind = type(event).__name__
            if kind in ("StreamStartEvent", "StreamEndEvent", "DocumentEndEvent"):
                continue
            if kind == "DocumentStartEvent":
                if result:
                    raise fail(event, "found a second document, expected one document a file")
                continue
            nodes += 1
            if nodes > MAX_NODES:
                raise fail(event, f"found more than {MAX_NODES} values, which is the limit of a document")
            if kind in ("MappingEndEvent", "SequenceEndEvent"):
                done = stack.pop()
                if done.anchor:
                    anchors[done.anchor] = (done.value, nodes - done.start, done.height + 1)
                if stack:
                    stack[-1].height = max(stack[-1].height, done.height + 1)
                continue
            if getattr(event, "tag", None) is not None:
                raise fail(event, f"found the tag {event.tag}, expected plain values: tags are not read")
            is_key = bool(stack) and isinstance(stack[-1].value, dict) and stack[-1].key is None
            if is_key:
                if kind != "ScalarEvent":
                    raise fail(event, "found a name that is not a text, expected a plain name")
                name = event.value
                if name == "<<" and not event.style:
                    raise fail(event, "found a merge key, which YAML 1.2 does not have; use vars for what repeats")
                here = (*stack[-1].path, name)
                if name in stack[-1].value:
                    first = places[here]
                    raise fail(event, f'found "{name}" twice (first at line {first.line}), expected each name once')
                stack[-1].key = name
                mark = event.start_mark
                places[here] = Place(file, mark.line + 1, mark.column + 1)
                continue
            path = where()
            mark = event.start_mark
            places.setdefault(path, Place(file, mark.line + 1, mark.column + 1))
            if kind == "AliasEvent":
                if event.anchor not in anchors:
                    raise fail(event, f"found the alias *{event.anchor}, expected an anchor &{event.anchor} before it")
                value, size, height = anchors[event.anchor]
                if len(stack) + height > MAX_DEPTH:
                    raise fail(event, f"found more than {MAX_DEPTH} levels of nesting")
                if stack:
                    stack[-1].height = max(stack[-1].height, height)
                nodes += size
                if nodes > MAX_NODES:
                    raise fail(event, f"found aliases that expand to more than {MAX_NODES} values")
                # An alias counts with its whole size each time, which stops a bomb.
                put(value)
            elif kind == "ScalarEvent":
                value = _scalar(event)
                if isinstance(value, ValueError):
                    raise fail(event, str(value))
                if event.anchor:
                    anchors[event.anchor] = (value, 1, 0)
                put(value)
            else:
                if len(stack) >= MAX_DEPTH:
                    raise fail(event, f"found more than {MAX_DEPTH} levels of nesting")
                value = {} if kind == "MappingStartEvent" else []
                put(value)
                stack.append(_Open(value, path, event.anchor, nodes))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        if mark and event is not None and _opened(text[event.end_mark.index : mark.index]) > MAX_DEPTH:
            # The parser reads ahead and may fail before it gives the events that are counted above.
            raise PipelineInvalid(f"{file}{place}: found more than {MAX_DEPTH} levels of nesting") from None
        raise PipelineInvalid(f"{file}{place}: not YAML: {problem}") from None
    return Document(file, result[0] if result else None, places)


def _opened(text: str) -> int:
    """Count the brackets that are opened and not closed."""
    return sum(text.count(c) for c in "[{") - sum(text.count(c) for c in "]}")


def _scalar(event: Any) -> Any:
    """Give a scalar's value: the JSON-like part of YAML 1.2's core schema; everything else is text."""
    text: str = event.value
    if event.style in ("'", '"', "|", ">"):
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        return int(text) if len(text) <= 20 else ValueError(f"found the number {text[:30]}…, which is too long")
    if _FLOAT.match(text):
        number = float(text)
        return number if math.isfinite(number) else ValueError(f"found the number {text[:30]}, which is too large")
    if text.lower() in (".inf", "-.inf", "+.inf", ".nan"):
        return ValueError(f"found {text}, expected a finite number")
    return text
