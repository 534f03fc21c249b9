"""layers.json: what TensorRT's engine inspector tells of an engine's layers."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from trtpipe.documents.base import Document, Part


class LayerOutput(Part, frozen=True, kw_only=True):
    """What a layer makes."""

    type: Annotated[str, Meta(description="The type of its elements, in NumPy's words; `unknown` if it is not told.")]
    format: Annotated[str, Meta(description="Type and layout in the inspector's words.")]


class Layer(Part, frozen=True, kw_only=True):
    """A layer of an engine. A plan without details tells its name only."""

    name: Annotated[str, Meta(description="Its name, without memory addresses.")]
    type: Annotated[str | None, Meta(description="What kind of layer it is, in the inspector's words.")] = None
    tactic: Annotated[str | None, Meta(description="The name of the kernel that computes it.")] = None
    tactic_value: Annotated[str | None, Meta(description="The number of that kernel.")] = None
    outputs: Annotated[tuple[LayerOutput, ...] | None, Meta(description="What it makes, in order.")] = None


class Layers(Document, frozen=True, kw_only=True):
    """The layers of an engine: what says whether two engines compute alike. Source: the engine inspector."""

    file: ClassVar[str] = "layers.json"

    detail: Annotated[
        Literal["detailed", "names_only", "none"], Meta(description="How much the plan tells: configure's verbosity.")
    ]
    layers: Annotated[tuple[Layer, ...], Meta(description="The layers, in the engine's order.")]
