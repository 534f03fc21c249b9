"""config.json: how an engine shall be built, as `configure` settled it with the runtime."""

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part, Precision, Runtime, Shape
from trtpipe.documents.checks import Check


class Shapes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shapes of one input within one profile."""

    # People write this part in params, too, where a misspelt name must be an error.

    min: Annotated[Shape, Meta(description="The smallest shape that the engine takes.")]
    opt: Annotated[Shape, Meta(description="The shape that the engine is made fast for.")]
    max: Annotated[Shape, Meta(description="The largest shape that the engine takes; memory is reserved for it.")]


class Values(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The values of one shape input within one profile: one number for each of its elements, in order."""

    min: Annotated[tuple[int, ...], Meta(description="The smallest values that the engine takes.")]
    opt: Annotated[tuple[int, ...], Meta(description="The values that the engine is made fast for.")]
    max: Annotated[tuple[int, ...], Meta(description="The largest values that the engine takes.")]


Profile = dict[str, Shapes]
ProfileValues = dict[str, Values]


class Kept(Part, frozen=True, kw_only=True):
    """A node that stays as it is, and why."""

    node: Annotated[str, Meta(description="The node's name in the model.")]
    op: Annotated[str, Meta(description="Its operator.")]
    why: Annotated[str, Meta(description="The reason, for people.")]


class WeightChanges(Part, frozen=True, kw_only=True):
    """What the narrower type does to the weights."""

    values: Annotated[Count, Meta(description="How many values the float32 weights hold.")]
    raised_to_smallest: Annotated[
        Count | None, Meta(description="fp16: how many are nearer to 0 than its smallest number, and raised to that.")
    ] = None
    subnormal: Annotated[Count | None, Meta(description="fp16: how many keep fewer digits, as subnormal numbers.")] = (
        None
    )


class Hold(Part, frozen=True, kw_only=True):
    """What a weakly typed network must keep in float32, and how the rest was checked."""

    precision: Annotated[Literal["fp16", "bf16"], Meta(description="What the rest may be.")]
    kept: Annotated[tuple[Kept, ...], Meta(description="The nodes that stay float32.")]
    activations_measured: Annotated[
        bool | None,
        Meta(description="Whether the range of what nodes make could be measured; null where none is needed."),
    ]
    narrow: Annotated[
        float,
        Meta(ge=0, le=1, description="The share of the weights left to half precision; without weights, of nodes."),
    ]
    check: Annotated[Check, Meta(description="The rewritten model against the original.")]


class Rewrite(Hold, frozen=True, kw_only=True):
    """What a rewrite to half precision did to the model."""

    method: Annotated[Literal["onnxruntime", "autocast"], Meta(description="What rewrote it.")]
    ops_kept: Annotated[tuple[str, ...], Meta(description="Operators of the model that stay float32 in every model.")]
    weights: Annotated[WeightChanges, Meta(description="What the narrower type does to the weights.")]


class BuildSettings(Part, frozen=True, kw_only=True):
    """What is asked of a runtime's builder."""

    precision: Annotated[Precision, Meta(description="The precision that was asked for.")]
    keep_fp32: Annotated[tuple[str, ...], Meta(description="Nodes that were asked to stay float32, by name.")]
    workspace: Annotated[
        Count | None, Meta(description="Bytes of scratch memory that a layer may use; null: the runtime's own limit.")
    ]
    profiles: Annotated[
        tuple[Profile, ...], Meta(description="Optimisation profiles: the range of shapes of each dynamic input.")
    ]
    profile_values: Annotated[
        tuple[ProfileValues, ...],
        Meta(description="Of the same profiles: the range of values of each shape input. Empty where none has any."),
    ] = msgspec.field(default_factory=tuple)
    optimization_level: Annotated[
        Annotated[int, Meta(ge=0, le=5)] | None,
        Meta(description="How long the builder searches, 0 to 5; null: the runtime's own choice."),
    ]
    timing_cache: Annotated[Literal["auto", "off"], Meta(description="Whether the builder's timings are kept.")]
    version_compatible: Annotated[bool, Meta(description="Whether later TensorRT versions shall load the plan.")]
    hardware_compatibility: Annotated[
        Literal["none", "ampere+", "same_compute_capability"],
        Meta(description="On which other GPUs the plan shall run."),
    ]
    compute_capabilities: Annotated[
        tuple[int, ...] | None,
        Meta(description="Capabilities to build for, 89 for 8.9 (TensorRT-RTX); null: its default."),
    ]
    sparse_weights: Annotated[bool, Meta(description="Whether kernels for 2:4 sparse weights may be used.")]
    strip_plan: Annotated[bool, Meta(description="Whether the plan is without its weights.")]
    refit: Annotated[bool, Meta(description="Whether weights can be replaced after the build.")]
    weight_streaming: Annotated[bool, Meta(description="Whether weights may stay in host memory.")]
    verbosity: Annotated[
        Literal["none", "names_only", "detailed"], Meta(description="What the plan tells of its layers.")
    ]


class Asked(BuildSettings, frozen=True, kw_only=True):
    """Settings before the runtime has its say: `strongly_typed` is null where that is left to it."""

    strongly_typed: Annotated[bool | None, Meta(description="Whether types are the model's own.")]


class Config(BuildSettings, Document, frozen=True, kw_only=True):
    """How an engine shall be built: what was asked for, and how this version of this runtime honours it."""

    file: ClassVar[str] = "config.json"

    strongly_typed: Annotated[
        bool,
        Meta(description="Whether every type is the model's own, or the builder picks among those that flags allow."),
    ]
    flags: Annotated[tuple[str, ...], Meta(description="Builder flags, by their names in the runtime, sorted.")]
    not_applicable: Annotated[
        tuple[str, ...], Meta(description="Settings that mean nothing to this runtime, and cost nothing.")
    ]
    rewrite: Annotated[
        Rewrite | None, Meta(description="What was done to the model, where its types are the precision.")
    ]
    hold: Annotated[Hold | None, Meta(description="What must stay float32, where the builder picks the types.")]
    runtime: Annotated[Runtime, Meta(description="The runtime that it was checked for.")]
    runtime_version: Annotated[str, Meta(description="That runtime's full version.")]
