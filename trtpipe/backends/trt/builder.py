"""Engines built from a configured model: the builder config, the build, and what the manifest says of the engine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from trtpipe import environment
from trtpipe.backends.trt import heard, networks, profiles, proof, rules, timing_cache
from trtpipe.backends.trt import progress as progress_of_build
from trtpipe.backends.trt.rules import OBEY
from trtpipe.backends.trt.timing_cache import TimingCache
from trtpipe.documents.manifest import Binding, Proof, Target
from trtpipe.errors import StageFailed
from trtpipe.runtime import Built

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from trtpipe.backends.trt.library import Library
    from trtpipe.documents.config import Config, Shapes, Values
    from trtpipe.documents.layers import Layers

VERBOSITY = {"names_only": "LAYER_NAMES_ONLY", "none": "NONE", "detailed": "DETAILED"}
EXTERNAL_TACTICS = ("CUBLAS", "CUBLAS_LT", "CUDNN")


def build(
    library: Library,
    model: Path,
    config: Config,
    plan: Path,
    *,
    shared: Path,
    note: Callable[[str], None],
    pinned: Path | None = None,
    reproducible: bool = False,
    doing: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int | None, str], None] = lambda *_: None,
) -> Built:
    """Build and serialise a plan into the file `plan`.

    Gives the engine's layers too where the inspector told them (see proof.py). `shared` is the folder of the store's
    timing caches. `pinned` is a timing cache that is used and never changed; with `reproducible` every timing must be
    in it. `doing` and `progress` are told what TensorRT is at. Raises StageFailed with the runtime's own last errors.
    On RTX this needs no GPU.
    """
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath

    library.load_plugins(model.parent / "plugins")
    cache: TimingCache | None = None
    if library.rtx:
        _check_reproducible(library, config, pinned, reproducible=reproducible)
    elif pinned is not None:
        cache = TimingCache(library, pinned, note, pinned=True)
    elif config.timing_cache != "off":
        cache = TimingCache(library, timing_cache.place(library, shared), note)
    with library.calls(f"{model.name} cannot be built"):
        parts = NetworkFromOnnxPath(str(model), strongly_typed=config.strongly_typed)()
        network = parts[1]
        if _asks_for_half(config):
            networks.ask_for_half(library, network, config.precision, obeyed=OBEY in config.flags)
        if OBEY in config.flags:
            networks.keep_fp32(library, network, config.keep_fp32, rules.held_nodes(config))
        bindings = networks.describe(network)
    with library.calls(_failed_build(library, model, config, network), lambda said: _advice(said, bindings)):
        builder_config = _builder_config(library, config)(parts[0], network)
        if cache is not None:
            cache.attach(builder_config)
            if reproducible and library.has("BuilderFlag", "ERROR_ON_TIMING_CACHE_MISS"):
                builder_config.set_flag(library.trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
        watching = progress_of_build.monitor(library, doing, progress)
        if watching is not None:
            builder_config.progress_monitor = watching
        # EngineFromNetwork would deserialise too, which RTX cannot do without a GPU.
        serialised = EngineBytesFromNetwork(parts, lambda *_: builder_config)()
        told = heard.of_builder(library.warnings, config)
        with open(plan, "wb") as stream:
            stream.write(memoryview(serialised))
        del serialised
    if cache is not None:
        cache.finish(builder_config, complete=reproducible)
    proven, layers = _inspected(library, plan)
    return Built(tuple(bindings), _target(library, config), proven, layers, tuple(told))


def _check_reproducible(library: Library, config: Config, pinned: Path | None, *, reproducible: bool) -> None:
    """Refuse what TensorRT-RTX cannot do: take a timing cache, and repeat a build with ranges of shapes."""
    if pinned is not None:
        raise StageFailed(f"{library.title} takes no timing cache: it compiles for the GPU when it loads; leave it out")
    every: list[Mapping[str, Shapes | Values]] = [*config.profiles, *config.profile_values]
    ranges = [name for profile in every for name, given in profile.items() if given.min != given.max]
    if reproducible and ranges:
        raise StageFailed(
            f"{library.title} builds the same plan again for fixed shapes only, and {', '.join(sorted(set(ranges)))} "
            "has a range; give it one shape (min = opt = max), or leave reproducible out"
        )


def _failed_build(library: Library, model: Path, config: Config, network: Any) -> str:
    """Give the message of a failed build, with the known causes that fit this config and this network."""
    asked = f"{model.name} cannot be built (precision {config.precision}"
    if config.workspace is not None:
        asked += f"; workspace {config.workspace} bytes: if that is too little for it, give more"
    if OBEY in config.flags and _asks_for_half(config):
        asked += "; where it has no half kernel for a product, name that in keep_fp32"
    if library.rtx and "REFIT" in config.flags and not environment.gpus():
        asked += "; refit and strip_plan are known to fail on TensorRT-RTX where there is no GPU"
    if library.rtx and rules.parse_version(library.version) < rules.RTX_INT8:
        kinds = library.trt.LayerType
        if any(network.get_layer(i).type == kinds.QUANTIZE for i in range(network.num_layers)):
            asked += "; TensorRT-RTX before 1.7 has no int8 convolution: leave those out in quantize, or take fp16"
    return asked + ")"


def _advice(said: list[str], bindings: Sequence[Binding]) -> str:
    """Say what helps against an assertion inside the builder: it often falls on axes that are dynamic."""
    open_axes = list(
        dict.fromkeys(dim for b in bindings if b.mode == "input" for dim in b.dims if isinstance(dim, str))
    )
    if not open_axes or not any(_ASSERTION.search(text) for text in said):
        return ""
    sizes = ", ".join(f"{axis}: 1" for axis in open_axes)
    return (
        "\nThis is an assertion inside the builder, not a fault of the document. It often falls on dynamic axes: give "
        f"a size to those that need not vary, with a stage of type optimize before parse: params: {{dims: {{{sizes}}}}}"
    )


_ASSERTION = re.compile(r"assert|MyelinCheck", re.IGNORECASE)


def _asks_for_half(config: Config) -> bool:
    return not {"INT8", "FP8"} & {*config.flags} and bool({"FP16", "BF16"} & {*config.flags})


def _builder_config(library: Library, config: Config) -> Callable[[Any, Any], Any]:
    """Give a function (builder, network) → IBuilderConfig for a config."""
    from polygraphy.backend.trt import CreateConfig

    trt = library.trt
    flags = set(config.flags)
    common: dict[str, Any] = {
        "profiles": [],  # they are added below
        "sparse_weights": "SPARSE_WEIGHTS" in flags,
        "refittable": "REFIT" in flags,
        "strip_plan": "STRIP_PLAN" in flags,
        "version_compatible": "VERSION_COMPATIBLE" in flags,
        "weight_streaming": "WEIGHT_STREAMING" in flags,
        "profiling_verbosity": getattr(trt.ProfilingVerbosity, VERBOSITY[config.verbosity]),
    }
    if config.workspace is not None:
        common["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: config.workspace}
    if config.optimization_level is not None and "optimization_level" not in config.not_applicable:
        common["builder_optimization_level"] = config.optimization_level
    if library.rtx:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        capabilities = config.compute_capabilities
        pairs = [divmod(c, 10) for c in capabilities] if capabilities else None
        create: Any = CreateConfigRTX(compute_capabilities=pairs, **common)
    else:
        level = {"ampere+": "AMPERE_PLUS", "same_compute_capability": "SAME_COMPUTE_CAPABILITY"}.get(
            config.hardware_compatibility
        )
        if level:
            common["hardware_compatibility_level"] = getattr(trt.HardwareCompatibilityLevel, level)
        if rules.parse_version(library.version) < (11,):
            # As TensorRT 11 does it: no tactics of cuBLAS or cuDNN, so that a plan needs nothing but TensorRT.
            common["tactic_sources"] = [
                member for name, member in trt.TacticSource.__members__.items() if name not in EXTERNAL_TACTICS
            ]
        create = CreateConfig(
            tf32="TF32" in flags,
            fp16="FP16" in flags,
            bf16="BF16" in flags,
            int8="INT8" in flags,
            fp8="FP8" in flags,
            precision_constraints="obey" if OBEY in flags else "prefer" if _asks_for_half(config) else None,
            **common,
        )

    def configured(builder: Any, network: Any) -> Any:
        built = create(builder, network)
        if library.rtx:
            # CreateConfigRTX leaves TF32 as the library's default, which is on.
            (built.set_flag if "TF32" in flags else built.clear_flag)(trt.BuilderFlag.TF32)
        profiles.add(library, builder, network, built, config)
        return built

    return configured


def _target(library: Library, config: Config) -> Target:
    """Give the GPUs that the engine is for, as the manifest says it."""
    if library.rtx:
        # The default was measured: Turing (7.5) must be asked for, everything later is included.
        return Target(compute_capabilities=config.compute_capabilities or "8.0+")
    gpu = environment.gpus()[0]
    return Target(
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        hardware_compatibility=config.hardware_compatibility,
    )


def _inspected(library: Library, plan: Path) -> tuple[Proof, Layers | None]:
    """Give in which types the engine computes, or why that cannot be told here.

    Where it can be told, its layers too: what each layer is, and by which tactic it computes.
    """
    if library.rtx:
        # The plan is the same whether or not a GPU is here, and its manifest must be too.
        why = "a TensorRT-RTX plan is compiled for the GPU when it is loaded; its network is strongly typed"
        return Proof(status="unproven", why=why), None
    from polygraphy.backend.trt import EngineFromBytes

    try:
        with library.calls("the new plan cannot be inspected"):
            runtime = library.trt.Runtime(library.logger)
            engine = EngineFromBytes(plan.read_bytes(), runtime=runtime)()
            inspector = engine.create_engine_inspector()
            text = inspector.get_engine_information(library.trt.LayerInformationFormat.JSON)
            # Within the calls: what the inspector writes is not always JSON, and that is no reason to fail.
            return proof.table(text), proof.layers(text)
    except StageFailed as error:
        return Proof(status="unproven", why=str(error)), None
