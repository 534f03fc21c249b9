"""What all documents have in common."""

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

Runtime = Literal["tensorrt", "tensorrt_rtx", "onnxruntime"]
Precision = Literal["model", "fp32", "tf32", "fp16", "bf16"]
Count = Annotated[int, Meta(ge=0)]
Shape = tuple[Annotated[int, Meta(ge=0)], ...]
Dims = tuple[Annotated[int, Meta(ge=0)] | str, ...]
"""The size of each axis; where it is dynamic, the axis's name."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a document. A field with a default is left out of the JSON where it has that default.

    Unknown fields are passed over: a later trtpipe may say more under the same format number, and a reader of today
    must still be able to read it. What would mislead a reader that passes it over needs a new format number.
    """


class Line(Part, frozen=True, kw_only=True):
    """A line of a file that has a JSON object a line; it has no number of its own."""

    file: ClassVar[str]
    """The name of the file in the artifact."""


class Document(Part, frozen=True, kw_only=True, tag_field="format", tag=1):
    """A whole document. `format` in its JSON is the tag; a type whose meaning changes gets another one."""

    file: ClassVar[str]
    """The name of the file in the artifact."""
