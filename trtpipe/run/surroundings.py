"""The environment variables of a worker, which trtpipe makes: docs/decisions/0024-a-workers-environment-is-made.md.

Every worker gets folders of its own for HOME, TMPDIR and XDG_*, and fixed values where a value could change a result.
Variables that runtimes read natively cannot be observed; they are passed on, and the key has the digests of those that
are set. All others are passed on too; if users' code is seen to ask for one, its digest is in the key. Variables whose
names look like a secret are withheld, unless the stage names them in `params.env`.
"""

from __future__ import annotations

import fnmatch
import os
from functools import lru_cache
from typing import TYPE_CHECKING

from trtpipe import environment
from trtpipe import key as keys

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

NATIVE = {
    "ATEN_*": "PyTorch: aten/src/ATen (ATEN_CPU_CAPABILITY)",
    "BLIS_*": "BLIS: docs/Multithreading.md",
    "CUBLAS_*": "cuBLAS library, 'cublasSetWorkspace' (CUBLAS_WORKSPACE_CONFIG)",
    "CUDA_*": "CUDA C++ Programming Guide, 'CUDA Environment Variables'",
    "CUDNN_*": "cuDNN developer guide, 'Environment Variables'",
    "DNNL_*": "oneDNN: doc/performance_considerations/dispatcher_control.md",
    "GLIBC_TUNABLES": "glibc manual, 'Tunables'",
    "GOMP_*": "libgomp manual, 'Environment Variables'",
    "JAX_*": "JAX: docs/configuration_options.rst",
    "KERAS_BACKEND": "Keras: keras/src/backend/config.py",
    "KMP_*": "LLVM OpenMP: openmp/docs/design/Runtimes.rst",
    "LD_*": "ld.so(8)",
    "MALLOC_*": "mallopt(3)",
    "MKL_*": "oneMKL developer guide, 'Environment Variables'",
    "MXNET_*": "MXNet: docs, 'env_var'",
    "NCCL_*": "NCCL user guide, 'Environment Variables'",
    "NUMEXPR_*": "NumExpr: doc/user_guide.rst",
    "NVIDIA_*": "CUDA and cuBLAS release notes (NVIDIA_TF32_OVERRIDE)",
    "OMP_*": "OpenMP API specification, 'Environment Variables'",
    "ONEDNN_*": "oneDNN: doc/performance_considerations/dispatcher_control.md",
    "OPENBLAS_*": "OpenBLAS: docs/runtime_variables.md",
    "ORT_*": "ONNX Runtime: onnxruntime/core/platform",
    "POLYGRAPHY_*": "Polygraphy: polygraphy/config.py",
    "PYTHON*": "Python: Doc/using/cmdline.rst",
    "PYTORCH_*": "PyTorch: docs, 'Environment Variables'",
    "TF_*": "TensorFlow: tensorflow/core/util/env_var.h and its users",
    "TORCH*": "PyTorch: docs, 'Environment Variables' (TORCH_*, TORCHINDUCTOR_*, TORCHDYNAMO_*)",
    "TRITON_*": "Triton: README, 'Tips for hacking'",
    "TRT_*": "TensorRT developer guide",
    "XLA_*": "OpenXLA: docs/flags_guidance.md",
}
"""Variables that runtimes read natively, as patterns of names, each with its source."""

NOT_KEYED = {
    "CUDA_CACHE_*": "where CUDA keeps what it compiled, not what it computes",
    "CUDA_DEVICE_ORDER": "fixed by us: the order in which GPUs are named",
    "CUDA_HOME": "a place; what lies there is in the key by its version",
    "CUDA_MODULE_LOADING": "when kernels are loaded, not which",
    "CUDA_PATH": "a place; what lies there is in the key by its version",
    "CUDA_VERSION": "says of a container what it holds",
    "CUDA_VISIBLE_DEVICES": "which GPU; its name and capability are in the key",
    "NVIDIA_DRIVER_CAPABILITIES": "says of a container what it may do",
    "NVIDIA_PRODUCT_NAME": "says of a container what it holds",
    "NVIDIA_REQUIRE_*": "says of a container where it may run",
    "NVIDIA_VISIBLE_DEVICES": "which GPU; its name and capability are in the key",
    "PYTHONDONTWRITEBYTECODE": "changes no result",
    "PYTHONHASHSEED": "fixed by us",
    "PYTHONPATH": "where modules are found; they count by content",
    "PYTHONPYCACHEPREFIX": "changes no result",
    "PYTHONUNBUFFERED": "fixed by us",
    "TF_CLI_*": "Terraform's, not TensorFlow's",
    "TF_VAR_*": "Terraform's, not TensorFlow's",
    "TORCH_HOME": "a cache; what is read from it counts by content",
}
"""Those of these variables that are in no key, and why."""

SECRETS = (
    "*_ACCESS_KEY*", "*_API_KEY*", "*_CREDENTIAL*", "*_PASSPHRASE", "*_PASSWD", "*_PASSWORD", "*_PRIVATE_KEY*",
    "*_SECRET", "*_SECRET_*", "*_SIGNING_KEY*", "*_TOKEN", "*_TOKEN_*", "AWS_*", "AZURE_*", "GOOGLE_APPLICATION_*",
    "GPG_*", "HF_TOKEN*", "KUBECONFIG", "NETRC", "PASSWORD", "PGPASS*", "PIP_*INDEX_URL", "SECRET", "SSH_*", "TOKEN",
    "UV_*INDEX_URL",
)  # fmt: skip
"""Names of variables with secrets, as patterns; a worker gets one only if its stage names it in `env`."""

OWN_FOLDERS = {
    "HOME": "home",
    "TMPDIR": "tmp",
    "XDG_CACHE_HOME": "home/.cache",
    "XDG_CONFIG_HOME": "home/.config",
    "XDG_DATA_HOME": "home/.local/share",
    "XDG_RUNTIME_DIR": "tmp",
    "XDG_STATE_HOME": "home/.local/state",
}
FIXED = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts, from which GPUs are named
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "LOGNAME": "trtpipe",
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
    "SHELL": "/bin/sh",
    "TERM": "dumb",
    "TZ": "UTC",
    "USER": "trtpipe",
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""What tells libraries not to try, where the stage has no network."""
DROPPED = ("COLUMNS", "LINES", "OLDPWD", "PS1", "SHLVL", "TEMP", "TMP", "_")
CACHES = {"HF_HOME": ".cache/huggingface", "KERAS_HOME": ".keras", "TORCH_HOME": ".cache/torch"}
"""Known model caches: the variable of each, and its folder in the user's home if the variable is not set."""
_KERNELS = ".nv/ComputeCache"


class _Patterns:
    """Names, some with a `*` at an end or both; a hit asks thousands of times, and fnmatch takes its time."""

    def __init__(self, patterns: Iterable[str]) -> None:
        every = list(patterns)
        self._exact = frozenset(one for one in every if "*" not in one)
        self._first = tuple(one[:-1] for one in every if one.count("*") == 1 and one.endswith("*"))
        self._last = tuple(one[1:] for one in every if one.count("*") == 1 and one.startswith("*"))
        inner = [one for one in every if one.count("*") == 2 and one.startswith("*") and one.endswith("*")]
        self._inner = tuple(one[1:-1] for one in inner)
        plain = (*self._exact, *(f"{one}*" for one in self._first), *(f"*{one}" for one in self._last), *inner)
        self._others = tuple(one for one in every if one not in plain)

    def fit(self, name: str) -> bool:
        """Tell whether a name fits one of the patterns."""
        return (
            name in self._exact
            or name.startswith(self._first)
            or name.endswith(self._last)
            or any(part in name for part in self._inner)
            or any(fnmatch.fnmatchcase(name, one) for one in self._others)
        )


_NATIVE, _NOT_KEYED, _SECRETS = _Patterns(NATIVE), _Patterns(NOT_KEYED), _Patterns(SECRETS)


def is_made(name: str) -> bool:
    """Tell whether trtpipe sets a variable or it can change no result; such a variable is in no key."""
    return name in OWN_FOLDERS or name in FIXED or name in DROPPED or name in ("PATH", "PWD") or _NOT_KEYED.fit(name)


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Tell whether the name of a variable looks like that of a secret."""
    return _SECRETS.fit(name.upper())


def cache(name: str) -> str | None:
    """Give the folder of a known model cache, or None if there is no such cache."""
    if name not in CACHES:
        return None
    return os.path.abspath(os.environ.get(name) or os.path.join(os.path.expanduser("~"), CACHES[name]))


def passed_on(declared: Collection[str]) -> dict[str, str]:
    """Give the variables of this process that a worker gets; secrets only if the stage declares them."""
    return {name: value for name, value in os.environ.items() if _is_passed_on(name, declared)}


def _is_passed_on(name: str, declared: Collection[str]) -> bool:
    return name not in OWN_FOLDERS and name not in DROPPED and (name in declared or not is_secret(name))


def native() -> dict[str, str]:
    """Give the part of a key for variables that runtimes read natively: the digests of those that are set."""
    return {
        name: held
        for name, value in sorted(os.environ.items())
        if _NATIVE.fit(name) and not is_made(name) and (held := digest(value)) is not None
    }


def digest(value: str | None) -> str | None:
    """Give what a key holds for a variable's value: its SHA-256, None if it is not set."""
    return None if value is None else keys.digest(["variable", value.encode("utf-8", "surrogateescape").hex()])


def held(name: str, declared: Collection[str]) -> str | None:
    """Give what a key holds for a variable that users' code reads: None also if it is withheld.

    With a `*` at the end of its name, it is what all variables hold whose names begin so; None if there are none.
    """
    if name.endswith("*"):
        every = passed_on(declared).items()
        found = {n: digest(value) for n, value in every if n.startswith(name[:-1]) and not is_made(n)}
        return keys.digest(found) if found else None
    # One at a time: code that asks for all variables has hundreds of names here, on each hit.
    return digest(os.environ.get(name) if _is_passed_on(name, declared) else None)


def _python_path() -> list[str]:
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return list(dict.fromkeys([package, *map(os.path.abspath, given)]))


def module_path() -> list[str]:
    """Give the folders in which a worker finds modules, in its order."""
    return environment.search_path()


def of_worker(folder: str, declared: Collection[str], *, network: bool = False) -> dict[str, str]:
    """Make the environment of a worker in a workspace folder, with the folders that it names. Raises OSError."""
    own = {name: os.path.join(folder, *place.split("/")) for name, place in OWN_FOLDERS.items()}
    for path in own.values():
        os.makedirs(path, exist_ok=True)
    home = os.path.expanduser("~")
    return {
        # CUDA's compiled kernels do not depend on their folder, and the worker's own home is removed.
        "CUDA_CACHE_PATH": os.path.join(home, *_KERNELS.split("/")),
        "CUDA_MODULE_LOADING": "LAZY",
        **{name: str(cache(name)) for name in CACHES},
        **({} if network else OFFLINE),
        **passed_on(declared),
        **own,
        **FIXED,
        "PATH": os.environ.get("PATH", os.defpath),
        "PWD": os.path.join(folder, "scratch"),
        "PYTHONPATH": os.pathsep.join(_python_path()),
    }


def recorded(declared: Iterable[str]) -> dict[str, str | None]:
    """Give the values that an action record shows: those of the variables that the stage declares."""
    return {name: os.environ.get(name) for name in sorted(declared)}
