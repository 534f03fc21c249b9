"""Makes one JSON Schema (draft 2020-12) from the stage types, used at run time and written to `schemas/`.

Stage types are composed with `if type is … then …`, so that a validator names the wrong field instead of saying that a
stage fits none of several schemas.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from trtpipe.pipeline.document import FORMAT

if TYPE_CHECKING:
    from trtpipe.stage import Port, StageType

FILE = "pipeline.schema.json"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
STAGE_NAME = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"
STAGE_REFERENCE = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}(@[^@/]+)?$"
AXIS = r"^[A-Za-z_][\w-]{0,31}$"
AXIS_VALUE = r"^[\w.+-]{1,32}$"
RESERVED = ("extends", "defaults", "parameters", "recipes", "targets", "baseline")
"""Words at the top of a document that are reserved for later versions."""
RESERVED_IN_STAGES = ("extends", "recipe", "with")
"""Words of a stage that are reserved for later versions."""
_RESERVED = {"not": {}, "description": "Reserved for a later version of the document.", "doNotSuggest": True}
"""Fits no value; `doNotSuggest` asks editors not to offer the word."""

_SOURCES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "file": ({"file": {"type": "string", "minLength": 1, "description": "A path relative to the document."}}, ["file"]),
    "package": (
        {
            "package": {
                "type": "string",
                "pattern": r"^(?!(.*/)?\.\.?(/|$))[A-Za-z0-9_.-]+(/[^/]+)+$",
                "description": "A file that a Python package ships, as `package/path/in/it.onnx`.",
            }
        },
        ["package"],
    ),
    "url": (
        {
            "url": {
                "type": "string",
                "pattern": r"^[a-z][a-z0-9+.-]*://(?![^/?#@]*:[^/?#]*@).+",
                "description": "An address such as https://… or s3://…, without a password.",
            },
            "sha256": {
                "type": "string",
                "pattern": "^[0-9a-f]{64}$",
                "description": "The content's SHA-256, 64 hex digits in lower case.",
            },
        },
        ["url", "sha256"],
    ),
}


@lru_cache(maxsize=1)
def pipeline_schema() -> dict[str, Any]:
    """Give the schema of a pipeline document, made from the table of stage types."""
    import msgspec

    from trtpipe import stages
    from trtpipe.pipeline import remote_section, run_section

    table = stages.table()
    _, components = msgspec.json.schema_components([t.Params for t in table.values()], ref_template="#/$defs/{name}")
    definitions = {name: _readable(definition) for name, definition in sorted(components.items())}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "trtpipe pipeline",
        "description": "Stages from a model to a TensorRT engine and its predictions.",
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "stages"],
        "properties": {
            "format": {
                "const": FORMAT,
                "default": FORMAT,
                "description": "The format that the document is written in.",
            },
            "name": {
                "type": "string",
                "pattern": NAME,
                "description": "The pipeline's name: letters, digits, dots, dashes and underscores, at most 64.",
            },
            "backend": {
                "enum": ["auto", "tensorrt", "tensorrt_rtx", "onnxruntime"],
                "default": "auto",
                "description": "The runtime; auto takes TensorRT where there is a GPU, else ONNX Runtime on the CPU.",
            },
            "vars": {
                "type": "object",
                "description": "Values for ${vars.name}; set them with --set vars.name=value.",
                "propertyNames": {
                    "pattern": r"^[A-Za-z_][\w-]*$",
                    "description": "A name of letters, digits, _ and -, that starts with a letter.",
                },
                "additionalProperties": {"type": ["string", "number", "boolean", "array", "null"]},
            },
            **dict.fromkeys(RESERVED, _RESERVED),
            "matrix": matrix_schema(),
            "remote": remote_section.schema(),
            "stages": {
                "type": "object",
                "minProperties": 1,
                "description": "The stages by name; their inputs give their order.",
                "propertyNames": {
                    "pattern": STAGE_NAME,
                    "description": "A name of letters, digits, _ and -, that starts with a letter, at most 64.",
                },
                "additionalProperties": {"$ref": "#/$defs/stage"},
            },
        },
        "$defs": {
            "stage": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type"],
                "properties": {
                    "type": {"enum": list(table), "description": "The stage's type."},
                    "inputs": {"type": "object", "description": "What it reads: stages, or files from outside."},
                    "params": {"type": "object", "description": "Its settings."},
                    "run": run_section.schema(),
                    **dict.fromkeys(RESERVED_IN_STAGES, _RESERVED),
                },
                "allOf": [_branch(stage_type) for stage_type in table.values()],
            },
            "stageName": {"type": "string", "pattern": STAGE_REFERENCE, "description": "The name of a stage."},
            "source": _source(),
            **definitions,
        },
    }


def every() -> dict[str, dict[str, Any]]:
    """Give all schemas by the names of their files in `schemas/`: of pipelines and of stage documents."""
    from trtpipe.documents import schemas

    return {FILE: pipeline_schema(), **schemas.every()}


def matrix_schema() -> dict[str, Any]:
    """Give the schema of the matrix: axes by name, each a list of values or a mapping of a name to fields."""
    value = {
        "type": ["string", "number", "boolean"],
        "pattern": AXIS_VALUE,
        "description": "A short value of letters, digits, _ . + and -: it is part of file names. "
        "For others write a mapping of names to fields.",
    }
    return {
        "type": "object",
        "description": "Axes for ${matrix.axis}; a stage that uses one, or reads a stage that uses one, has one "
        "variant for each of its values.",
        "minProperties": 1,
        "propertyNames": {
            "pattern": AXIS,
            "description": "A name of letters, digits, _ and -, that starts with a letter, at most 32.",
        },
        "properties": {
            "exclude": {
                "type": "array",
                "description": "Combinations to leave out, such as {precision: int8, batch: 1}.",
                "items": {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": {"type": ["string", "number", "boolean"]},
                },
            }
        },
        "additionalProperties": {
            "type": ["array", "object"],
            "if": {"type": "array"},
            "then": {"minItems": 1, "items": value},
            "else": {
                "minProperties": 1,
                "propertyNames": {"pattern": AXIS_VALUE, "description": value["description"]},
                "additionalProperties": {"type": "object"},
            },
        },
    }


def _branch(stage_type: StageType) -> dict[str, Any]:
    """Give the schema of a stage type: its ports and its params."""
    required = [name for name, port in stage_type.inputs.items() if port.required]
    inputs: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _port(port) for name, port in stage_type.inputs.items()},
    }
    needs = []
    if required:
        inputs["required"] = required
        needs.append("inputs")
    if any(f.required for f in _fields(stage_type)):
        needs.append("params")
    then: dict[str, Any] = {
        "description": stage_type.doc,
        "properties": {"inputs": inputs, "params": {"$ref": f"#/$defs/{stage_type.Params.__name__}"}},
    }
    if needs:
        then["required"] = needs
    return {"if": {"properties": {"type": {"const": stage_type.name}}, "required": ["type"]}, "then": then}


def _fields(stage_type: StageType) -> Any:
    import msgspec

    return msgspec.structs.fields(stage_type.Params)


def takes(port: Port) -> str:
    """Say what a port takes: kinds of artifact, files from outside, or both."""
    kinds = " or ".join([*port.kinds, *(["a file from outside"] if port.outside else [])])
    return f"{kinds}, of one stage or a list, with all variants" if port.many else kinds


def _port(port: Port) -> dict[str, Any]:
    description = f"{port.doc} Takes {takes(port)}."
    if port.many:
        return {
            "description": description,
            "type": ["string", "array"],
            "if": {"type": "string"},
            "then": {"$ref": "#/$defs/stageName"},
            "else": {"minItems": 1, "uniqueItems": True, "items": {"$ref": "#/$defs/stageName"}},
        }
    if not port.outside:
        return {"description": description, "type": "string", "pattern": STAGE_REFERENCE}
    return {
        "description": description,
        "type": ["string", "object"],
        "if": {"type": "string"},
        "then": {"$ref": "#/$defs/stageName"},
        "else": {"$ref": "#/$defs/source"},
    }


def _source() -> dict[str, Any]:
    """Give the schema of an input from outside; its first key shows which of the three forms it has."""
    every = {name: schema for properties, _ in _SOURCES.values() for name, schema in properties.items()}
    choices = {name: every[name] for name in _SOURCES}
    chain: dict[str, Any] = {"properties": choices, "additionalProperties": False}
    for name, (properties, required) in reversed(_SOURCES.items()):
        then = {"required": required, "properties": properties, "additionalProperties": False}
        chain = {"if": {"required": [name]}, "then": then, "else": chain}
    return {
        "description": "{file: …}, {package: …} or {url: …, sha256: …}.",
        "properties": every,
        "minProperties": 1,
        **chain,
    }


def _readable(schema: Any) -> Any:
    """Turn a tagged union's `anyOf` into `if tag then`, so that errors name the field."""
    if isinstance(schema, list):
        return [_readable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _readable(item) for name, item in schema.items()}
    schema.pop("title", None)
    if isinstance(schema.get("description"), str):
        schema["description"] = inspect.cleandoc(schema["description"])
    tag = schema.get("discriminator")
    if not tag or "anyOf" not in schema:
        return schema
    name, mapping = tag["propertyName"], tag["mapping"]
    return {
        **{k: v for k, v in schema.items() if k not in ("anyOf", "discriminator")},
        "type": "object",
        "required": [name],
        "properties": {name: {"enum": list(mapping)}},
        "allOf": [
            {"if": {"properties": {name: {"const": value}}, "required": [name]}, "then": {"$ref": reference}}
            for value, reference in mapping.items()
        ],
    }
