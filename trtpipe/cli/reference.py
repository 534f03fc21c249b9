"""The reference of stage types, made from their schema: for the terminal, for programs, and for the pages of docs/."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from trtpipe import stages
from trtpipe.formatting import table
from trtpipe.pipeline import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.stage import StageType


def as_json(name: str | None) -> Any:
    """Give one stage type, or all, as JSON objects with the params' schema."""
    if name is None:
        return [as_json(one) for one in stages.NAMES]
    stage_type = stages.get(name)
    return {
        "type": name,
        "doc": stage_type.doc,
        "inputs": {
            port: {"kinds": p.kinds, "outside": p.outside, "many": p.many, "required": p.required, "doc": p.doc}
            for port, p in stage_type.inputs.items()
        },
        "makes": stage_type.output,
        "params": schema.pipeline_schema()["$defs"][stage_type.Params.__name__],
    }


def overview() -> list[str]:
    """List the stage types, a line each."""
    rows = [["type", "makes", ""]]
    rows += [[t.name, t.output, _first_sentence(t.doc)] for t in stages.table().values()]
    return [*table(rows), "", "trtpipe stages TYPE shows one type's inputs and params"]


def text(name: str) -> list[str]:
    """Describe one stage type for the terminal."""
    stage_type = stages.get(name)
    lines = [f"{name} → {stage_type.output}", f"  {stage_type.doc}", "", "inputs"]
    lines += [f"  {row}" for row in table([list(r) for r in _inputs(stage_type)])] or ["  none"]
    lines += ["", "params"]
    for path, kind, default, doc in _fields(stage_type.Params.__name__):
        lines.append(f"  {'  ' * path.count('.')}{path.rpartition('.')[2]}: {kind}{default}")
        lines += [f"  {'  ' * path.count('.')}    {doc}"] if doc else []
    return lines


def markdown(name: str) -> str:
    """Write one stage type's reference page."""
    stage_type = stages.get(name)
    lines = [
        f"# `{name}`",
        "",
        stage_type.doc,
        "",
        f"Makes an artifact of kind `{stage_type.output}`.",
        "",
        "## Inputs",
        "",
    ]
    inputs = list(_inputs(stage_type))
    if inputs:
        lines += ["| input | takes | |", "| --- | --- | --- |"]
        lines += [f"| `{port}`{'' if 'optional' not in need else ' (optional)'} | {takes} | {_cell(doc)} |"
                  for port, takes, need, doc in inputs]  # fmt: skip
    else:
        lines.append("None.")
    lines += ["", "## Params", ""]
    fields = list(_fields(stage_type.Params.__name__))
    if fields:
        lines += ["| param | type | |", "| --- | --- | --- |"]
        lines += [f"| `{path}` | {_cell(kind + default)} | {_cell(doc)} |" for path, kind, default, doc in fields]
    else:
        lines.append("None.")
    return "\n".join(lines) + "\n"


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _first_sentence(doc: str) -> str:
    return re.split(r"(?<=[.:])\s", doc, maxsplit=1)[0].rstrip(".:")


def _inputs(stage_type: StageType) -> Iterator[tuple[str, str, str, str]]:
    for name, port in stage_type.inputs.items():
        yield name, schema.takes(port), "" if port.required else "optional", port.doc


def _fields(definition: str, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str, str, str]]:
    """Give (path, type, default, description) of each param, with what is nested in it."""
    definitions = schema.pipeline_schema()["$defs"]
    found = definitions[definition]
    for name, field in found.get("properties", {}).items():
        required = name in found.get("required", ())
        default = " (required)" if required else ""
        if "default" in field and field["default"] not in (None, [], {}):
            default = f" = {json.dumps(field['default'], ensure_ascii=False)}"
        path = f"{prefix}{name}"
        yield path, _kind(field), default, field.get("description", "")
        for inner in _nested(field) if depth < 3 else ():
            if "allOf" in definitions[inner]:
                for branch in definitions[inner]["allOf"]:
                    reference = branch["then"]["$ref"].rpartition("/")[2]
                    tag, value = next(iter(branch["if"]["properties"].items()))
                    doc = definitions[reference].get("description", "")
                    yield f"{path}[{tag}: {value['const']}]", "mapping", "", doc
                    yield from _fields(reference, f"{path}[{tag}: {value['const']}].", depth + 1)
            else:
                yield from _fields(inner, f"{path}.", depth + 1)
        for branch in _branches(field):
            reference = branch["then"]["$ref"].rpartition("/")[2]
            tag, value = next(iter(branch["if"]["properties"].items()))
            doc = definitions[reference].get("description", "")
            yield f"{path}[{tag}: {value['const']}]", "mapping", "", doc
            for inner_field in _fields(reference, f"{path}[{tag}: {value['const']}].", depth + 1):
                if not inner_field[0].endswith(f".{tag}"):
                    yield inner_field


def _branches(field: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the branches of a tagged union in a field, or in the items of a list."""
    for place in (field, field.get("items", {}), *field.get("anyOf", ())):
        if isinstance(place, dict) and "allOf" in place:
            return [b for b in place["allOf"] if "if" in b]
    return []


def _nested(field: dict[str, Any]) -> Iterator[str]:
    places = [field, field.get("items"), field.get("additionalProperties"), *field.get("anyOf", ())]
    for place in places:
        if isinstance(place, dict):
            if "$ref" in place:
                yield place["$ref"].rpartition("/")[2]
            elif place is not field and not isinstance(place.get("type"), list):
                yield from _nested(place) if ("items" in place or "additionalProperties" in place) else ()


def _kind(field: dict[str, Any]) -> str:
    """Name a field's type in words."""
    if "enum" in field:
        return " · ".join("none" if v is None else str(v) for v in field["enum"])
    if "const" in field:
        return str(field["const"])
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(f) for f in field["anyOf"]))
    if "$ref" in field or "allOf" in field:
        return "mapping"
    kind: Any = field.get("type", "any value")
    if isinstance(kind, list):
        return " or ".join("nothing" if k == "null" else k for k in kind)
    if kind == "array":
        items = field.get("items")
        return f"list of {_kind(items)}" if items else "list"
    if kind == "object":
        values = field.get("additionalProperties")
        return f"mapping of name to {_kind(values)}" if isinstance(values, dict) and values else "mapping"
    limits = "".join(
        f" {sign} {field[name]}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if name in field
    )
    names = {"string": "text", "integer": "whole number", "null": "nothing"}
    return str(names.get(kind, kind)) + limits
