"""YAML text → a checked mapping that knows its line numbers; overrides and variables.

YAML is read strictly: what two readers could understand in two ways is an error or a plain string.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe.errors import PipelineInvalid, SchemaViolation, UnknownReference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAX_BYTES = 8 * 2**20
MAX_DEPTH = 32
MAX_NODES = 400_000
MAX_ERRORS = 50
MAX_LISTED = 24

Path = tuple["str | int", ...]

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$")
_WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}
SET = "--set "
"""How the place of what was set from outside begins."""
_REFERENCE = re.compile(r"\$\{(?:vars\.)?([A-Za-z_][\w-]*)\}")
_MATRIX_REFERENCE = re.compile(r"\$\{matrix\.([A-Za-z_][\w-]*)(?:\.([A-Za-z_][\w-]*))?\}")
_SIGN = re.compile(r"\$\$\{|\$\{[^}]*\}?")


class Place(NamedTuple):
    """Where something stands: a file (or `--set …`) with line and column, both from 1; 0 is none."""

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


class Cell(NamedTuple):
    """What a text asks of the matrix: the value of an axis, or one of the fields of that value."""

    axis: str
    field: str | None

    def __str__(self) -> str:
        return f"${{matrix.{self.axis}{'.' + self.field if self.field else ''}}}"


class Pending(NamedTuple):
    """A text that waits for values of the matrix; a single Cell takes that value's type."""

    pieces: tuple[str | Cell, ...]


def dotted(path: Iterable[str | int]) -> str:
    """Write a path in the document as people do: `stages.a.params.steps[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the known word that a misspelt one may mean, None if there is none."""
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)), None)


def suggest(word: str, known: Iterable[str]) -> str:
    """Give `, did you mean "x"?` for a misspelt word, or the known words, or nothing."""
    words = sorted(known)
    if close := nearest(word, words):
        return f', did you mean "{close}"?'
    if not words or len(words) > MAX_LISTED:
        return ""
    return f"; there {'is' if len(words) == 1 else 'are'} {', '.join(words)}"


def read(file: str, data: bytes | None = None) -> str:
    """Read a document's text, or take what was read. Raises PipelineInvalid if it is missing, too large, not UTF-8."""
    try:
        if data is None:
            with open(file, "rb") as stream:
                data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        folder = os.path.dirname(file) or "."
        near = [f for f in (os.listdir(folder) if os.path.isdir(folder) else []) if f.endswith((".yaml", ".yml"))]
        hint = suggest(os.path.basename(file), near) if near else ""
        raise PipelineInvalid(f"{file}: there is no such file{hint}") from None
    except OSError as error:
        raise PipelineInvalid(f"{file}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise PipelineInvalid(f"{file}: a document of more than {MAX_BYTES // 2**20} MiB is not read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PipelineInvalid(f"{file}:{line}: found a byte that is not UTF-8, expected UTF-8 text") from None


class _Open:
    """A mapping or sequence whose end has not come yet."""

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
    event: Any

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
                raise fail(event, f"found more than {MAX_NODES} values, which is more than a pipeline has")
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
                    raise fail(event, "found a name that is no text, expected a plain name")
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
                # What stands for the alias costs its size again the next time: that is what stops a bomb.
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
        raise PipelineInvalid(f"{file}{place}: not YAML: {problem}") from None
    return Document(file, result[0] if result else None, places)


def _scalar(event: Any) -> Any:
    """Give a scalar's value: the JSON-like part of YAML 1.2's core schema; all else is text."""
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

    A text that is one reference takes the variable's type; within a text it is written out. Texts of stages with
    `${matrix.x}` become Pending. Raises UnknownReference with every unknown variable at once, and with those that were
    set from outside and that nothing uses.
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
        # In the document an unused variable is idle; whoever sets one expects it to change something.
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
    """Write a variable's value inside a text as YAML would read it back."""
    import json

    return value if isinstance(value, str) else json.dumps(value)


def check(document: Document, schema: dict[str, Any]) -> None:
    """Validate against the JSON Schema. Raises SchemaViolation with every error at once."""
    refuse(document, [(path, document.problem(path, message)) for path, message in violations(document.value, schema)])


def violations(value: Any, schema: dict[str, Any]) -> list[tuple[Path, str]]:
    """Give what does not fit the JSON Schema as (path, message)."""
    import jsonschema

    def pattern(_validator: Any, wanted: str, instance: Any, _schema: Any) -> Iterable[Any]:
        # Python's `$` also stands before a last newline, which JSON Schema's does not.
        if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", wanted), instance):
            yield jsonschema.ValidationError("does not match")

    kind: Any = jsonschema.validators
    plain = jsonschema.Draft202012Validator
    # To JSON Schema 4.0 is an integer; what reads the params wants a whole number.
    whole = plain.TYPE_CHECKER.redefine("integer", lambda _, one: isinstance(one, int) and not isinstance(one, bool))
    validator = kind.extend(plain, {"pattern": pattern}, type_checker=whole)(schema)
    return [found for error in validator.iter_errors(value) for found in _explain(error)]


def refuse(document: Document, problems: Iterable[tuple[Path, str]]) -> None:
    """Raise SchemaViolation with each of the (path, line) once, in the order of their places, if there are any."""
    lines: dict[str, Path] = {}
    for path, line in problems:
        lines.setdefault(line, path)
    if not lines:
        return
    ordered = sorted(lines, key=lambda line: document.place(lines[line])[1:])
    more = len(ordered) - MAX_ERRORS
    raise SchemaViolation(ordered[:MAX_ERRORS] + ([f"… and {more} more"] if more > 0 else []))


def _explain(error: Any) -> Iterable[tuple[Path, str]]:
    """Turn one of jsonschema's errors into (path, message) pairs that name what was found and expected."""
    path: Path = tuple(error.absolute_path)
    if "propertyNames" in error.absolute_schema_path:
        path = (*path, error.instance)
    handler = _HANDLERS.get(error.validator)
    if handler is None:
        yield path, error.message
        return
    yield from handler(error, path)


def _any_of(error: Any, path: Path) -> Iterable[tuple[Path, str]]:
    # The branch that goes deepest, or that at least has the right type, is the one that was meant.
    branches: dict[int, list[Any]] = {}
    for sub in error.context:
        branches.setdefault(sub.schema_path[0], []).append(sub)
    best = min(
        branches.values(),
        key=lambda subs: (any(s.validator in ("type", "const") and not s.path for s in subs), len(subs)),
    )
    if all(s.validator == "type" and not s.path for subs in branches.values() for s in subs):
        expected = " or ".join(dict.fromkeys(_type_name(t) for s in error.context for t in _as_list(s.validator_value)))
        yield path, f"found {show(error.instance)}, expected {expected}"
        return
    for sub in best:
        yield from _explain(sub)


def _additional(error: Any, path: Path) -> Iterable[tuple[Path, str]]:
    known = error.schema.get("properties", {})
    for name in error.instance:
        if name not in known:
            yield (*path, name), f'unknown key "{name}"{suggest(name, known)}'


def _required(error: Any, path: Path) -> Iterable[tuple[Path, str]]:
    missing = [name for name in error.validator_value if name not in error.instance]
    doc = {n: error.schema.get("properties", {}).get(n, {}).get("description") for n in missing}
    for name in missing:
        yield path, f'missing key "{name}"' + (f": {doc[name]}" if doc[name] else "")


def _enum(error: Any, path: Path) -> Iterable[tuple[Path, str]]:
    choices = _as_list(error.validator_value)
    hint = ""
    if isinstance(error.instance, str):
        close = difflib.get_close_matches(error.instance, [c for c in choices if isinstance(c, str)], n=1, cutoff=0.6)
        hint = f', did you mean "{close[0]}"?' if close else ""
    expected = f"one of {', '.join(map(str, choices))}" if len(choices) > 1 else str(choices[0])
    yield path, f"found {show(error.instance)}, expected {expected}{hint}"


def _simple(expected: Callable[[Any], str]) -> Callable[[Any, Path], Iterable[tuple[Path, str]]]:
    return lambda error, path: [(path, f"found {show(error.instance)}, expected {expected(error)}")]


def _described(error: Any) -> str:
    description = error.schema.get("description")
    return description[0].lower() + description[1:].rstrip(".") if description else f"the form {error.validator_value}"


def _items(count: int) -> str:
    return "one entry" if count == 1 else f"{count} entries"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


_TYPES = {"object": "a mapping", "array": "a list", "string": "a text", "integer": "a whole number",
          "number": "a number", "boolean": "true or false", "null": "nothing"}  # fmt: skip


def _type_name(name: str) -> str:
    return _TYPES.get(name, name)


_HANDLERS: dict[str, Callable[[Any, Path], Iterable[tuple[Path, str]]]] = {
    "anyOf": _any_of,
    "oneOf": _any_of,
    "additionalProperties": _additional,
    "required": _required,
    "enum": _enum,
    "const": _enum,
    "type": _simple(lambda e: " or ".join(_type_name(t) for t in _as_list(e.validator_value))),
    "pattern": _simple(_described),
    "minimum": _simple(lambda e: f"at least {e.validator_value}"),
    "maximum": _simple(lambda e: f"at most {e.validator_value}"),
    "exclusiveMinimum": _simple(lambda e: f"more than {e.validator_value}"),
    "exclusiveMaximum": _simple(lambda e: f"less than {e.validator_value}"),
    "minItems": _simple(lambda e: f"at least {_items(e.validator_value)}"),
    "maxItems": _simple(lambda e: f"at most {_items(e.validator_value)}"),
    "minLength": _simple(lambda e: f"a text of at least {e.validator_value} characters"),
    "maxLength": _simple(lambda e: f"a text of at most {e.validator_value} characters"),
    "minProperties": _simple(
        lambda e: (
            _described(e) if "{file" in e.schema.get("description", "") else f"at least {_items(e.validator_value)}"
        )
    ),
}


def show(value: Any) -> str:
    """Show a value in a message: short, with its type where that is what may be wrong."""
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "…"
        # A control character could do things to a terminal, and a newline would end the line.
        return '"' + re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda m: repr(m[0])[1:-1], text) + '"'
    if isinstance(value, dict):
        return f"a mapping ({', '.join(list(map(str, value))[:4])})" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)
