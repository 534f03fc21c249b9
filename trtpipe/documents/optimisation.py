"""optimize.json: what was done to clean a model up, and how each step was checked."""

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part
from trtpipe.documents.checks import Difference


class Nodes(Part, frozen=True, kw_only=True):
    """How many nodes of each op there are."""

    before: Annotated[dict[str, Count], Meta(description="In the model that was given.")]
    after: Annotated[dict[str, Count], Meta(description="In the model that was made.")]


class Step(Part, frozen=True, kw_only=True):
    """One step. It was checked (`outputs`), could not be (`unchecked`), or was not taken (`skipped`)."""

    step: Annotated[Literal["dims", "opset", "fold", "onnxslim"], Meta(description="What was done.")]
    outputs: Annotated[
        dict[str, Difference] | None, Meta(description="The difference of each output from the original.")
    ] = None
    unchecked: Annotated[str | None, Meta(description="Why it could not be checked.")] = None
    skipped: Annotated[str | None, Meta(description="Why it was not taken.")] = None
    before: Annotated[int | None, Meta(description="Of step opset: ONNX's opset before.")] = msgspec.field(
        default=None, name="from"
    )
    after: Annotated[int | None, Meta(description="Of step opset: ONNX's opset now.")] = msgspec.field(
        default=None, name="to"
    )


class Optimisation(Document, frozen=True, kw_only=True):
    """A clean-up."""

    file: ClassVar[str] = "optimize.json"

    nodes: Annotated[Nodes, Meta(description="How many nodes there were and are.")]
    steps: Annotated[tuple[Step, ...], Meta(description="The steps, in order.")]
