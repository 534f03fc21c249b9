"""From a configured network to an engine: the plan, a manifest that says what it is, and the layers it has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trtpipe.documents.checks import Bound  # noqa: TC001  msgspec reads the annotations
from trtpipe.documents.config import Config
from trtpipe.documents.manifest import Manifest
from trtpipe.documents.network import Network
from trtpipe.errors import StageFailed
from trtpipe.runtime import plan_name
from trtpipe.stage import Context, Params, Port, StageType

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.documents.manifest import Binding, Proof

MOSTLY = 0.5
LITTLE = 0.05
"""A share of an engine too small to be found again in it: builders fold and fuse."""


class BuildParams(Params, frozen=True, kw_only=True):
    """How sure the build must be of itself; what is built is configure's word."""

    reproducible: Annotated[
        bool,
        Meta(
            description=(
                "Fail unless another build gives the same plan. On TensorRT this needs the input timing_cache, and "
                "every timing that the builder asks for must be in it; on TensorRT-RTX fixed shapes."
            )
        ),
    ] = False
    check: Annotated[
        Literal["off", "auto"] | Bound,
        Meta(
            description="`auto`: run the engine once, on made-up inputs, and hold its answer against ONNX Runtime's on "
            "the model as it was parsed, as `infer` does on data. Beyond the manifest's bound the stage fails (exit "
            "5). `{relative_l2: 0.1}`: the same with this bound. It needs a GPU where the engine does."
        ),
    ] = "off"


def run(ctx: Context) -> None:
    """Build the plan and write its manifest, and its layers where the runtime tells them.

    Nothing is ever added to the plan file itself.
    """
    from trtpipe.backends import preflight
    from trtpipe.models import custom_ops

    source = ctx.inputs["config"]
    config = source.read(Config)
    network = source.read(Network)
    libraries, plugins = custom_ops.carry(ctx, source)
    if ctx.params.check != "off":
        preflight.require_gpu(ctx.backend_name)
    backend = ctx.backend()
    if (config.runtime, config.runtime_version) != (backend.name, backend.version):
        raise StageFailed(
            f"the config was checked for {config.runtime} {config.runtime_version}, and this is {backend.name} "
            f"{backend.version}; configure again for it"
        )
    pinned = None
    if "timing_cache" in ctx.inputs:
        given = ctx.inputs["timing_cache"]
        pinned = given.path(given.files[0])
    if ctx.params.reproducible and backend.name == "tensorrt" and pinned is None:
        raise StageFailed(
            "reproducible: TensorRT times kernels as it builds, and so builds another plan each time; pin its timings: "
            "inputs: {timing_cache: {file: …}}, such as a copy of the timing.cache in artifacts/timing"
        )
    plan = ctx.out / plan_name(backend.name)
    built = backend.build(
        source.path("model.onnx"), config, plan, ctx.shared, ctx.note, pinned=pinned,
        reproducible=ctx.params.reproducible, doing=ctx.doing, progress=ctx.progress,
    )  # fmt: skip
    manifest = Manifest(
        runtime=backend.name,
        runtime_version=backend.version,
        plan=plan.name,
        # onnxruntime puts large weights beside its plan.
        plan_bytes=sum(entry.stat().st_size for entry in os.scandir(ctx.out) if entry.is_file()),
        bindings=tuple(_named(binding, network) for binding in built.bindings),
        profiles=config.profiles,
        profile_values=config.profile_values,
        profile_remarks=built.told,
        custom_ops=libraries,
        plugins=plugins,
        precision=config.precision,
        precision_proof=built.proof,
        version_compatible=config.version_compatible,
        target=built.target,
        key=ctx.key,
    )
    for remark in built.told:
        ctx.note(remark)
    check_precision(built.proof, config)
    manifest = msgspec.structs.replace(manifest, **_parsed(ctx, config))
    ctx.write(manifest)
    if built.layers is not None:
        ctx.write(built.layers)
    if ctx.params.check != "off":
        _check(ctx, plan, manifest, network)


def _parsed(ctx: Context, config: Config) -> dict[str, Any]:
    """Put the model as it was parsed beside the plan; give what the manifest says of it."""
    from trtpipe.models import external_data, first_answer, onnxfile

    source = ctx.inputs["config"]
    inside = f"{onnxfile.PARSED}/{onnxfile.MODEL}"
    path = source.path(inside if inside in source.files else onnxfile.MODEL)
    model = onnxfile.load(path)
    files = external_data.external_files(model, path.parent, label=path.name)
    onnxfile.copy_model(path, ctx.out / onnxfile.PARSED, files, link=source.kind == "config")
    return {"parsed": inside, "bound": first_answer.bound(model, config)}


def _check(ctx: Context, plan: Path, manifest: Manifest, network: Network) -> None:
    """Run the new engine on made-up inputs, and hold its answer against ONNX Runtime's."""
    from trtpipe.models import first_answer, trial_data
    from trtpipe.runtime import Engine
    from trtpipe.stages.allocate import AllocateParams, plan_buffers

    ctx.doing("running the engine on made-up inputs")
    feed = trial_data.batch(plan.parent / str(manifest.parsed), manifest, network)
    shapes = {name: list(array.shape) for name, array in feed.items()}
    buffers = plan_buffers(manifest, AllocateParams(shapes=shapes, slots=1), whole=True)
    session = ctx.backend().open(plan, manifest, buffers, ctx.note, ctx.shared)
    try:
        first_answer.check(ctx, session, Engine(plan, manifest, buffers), [feed])
    finally:
        session.close()


def check_precision(proof: Proof, config: Config) -> None:
    """Refuse an engine that was to be of half precision and computes mostly in float32.

    Mostly is said of what `configure` left to half precision: nodes that it keeps in float32 do not count. Raises
    StageFailed with the table of what its layers are. An engine that does not tell is left unproven.
    """
    from trtpipe.backends.trt.proof import low_share, text

    share = low_share(proof)
    asked = config.precision
    change = config.rewrite or config.hold
    could = change.narrow if change else 1.0
    if asked not in ("fp16", "bf16") or share is None or could < LITTLE or share >= MOSTLY * could:
        return
    of = "" if could == 1 else f", and {could:.0%} of the weights were to be"
    raise StageFailed(
        f"precision: {asked} was asked for, and the engine is mostly float32: {share:.0%} of it is of less than 32 "
        f"bits{of}\n{text(proof)}\nuse precision: fp32 if float32 is as fast for this model, or keep_fp32 to "
        "say which nodes may stay float32"
    )


def _named(binding: Binding, network: Network) -> Binding:
    """Give a binding the dim names of network.json: a runtime may know fewer of them; and the model's own type."""
    side = network.inputs if binding.mode == "input" else network.outputs
    known = next((t for t in side if t.name == binding.name), None)
    if known is not None and known.dtype != binding.dtype:
        binding = msgspec.structs.replace(binding, model_dtype=known.dtype)
    dims = known.dims if known else None
    if known is None or dims is None or len(dims) != len(binding.shape):
        return binding
    # A dim that the model fixes and the runtime calls dynamic stays what the runtime says.
    named = (
        size if size >= 0 else own if isinstance(dim, int) else dim
        for size, dim, own in zip(binding.shape, dims, binding.dims, strict=True)
    )
    return msgspec.structs.replace(binding, dims=tuple(named), names=known.names)


STAGE = StageType(
    name="build",
    version=5,
    Params=BuildParams,
    inputs={
        "config": Port(kinds=("config",), doc="The configured network."),
        "timing_cache": Port(
            kinds=(),
            doc="TensorRT's timings, pinned: used instead of the store's, and in the key.",
            required=False,
            outside=True,
        ),
    },
    output="engine",
    doc="Builds and serialises the engine.",
    run=run,
    backend=True,
    gpu_on=("tensorrt",),
)
