"""Whether a plan can load here, told from its header and manifest: no TensorRT is imported and nothing can crash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trtpipe import environment
from trtpipe.backends import plan_header
from trtpipe.documents import files
from trtpipe.documents.buffers import Buffers
from trtpipe.documents.manifest import Manifest, Target
from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.runtime import Engine

if TYPE_CHECKING:
    from trtpipe.stage import Context

TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX", "onnxruntime": "ONNX Runtime"}


class Check(NamedTuple):
    """One thing that was looked at: `good` is None where it cannot be told."""

    what: str
    good: bool | None
    found: str
    help: str


def check(plan: Path, manifest: Manifest | None) -> list[Check]:
    """Look at a plan and at its manifest, if there is one; give each finding with what would help.

    Raises StageFailed if the file is no plan at all.
    """
    if manifest is not None and manifest.runtime == "onnxruntime":
        return _onnxruntime(plan, manifest)
    header = plan_header.read_header(plan)
    flavour = header.flavour
    title = TITLES[flavour]
    found = [Check("plan", True, f"{title} {header.version}, {os.stat(plan).st_size} bytes", "")]
    found.append(_whole(plan, header, manifest))
    if manifest is not None and manifest.runtime != flavour:
        found.append(Check("manifest", False, f"it is of {manifest.runtime}", "take the manifest beside this plan"))
    installed = environment.runtime_version(flavour)
    if installed is None:
        found.append(Check("runtime", False, f"{title} is not installed", environment.HELP[flavour]))
    else:
        compatible = manifest is not None and manifest.version_compatible
        try:
            plan_header.check(plan, flavour, installed, version_compatible=compatible)
        except StageFailed as error:
            found.append(Check("runtime", False, str(error), f"pip install '{_requirement(header)}', or build again"))
        else:
            found.append(Check("runtime", True, f"{title} {installed} is installed", ""))
    return found + _gpu(flavour, installed, manifest)


def _whole(plan: Path, header: plan_header.Header, manifest: Manifest | None) -> Check:
    size = os.stat(plan).st_size
    wanted = header.size if header.flavour == "tensorrt_rtx" else None
    if manifest is not None:
        wanted = manifest.plan_bytes
    if wanted is None:
        return Check("size", None, f"{size} bytes; nothing says how many there should be", "")
    if size < wanted or (manifest is not None and size != wanted):
        return Check("size", False, f"{size} bytes, expected {wanted}: it is torn", "build again")
    return Check("size", True, f"{size} bytes, as expected", "")


def _requirement(header: plan_header.Header) -> str:
    if header.flavour == "tensorrt":
        return f"tensorrt=={'.'.join(header.version.split('.')[:3])}.*"
    return f"tensorrt_rtx_cu13=={'.'.join(header.version.split('.')[:3])}.*"


def _gpu(flavour: str, installed: str | None, manifest: Manifest | None) -> list[Check]:
    here = environment.gpus()
    if not here:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        why = "there is none here" + (" (CUDA_VISIBLE_DEVICES hides it)" if hidden else "")
        return [Check("GPU", False, why, "run it on a machine with an NVIDIA GPU and driver")]
    gpu = here[0]
    target = manifest.target if manifest else Target()
    name = f"{gpu.name}, compute capability {gpu.compute_capability}"
    if flavour == "tensorrt_rtx":
        if installed is not None and not environment.rtx_supports(installed, gpu.compute_capability):
            return [Check("GPU", False, f"{name}: {TITLES[flavour]} {installed} does not run on it",
                          "tensorrt_rtx_cu13 1.4 on Hopper, or --backend tensorrt")]  # fmt: skip
        built = target.compute_capabilities
        number = int(gpu.compute_capability.replace(".", ""))
        fits = None if built is None else number >= 80 if built == "8.0+" else number in built
        told = name if built is None else f"{name}; built for {built if built == '8.0+' else list(built)}"
        if what := environment.rtx_rounded(gpu.compute_capability, manifest.precision if manifest else None):
            told += f"; it multiplies {what} in TF32 there, whatever it is told"
        return [Check("GPU", fits, told, "" if fits is not False else f"build with compute_capabilities: [{number}]")]
    if target.gpu is None:
        return [Check("GPU", None, f"{name}; the plan does not say which it was built on", "")]
    level = target.hardware_compatibility
    same = target.compute_capability == gpu.compute_capability
    ampere = level == "ampere+" and float(gpu.compute_capability) >= 8.0
    fits = target.gpu == gpu.name or ampere or (level == "same_compute_capability" and same)
    if fits or same:
        note = "" if fits else "; it was tuned on another GPU of this capability"
        return [Check("GPU", True, f"{name}; built on {target.gpu}{note}", "")]
    return [Check("GPU", False, f"{name}; built on {target.gpu}, compute capability {target.compute_capability}",
                  "build again here, or with hardware_compatibility: ampere+")]  # fmt: skip


def _onnxruntime(plan: Path, manifest: Manifest) -> list[Check]:
    installed = environment.runtime_version("onnxruntime")
    found = [Check("plan", True, f"ONNX Runtime {manifest.runtime_version}, {os.stat(plan).st_size} bytes", "")]
    if installed is None:
        return [*found, Check("runtime", False, "ONNX Runtime is not installed", environment.HELP["onnxruntime"])]
    return [*found, Check("runtime", True, f"ONNX Runtime {installed} is installed", "")]


def require(plan: Path, manifest: Manifest) -> None:
    """Refuse a plan that cannot load here, with everything that is wrong.

    Raises EnvironmentMissing if all that lacks is a runtime or a GPU, else StageFailed.
    """
    bad = [c for c in check(plan, manifest) if c.good is False]
    if bad:
        missing = {"GPU"} if not environment.gpus() else set()
        if environment.runtime_version(manifest.runtime) is None:
            missing.add("runtime")
        kind = EnvironmentMissing if {c.what for c in bad} <= missing else StageFailed
        raise kind(
            f"{plan.name} cannot load here:\n"
            + "\n".join(f"  {c.what}: {c.found}" + (f"; {c.help}" if c.help else "") for c in bad)
        )


def require_gpu(runtime: str) -> None:
    """Refuse, before anything is built, to run an engine that could not run here. Raises EnvironmentMissing."""
    if runtime == "onnxruntime":
        return
    for one in _gpu(runtime, environment.runtime_version(runtime), None):
        if one.good is False:
            raise EnvironmentMissing(
                f"check: found no GPU for {TITLES[runtime]} ({one.found}), expected one, because the engine is run; "
                f"{one.help}, or leave check out: infer checks the engine's first answer too"
            )


def engine(ctx: Context) -> Engine:
    """Take the inputs `engine` and `buffers` of a stage that runs them. Raises as `require` does if it cannot here."""
    manifest = ctx.inputs["engine"].read(Manifest)
    if manifest.runtime != ctx.backend_name:
        raise StageFailed(f"the engine was built by {manifest.runtime}; it cannot run on {ctx.backend_name}")
    plan = ctx.inputs["engine"].path(manifest.plan)
    require(plan, manifest)
    return Engine(plan, manifest, ctx.inputs["buffers"].read(Buffers))


def open_plan(given: str) -> tuple[Path, Manifest | None]:
    """Find the plan and its manifest for a path that names a plan or the folder of an engine. Raises StageFailed."""
    path = Path(given)
    folder = path if path.is_dir() else path.parent
    beside = folder / Manifest.file
    manifest = files.read(beside, Manifest, str(beside)) if beside.is_file() else None
    if path.is_dir():
        path = folder / (manifest.plan if manifest else "engine.plan")
    if not path.is_file():
        raise StageFailed(f"{given}: there is no plan; give an engine.plan or the folder of an engine")
    if manifest is not None and manifest.plan != path.name:
        manifest = None
    return path, manifest
