"""Checks a JSON value against a JSON Schema: every mistake with its path, what was found and what was expected."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from trtpipe.escaping import inline
from trtpipe.words import nearest, suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

INSTEAD = "x-instead"
"""In a schema: for values that people try and that are none, the way to what they want."""
Path = tuple["str | int", ...]


def dotted(path: Iterable[str | int]) -> str:
    """Write a path in a document: `stages.a.params.steps[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{inline(part)}" if text else inline(part)
    return text


def violations(value: Any, schema: dict[str, Any]) -> list[tuple[Path, str]]:
    """Give each mistake against the JSON Schema as (path, message)."""
    import jsonschema

    def pattern(_validator: Any, wanted: str, instance: Any, _schema: Any) -> Iterable[Any]:
        # Python's `$` also matches before a last newline; JSON Schema's `$` does not.
        if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", wanted), instance):
            yield jsonschema.ValidationError("does not match")

    kind: Any = jsonschema.validators
    plain = jsonschema.Draft202012Validator
    # For JSON Schema 4.0 is an integer; the params need a whole number.
    whole = plain.TYPE_CHECKER.redefine("integer", lambda _, one: isinstance(one, int) and not isinstance(one, bool))
    validator = kind.extend(plain, {"pattern": pattern}, type_checker=whole)(schema)
    return [found for error in validator.iter_errors(value) for found in _explain(error)]


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
    # The author meant the branch that fits deepest, or at least has the right type.
    branches: dict[int, list[Any]] = {}
    for sub in error.context:
        branches.setdefault(sub.schema_path[0], []).append(sub)
    best = min(
        branches.values(),
        key=lambda subs: (any(s.validator in ("type", "const") and not s.path for s in subs), len(subs)),
    )
    others = [subs for subs in branches.values() if not _foreign(subs)]
    if all(s.validator == "type" and not s.path for subs in others for s in subs):
        expected = [_type_name(t) for subs in others for s in subs for t in _as_list(s.validator_value)]
        expected += [
            f"a mapping with {', '.join(subs[0].schema['required'])}" for subs in branches.values() if _foreign(subs)
        ]
        yield path, f"found {show(error.instance)}, expected {' or '.join(dict.fromkeys(expected))}"
        return
    for sub in best:
        yield from _explain(sub)


def _foreign(subs: list[Any]) -> bool:
    """Tell whether a mapping has nothing of what a branch takes: then its author meant something else."""
    schema, given = subs[0].schema, subs[0].instance
    if subs[0].path or not isinstance(given, dict) or not schema.get("required") or not given:
        return False
    known = schema.get("properties", {})
    return not any(name in known or nearest(name, known) for name in given)


def _additional(error: Any, path: Path) -> Iterable[tuple[Path, str]]:
    known = error.schema.get("properties", {})
    words = [name for name, schema in known.items() if "not" not in schema]
    for name in error.instance:
        if name not in known:
            yield (*path, name), f'unknown key "{name}"{suggest(name, words)}'


def _required(error: Any, path: Path) -> Iterable[tuple[Path, str]]:
    missing = [name for name in error.validator_value if name not in error.instance]
    doc = {n: error.schema.get("properties", {}).get(n, {}).get("description") for n in missing}
    for name in missing:
        yield path, f'missing key "{name}"' + (f": {doc[name]}" if doc[name] else "")


def _enum(error: Any, path: Path) -> Iterable[tuple[Path, str]]:
    import difflib

    choices = _as_list(error.validator_value)
    hint = ""
    if isinstance(error.instance, str):
        close = difflib.get_close_matches(error.instance, [c for c in choices if isinstance(c, str)], n=1, cutoff=0.6)
        hint = f', did you mean "{close[0]}"?' if close else ""
    if isinstance(error.instance, str) and (way := error.schema.get(INSTEAD, {}).get(error.instance)):
        hint = f"; {way}"
    expected = f"one of {', '.join(map(str, choices))}" if len(choices) > 1 else str(choices[0])
    yield path, f"found {show(error.instance)}, expected {expected}{hint}"


def _not(error: Any, path: Path) -> Iterable[tuple[Path, str]]:
    # A reserved word: the schema refuses every value, and its description says why.
    yield path, f'found the word "{path[-1]}", which is {_described(error)}; leave it out'


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


def _such_as(schema: dict[str, Any]) -> str:
    examples = schema.get("examples")
    return f" such as {examples[0]}" if examples else ""


def _type_name(name: str) -> str:
    return _TYPES.get(name, name)


_HANDLERS: dict[str, Callable[[Any, Path], Iterable[tuple[Path, str]]]] = {
    "not": _not,
    "anyOf": _any_of,
    "oneOf": _any_of,
    "additionalProperties": _additional,
    "required": _required,
    "enum": _enum,
    "const": _enum,
    "type": _simple(lambda e: " or ".join(_type_name(t) for t in _as_list(e.validator_value)) + _such_as(e.schema)),
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
    """Show a value in a message: short, and with its type if the type may be wrong."""
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "…"
        return f'"{inline(text)}"'
    if isinstance(value, dict):
        return f"a mapping ({', '.join([inline(str(key)) for key in value][:4])})" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)
