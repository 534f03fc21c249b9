"""comparison.json: how far outputs are from a reference's."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part
from trtpipe.documents.checks import Difference
from trtpipe.gates import Verdict


class Tolerance(Part, frozen=True, kw_only=True):
    """What counts as a mismatch, element by element."""

    rtol: Annotated[float, Meta(description="The relative part.")]
    atol: Annotated[float, Meta(description="The absolute part.")]
    formula: Annotated[Literal["allclose", "both"], Meta(description="How the two are joined.")]
    means: Annotated[str, Meta(description="The formula, for people.")]


class Different(Part, frozen=True, kw_only=True):
    """One of the samples that differ most, by the output in which it does."""

    index: Annotated[Count, Meta(description="The sample's place, from 0.")]
    id: Annotated[str, Meta(description="Its id.")]
    output: Annotated[str, Meta(description="The output.")]
    relative_l2: Annotated[float, Meta(description="|candidate - reference| / |reference|, as the Euclidean norm.")]
    max_abs: Annotated[float, Meta(description="The largest absolute difference.")]
    mean_abs: Annotated[float, Meta(description="The mean absolute difference.")]
    cosine: Annotated[float, Meta(description="The cosine between the two.")]
    nan: Annotated[float, Meta(description="How many values are NaN or infinite on one side alone.")]


class Inner(Difference, frozen=True, kw_only=True):
    """How a tensor between two nodes differs."""

    tensor: Annotated[str, Meta(description="The tensor's name.")]
    node: Annotated[str, Meta(description="The node that makes it.")]
    op: Annotated[str, Meta(description="That node's operator.")]
    relative_l2: Annotated[float, Meta(description="|changed - original| / |original|, both as the Euclidean norm.")]


class Bisect(Part, frozen=True, kw_only=True):
    """Two models compared tensor by tensor."""

    on: Annotated[str, Meta(description="The data that they ran on.")]
    bound: Annotated[float, Meta(description="The relative L2 error that names a node.")]
    compared: Annotated[Count, Meta(description="How many tensors both make.")]
    first: Annotated[Inner | None, Meta(description="The first one beyond the bound.")]
    jump: Annotated[Inner | None, Meta(description="The one with which the error grows most.")]
    layers: Annotated[tuple[Inner, ...], Meta(description="The worst ones.")]


class Comparison(Document, frozen=True, kw_only=True):
    """Outputs against a reference's."""

    file: ClassVar[str] = "comparison.json"

    metrics: Annotated[
        dict[str, float],
        Meta(description="Figures by name: the worst over all outputs, and as `output.figure` those of each output."),
    ]
    outputs: Annotated[dict[str, dict[str, float]], Meta(description="The figures of each output.")]
    samples: Annotated[Count, Meta(description="How many samples were compared.")]
    tolerance: Annotated[Tolerance, Meta(description="What counts as mismatched.")]
    require: Annotated[dict[str, Verdict], Meta(description="The rules, and whether they are kept, by figure.")]
    worst: Annotated[tuple[Different, ...], Meta(description="The samples that differ most.")]
    bisect: Annotated[Bisect | None, Meta(description="The first node that goes wrong, if that was asked for.")] = None
