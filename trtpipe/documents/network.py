"""network.json: what `parse` found in an ONNX model."""

import math
from typing import Annotated, ClassVar

from msgspec import Meta

from trtpipe.documents.base import Count, Dims, Document, Part, Runtime


class Tensor(Part, frozen=True, kw_only=True):
    """An input or an output of an ONNX model."""

    name: Annotated[str, Meta(description="Its name in the model.")]
    dtype: Annotated[str, Meta(description="The type of its elements, in NumPy's words; `bfloat16` and smaller too.")]
    dims: Annotated[
        Dims | None,
        Meta(
            description="The size of each axis, or the axis's name where it is dynamic; axes of one name are of one "
            "size. null where neither the model nor the runtime knows how many axes there are."
        ),
    ]
    shape_input: Annotated[
        bool,
        Meta(
            description="Of an input: whether its values say how large other tensors are. TensorRT's parser says it; "
            "for ONNX Runtime, which does not ask, the model's graph does."
        ),
    ] = False
    names: Annotated[
        tuple[str | None, ...],
        Meta(
            description="The name of each axis, where an axis of a fixed size has one: `parse` froze it, or the model "
            "calls it so. Left out where only dynamic axes have names."
        ),
    ] = ()

    def count(self) -> int | None:
        """Give how many elements it has; None where that is dynamic or unknown."""
        sizes = [d for d in self.dims or () if isinstance(d, int)]
        return math.prod(sizes) if self.dims is not None and len(sizes) == len(self.dims) else None


class Network(Document, frozen=True, kw_only=True):
    """A network: its inputs and outputs, what it is made of, and which runtime's parser took it."""

    file: ClassVar[str] = "network.json"

    inputs: Annotated[tuple[Tensor, ...], Meta(description="What must be fed, in the model's order.")]
    outputs: Annotated[tuple[Tensor, ...], Meta(description="What it makes, in the model's order.")]
    nodes: Annotated[dict[str, Count], Meta(description="How many nodes of each op, bodies of If and Loop included.")]
    opset: Annotated[dict[str, int], Meta(description="The version of each operator set; ONNX's own is `ai.onnx`.")]
    ir_version: Annotated[int, Meta(description="The version of the ONNX file format.")]
    producer: Annotated[str, Meta(description="What wrote the model, with its version; may be empty.")]
    parameters: Annotated[Count, Meta(description="How many values its constants hold.")]
    parameter_bytes: Annotated[Count, Meta(description="How many bytes these take.")]
    dtypes: Annotated[dict[str, Count], Meta(description="Bytes of constants, by type.")]
    metadata: Annotated[dict[str, str], Meta(description="The model's own metadata, by name.")]
    layers: Annotated[
        dict[str, Count], Meta(description="How many layers of each type the runtime's parser made of it.")
    ]
    runtime: Annotated[Runtime, Meta(description="The runtime whose parser read it.")]
    runtime_version: Annotated[str, Meta(description="That runtime's full version.")]
