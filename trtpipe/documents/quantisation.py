"""quantize.json: what was quantised, what was not and why, and how far the result is from the original."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part
from trtpipe.documents.checks import Check
from trtpipe.documents.config import Kept


class Opset(Part, frozen=True, kw_only=True):
    """ONNX's opset."""

    before: Annotated[int | None, Meta(description="Of the model that was given.")]
    after: Annotated[int | None, Meta(description="Of the model that was made.")]


class Quantised(Part, frozen=True, kw_only=True):
    """What was quantised."""

    mode: Annotated[Literal["int8", "fp8", "int4_weights"], Meta(description="What weights and activations became.")]
    method: Annotated[str, Meta(description="How ranges were found, in the words of the library that did it.")]
    opset: Annotated[Opset, Meta(description="ONNX's opset.")]
    quantized: Annotated[dict[str, Count], Meta(description="How many nodes of each op compute on quantised values.")]
    nodes: Annotated[tuple[str, ...], Meta(description="Their names, sorted.")]
    left: Annotated[tuple[Kept, ...], Meta(description="Nodes that could have been quantised and are not.")]
    percentile: Annotated[float | None, Meta(description="With method percentile: the share of values in range.")] = (
        None
    )
    per_channel: Annotated[
        bool | None, Meta(description="int8: whether weights have a scale for each output channel.")
    ] = None
    folded: Annotated[bool | None, Meta(description="int8: whether constants and BatchNormalizations were folded.")] = (
        None
    )
    not_folded: Annotated[str | None, Meta(description="int8: why they were not.")] = None
    never_active: Annotated[
        tuple[str, ...] | None, Meta(description="int8: tensors that were 0 in all of the calibration data.")
    ] = None
    block_size: Annotated[int | None, Meta(description="int4_weights: how many weights share a scale.")] = None


class Quantisation(Quantised, Document, frozen=True, kw_only=True):
    """A quantisation, checked."""

    file: ClassVar[str] = "quantize.json"

    check: Annotated[Check, Meta(description="The quantised model against the original.")]
