"""samples.jsonl and results.jsonl: what is known of each sample, and what was found in it, a line each."""

from typing import Annotated, ClassVar

from msgspec import Meta

from trtpipe.documents.base import Line


class Sample(Line, frozen=True, kw_only=True):
    """A sample of a `tensors` artifact. Other fields may stand beside these; users' code gets them all.

    What `preprocess` did to a picture is: prepared_xy = original_xy * scale + pad.
    """

    file: ClassVar[str] = "samples.jsonl"

    id: Annotated[str, Meta(description="Its name, by which labels and results know it.")]
    source: Annotated[str | None, Meta(description="The picture that it was made of, as a path in its input.")] = None
    width: Annotated[float | None, Meta(description="The width of the turned picture in pixels.")] = None
    height: Annotated[float | None, Meta(description="The height of the turned picture in pixels.")] = None
    rotation: Annotated[int | None, Meta(description="Degrees by which the picture was turned clockwise.")] = None
    scale_x: Annotated[float | None, Meta(description="Prepared over original pixels, from left to right.")] = None
    scale_y: Annotated[float | None, Meta(description="Prepared over original pixels, from top to bottom.")] = None
    pad_x: Annotated[float | None, Meta(description="Prepared pixels to the left of the picture.")] = None
    pad_y: Annotated[float | None, Meta(description="Prepared pixels above the picture.")] = None
    input_width: Annotated[float | None, Meta(description="The width of the tensor in pixels.")] = None
    input_height: Annotated[float | None, Meta(description="The height of the tensor in pixels.")] = None
    valid_width: Annotated[float | None, Meta(description="How many of its columns show the picture.")] = None
    valid_height: Annotated[float | None, Meta(description="How many of its rows show the picture.")] = None


class Result(Line, frozen=True, kw_only=True):
    """What was decided of a sample: beside its id, a field for each decision, by the names that the steps gave."""

    file: ClassVar[str] = "results.jsonl"

    id: Annotated[str, Meta(description="The sample's id.")]
