"""Puts values into a parsed document: settings from outside (`--set`) and the values of `vars`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe.errors import PipelineInvalid, UnknownReference
from trtpipe.pipeline.document import MAX_DEPTH, MAX_ERRORS, Document, Place, parse
from trtpipe.violations import dotted
from trtpipe.words import suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trtpipe.violations import Path

SET = "--set "
"""The beginning of the place of a value that was set from outside."""
_REFERENCE = re.compile(r"\$\{(?:vars\.)?([A-Za-z_][\w-]*)\}")
_MATRIX_REFERENCE = re.compile(r"\$\{matrix\.([A-Za-z_][\w-]*)(?:\.([A-Za-z_][\w-]*))?\}")
_SIGN = re.compile(r"\$\$\{|\$\{[^}]*\}?")


class Cell(NamedTuple):
    """A reference to the matrix: the value of an axis, or one of the fields of that value."""

    axis: str
    field: str | None

    def __str__(self) -> str:
        return f"${{matrix.{self.axis}{'.' + self.field if self.field else ''}}}"


class Pending(NamedTuple):
    """A text that waits for values of the matrix; a single Cell takes that value's type."""

    pieces: tuple[str | Cell, ...]


def override(document: Document, settings: Sequence[str]) -> Document:
    """Apply `path=value` settings; a value is YAML. Raises PipelineInvalid on a malformed setting."""
    if not settings:
        return document
    value = _copy(document.value)
    places = dict(document.places)
    for setting in settings:
        left, equals, right = setting.partition("=")
        source = f"{SET}{setting}"
        path = tuple(int(p[1:-1]) if p[0] == "[" else p for p in re.findall(r"\[\d{1,9}\]|[^.\[\]]+", left))
        if not equals or not path or dotted(path) != left or len(path) > MAX_DEPTH:
            raise PipelineInvalid(f"{source}: expected path=value, such as vars.batch=8")
        given = parse(right, source).value
        target: Any = value
        for part in path[:-1]:
            if isinstance(target, dict) and isinstance(part, str):
                target = target.setdefault(part, {})
            elif isinstance(target, list) and isinstance(part, int) and part < len(target):
                target = target[part]
            else:
                raise PipelineInvalid(f"{source}: there is no {dotted(path)} in the document")
        last = path[-1]
        if (isinstance(target, dict) and isinstance(last, str)) or (
            isinstance(target, list) and isinstance(last, int) and last < len(target)
        ):
            target[last] = given  # type: ignore[index]
        else:
            raise PipelineInvalid(f"{source}: there is no {dotted(path)} in the document")
        for known in [p for p in places if p[: len(path)] == path]:
            del places[known]
        places[path] = Place(source)
    return Document(document.file, value, places)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def substitute(document: Document) -> Document:
    """Put the values of `vars` in place of `${vars.x}` (or `${x}`); `$${` stands for `${`.

    A text that consists of one reference takes the variable's type; inside a longer text the value is written out.
    Texts of stages with `${matrix.x}` become Pending. Raises UnknownReference with every unknown variable, and with
    every variable that was set from outside and that nothing uses.
    """
    if not isinstance(document.value, dict):
        return document
    variables = document.value.get("vars")
    if not isinstance(variables, dict):
        variables = {}
    has_matrix = "matrix" in document.value
    used: set[str] = set()
    problems: list[str] = []

    def plain(value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {k: plain(v, (*path, k)) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v, (*path, i)) for i, v in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        for sign in dict.fromkeys(_SIGN.findall(value)):
            if sign != "$${":
                message = f"found {sign} in the value of a variable, expected a value that uses none"
                problems.append(document.problem(path, message))
        return value.replace("$${", "${")

    variables = plain(variables, ("vars",))

    def one(text: str, path: Path) -> Any:
        whole = _REFERENCE.fullmatch(text)
        if whole:
            return found(whole[1], path)
        pieces: list[str | Cell] = []
        end = 0
        for sign in _SIGN.finditer(text):
            pieces += [text[end : sign.start()], piece(sign[0], path)]
            end = sign.end()
        pieces.append(text[end:])
        return Pending(_joined(pieces)) if any(isinstance(p, Cell) for p in pieces) else "".join(map(str, pieces))

    def piece(sign: str, path: Path) -> str | Cell:
        if sign == "$${":
            return "${"
        if match := _REFERENCE.fullmatch(sign):
            return written(found(match[1], path))
        if match := _MATRIX_REFERENCE.fullmatch(sign):
            if not has_matrix:
                problems.append(document.problem(path, f"found {sign}, and the document has no matrix"))
            elif path[0] != "stages":
                problems.append(document.problem(path, f"found {sign}, which only stages may use"))
            return Cell(match[1], match[2])
        expected = "${vars.name} or ${matrix.axis}" if has_matrix else "${vars.name}"
        problems.append(document.problem(path, f"found {sign}, expected {expected}"))
        return ""

    def found(name: str, path: Path) -> Any:
        if name not in variables:
            hint = suggest(name, variables) or "; the document has no vars"
            problems.append(document.problem(path, f"unknown variable {name}{hint}"))
            return None
        used.add(name)
        return variables[name]

    def walk(value: Any, path: Path) -> Any:
        if isinstance(value, str):
            return one(value, path) if "${" in value else value
        if isinstance(value, dict):
            return {k: walk(v, (*path, k)) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(v, (*path, i)) for i, v in enumerate(value)]
        return value

    value = {k: v if k == "vars" else walk(v, (k,)) for k, v in document.value.items()}
    for path, place in document.places.items():
        # An unused variable in the document does no harm, but a setting should change something.
        if path[:1] == ("vars",) and len(path) > 1 and path[1] not in used and place.file.startswith(SET):
            problems.append(f"{place}: nothing uses the variable {path[1]}{suggest(str(path[1]), used)}")
    if problems:
        raise UnknownReference(list(dict.fromkeys(problems))[:MAX_ERRORS])
    return Document(document.file, value, document.places)


def _joined(pieces: Iterable[str | Cell]) -> tuple[str | Cell, ...]:
    """Join neighbouring texts, and leave out empty ones."""
    joined: list[str | Cell] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        elif piece != "":
            joined.append(piece)
    return tuple(joined)


def written(value: Any) -> str:
    """Write a variable's value inside a text in the form that YAML reads back."""
    import json

    return value if isinstance(value, str) else json.dumps(value)
