"""What this machine has: versions, GPUs, driver. Nothing heavy is imported to find it."""

from __future__ import annotations

import os
import re
import sys
from functools import lru_cache
from typing import Any

from trtpipe.errors import EnvironmentMissing
from trtpipe.row import Row

HELP = {
    "onnxruntime": "pip install 'trtpipe[cpu]'",
    "tensorrt": "pip install 'trtpipe[tensorrt]'",
    "tensorrt_rtx": "pip install 'trtpipe[rtx]'",
}
_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx"),
}
_MODULES = {
    "onnxruntime": ("onnxruntime",),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}


class Gpu(Row):
    """One NVIDIA GPU that CUDA programs of this process would see; memory in bytes."""

    number: int
    name: str
    compute_capability: str
    memory: int
    uuid: str


class Choice(Row):
    """The runtime that was chosen, its full version, and why."""

    backend: str
    version: str
    reason: str


def search_path() -> list[str]:
    """Give the folders in which a worker finds modules, in its order: not the one of the script that this process ran.

    First trtpipe's own, then PYTHONPATH, the standard library and what is installed.
    """
    return list(_search_path(tuple(sys.path[1:]), os.getcwd()))


@lru_cache(maxsize=8)
def _search_path(given: tuple[str, ...], folder: str) -> tuple[str, ...]:
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return tuple(dict.fromkeys([own, *(os.path.join(folder, os.path.abspath(entry)) for entry in given if entry)]))


@lru_cache(maxsize=1)
def _distributions() -> dict[str, tuple[str, str]]:
    """Give version and metadata folder of each installed distribution, by normalised name.

    Reads only the names of `*.dist-info` folders: importing importlib.metadata costs more than all of this.
    """
    found: dict[str, tuple[str, str]] = {}
    for top in search_path():
        try:
            names = os.listdir(top)
        except OSError:
            continue
        for name in names:
            if name.endswith(".dist-info"):
                dist, _, version = name[: -len(".dist-info")].rpartition("-")
                found.setdefault(_normal(dist), (version, os.path.join(os.path.abspath(top), name)))
    return found


@lru_cache(maxsize=4096)
def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def installed() -> dict[str, str]:
    """Give the version of each installed distribution, by normalised name."""
    return {name: version for name, (version, _) in _distributions().items()}


def version(distribution: str) -> str | None:
    """Give an installed distribution's version, or None."""
    found = _distributions().get(_normal(distribution))
    return found[0] if found else None


def metadata_folder(distribution: str) -> str | None:
    """Give the `*.dist-info` folder of an installed distribution, or None."""
    found = _distributions().get(_normal(distribution))
    return found[1] if found else None


def metadata_folders() -> dict[str, str]:
    """Give the metadata folder of each installed distribution, by normalised name."""
    return {name: folder for name, (_, folder) in _distributions().items()}


def site_of(distribution: str) -> str | None:
    """Give the folder into which a distribution is installed, or None."""
    folder = metadata_folder(distribution)
    return os.path.dirname(folder) if folder else None


def measures_memory() -> bool:
    """Tell whether this machine says how much memory a process has, apart from files: Linux from 4.5 on does."""
    try:
        with open("/proc/self/status", "rb") as stream:
            return b"\nRssAnon:" in stream.read()
    except OSError:
        return False


def find_file(relative: str) -> str | None:
    """Give the path of a file or folder below the first folder on the module search path that has it, or None."""
    for top in search_path():
        path = os.path.join(top, *relative.split("/"))
        if os.path.exists(path):
            return path
    return None


def runtime_version(backend: str) -> str | None:
    """Give the full version of a runtime, or None if it is not installed."""
    folder = next((f for f in map(find_file, _MODULES[backend]) if f), None)
    if folder is None:
        return None
    for name in _DISTRIBUTIONS[backend]:
        if found := version(name):
            return found
    # A runtime that was unpacked and not installed has its version in its own source.
    for file in ("version.py", "_version.py", "__init__.py"):
        try:
            with open(os.path.join(folder, file), encoding="utf-8") as stream:
                match = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", stream.read(), re.MULTILINE)
        except OSError:
            continue
        if match:
            return match[1]
    return None


@lru_cache(maxsize=1)
def _nvml() -> tuple[tuple[Gpu, ...], str | None]:
    """Give all GPUs and the driver's version, from NVML. Source: NVIDIA's NVML API reference."""
    if not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))):
        return (), None
    import ctypes

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return (), None
    if nvml.nvmlInit_v2() != 0:
        return (), None
    try:
        text = ctypes.create_string_buffer(96)
        driver = text.value.decode() if nvml.nvmlSystemGetDriverVersion(text, 96) == 0 else None
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        gpus = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
                continue
            nvml.nvmlDeviceGetName(handle, text, 96)
            name = text.value.decode()
            nvml.nvmlDeviceGetUUID(handle, text, 96)
            uuid = text.value.decode()
            major, minor = ctypes.c_int(), ctypes.c_int()
            nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
            memory = (ctypes.c_ulonglong * 3)()
            nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
            gpus.append(Gpu(index, name, f"{major.value}.{minor.value}", memory[0], uuid))
        return tuple(gpus), driver
    finally:
        nvml.nvmlShutdown()


def gpu_state() -> dict[str, Any] | None:
    """Give the first visible GPU's clocks (MHz), temperature (°C), power (W) and throttle reasons, from NVML.

    A figure that NVML does not give is left out; None without a GPU. Source: NVIDIA's NVML API reference.
    """
    here = gpus()
    if not here:
        return None
    import ctypes

    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    if nvml.nvmlInit_v2() != 0:
        return None
    found: dict[str, Any] = {"name": here[0].name, "uuid": here[0].uuid, "driver": driver()}
    try:
        handle = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(here[0].number, ctypes.byref(handle)) != 0:
            return found
        number = ctypes.c_uint()
        for kind, clock in (("sm", 1), ("memory", 2)):
            if nvml.nvmlDeviceGetClockInfo(handle, clock, ctypes.byref(number)) == 0:
                found[f"{kind}_clock_mhz"] = number.value
            if nvml.nvmlDeviceGetMaxClockInfo(handle, clock, ctypes.byref(number)) == 0:
                found[f"{kind}_clock_max_mhz"] = number.value
        if nvml.nvmlDeviceGetTemperature(handle, 0, ctypes.byref(number)) == 0:
            found["temperature_c"] = number.value
        if nvml.nvmlDeviceGetPowerUsage(handle, ctypes.byref(number)) == 0:
            found["power_w"] = round(number.value / 1000, 1)
        if nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle, ctypes.byref(number)) == 0:
            found["pcie_generation"] = number.value
        if nvml.nvmlDeviceGetCurrPcieLinkWidth(handle, ctypes.byref(number)) == 0:
            found["pcie_width"] = number.value
        reasons = ctypes.c_ulonglong()
        if nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle, ctypes.byref(reasons)) == 0:
            found["throttle_reasons"] = hex(reasons.value)
    finally:
        nvml.nvmlShutdown()
    return found


def driver() -> str | None:
    """Give the NVIDIA driver's version, or None."""
    return _nvml()[1]


def gpus() -> tuple[Gpu, ...]:
    """Give the GPUs that CUDA_VISIBLE_DEVICES leaves visible, in its order; numbers count in PCI order."""
    every = _nvml()[0]
    wish = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wish is None:
        return every
    visible = []
    for part in wish.split(","):
        text = part.strip()
        match = [g for g in every if text == str(g.number) or (text.startswith("GPU-") and g.uuid.startswith(text))]
        if not match:
            break  # CUDA also stops at the first one that it does not know
        visible.append(match[0])
    return tuple(visible)


def rtx_supports(runtime: str, compute_capability: str) -> bool:
    """Tell whether a TensorRT-RTX version runs on a GPU: Turing, Ampere, Ada, Blackwell; Hopper only up to 1.4.

    Source: measured; 1.7.1 refuses compute capability 9.0 when it deserialises, 1.4.0 builds and runs there.
    """
    major = int(compute_capability.split(".", 1)[0])
    numbers = tuple(int(n) for n in re.findall(r"\d+", runtime)[:2])
    if major == 9:
        return numbers < (1, 5)
    return compute_capability == "7.5" or major == 8 or major >= 12


def rtx_rounds(compute_capability: str) -> bool:
    """Tell whether TensorRT-RTX multiplies float32 in TF32 on a GPU although it is told not to.

    Source: measured with 1.4.0.76 on compute capability 9.0: a relative error of 7e-4 with the flag set or clear.
    """
    return compute_capability.startswith("9.")


def rtx_rounded(compute_capability: str, precision: str | None) -> str | None:
    """Name what TensorRT-RTX multiplies in TF32 although `precision` says float32; None if nothing, or if unknown."""
    if precision in (None, "tf32") or not rtx_rounds(compute_capability):
        return None
    return "float32" if precision in ("fp32", "model") else "what stays float32"


def choose(asked: str) -> Choice:
    """Choose the runtime for `auto`, or check that the one asked for is installed.

    Raises EnvironmentMissing if it is not installed. The runner checks later whether a stage needs a GPU.
    """
    if asked != "auto":
        found = runtime_version(asked)
        if found is None:
            others = [b for b in _MODULES if b != asked and runtime_version(b)]
            hint = f"; installed here: {', '.join(others)}" if others else ""
            raise EnvironmentMissing(f"the runtime {asked} is not installed: {HELP[asked]}{hint}")
        return Choice(asked, found, "asked for")
    here = gpus()
    if here:
        gpu = here[0]
        if found := runtime_version("tensorrt"):
            return Choice("tensorrt", found, f"TensorRT is installed and there is a GPU ({gpu.name})")
        found = runtime_version("tensorrt_rtx")
        if found and rtx_supports(found, gpu.compute_capability):
            return Choice("tensorrt_rtx", found, f"TensorRT-RTX is installed and supports the GPU ({gpu.name})")
        why = f"no TensorRT that runs on the GPU ({gpu.name}) is installed"
    else:
        why = "no GPU here"
    if found := runtime_version("onnxruntime"):
        return Choice("onnxruntime", found, why)
    raise EnvironmentMissing(f"no runtime is installed ({why}): {HELP['onnxruntime']}")


def facets(packages: tuple[str, ...], choice: Choice | None, gpu: Gpu | None) -> dict[str, Any]:
    """Give the part of the environment that goes into a key.

    Raises EnvironmentMissing if a package is not installed: a missing version must not become a constant.
    """
    found: dict[str, Any] = {}
    for name in packages:
        have = version(name)
        if have is None:
            raise EnvironmentMissing(f"the package {name} is not installed: {_help(name)}")
        found[name] = have
    if choice is not None:
        found["backend"] = choice.backend
        found["backend_version"] = choice.version
    if choice is not None and choice.backend == "onnxruntime":
        found["machine"] = os.uname().machine
    if choice is not None and choice.backend != "onnxruntime":
        # What Polygraphy sets by default is part of a plan's recipe.
        found["polygraphy"] = version("polygraphy")
    if gpu is not None:
        found["gpu"] = gpu.name
        found["compute_capability"] = gpu.compute_capability
    return found


def _help(package: str) -> str:
    extras = {
        "torch": "torch", "onnxscript": "torch", "onnxruntime": "cpu", "pillow": "vision", "fsspec": "remote",
        "nvidia-modelopt": "modelopt", "onnxslim": "onnxslim",
    }  # fmt: skip
    return f"pip install 'trtpipe[{extras[package]}]'" if package in extras else f"pip install {package}"


def record() -> dict[str, Any]:
    """Give the part of the environment that is recorded beside an artifact and is in no key."""
    system = os.uname()
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "os": f"{system.sysname} {system.release}",
        "machine": system.machine,
        "host": system.nodename,
        "driver": driver(),
        "gpus": [g._asdict() for g in gpus()],
    }
