"""selection.json: which variant of an engine was chosen, and why the others lost."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from trtpipe.documents.base import Document, Part

Better = Literal["min", "max"]


class Goal(Part, frozen=True, kw_only=True):
    """What is better."""

    goal: Annotated[Better, Meta(description="Whether less or more is better.")]
    figure: Annotated[str, Meta(description="Of which figure.")]


class Variant(Part, frozen=True, kw_only=True):
    """One variant."""

    variant: Annotated[str, Meta(description="What people call it.")]
    engine: Annotated[str, Meta(description="The stage that built it.")]
    values: Annotated[dict[str, str], Meta(description="Its values in the matrix.")]
    passed: Annotated[bool, Meta(description="Whether it keeps every rule.")]
    failed: Annotated[bool, Meta(description="Whether a stage of it failed.")]
    tied: Annotated[bool, Meta(description="Whether it keeps every rule and its objective is within the margin.")]
    why: Annotated[str, Meta(description="Why it lost; empty for the best.")]
    figures: Annotated[dict[str, float], Meta(description="Its figures, as `stage.figure`.")]


class Selection(Document, frozen=True, kw_only=True):
    """A choice among the variants of an engine."""

    file: ClassVar[str] = "selection.json"

    objective: Annotated[Goal, Meta(description="What the best one has least or most of.")]
    where: Annotated[dict[str, str], Meta(description="The rules, by figure.")]
    margin: Annotated[float, Meta(description="The share of the best objective within which others tie with it.")]
    then: Annotated[Goal, Meta(description="What decides a tie.")]
    measured_on: Annotated[str | None, Meta(description="The machine of the times; null if none were measured.")]
    best: Annotated[str | None, Meta(description="The chosen variant; null if none keeps every rule.")]
    engine: Annotated[str | None, Meta(description="The stage that built it.")]
    variants: Annotated[tuple[Variant, ...], Meta(description="All of them, the best first.")]
