"""Checks a parsed document against a JSON Schema: every mistake with its place, what was found and what is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtpipe import __version__
from trtpipe.errors import SchemaViolation
from trtpipe.pipeline.document import FORMAT, MAX_ERRORS, Document
from trtpipe.violations import show, violations

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.violations import Path


def check_format(document: Document) -> None:
    """Raise SchemaViolation if a document names another format, because its other parts then have no known meaning."""
    if not isinstance(document.value, dict) or "format" not in document.value:
        return
    found = document.value["format"]
    if type(found) is int and found == FORMAT:
        return
    message = f"found {show(found)}, expected the number {FORMAT}: trtpipe {__version__} reads no other format"
    if type(found) is int:
        message += f"; use a trtpipe that knows format {found}, or write the document in format {FORMAT}"
    refuse(document, [(("format",), document.problem(("format",), message))])


def check(document: Document, schema: dict[str, Any]) -> None:
    """Validate against the JSON Schema. Raises SchemaViolation with every error at once."""
    refuse(document, [(path, document.problem(path, message)) for path, message in violations(document.value, schema)])


def refuse(document: Document, problems: Iterable[tuple[Path, str]]) -> None:
    """Raise SchemaViolation with each line of (path, line) once, in the order of places, if there are any."""
    lines: dict[str, Path] = {}
    for path, line in problems:
        lines.setdefault(line, path)
    if not lines:
        return
    ordered = sorted(lines, key=lambda line: document.place(lines[line])[1:])
    more = len(ordered) - MAX_ERRORS
    raise SchemaViolation(ordered[:MAX_ERRORS] + ([f"… and {more} more"] if more > 0 else []))
