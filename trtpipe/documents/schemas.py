"""The JSON Schemas (draft 2020-12) of all documents, made from the structs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import msgspec

from trtpipe.documents.benchmark import Benchmark
from trtpipe.documents.buffers import Buffers
from trtpipe.documents.comparison import Comparison
from trtpipe.documents.config import Config
from trtpipe.documents.export import Export
from trtpipe.documents.layers import Layers
from trtpipe.documents.manifest import Manifest
from trtpipe.documents.metrics import Metrics
from trtpipe.documents.network import Network
from trtpipe.documents.optimisation import Optimisation
from trtpipe.documents.quantisation import Quantisation
from trtpipe.documents.selection import Selection
from trtpipe.documents.tensors import Tensors

if TYPE_CHECKING:
    from trtpipe.documents.base import Document

DOCUMENTS: tuple[type[Document], ...] = (
    Benchmark, Buffers, Comparison, Config, Export, Layers, Manifest, Metrics, Network, Optimisation, Quantisation,
    Selection, Tensors,
)  # fmt: skip


def of(kind: type[Document]) -> dict[str, Any]:
    """Give the schema of one kind of document."""
    _, components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    readable = {name: _readable(part) for name, part in sorted(components.items())}
    whole = readable.pop(kind.__name__)
    whole["properties"]["format"]["description"] = "The number of this form of the document."
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **whole,
        "title": f"trtpipe {kind.file}, format {kind.__struct_config__.tag}",
        "$defs": readable,
    }


def every() -> dict[str, dict[str, Any]]:
    """Give the schemas of all documents by the names of their files in `schemas/`."""
    return {f"{kind.file.partition('.')[0]}.schema.json": of(kind) for kind in DOCUMENTS}


def _readable(schema: Any) -> Any:
    """Take the line ends of the source code out of descriptions."""
    if isinstance(schema, list):
        return [_readable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _readable(item) for name, item in schema.items()}
    if isinstance(schema.get("description"), str):
        schema["description"] = " ".join(inspect.cleandoc(schema["description"]).split())
    return schema
