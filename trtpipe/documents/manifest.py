"""manifest.json: what an engine is. A contract with every program that loads the plan beside it."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part, Precision, Runtime
from trtpipe.documents.config import Profile, ProfileValues


class Binding(Part, frozen=True, kw_only=True):
    """One input or output of an engine. Bind it by its name."""

    name: Annotated[str, Meta(description="The tensor's name, the same as in the ONNX model.")]
    mode: Annotated[Literal["input", "output"], Meta(description="Whether the engine reads it or writes it.")]
    dtype: Annotated[
        str,
        Meta(
            description="The type of its elements, in NumPy's words (`float32`, `int64`); `bfloat16`, `float8e4m3fn`, "
            "`int4` and the like, which NumPy lacks, by ONNX's names. Source: the runtime."
        ),
    ]
    model_dtype: Annotated[
        str | None,
        Meta(
            description="The type of its elements in the ONNX model, where the runtime has another one: TensorRT "
            "computes float64 in float32, and 8.6 int64 in int32. Data of this type may be fed; what comes out is of "
            "`dtype`."
        ),
    ] = None
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=-1)], ...],
        Meta(description="The size of each axis in elements, -1 where it is dynamic. Source: the runtime."),
    ]
    dims: Annotated[
        tuple[int | str, ...],
        Meta(
            description="The same shape with names in the places of dynamic axes: axes of one name are of one size. "
            "Source: the ONNX model; where that has no name, one made of the tensor's name and the axis's number."
        ),
    ]
    shape_input: Annotated[
        bool,
        Meta(
            description="Of an input: whether its values say how large other tensors are, so that a profile holds a "
            "range of values for it. Source: TensorRT's parser; with ONNX Runtime, the model's graph."
        ),
    ] = False
    names: Annotated[
        tuple[str | None, ...],
        Meta(
            description="The name of each axis, where an axis of a fixed size has one. Left out where only dynamic "
            "axes have names. Source: the ONNX model."
        ),
    ] = ()


class Proof(Part, frozen=True, kw_only=True):
    """In which types the engine computes, as far as the runtime tells it."""

    status: Annotated[Literal["proven", "unproven"], Meta(description="Whether the runtime tells.")]
    why: Annotated[
        str | None, Meta(description="Of an unproven engine: why nothing is known, and what would help.")
    ] = None
    source: Annotated[str | None, Meta(description="Of a proven engine: what told it.")] = None
    layers: Annotated[
        dict[str, Count] | None, Meta(description="TensorRT: how many layers make each type, by their first output.")
    ] = None
    weight_bytes: Annotated[
        dict[str, Count] | None, Meta(description="TensorRT: how many bytes of weights are held in each type.")
    ] = None
    nodes: Annotated[Count | None, Meta(description="ONNX Runtime: how many nodes the optimised graph has.")] = None
    fp32_between_casts: Annotated[
        Count | None, Meta(description="ONNX Runtime: how many float16 nodes compute in float32, between casts.")
    ] = None
    rows: Annotated[
        dict[str, dict[str, Count]] | None,
        Meta(description="ONNX Runtime: how many nodes compute in each type, by op."),
    ] = None


class Target(Part, frozen=True, kw_only=True):
    """What a plan was built for. Which fields there are depends on the runtime."""

    gpu: Annotated[
        str | None, Meta(description="TensorRT: the name of the GPU that it was built on. Source: NVML.")
    ] = None
    compute_capability: Annotated[
        str | None, Meta(description="TensorRT: that GPU's compute capability, such as `9.0`. Source: NVML.")
    ] = None
    hardware_compatibility: Annotated[
        Literal["none", "ampere+", "same_compute_capability"] | None,
        Meta(
            description="TensorRT: on which other GPUs it runs. `none`: on that model of GPU only. Source: the config."
        ),
    ] = None
    compute_capabilities: Annotated[
        tuple[int, ...] | Literal["8.0+"] | None,
        Meta(
            description="TensorRT-RTX: the compute capabilities that it runs on, 89 for 8.9; `8.0+`: all from 8.0 on. "
            "Source: the config."
        ),
    ] = None
    device: Annotated[Literal["cpu"] | None, Meta(description="ONNX Runtime: where it runs.")] = None
    provider: Annotated[str | None, Meta(description="ONNX Runtime: the execution provider that it was made for.")] = (
        None
    )
    graph_optimization: Annotated[
        Literal["disabled", "basic", "extended"] | None,
        Meta(description="ONNX Runtime: the level up to which the saved graph is optimised."),
    ] = None


class Manifest(Document, frozen=True, kw_only=True):
    """What an engine is: its runtime, its plan, its bindings, and what is known of how it computes."""

    file: ClassVar[str] = "manifest.json"

    runtime: Annotated[Runtime, Meta(description="The runtime that built the plan; only this one loads it.")]
    runtime_version: Annotated[
        str,
        Meta(
            description="Its full version, such as `10.16.1.11`. A plan belongs to this version, unless it is "
            "version_compatible. Source: the runtime's Python package."
        ),
    ]
    plan: Annotated[
        str,
        Meta(
            description="The name of the plan's file in this folder: `engine.plan`, or `engine.onnx` of ONNX Runtime."
        ),
    ]
    plan_bytes: Annotated[
        Count,
        Meta(
            description="Bytes of the plan, and of weights that ONNX Runtime puts beside it. Counted after the build."
        ),
    ]
    bindings: Annotated[tuple[Binding, ...], Meta(description="All inputs, then all outputs.")]
    profiles: Annotated[
        tuple[Profile, ...],
        Meta(
            description="The optimisation profiles by their number in the engine: the smallest, best and largest shape "
            "of each dynamic input, in elements. Empty where all shapes are fixed. Source: the config."
        ),
    ]
    profile_values: Annotated[
        tuple[ProfileValues, ...],
        Meta(
            description="For each profile, the smallest, best and largest values of each shape input, one number an "
            "element. A value outside is an error of the runtime, or a wrong answer. Empty where no input is a shape "
            "input with a range. Source: the config."
        ),
    ] = msgspec.field(default_factory=tuple)
    profile_remarks: Annotated[
        tuple[str, ...],
        Meta(description="What the builder says of shapes inside the profiles that the engine does not take."),
    ] = msgspec.field(default_factory=tuple)
    precision: Annotated[
        Precision, Meta(description="The precision that was asked for; precision_proof says what came of it.")
    ]
    precision_proof: Annotated[Proof, Meta(description="In which types the engine computes.")]
    version_compatible: Annotated[
        bool,
        Meta(
            description="Whether later versions of the same major number load the plan too; the loading runtime must "
            "then allow host code of the engine. Source: the config."
        ),
    ]
    custom_ops: Annotated[
        tuple[str, ...],
        Meta(
            description="Libraries of operators for ONNX Runtime, native code in this folder. They are loaded into the "
            "process that loads the plan."
        ),
    ] = msgspec.field(default_factory=tuple)
    plugins: Annotated[
        tuple[str, ...],
        Meta(
            description="Libraries of TensorRT plugins, native code in this folder. Load them before you load the plan."
        ),
    ] = msgspec.field(default_factory=tuple)
    parsed: Annotated[
        str | None,
        Meta(
            description="The ONNX model in this folder as it was parsed, before precision changed it. An engine's "
            "first answer is held against what ONNX Runtime makes of it. No program needs it to run the plan."
        ),
    ] = None
    bound: Annotated[
        float | None,
        Meta(description="The largest relative L2 difference that an output may then have, by the precision."),
    ] = None
    target: Annotated[Target, Meta(description="The device that the plan was built for.")]
    key: Annotated[
        str,
        Meta(
            description="The key of the build: 64 hex digits of a SHA-256. What is compiled from this plan when it is "
            "loaded may be kept under it."
        ),
    ]

    def side(self, mode: Literal["input", "output"]) -> list[Binding]:
        """Give the inputs or the outputs."""
        return [b for b in self.bindings if b.mode == mode]

    def values_outside(self, profile: int, name: str, values: Sequence[int]) -> str | None:
        """Say why a profile does not take these values of a shape input (flat, one an element); None if it does."""
        known = self.profile_values[profile].get(name) if profile < len(self.profile_values) else None
        if known is None or all(
            low <= value <= high for low, value, high in zip(known.min, values, known.max, strict=True)
        ):
            return None
        return (
            f"found the values {list(values)}, outside those of profile {profile}: "
            f"min {list(known.min)}, opt {list(known.opt)}, max {list(known.max)}"
        )
