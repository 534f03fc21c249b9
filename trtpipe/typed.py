"""Typed texts in params, at any depth: found and changed by the types of the params.

A type of `trtpipe.stage` such as DocumentPath marks its texts with one of the KINDS. So code that needs all paths of a
stage does not have to know the stage type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect

from trtpipe import texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MARK = "text"
"""The name in `Meta(extra=…)` whose value is the kind of text."""
PATH, INNER_PATH, ENTRYPOINT, SIZE = KINDS = ("path", "inner path", "entrypoint", "size")
_PLAIN = {
    PATH: texts.plain_path,
    INNER_PATH: texts.plain_path,
    ENTRYPOINT: texts.plain_entrypoint,
    SIZE: texts.plain_size,
}
_MOVED = {PATH: texts.moved_path, ENTRYPOINT: texts.moved_entrypoint}


def found(params: msgspec.Struct, kind: str) -> list[str]:
    """Give all texts of a kind in typed params, in their order."""
    there: list[str] = []

    def take(one: str, text: str) -> str:
        if one == kind:
            there.append(text)
        return text

    changed(type(params), msgspec.json.decode(msgspec.json.encode(params)), take)
    return there


def plain(params_type: type[msgspec.Struct], given: Any) -> Any:
    """Give params from a document with each typed text in its plain spelling. Raises ValueError if one is not valid."""
    return changed(params_type, given, lambda kind, text: _PLAIN[kind](text))


def moved(params_type: type[msgspec.Struct], given: Any, folder: str) -> Any:
    """Give params of a document in `folder` as a document at the place from which `folder` starts would write them.

    Paths inside an input and absolute paths stay. Values that do not fit the types stay too; the schema refuses them.
    """
    return changed(params_type, given, lambda kind, text: _MOVED[kind](text, folder) if kind in _MOVED else text)


def changed(params_type: type[msgspec.Struct], given: Any, change: Callable[[str, str], str]) -> Any:
    """Give plain params (mappings, lists, texts) with each typed text changed; `change` gets its kind and the text."""
    return _changed(inspect.type_info(params_type), given, change)


def _changed(kind: inspect.Type, value: Any, change: Callable[[str, str], str]) -> Any:
    if isinstance(kind, inspect.UnionType):
        return _changed(_meant(kind.types, value), value, change)
    if isinstance(kind, inspect.Metadata):
        if isinstance(value, str) and (mark := _mark(kind)):
            return change(mark, value)
        return _changed(kind.type, value, change)
    if isinstance(value, dict):
        if isinstance(kind, inspect.StructType):
            fields = {field.encode_name: field.type for field in kind.fields}
            return {n: _changed(fields[n], v, change) if n in fields else v for n, v in value.items()}
        if isinstance(kind, inspect.DictType):
            return {n: _changed(kind.value_type, v, change) for n, v in value.items()}
    if isinstance(value, list):
        if isinstance(kind, inspect.CollectionType):
            return [_changed(kind.item_type, item, change) for item in value]
        if isinstance(kind, inspect.TupleType) and len(kind.item_types) == len(value):
            return [_changed(one, item, change) for one, item in zip(kind.item_types, value, strict=True)]
    return value


def _mark(kind: inspect.Type) -> str | None:
    return (kind.extra or {}).get(MARK) if isinstance(kind, inspect.Metadata) else None


def _meant(kinds: Iterable[inspect.Type], value: Any) -> inspect.Type:
    """Choose the type of a value among several, as far as one of them may hold typed texts."""
    for kind in kinds:
        bare = kind.type if isinstance(kind, inspect.Metadata) else kind
        if isinstance(value, dict):
            fits = isinstance(bare, inspect.DictType) or (
                isinstance(bare, inspect.StructType)
                and (bare.tag_field is None or value.get(bare.tag_field) == bare.tag)
            )
        elif isinstance(value, list):
            fits = isinstance(bare, inspect.CollectionType | inspect.TupleType)
        else:
            fits = _mark(kind) is not None
        if fits:
            return kind
    return inspect.AnyType()
