"""The JSON Schemas (draft 2020-12) of all documents, made from the structs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import msgspec

from trtpipe.documents import action
from trtpipe.documents.benchmark import Benchmark
from trtpipe.documents.buffers import Buffers
from trtpipe.documents.bundle import Bundle
from trtpipe.documents.comparison import Comparison
from trtpipe.documents.config import Config
from trtpipe.documents.export import Export
from trtpipe.documents.layers import Layers
from trtpipe.documents.manifest import Manifest
from trtpipe.documents.metrics import Metrics
from trtpipe.documents.network import Network
from trtpipe.documents.optimisation import Optimisation
from trtpipe.documents.quantisation import Quantisation
from trtpipe.documents.samples import Result, Sample
from trtpipe.documents.selection import Selection
from trtpipe.documents.tensors import Tensors

if TYPE_CHECKING:
    from trtpipe.documents.base import Document, Line

DOCUMENTS: tuple[type[Document], ...] = (
    Benchmark, Buffers, Bundle, Comparison, Config, Export, Layers, Manifest, Metrics, Network, Optimisation,
    Quantisation, Selection, Tensors,
)  # fmt: skip
LINES: tuple[type[Line], ...] = (Result, Sample)


def of(kind: type[Document | Line]) -> dict[str, Any]:
    """Give the schema of one kind of document, or of the lines of one kind of file."""
    _, components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    readable = {name: _readable(part) for name, part in sorted(components.items())}
    whole = readable.pop(kind.__name__)
    number = kind.__struct_config__.tag
    if number is not None:
        whole["properties"]["format"]["description"] = "The number of this form of the document."
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **whole,
        "title": f"trtpipe {kind.file}, {'a line' if number is None else f'format {number}'}",
        "$defs": readable,
    }


def every() -> dict[str, dict[str, Any]]:
    """Give the schemas of all documents and lines by the names of their files in `schemas/`."""
    kinds: tuple[type[Document | Line], ...] = (*DOCUMENTS, *LINES)
    structs = {f"{kind.file.partition('.')[0]}.schema.json": of(kind) for kind in kinds}
    return {"action.schema.json": action.SCHEMA, **structs}


def _readable(schema: Any) -> Any:
    """Take the line ends of the source code out of descriptions; what is a tuple here is a list in JSON."""
    if isinstance(schema, list | tuple):
        return [_readable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _readable(item) for name, item in schema.items()}
    if isinstance(schema.get("description"), str):
        schema["description"] = " ".join(inspect.cleandoc(schema["description"]).split())
    return schema
