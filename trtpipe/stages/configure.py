"""How the runtime shall build: precision, memory, shapes, compatibility; all checked here, not in the builder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import asdict, replace

from trtpipe.documents.config import Asked, Config, Hold, Profile, ProfileValues, Rewrite, Shapes, Values
from trtpipe.documents.network import Network
from trtpipe.errors import StageFailed
from trtpipe.stage import BatchAxis, Context, Params, Port, Size, StageType
from trtpipe.texts import size_in_bytes
from trtpipe.violations import INSTEAD

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from trtpipe.documents.network import Tensor

FEW = 0.5
"""Below this share of weights in half precision, configure tells how few they are."""


class Range(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine takes of one input: shapes, or the values of a shape input, one number an element."""

    min: Annotated[tuple[int, ...], Meta(description="The smallest shape or values that the engine takes.")]
    opt: Annotated[tuple[int, ...], Meta(description="The shape or values that the engine is made fast for.")]
    max: Annotated[tuple[int, ...], Meta(description="The largest shape or values that the engine takes.")]


class AxisSizes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an axis is."""

    min: Annotated[int, Meta(ge=0, description="Its smallest size.")]
    opt: Annotated[int, Meta(ge=0, description="The size that the engine is made fast for.")]
    max: Annotated[int, Meta(ge=0, description="Its largest size.")]


class FromSamples(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"source": "from"}):
    """A profile whose sizes are those of samples, rounded outward."""

    source: Annotated[Literal["samples"], Meta(description="The input whose data is measured.")]
    multiple_of: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Round to multiples of this number; without it, to powers of two."),
    ] = None
    axes: Annotated[
        dict[str, AxisSizes],
        Meta(description="Sizes that the data does not say, such as the batch's, by the name of the axis."),
    ] = msgspec.field(default_factory=dict)
    values: Annotated[
        dict[str, Range], Meta(description="Ranges of values, for shape inputs, whose values are sizes.")
    ] = msgspec.field(default_factory=dict)


QUANTIZE = (
    "a model of 8 bits or fewer is made by a stage of type quantize, before parse: {type: quantize, inputs: {model: …, "
    "calibration: …}}; here write model"
)


class ConfigureParams(Params, frozen=True, kw_only=True):
    """How the engine shall be built."""

    precision: Annotated[
        Literal["model", "fp32", "tf32", "fp16", "bf16"],
        Meta(
            description=(
                "`model`: the types that the ONNX model has. `fp32`: float32 and nothing less. `tf32`: float32 whose "
                "products may be rounded to 10 bits. `fp16`, `bf16`: half precision; inputs and outputs keep their "
                "types. It means the same on every TensorRT: a rewritten and checked ONNX model, or, where networks "
                "are weakly typed (8.6), builder flags, with what must stay float32 held by constraints."
            ),
            extra_json_schema={
                INSTEAD: {
                    **dict.fromkeys(("int8", "fp8", "int4"), QUANTIZE),
                    **dict.fromkeys(("half", "float16"), "write fp16"),
                    "bfloat16": "write bf16",
                    "float32": "write fp32",
                },
            },
        ),
    ] = "model"
    keep_fp32: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(description="With fp16 or bf16: nodes that stay float32, by name or op; `*` and `?` are wildcards."),
    ] = msgspec.field(default_factory=list)
    tolerance: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description=(
                "Largest relative L2 difference of an output after a rewrite to fp16 (default 0.05) or bf16 (0.2)."
            ),
        ),
    ] = None
    meet_tolerance: Annotated[
        bool,
        Meta(
            description="With fp16 or bf16: where outputs differ more than `tolerance`, keep more and more nodes in "
            "float32, from the model's start or its end, until they do not. Give `calibration` for it."
        ),
    ] = False
    method: Annotated[
        Literal["onnxruntime", "autocast"],
        Meta(
            description="What rewrites the model to fp16 or bf16: onnxruntime's converter, or AutoCast of modelopt "
            "(`pip install 'trtpipe[modelopt]'`; not where networks are weakly typed)."
        ),
    ] = "onnxruntime"
    names: Annotated[
        dict[str, str],
        Meta(
            description="Where they differ: the tensor's name in calibration and samples for a model's input, by input."
        ),
    ] = msgspec.field(default_factory=dict)
    batch_axis: BatchAxis = msgspec.field(default_factory=dict)
    workspace: Annotated[
        Size | None, Meta(description="Scratch memory that a layer may use; without it, the runtime's own limit.")
    ] = None
    profiles: Annotated[
        list[Annotated[dict[str, Range], Meta(min_length=1)]] | FromSamples,
        Meta(
            description="Ranges: a map from each dynamic input to its smallest, best and largest shape (min, opt, "
            "max), and from each shape input, whose values are sizes, to its smallest, best and largest values. "
            "`{from: samples}`: one profile, of the lengths that the input samples has."
        ),
    ] = msgspec.field(default_factory=list)
    optimization_level: Annotated[
        Annotated[int, Meta(ge=0, le=5)] | None,
        Meta(description="How long the builder searches: 0 (fast build) to 5 (fast engine)."),
    ] = None
    timing_cache: Annotated[
        Literal["auto", "off"],
        Meta(description="`auto` keeps the builder's timings in `artifacts/timing`, so that later builds are faster."),
    ] = "auto"
    version_compatible: Annotated[
        bool, Meta(description="The plan shall load in later TensorRT versions of the same major number.")
    ] = False
    hardware_compatibility: Annotated[
        Literal["none", "ampere+", "same_compute_capability"],
        Meta(description="On which other GPUs the plan shall run (TensorRT)."),
    ] = "none"
    compute_capabilities: Annotated[
        Annotated[list[Annotated[int, Meta(ge=50, le=999)]], Meta(min_length=1)] | None,
        Meta(description="The capabilities to build for, such as 89 for 8.9 (TensorRT-RTX); default: all from 8.0 on."),
    ] = None
    sparse_weights: Annotated[bool, Meta(description="Let the builder use kernels for 2:4 sparse weights.")] = False
    strip_plan: Annotated[bool, Meta(description="Leave the weights out of the plan; they are refitted later.")] = False
    refit: Annotated[bool, Meta(description="The weights can be replaced after the build.")] = False
    weight_streaming: Annotated[bool, Meta(description="Weights may stay in host memory and be streamed.")] = False
    verbosity: Annotated[
        Literal["auto", "none", "names_only", "detailed"],
        Meta(
            description=(
                "What the plan says of its layers. `detailed` lets the manifest prove each layer's precision on "
                "TensorRT, and changes the plan's bytes. `auto`: detailed where TensorRT builds for less than float32, "
                "else names only."
            )
        ),
    ] = "auto"
    strongly_typed: Annotated[
        bool | None,
        Meta(description="TensorRT 9 and 10 only: `false` builds a weakly typed network with precision flags."),
    ] = None

    def problems(self) -> Iterable[tuple[str, str]]:
        """Give what the schema cannot say."""
        if self.precision not in ("fp16", "bf16"):
            if self.keep_fp32:
                yield "keep_fp32", f"found with precision {self.precision}, expected with fp16 or bf16 only"
            for name in ("tolerance", "meet_tolerance"):
                if getattr(self, name):
                    yield name, f"found with precision {self.precision}, expected with fp16 or bf16 only"
            if self.method != "onnxruntime":
                yield "method", f"found {self.method} with precision {self.precision}, expected fp16 or bf16"
        names = [frozenset(profile) for profile in self.profiles] if isinstance(self.profiles, list) else [frozenset()]
        for index, found in enumerate(names[1:], 1):
            if found != names[0]:
                expected = ", ".join(sorted(names[0]))
                given = ", ".join(sorted(found))
                yield f"profiles[{index}]", f"found the inputs {given}, expected {expected} as in profiles[0]"
        if len(set(self.compute_capabilities or ())) != len(self.compute_capabilities or ()):
            yield "compute_capabilities", f"found {self.compute_capabilities}, expected each one once"

    def missing(self, ports: Collection[str]) -> Iterable[tuple[str, str]]:
        """Find samples that are asked for and not given, and the other way round."""
        asked = isinstance(self.profiles, FromSamples)
        if asked and "samples" not in ports:
            yield "params.profiles", "found from: samples, expected the input samples: inputs: {samples: {file: …}}"
        if not asked and "samples" in ports:
            yield "inputs.samples", "found samples that nothing reads, expected params: {profiles: {from: samples}}"

    def packages(self) -> Iterable[str]:
        """Name what rewrites the model: its version changes the outcome."""
        if self.precision not in ("fp16", "bf16"):
            return ("onnx",)
        return ("onnx", "onnxruntime", *(["nvidia-modelopt"] if self.method == "autocast" else []))


def valued(network: Network) -> dict[str, Tensor]:
    """Give the inputs for which a profile holds values: shape inputs of fixed length."""
    return {entry.name: entry for entry in network.inputs if entry.shape_input and entry.count() is not None}


def check_profiles(profiles: Sequence[Mapping[str, Range]], network: Network) -> list[str]:
    """Give what is wrong with profiles for a network, each with its numbers.

    Names must be inputs, ranks must agree, fixed axes must be the model's own, min ≤ opt ≤ max, every dynamic
    input must be there, and axes that share a name must have the same range everywhere. Of a shape input there must
    be a value for each element.
    """
    inputs = {entry.name: entry.dims for entry in network.inputs}
    by_value = valued(network)
    problems = []
    for index, profile in enumerate(profiles):
        where = f"profiles[{index}]"
        ranges: dict[str, tuple[str, tuple[int, int, int]]] = {}
        for name, shapes in profile.items():
            at = f"{where}.{name}"
            if name not in inputs:
                problems.append(f"{at}: the network has no such input; it has {', '.join(inputs)}")
                continue
            dims = inputs[name]
            if dims is None:
                problems.append(f"{at}: the model does not say how many axes {name} has; fix its shape in the model")
                continue
            text = f"[{', '.join(map(str, dims))}]"
            if name in by_value:
                problems += _check_values(at, text, shapes, by_value[name].count() or 0)
                continue
            named = (("min", shapes.min), ("opt", shapes.opt), ("max", shapes.max))
            wrong = [f"{which} {list(shape)}" for which, shape in named if len(shape) != len(dims)]
            if wrong:
                problems.append(f"{at}: found {', '.join(wrong)}, expected {len(dims)} axes: the model has {text}")
                continue
            for axis, dim in enumerate(dims):
                low, best, high = shapes.min[axis], shapes.opt[axis], shapes.max[axis]
                given = f"found min {low}, opt {best}, max {high}"
                if not low <= best <= high:
                    problems.append(f"{at}: axis {axis}: {given}; expected min ≤ opt ≤ max")
                elif low < 0:
                    problems.append(f"{at}: axis {axis}: {given}; expected sizes from 0 on")
                elif isinstance(dim, int):
                    if (low, high) != (dim, dim):
                        problems.append(f"{at}: axis {axis}: {given}; the model fixes it at {dim}")
                elif dim in ranges and ranges[dim][1] != (low, best, high):
                    there, (a, b, c) = ranges[dim]
                    problems.append(
                        f"{at}: axis {axis} is {dim}, {given}; "
                        f"{there} has the same {dim} with min {a}, opt {b}, max {c}"
                    )
                else:
                    ranges.setdefault(dim, (f"{name} axis {axis}", (low, best, high)))
        for entry in network.inputs:
            own = entry.dims or ()
            if entry.name not in profile and any(isinstance(d, str) for d in own):
                problems.append(f"{where}: the dynamic input {entry.name} [{', '.join(map(str, own))}] is missing")
    return problems


def _check_values(at: str, text: str, given: Range, count: int) -> list[str]:
    named = (("min", given.min), ("opt", given.opt), ("max", given.max))
    if wrong := [f"{which} {list(values)}" for which, values in named if len(values) != count]:
        return [f"{at}: found {', '.join(wrong)}, expected {count} values: the values of {text} are sizes"]
    return [
        f"{at}: value {place}: found min {low}, opt {best}, max {high}; expected min ≤ opt ≤ max"
        for place, (low, best, high) in enumerate(zip(given.min, given.opt, given.max, strict=True))
        if not low <= best <= high
    ]


def split(profiles: Sequence[Mapping[str, Range]], network: Network) -> tuple[list[Profile], list[ProfileValues]]:
    """Part checked profiles into shapes and into the values of shape inputs; none of these if no profile has any."""
    by_value = valued(network)
    shapes = [{n: Shapes(min=g.min, opt=g.opt, max=g.max) for n, g in p.items() if n not in by_value} for p in profiles]
    values = [{n: Values(min=g.min, opt=g.opt, max=g.max) for n, g in p.items() if n in by_value} for p in profiles]
    return shapes, values if any(values) else []


def _profiles(ctx: Context, network: Network) -> Sequence[Mapping[str, Range]]:
    """Give the profiles that were asked for; with `from: samples`, the one of what the samples are."""
    params: ConfigureParams = ctx.params
    asked = params.profiles
    if not isinstance(asked, FromSamples):
        return asked
    from trtpipe.models import sampled_ranges

    for _, message in params.missing(ctx.inputs.keys()):
        raise StageFailed(message)
    by_value = valued(network)
    if wrong := [name for name in asked.values if name not in by_value]:
        known = f"they are {', '.join(by_value)}" if by_value else "there are none"
        raise StageFailed(f"profiles.values: found {', '.join(wrong)}, expected inputs whose values are sizes; {known}")
    found = sampled_ranges.profile(
        ctx.inputs["samples"], network.inputs, names=params.names, batch_axis=params.batch_axis,
        axes={n: sampled_ranges.Sizes(one.min, one.opt, one.max) for n, one in asked.axes.items()},
        multiple_of=asked.multiple_of,
    )  # fmt: skip
    if found.told:
        ctx.note(found.told)
    one = {n: Range(min=shapes.min, opt=shapes.opt, max=shapes.max) for n, shapes in found.profile.items()}
    return [{**one, **asked.values}] if one or asked.values else []


def _verbosity(params: ConfigureParams, runtime: str) -> Literal["none", "names_only", "detailed"]:
    if params.verbosity != "auto":
        return params.verbosity
    return "detailed" if runtime == "tensorrt" and params.precision in ("fp16", "bf16") else "names_only"


def run(ctx: Context) -> None:
    """Check the settings against the network and the runtime; rewrite the model where its types are the precision."""
    from trtpipe.models import custom_ops, external_data, onnxfile

    params: ConfigureParams = ctx.params
    source = ctx.inputs["network"]
    network = source.read(Network)
    custom_ops.carry(ctx, source)
    model_path = source.path("model.onnx")
    model = onnxfile.load(model_path)
    data = external_data.external_files(model, source.folder, label="model.onnx", known=source.files)
    profiles = _profiles(ctx, network)
    problems = check_profiles(profiles, network)
    if problems:
        raise StageFailed("params.profiles do not fit the network:\n  " + "\n  ".join(problems))
    shapes, values = split(profiles, network)
    backend = ctx.backend()
    asked = Asked(
        precision=params.precision,
        keep_fp32=tuple(params.keep_fp32),
        workspace=None if params.workspace is None else size_in_bytes(params.workspace),
        profiles=tuple(shapes),
        profile_values=tuple(values),
        optimization_level=params.optimization_level,
        timing_cache=params.timing_cache,
        version_compatible=params.version_compatible,
        hardware_compatibility=params.hardware_compatibility,
        compute_capabilities=tuple(sorted(params.compute_capabilities)) if params.compute_capabilities else None,
        sparse_weights=params.sparse_weights,
        strip_plan=params.strip_plan,
        refit=params.refit,
        weight_streaming=params.weight_streaming,
        verbosity=_verbosity(params, backend.name),
        strongly_typed=params.strongly_typed,
    )
    settled = backend.configure(asked, network)
    rewrite: Rewrite | None = None
    hold: Hold | None = None
    made = ctx.out / onnxfile.MODEL
    if params.precision in ("fp16", "bf16"):
        from trtpipe.models import (
            calibration,
            deviation,
            feeding,
            float16_range,
            kept_nodes,
            modelopt,
            onnxgraph,
            precision,
        )

        onnxgraph.name_nodes(model)  # those without a name fit by their op
        asked = replace(asked, keep_fp32=tuple(sorted(onnxgraph.matching_nodes(model, params.keep_fp32))))
        if params.method == "autocast" and settled.rewrite is not None:
            modelopt.require()
        samples = None
        if "calibration" in ctx.inputs:
            samples = feeding.samples(
                ctx.inputs["calibration"], network.inputs, names=params.names, batch_axis=params.batch_axis
            )
            calibration.check_values(samples)  # with NaN, the check would look away
        ranges = [{**shape, **(values[number] if values else {})} for number, shape in enumerate(shapes)]
        how: dict[str, Any] = {
            "inputs": network.inputs, "profiles": ranges, "keep": params.keep_fp32,
            "tolerance": params.tolerance, "samples": samples, "meet_tolerance": params.meet_tolerance,
            "on_cpu": backend.name == "onnxruntime",
            "figure": ctx.figure,
        }  # fmt: skip
        on = f"{min(samples.runs, precision.CHECKED)} samples" if samples is not None else "random inputs"
        ctx.doing(f"checking {params.precision} on {on}")
        change: Hold
        if settled.rewrite is not None:
            change = rewrite = precision.rewrite(model_path, made, settled.rewrite, method=params.method, **how)
        else:
            if params.method == "autocast":
                ctx.note(f"method: autocast rewrites models; {backend.name} {backend.version} chooses types by flags")
            change = hold = precision.hold(model_path, made, params.precision, **how)
            # Now it is known whether there is anything to hold.
            settled = backend.configure(asked, network, hold)
        kept_nodes.tell_kept(change.kept, Config.file, ctx.note)
        for remark in deviation.remarks(change.check.outputs):
            ctx.note(remark)
        own = rewrite is not None and params.method == "onnxruntime"  # which leaves bodies as they are
        if not own and (inside := float16_range.unseen(model)):
            more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
            ctx.note(
                f"what the bodies of {', '.join(inside[:3])}{more} compute inside is {params.precision} unchecked: "
                "only what comes out was"
            )
        if change.narrow < FEW:
            ctx.note(f"{change.narrow:.1%} of the weights are left to {params.precision}")
    if not made.exists():  # nothing had to be changed
        onnxfile.copy_model(model_path, ctx.out, data, link=source.kind == "network")
    else:
        onnxfile.copy_model(model_path, ctx.out / onnxfile.PARSED, data, link=source.kind == "network")
    usual = ConfigureParams()
    for name in settled.not_applicable:
        if getattr(params, name) != getattr(usual, name):
            ctx.note(f"{name} has no meaning on {backend.name} {backend.version}")
    honoured = {
        "strongly_typed": settled.strongly_typed, "flags": settled.flags, "not_applicable": settled.not_applicable,
        "rewrite": rewrite, "hold": hold, "runtime": backend.name, "runtime_version": backend.version,
    }  # fmt: skip
    ctx.write(Config(**{**asdict(asked), **honoured}))
    ctx.write(network)


STAGE = StageType(
    name="configure",
    version=11,
    Params=ConfigureParams,
    inputs={
        "network": Port(kinds=("network",), doc="The parsed network."),
        "calibration": Port(
            kinds=("tensors",),
            doc="With fp16 or bf16: samples of what the model will see, for the range guard and the check.",
            required=False,
            outside=True,
        ),
        "samples": Port(
            kinds=("tensors",),
            doc="With `profiles: {from: samples}`: data whose lengths are measured. Its values are not read.",
            required=False,
            outside=True,
        ),
    },
    output="config",
    doc="Says how the engine is built, checks it against network and runtime, and sets the model's precision.",
    run=run,
    backend=True,
)
