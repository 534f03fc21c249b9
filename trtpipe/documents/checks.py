"""How far a changed model is from its original: a part of the documents of all stages that change models."""

from typing import Annotated

import msgspec
from msgspec import Meta

from trtpipe.documents.base import Count, Part, Shape


class Difference(Part, frozen=True, kw_only=True):
    """How an output of two models differs over all runs: floats have `relative_l2`, other types `differing`."""

    max_abs: Annotated[float | None, Meta(description="The largest absolute difference.")] = None
    relative_l2: Annotated[
        float | None, Meta(description="|changed - original| / |original|, both as the Euclidean norm.")
    ] = None
    cosine: Annotated[float | None, Meta(description="The cosine between the two.")] = None
    differing: Annotated[float | None, Meta(description="The share of values that are others (no floats).")] = None
    not_finite: Annotated[
        Count | None,
        Meta(description="How many values are NaN or infinite where the original's are not; left out if 0."),
    ] = None
    shape_differs: Annotated[bool | None, Meta(description="true where the output has another shape.")] = None


class Bound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far an engine's first answer may be from ONNX Runtime's."""

    relative_l2: Annotated[float, Meta(gt=0, description="The largest relative L2 difference that an output may have.")]


class Check(Part, frozen=True, kw_only=True):
    """A trial run of a changed model against its original."""

    how: Annotated[str, Meta(description="Where it ran, and on what data.")]
    tolerance: Annotated[float, Meta(description="The largest relative_l2 that was allowed.")]
    outputs: Annotated[dict[str, Difference], Meta(description="The difference of each output.")]
    shapes: Annotated[dict[str, Shape] | None, Meta(description="The shape of each input in the first run.")] = None
    seed: Annotated[int | None, Meta(description="The seed of random inputs, where the inputs were random.")] = None
