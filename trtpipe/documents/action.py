"""An action record: what a key made, from what, where and when. One lies beside each result in the store.

It is read on every hit, where importing msgspec would cost more than the whole look-up. So it is a plain class, checked
by hand; `SCHEMA` says the same to other programs, and a test holds the two together.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from trtpipe import key as keys
from trtpipe.row import Row

FORMAT = 1
FILE = "action.json"
_HEX = frozenset("0123456789abcdef")


class Read(Row):
    """What a stage read through one input: what people call it, and the SHA-256 of each of its files."""

    label: str
    files: dict[str, str]


class Figure(Row):
    """A figure that a stage measured, and the rule that it must meet, if there is one.

    A value that is no finite number is its text, such as `nan`, because JSON has no such number.
    """

    name: str
    value: float | str
    rule: str = ""
    passed: bool | None = None


class About(Row):
    """What a record says beside key and artifact; nothing of it is in a key.

    `seconds` is the wall time of the stage, `finished` the time of day in UTC (RFC 3339). `notes` are what the stage
    told people, `gaps` what users' code depends on and could not be seen, `environment` is host, system and driver,
    `inputs` are by port, `figures` are what it measured. `signed` is the signature that a record came with,
    and from where.
    """

    seconds: float = 0.0
    stage: str = "?"
    pipeline: str = "?"
    finished: str = ""
    notes: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    environment: dict[str, Any] = {}  # noqa: RUF012 — nobody changes a record's fields
    inputs: dict[str, Read] = {}  # noqa: RUF012
    signed: dict[str, Any] | None = None
    figures: tuple[Figure, ...] = ()


class Action(Row):
    """What a key made. `files` maps a posix path to (SHA-256, bytes); `artifact` is the digest of kind and files."""

    key: dict[str, Any]
    kind: str
    artifact: str
    files: dict[str, tuple[str, int]]
    about: About

    @property
    def label(self) -> str:
        """Name the stage that made it."""
        return f"{self.about.pipeline}/{self.about.stage}"

    @property
    def digest(self) -> str:
        """SHA-256 of the key."""
        return keys.digest(self.key)

    def to_json(self) -> dict[str, Any]:
        """Give the record as a JSON object; `check` is a digest of the record without the signature."""
        about = self.about._asdict()
        signed = about.pop("signed")
        value: dict[str, Any] = {
            "format": FORMAT,
            "key": self.key,
            "artifact": {
                "kind": self.kind,
                "digest": self.artifact,
                "files": {name: list(one) for name, one in self.files.items()},
            },
            **about,
            "notes": list(self.about.notes),
            "gaps": list(self.about.gaps),
            "figures": [one._asdict() for one in self.about.figures],
            "inputs": {port: read._asdict() for port, read in self.about.inputs.items()},
        }
        value["check"] = _check_of(value)
        return value if signed is None else {**value, "signed": signed}


def parse(value: Any, key: str) -> Action:
    """Read an action record from JSON. Raises ValueError if it is not whole, or not the record of this key (digest).

    Older records have no format number; they have the same form.
    """
    try:
        action = _parsed(value)
        same = action.digest == key
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no action record: {error!r}") from None
    if not same:
        raise ValueError("it is the record of another key")
    return action


def _parsed(value: dict[str, Any]) -> Action:
    if value.get("format", FORMAT) != FORMAT:
        raise ValueError(f"it has format {value['format']}, and this trtpipe knows format {FORMAT}")
    if "check" in value and value["check"] != _check_of(value):
        raise ValueError("it is not what was written")
    made = value["artifact"]
    files: dict[str, tuple[str, int]] = {}
    for name, one in made["files"].items():
        if len(one) != 2 or not is_path(name) or not is_digest(one[0]) or type(one[1]) is not int or one[1] < 0:
            raise ValueError(f"it names a file {name!r} without a valid path, digest and size")
        sha256, size = one
        files[name] = (sha256, size)
    if keys.digest({"kind": made["kind"], "files": {name: sha for name, (sha, _) in files.items()}}) != made["digest"]:
        raise ValueError("its artifact is not that of its files")
    if not isinstance(value["seconds"], (int, float)):
        raise TypeError("seconds")
    signed = value.get("signed")
    about = About(
        seconds=float(value["seconds"]),
        stage=str(value.get("stage", "?")),
        pipeline=str(value.get("pipeline", "?")),
        finished=str(value.get("finished", "")),
        notes=tuple(map(str, value.get("notes", ()))),
        gaps=tuple(map(str, value.get("gaps", ()))),
        environment=_mapping(value.get("environment", {})),
        inputs={
            port: Read(str(one["label"]), {str(name): str(sha) for name, sha in one["files"].items()})
            for port, one in value.get("inputs", {}).items()
        },
        signed=None if signed is None else _mapping(signed),
        figures=tuple(map(_figure, value.get("figures", ()))),
    )
    return Action(_mapping(value["key"]), str(made["kind"]), made["digest"], files, about)


def _figure(value: Any) -> Figure:
    one = Figure(**_mapping(value))
    if not isinstance(one.value, (int, float, str)) or one.passed not in (None, True, False):
        raise TypeError("figures")
    return one._replace(name=str(one.name), rule=str(one.rule))


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("expected a mapping")
    return value


def is_digest(text: Any) -> bool:
    """Tell whether a value is a SHA-256 in 64 hex digits of lower case."""
    return isinstance(text, str) and len(text) == 64 and set(text) <= _HEX


def is_path(name: Any) -> bool:
    """Tell whether a value is a posix path that stays in its folder."""
    if not isinstance(name, str) or "\0" in name:
        return False
    parts = name.split("/")
    return all(parts) and ".." not in parts and "." not in parts


def _check_of(value: dict[str, Any]) -> str:
    """Give the digest of a record, so that a flipped byte is noticed where no other digest covers it."""
    # The signature is checked by itself, and it covers the record without the signature.
    rest = {name: item for name, item in value.items() if name not in ("check", "signed")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


_DIGEST = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "A SHA-256 in hex."}
_TEXT = {"type": "string"}
_HELD = {"type": "object", "additionalProperties": {"type": ["string", "null"]}}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": f"trtpipe {FILE}, format {FORMAT}",
    "description": "What a key made, from what, where and when.",
    "type": "object",
    "required": ["key", "artifact", "seconds"],
    "properties": {
        "format": {"const": FORMAT, "description": "The number of this form of the record; without it, 1."},
        "key": {
            "type": "object",
            "description": "Everything that can change the result. The record lies under the SHA-256 of this object's "
            "canonical JSON.",
            "required": ["format", "type", "version", "params", "inputs", "sources", "environment"],
            "properties": {
                "format": {"type": "integer", "description": "The number of this form of the key."},
                "type": {**_TEXT, "description": "The stage's type."},
                "version": {"type": "integer", "description": "The type's version."},
                "params": {"type": "object", "description": "All params, with defaults filled in."},
                "inputs": {
                    "type": "object",
                    "additionalProperties": _DIGEST,
                    "description": "By input, the digest of the artifact that was read.",
                },
                "sources": {
                    "type": "object",
                    "additionalProperties": _DIGEST,
                    "description": "Declared files by their path from the project's root.",
                },
                "environment": {"type": "object", "description": "What of the environment this type depends on."},
                "reads": {
                    "type": "object",
                    "additionalProperties": False,
                    "description": "What users' code was seen to look at, by kind and name; null where there was none.",
                    "properties": dict.fromkeys(("files", "folders", "packages", "variables"), _HELD),
                },
            },
        },
        "artifact": {
            "type": "object",
            "description": "What was made.",
            "required": ["kind", "digest", "files"],
            "properties": {
                "kind": {**_TEXT, "description": "Its kind, such as engine."},
                "digest": {**_DIGEST, "description": "SHA-256 of the kind, the names and the contents."},
                "files": {
                    "type": "object",
                    "description": "By posix path, the file's SHA-256 and its size in bytes.",
                    "additionalProperties": {
                        "type": "array",
                        "prefixItems": [_DIGEST, {"type": "integer", "minimum": 0}],
                        "minItems": 2,
                        "maxItems": 2,
                    },
                },
            },
        },
        "seconds": {"type": "number", "description": "Wall time of the stage in seconds."},
        "stage": {**_TEXT, "description": "The stage that made it."},
        "pipeline": {**_TEXT, "description": "The pipeline of that stage."},
        "finished": {**_TEXT, "description": "When, in UTC (RFC 3339)."},
        "notes": {"type": "array", "items": _TEXT, "description": "What the stage told people."},
        "gaps": {
            "type": "array",
            "items": _TEXT,
            "description": "What of that which users' code depends on could not be seen.",
        },
        "figures": {
            "type": "array",
            "description": "What the stage measured.",
            "items": {
                "type": "object",
                "required": ["name", "value"],
                "properties": {
                    "name": {**_TEXT, "description": "The figure's name."},
                    "value": {"type": ["number", "string"], "description": "Its value; a text where it is not finite."},
                    "rule": {**_TEXT, "description": "What it must be, such as `>= 0.97`; empty without a rule."},
                    "passed": {"type": ["boolean", "null"], "description": "Whether it meets the rule."},
                },
            },
        },
        "environment": {
            "type": "object",
            "description": "Recorded, in no key: host, system, driver, GPUs, and the commit that was checked out.",
        },
        "inputs": {
            "type": "object",
            "description": "By input: what people call it, and the SHA-256 of each of its files.",
            "additionalProperties": {
                "type": "object",
                "required": ["label", "files"],
                "properties": {"label": _TEXT, "files": {"type": "object", "additionalProperties": _TEXT}},
            },
        },
        "check": {**_DIGEST, "description": "SHA-256 of the record without `check` and `signed`."},
        "signed": {"type": "object", "description": "The signature that a fetched record came with, and from where."},
    },
}
