"""From a configured network to an engine: the plan, and beside it a manifest that says what it is."""

from __future__ import annotations

import os
from typing import Any

from trtpipe.backends import plan_name
from trtpipe.errors import StageFailed
from trtpipe.stage import Context, Params, Port, StageType


class BuildParams(Params, frozen=True, kw_only=True):
    """Nothing: what is built is configure's word."""


def run(ctx: Context) -> None:
    """Build the plan and write its manifest. Nothing is ever added to the plan file itself."""
    source = ctx.inputs["config"]
    config = source.json("config.json")
    network = source.json("network.json")
    backend = ctx.backend()
    if (config["runtime"], config["runtime_version"]) != (backend.name, backend.version):
        raise StageFailed(
            f"the config was checked for {config['runtime']} {config['runtime_version']}, and this is {backend.name} "
            f"{backend.version}; configure again for it"
        )
    plan = ctx.out / plan_name(backend.name)
    part = backend.build(source.path("model.onnx"), config, plan, ctx.shared, ctx.note)
    manifest: dict[str, Any] = {
        "format": 1,
        "runtime": backend.name,
        "runtime_version": backend.version,
        "plan": plan.name,
        # onnxruntime puts large weights beside its plan.
        "plan_bytes": sum(entry.stat().st_size for entry in os.scandir(ctx.out)),
        "bindings": [_named(binding, network) for binding in part["bindings"]],
        "profiles": config["profiles"],
        "precision": config["precision"],
        "precision_proof": part.get(
            "precision_proof", {"status": "unproven", "why": f"{backend.name} does not tell its layers' types"}
        ),
        "version_compatible": config["version_compatible"],
        "target": part["target"],
        "key": ctx.key,
    }
    ctx.write_json("manifest.json", manifest)


def _named(binding: dict[str, Any], network: dict[str, Any]) -> dict[str, Any]:
    """Give a binding the dim names of network.json: a runtime may know fewer of them."""
    known = {entry["name"]: entry["dims"] for entry in [*network["inputs"], *network["outputs"]]}
    dims = known.get(binding["name"])
    shape = binding["shape"]
    if dims is None or binding["dims"] is None or len(dims) != len(shape):
        return binding
    named = [size if size >= 0 else dim for size, dim in zip(shape, dims, strict=True)]
    # A dim that the model fixes and the runtime calls dynamic stays what the runtime says.
    fixed = [made if isinstance(dim, int) else dim for dim, made in zip(named, binding["dims"], strict=True)]
    return {**binding, "dims": [size if size >= 0 else f for size, f in zip(shape, fixed, strict=True)]}


STAGE = StageType(
    name="build",
    version=1,
    Params=BuildParams,
    inputs={"config": Port(kinds=("config",), doc="The configured network.")},
    output="engine",
    doc="Builds and serialises the engine.",
    run=run,
    backend=True,
    gpu_on=("tensorrt",),
)
