"""The section `remote` of a document and of the user's config: its addresses, names and keys."""

from __future__ import annotations

from typing import Any

SCHEMES = ("s3", "http", "https", "file", "gs", "gcs", "az", "abfs")
PUBLIC_PATTERN = r"^ed25519:[A-Za-z0-9+/]{43}=$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
TIMEOUT = 15.0
"""Seconds."""


def schema(*, private: bool = False) -> dict[str, Any]:
    """Give the JSON Schema of `remote`; a private one (the user's config) may hold credentials."""
    properties: dict[str, Any] = {
        "url": {
            "type": "string",
            "pattern": rf"^({'|'.join(SCHEMES)})://[^\s]+$" if private else rf"^({'|'.join(SCHEMES)})://[^\s@?#]+$",
            "description": "The store's address, such as s3://bucket/prefix, without credentials.",
        },
        "mode": {
            "enum": ["read", "write"],
            "default": "read",
            "description": "write: a run also pushes what it made (CI does, with --set remote.mode=write).",
        },
        "trust": {
            "type": "object",
            "description": "The trusted signers: names and public keys, as `trtpipe keys list` prints them.",
            "propertyNames": {"pattern": NAME_PATTERN, "description": "A short name."},
            "additionalProperties": {
                "type": "string",
                "pattern": PUBLIC_PATTERN,
                "description": "A public key: ed25519: and 44 characters.",
            },
        },
        "endpoint": {
            "type": "string",
            "pattern": r"^https?://[^\s@?#]+$",
            "description": "The address of an S3 server that is not Amazon's.",
        },
        "region": {"type": "string", "pattern": r"^[a-z0-9-]{1,40}$", "description": "The bucket's region."},
        "anonymous": {"type": "boolean", "default": False, "description": "Read without credentials."},
        "timeout": {
            "type": "number",
            "minimum": 1,
            "maximum": 600,
            "default": TIMEOUT,
            "description": "Seconds without a byte after which the server counts as not reachable.",
        },
    }
    if private:
        properties["options"] = {"type": "object", "description": "Options for fsspec's file system."}
    return {
        "type": "object",
        "description": "A remote store that a team shares; a run fetches results from it before it builds any.",
        "additionalProperties": False,
        "required": ["url"],
        "properties": properties,
    }
