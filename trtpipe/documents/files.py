"""The one place where documents are written and read: deterministic JSON out, checked structs in."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from trtpipe.errors import StageFailed
from trtpipe.violations import dotted, show, violations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtpipe.documents.base import Document, Line
    from trtpipe.violations import Path as Place

Kind = TypeVar("Kind", bound="Document")
Older = TypeVar("Older", bound="Document")
Row = TypeVar("Row", bound="Line")
Either = TypeVar("Either", bound="Document | Line")
LISTED = 5
"""Mistakes of one document that a message lists."""


def text(value: Any, label: str) -> str:
    """Give a JSON value as readable text with sorted names, the same each time.

    Raises StageFailed for NaN and infinities, which JSON does not know; it names the place, and `label` the file.
    """
    try:
        return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        place, number = next(_not_finite(value, ()))
        raise StageFailed(f"{label}: {dotted(place)} is {number}, expected a finite number") from None


def encode(document: Document) -> str:
    """Give a document's JSON text. Raises StageFailed for NaN and infinities."""
    value = msgspec.to_builtins(document)
    msgspec.convert(value, type(document))  # constructing a struct checks nothing, and what is written must be readable
    return text(value, document.file)


def write(path: Path, document: Document) -> None:
    """Write a document. Raises as `encode` does."""
    path.write_text(encode(document), "utf-8")


def read(path: Path, kind: type[Kind], label: str = "") -> Kind:
    """Read a document of one kind; `label` is what messages call the file.

    Raises StageFailed if it cannot be read, is no JSON, is of another format number, or does not fit its schema.
    """
    label = label or path.name
    return decode(_bytes(path, label), kind, label)


def read_either(path: Path, kind: type[Kind], older: type[Older], label: str) -> Kind | Older:
    """Read a document that may be of an older format. Raises as `read` does."""
    value = _mapping(_bytes(path, label), label)
    if value.get("format") == older.__struct_config__.tag:
        return _checked(value, older, label)
    return _numbered(value, kind, label, f"formats {older.__struct_config__.tag} and {kind.__struct_config__.tag}")


def decode(data: bytes, kind: type[Kind], label: str) -> Kind:
    """Read a document of one kind from bytes. Raises as `read` does."""
    return _numbered(_mapping(data, label), kind, label, f"format {kind.__struct_config__.tag}")


def _numbered(value: dict[str, Any], kind: type[Kind], label: str, known: str) -> Kind:
    if value.get("format") != kind.__struct_config__.tag:
        found = f"format {show(value['format'])}" if "format" in value else "no format number"
        raise StageFailed(f"{label}: found {found}, and this trtpipe knows {known}: run the stage that makes it again")
    return _checked(value, kind, label)


def read_lines(path: Path, kind: type[Row], label: str = "") -> Iterator[tuple[Row, dict[str, Any]]]:
    """Read the lines of a file of one kind: what is known of each, and all of it as it stands.

    Raises StageFailed for a line that is no JSON or does not fit its schema.
    """
    with path.open("rb") as stream:
        for number, data in enumerate(stream, 1):
            where = f"{label or path.name}, line {number}"
            value = _mapping(data, where)
            yield _checked(value, kind, where), value


def _bytes(path: Path, label: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StageFailed(f"{label} cannot be read: {error.strerror or error}") from error


def _mapping(data: bytes, label: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StageFailed(f"{label} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise StageFailed(f"{label}: found {show(value)}, expected a mapping")
    return value


def _checked(value: dict[str, Any], kind: type[Either], label: str) -> Either:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise StageFailed(f"{label}: {_explained(value, kind, str(error))}") from None


def _explained(value: Any, kind: Any, otherwise: str) -> str:
    """Say what does not fit, in the words of the schema that programs read, too."""
    from trtpipe.documents import schemas

    lines = [f"{dotted(path) or 'the document'}: {message}" for path, message in violations(value, schemas.of(kind))]
    more = [f"and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "; ".join([*lines[:LISTED], *more]) or otherwise


def _not_finite(value: Any, place: Place) -> Iterator[tuple[Place, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    elif isinstance(value, dict):
        for name, item in sorted(value.items()):
            yield from _not_finite(item, (*place, name))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _not_finite(item, (*place, index))
