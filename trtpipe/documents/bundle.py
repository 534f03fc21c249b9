"""bundle.json: what a deployed folder holds, and what is known of it. Programs check a bundle against it."""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part


class BundledFile(Part, frozen=True, kw_only=True):
    """A file of the bundle."""

    sha256: Annotated[str, Meta(description="The SHA-256 of its content, 64 hex digits.")]
    bytes: Annotated[Count, Meta(description="Its size in bytes.")]


class Requirement(Part, frozen=True, kw_only=True):
    """A figure that the pipeline requires of the engine, as it was when the bundle was made."""

    stage: Annotated[str, Meta(description="The stage that measured it.")]
    figure: Annotated[str, Meta(description="The figure's name, such as `cosine_min`.")]
    value: Annotated[float | str, Meta(description="The figure; `nan` and `inf` are texts.")]
    rule: Annotated[str, Meta(description="What it must be, such as `>= 0.99`.")]
    passed: Annotated[bool, Meta(description="Whether it meets the rule.")]


class Bundle(Document, frozen=True, kw_only=True):
    """What a deployed folder holds: every file but this one, where the engine comes from, and what was required."""

    file: ClassVar[str] = "bundle.json"

    pipeline: Annotated[str, Meta(description="The pipeline's name.")]
    stage: Annotated[str, Meta(description="The stage that built the engine.")]
    key: Annotated[str, Meta(description="The key of the build, as in manifest.json.")]
    artifact: Annotated[str, Meta(description="The digest of the artifact that the engine was taken from.")]
    commit: Annotated[
        str | None, Meta(description="The commit that was checked out when it was built; none if that is not known.")
    ] = None
    files: Annotated[dict[str, BundledFile], Meta(description="Each file by its path from the bundle's folder.")]
    left_out: Annotated[
        tuple[str, ...], Meta(description="Files of the artifact that no program needs to run the engine.")
    ] = msgspec.field(default_factory=tuple)
    requirements: Annotated[
        tuple[Requirement, ...], Meta(description="The figures that the pipeline requires of this engine.")
    ] = msgspec.field(default_factory=tuple)
    unmet: Annotated[
        tuple[str, ...],
        Meta(description="Why it should not have been deployed, where somebody allowed it; a sentence each."),
    ] = msgspec.field(default_factory=tuple)
    samples: Annotated[
        Count, Meta(description="How many samples samples.npz and expected.npz hold, by which the engine is checked.")
    ] = 0
    tolerance: Annotated[
        float | None, Meta(description="The largest relative L2 difference from expected.npz that is right.")
    ] = None
