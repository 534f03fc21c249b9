"""metrics.json: how well results fit what is known to be right."""

from typing import Annotated, ClassVar

from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part
from trtpipe.gates import Verdict


class Counted(Part, frozen=True, kw_only=True):
    """Of how many a figure was counted."""

    passed: Annotated[Count | None, Meta(description="How many were right; null where that is not what is counted.")]
    total: Annotated[Count, Meta(description="How many there are.")]
    unit: Annotated[str, Meta(description="What was counted, in the singular.")]


class Metrics(Document, frozen=True, kw_only=True):
    """Figures of results against ground truth."""

    file: ClassVar[str] = "metrics.json"

    metrics: Annotated[dict[str, float], Meta(description="The figures by name.")]
    counts: Annotated[dict[str, Counted], Meta(description="Of how many each was counted.")]
    require: Annotated[dict[str, Verdict], Meta(description="The rules, and whether they are kept, by figure.")]
    samples: Annotated[Count, Meta(description="How many samples there are.")]
