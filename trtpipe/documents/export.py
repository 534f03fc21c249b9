"""export.json: how an ONNX model was made, and how far it is from the module that it was made of."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part
from trtpipe.documents.network import Tensor


class Agreement(Part, frozen=True, kw_only=True):
    """The check of the ONNX model against the module."""

    formula: Annotated[str, Meta(description="What every element must keep.")]
    atol: Annotated[float, Meta(description="The absolute part.")]
    rtol: Annotated[float, Meta(description="The relative part.")]
    sizes: Annotated[
        tuple[dict[str, Count], ...], Meta(description="The sizes of dynamic axes in each run, by the axis's name.")
    ]
    max_abs_error: Annotated[dict[str, float], Meta(description="The largest absolute difference of each output.")]


class Export(Document, frozen=True, kw_only=True):
    """An export."""

    file: ClassVar[str] = "export.json"

    framework: Annotated[Literal["torch"], Meta(description="What the module is written in.")]
    exporter: Annotated[Literal["dynamo", "legacy"], Meta(description="What exported it.")]
    opset: Annotated[dict[str, int], Meta(description="The version of each operator set; ONNX's own is `ai.onnx`.")]
    ir_version: Annotated[int, Meta(description="The version of the ONNX file format.")]
    inputs: Annotated[tuple[Tensor, ...], Meta(description="The model's inputs.")]
    outputs: Annotated[tuple[Tensor, ...], Meta(description="The model's outputs.")]
    checked: Annotated[Agreement, Meta(description="The check against the module.")]
