"""What each TensorRT can honour, as a table: decided from flavour and version alone, so that it can be tested anywhere.

| | typing | fp16, bf16 | tf32 | gone or absent |
|---|---|---|---|---|
| TensorRT 8.6 | weak | builder flag FP16; no bf16 | flag TF32 | STRIP_PLAN, WEIGHT_STREAMING, bfloat16, int64 |
| TensorRT 9, 10 | strong; weak on request | ONNX rewrite; weak: flags FP16, BF16 | flag TF32 | |
| TensorRT 11 | strong | ONNX rewrite | flag TF32 | precision flags, precision constraints |
| TensorRT-RTX 1 | strong | ONNX rewrite | flag TF32 | VERSION_COMPATIBLE, hardware levels, timing cache |

Weakly typed means that the builder picks each layer's type among those that flags allow; strongly typed means
that every type is the ONNX model's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.runtime import Settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.documents.config import Asked, Config, Hold
    from trtpipe.documents.network import Network

RTX = "tensorrt_rtx"
RTX_INT8 = (1, 7)
"""The first TensorRT-RTX with int8 convolutions: 1.4 to 1.6 end in Myelin's "cudnn_impl" for any of them."""
OBEY = "OBEY_PRECISION_CONSTRAINTS"
TITLES = {"tensorrt": "TensorRT", RTX: "TensorRT-RTX"}
HALF = ("float16", "bfloat16")
QUANTISED = ("QuantizeLinear", "DequantizeLinear")
OLDEST = {"tensorrt": (8, 6), RTX: (1, 4)}


def parse_version(text: str) -> tuple[int, ...]:
    """Give the numbers of a version such as `10.16.1.11`, up to the first part that is no number."""
    numbers: list[int] = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def typing(flavour: str, version: tuple[int, ...]) -> str:
    """Give how networks are typed: `weak`, `strong`, or `either`. Raises EnvironmentMissing for too old a version."""
    if version < OLDEST[flavour]:
        raise EnvironmentMissing(
            f"{TITLES[flavour]} {'.'.join(map(str, version))} is too old; "
            f"trtpipe needs {'.'.join(map(str, OLDEST[flavour]))} or later"
        )
    if flavour == RTX or version >= (11,):
        return "strong"
    return "either" if version >= (9,) else "weak"


def held_nodes(config: Config) -> list[str]:
    """Name the nodes that were found to need float32 where networks are weakly typed."""
    return [kept.node for kept in config.hold.kept] if config.hold else []


def half_types(network: Network) -> list[str]:
    """Name the half-precision types that a model holds, by its network.json."""
    ends = (t.dtype for t in (*network.inputs, *network.outputs))
    return sorted({*network.dtypes, *ends} & set(HALF))


def settle(
    flavour: str,
    version: str,
    asked: Asked,
    network: Network,
    has: Callable[[str, str], bool] = lambda _enum, _name: True,
    *,
    hold: Hold | None = None,
) -> Settled:
    """Decide how a runtime honours what is asked, or refuse it.

    `has(enum, member)` tells whether the installed bindings know a name, which is asked besides the table; `hold` is
    what was found to need float32, once that is known. Raises StageFailed naming runtime, setting and alternatives.
    """
    title = f"{TITLES[flavour]} {version}"
    numbers = parse_version(version)
    mode = typing(flavour, numbers)

    def refuse(setting: str, why: str, instead: str) -> NoReturn:
        raise StageFailed(f"{title} cannot honour {setting}: {why}. Instead: {instead}")

    if asked.strongly_typed is False and mode == "strong":
        refuse("strongly_typed: false", "its networks are always strongly typed", "leave strongly_typed out")
    if asked.strongly_typed is True and mode == "weak":
        refuse("strongly_typed: true", "it came with TensorRT 9", "leave strongly_typed out, or use TensorRT 10")
    strong = mode == "strong" or (mode == "either" and asked.strongly_typed is not False)

    precision = asked.precision
    half = half_types(network)
    if half and precision in ("fp32", "tf32"):
        refuse(
            f"precision: {precision}",
            f"the model itself holds {' and '.join(half)}",
            "precision: model (types as the model says), or export the model in float32",
        )
    if half and precision == "model" and not strong:
        refuse(
            "precision: model",
            f"the model holds {' and '.join(half)}, and this runtime's networks are weakly typed: it picks types "
            "by flags, not by the model",
            "precision: fp16, or TensorRT 10 or later",
        )
    rewrite, flags = None, []
    if precision in ("fp16", "bf16"):
        if strong:
            rewrite = precision
        elif precision == "bf16" and numbers < (9,):
            refuse("precision: bf16", "it knows no bfloat16", "precision: fp16 or tf32, or TensorRT 10 or later")
        else:
            flags.append(precision.upper())
            if asked.keep_fp32 or (hold and hold.kept):
                flags.append(OBEY)
    elif precision == "tf32":
        flags.append("TF32")

    if not strong:
        # Where types are picked by flags, Q/DQ nodes are honoured only if their type is allowed too.
        nodes, held = network.nodes, network.dtypes
        if any(nodes.get(op) for op in QUANTISED):
            fp8 = any(name.startswith("float8") for name in held)
            if fp8 and numbers < (9,):
                refuse("a model with fp8 Q/DQ nodes", "it knows no fp8", "quantize with mode: int8")
            flags.append("FP8" if fp8 else "INT8")

    if asked.version_compatible:
        if flavour == RTX:
            refuse(
                "version_compatible",
                "it ships no lean runtime to put into the plan",
                "leave it out and build again for each version (it takes seconds)",
            )
        flags.append("VERSION_COMPATIBLE")
    level = asked.hardware_compatibility
    if level != "none":
        if flavour == RTX:
            refuse(
                f"hardware_compatibility: {level}",
                "its plans fit every GPU of the capabilities that they are built for",
                "compute_capabilities, or nothing for all from 8.0 on",
            )
        member = {"ampere+": "AMPERE_PLUS", "same_compute_capability": "SAME_COMPUTE_CAPABILITY"}[level]
        if (member == "SAME_COMPUTE_CAPABILITY" and numbers < (10,)) or not has("HardwareCompatibilityLevel", member):
            refuse(f"hardware_compatibility: {level}", "this version does not know it", "ampere+ or none")
    capabilities = asked.compute_capabilities
    if capabilities is not None:
        if flavour != RTX:
            refuse(
                "compute_capabilities",
                "it builds for the GPU that it runs on",
                "hardware_compatibility: ampere+, or backend tensorrt_rtx",
            )
        unknown = [c for c in capabilities if not has("ComputeCapability", f"SM{c}")]
        if unknown:
            known = [c for c in (75, 80, 86, 87, 89, 90, 100, 120, 121) if has("ComputeCapability", f"SM{c}")]
            refuse(
                f"compute_capabilities: {', '.join(map(str, unknown))}",
                f"it knows {', '.join(map(str, known))}",
                "one of these, or nothing for all from 8.0 on",
            )
    if asked.sparse_weights:
        flags.append("SPARSE_WEIGHTS")
    if asked.refit or asked.strip_plan:
        flags.append("REFIT")
    if asked.strip_plan:
        if flavour != RTX and numbers < (10,):
            refuse("strip_plan", "it came with TensorRT 10", "refit (weights stay in the plan)")
        flags.append("STRIP_PLAN")
    if asked.weight_streaming:
        if flavour != RTX and numbers < (10,):
            refuse("weight_streaming", "it came with TensorRT 10", "a smaller precision, or leave it out")
        if not strong:
            refuse("weight_streaming", "it needs a strongly typed network", "leave strongly_typed out")
        flags.append("WEIGHT_STREAMING")

    for flag in flags:
        if not has("BuilderFlag", flag):
            refuse(flag.lower(), "its bindings have no such builder flag", "leave the setting out")
    not_applicable = ["timing_cache"] if flavour == RTX else []
    if flavour == RTX and asked.optimization_level is not None:
        not_applicable.append("optimization_level")
    return Settled(
        strongly_typed=strong,
        rewrite=rewrite,
        flags=tuple(sorted(flags)),
        not_applicable=tuple(sorted(not_applicable)),
    )
