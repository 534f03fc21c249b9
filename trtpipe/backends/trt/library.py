"""TensorRT or TensorRT-RTX as this process has loaded it: the Python bindings, the logger, and the last errors.

Everything else in this room is given a Library and asks it: parser, builder, engine, session.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import sys
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

from trtpipe import environment
from trtpipe.backends.trt import rules
from trtpipe.errors import EnvironmentMissing, StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from trtpipe.documents.base import Runtime

KEPT = 12  # native errors of one call that a message shows
WARNINGS = 500  # warnings of one call that are looked at
LONGEST = 600  # characters of one of them


class Library:
    """One flavour of TensorRT. `name` is "tensorrt" or "tensorrt_rtx", `trt` its module of Python bindings."""

    def __init__(self, name: Runtime, trt: Any) -> None:
        self.name: Runtime = name
        self.version: str = trt.__version__
        """The bindings' full version."""
        self.trt = trt
        self.errors: deque[str] = deque(maxlen=KEPT)
        """What the runtime has logged as an error since it was last cleared: some failures are only told there."""
        self.warnings: deque[str] = deque(maxlen=WARNINGS)
        """The same of warnings: some of them change what was asked for."""
        self._plugins: dict[str, ctypes.CDLL] = {}
        self.logger = self._make_logger()
        self.rtx = name == rules.RTX
        self.title = f"{rules.TITLES[name]} {self.version}"

    def _make_logger(self) -> Any:
        with contextlib.redirect_stdout(sys.stderr):  # Polygraphy prints while it is imported
            from polygraphy.backend.trt import util
            from polygraphy.logger import G_LOGGER

        G_LOGGER.use_python_logging_system = True  # it would print to stdout
        python = logging.getLogger("Polygraphy")
        if not any(isinstance(h, _Stderr) for h in python.handlers):
            python.addHandler(_Stderr())
        python.propagate = False
        python.setLevel(logging.INFO)
        trt, errors, warned = self.trt, self.errors, self.warnings
        severity = trt.ILogger.Severity
        worst = (severity.INTERNAL_ERROR, severity.ERROR)
        names = {severity.INTERNAL_ERROR: "internal error", severity.ERROR: "error", severity.WARNING: "warning"}

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, message: str) -> None:
                # Native code calls this, also from its own threads: no exception may leave it.
                with contextlib.suppress(Exception):
                    if level in worst:
                        errors.append(message)
                    elif level == severity.WARNING:
                        warned.append(message)
                    if level != severity.VERBOSE:
                        sys.stderr.write(f"[{names.get(level, 'info')}] {message}\n")

        logger = Logger()
        # TensorRT wants one logger a process; Polygraphy makes its own unless it finds one here.
        util.TRT_LOGGER = logger
        return logger

    def load_plugins(self, folder: Path) -> None:
        """Load the libraries of plugins in a folder, if there is one; those that are loaded already stay.

        Raises StageFailed that names a library that cannot be loaded.
        """
        for path in sorted(folder.glob("*")):
            if str(path) in self._plugins:
                continue
            try:
                # Global, as TensorRT's own tools do it: a library registers its plugins when it is loaded.
                self._plugins[str(path)] = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                text = str(error).replace(str(path), path.name)
                raise StageFailed(f"plugins: {self.title} cannot load {path.name}: {text}") from error
            sys.stderr.write(f"[info] plugins: loaded {path.name}\n")

    def explain(self, what: str) -> str:
        """Give the message `what`, followed by the runtime's own last errors."""
        said = []
        for message in self.errors:
            text = " ".join(message.split())
            if text not in said:
                said.append(text if len(text) <= LONGEST else text[:LONGEST] + " …")
        if not said:
            return f"{what}; {self.title} said nothing"
        return f"{what}; {self.title} says:\n  " + "\n  ".join(said)

    @contextlib.contextmanager
    def calls(self, what: str, advice: Callable[[list[str]], str] = lambda _: "") -> Iterator[None]:
        """Turn an exception of Polygraphy or TensorRT into StageFailed: `what`, and the native errors of these calls.

        `advice` may add a sentence for what the runtime said. MemoryError and OSError pass as they are.
        """
        self.errors.clear()
        self.warnings.clear()
        try:
            with warnings.catch_warnings():
                # Polygraphy serves every version, and so calls what newer ones deprecate.
                warnings.simplefilter("ignore", DeprecationWarning)
                yield
        except (StageFailed, EnvironmentMissing):
            raise
        except Exception as error:
            from polygraphy.exception import PolygraphyException

            if isinstance(error, MemoryError | OSError):
                raise
            if not isinstance(error, PolygraphyException):
                self.errors.append(f"{type(error).__name__}: {error}")
            elif not self.errors:
                self.errors.append(str(error))
            raise StageFailed(self.explain(what) + advice(list(self.errors))) from error

    def has(self, enum: str, member: str) -> bool:
        """Tell whether the installed bindings know a member of an enum, such as BuilderFlag.FP16."""
        return hasattr(getattr(self.trt, enum, None), member)


class _Stderr(logging.Handler):
    """Write to whatever sys.stderr is now: in a worker process it is the stage's log."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"[{record.levelname.lower()}] {record.name}: {record.getMessage()}\n")


def load(name: Runtime) -> Library:
    """Import a flavour of TensorRT, and choose it in Polygraphy, which reads the choice once, when it is imported.

    Raises EnvironmentMissing if it is not installed or too old, if it is `tensorrt` and there is no GPU (its builder
    needs one even to parse), or if Polygraphy has already been imported for the other flavour.
    """
    rtx = name == rules.RTX
    if rtx:
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
    else:
        os.environ.pop("POLYGRAPHY_USE_TENSORRT_RTX", None)
    config = sys.modules.get("polygraphy.config")
    if config is not None and bool(config.USE_TENSORRT_RTX) != rtx:
        raise EnvironmentMissing(other_flavour(name, "tensorrt_rtx" if config.USE_TENSORRT_RTX else "tensorrt"))
    trt = _import(name)
    rules.typing(name, rules.parse_version(trt.__version__))
    if not rtx and not environment.gpus():
        raise EnvironmentMissing(
            "tensorrt needs a GPU even to build, and there is none here (or CUDA_VISIBLE_DEVICES hides it); without "
            "one, --backend tensorrt_rtx --target engine builds a real plan (pip install 'trtpipe[rtx]'), and "
            "--backend onnxruntime runs"
        )
    return Library(name, trt)


def other_flavour(name: str, loaded: str) -> str:
    """Say why `name` cannot be loaded in this process, which has `loaded`."""
    return (
        f"this process has already loaded {loaded}, and Polygraphy serves one flavour of TensorRT a process; "
        f"use {name} in a process of its own"
    )


def _import(name: str) -> Any:
    hint = environment.HELP[name]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The RTX wheels hold `tensorrt_rtx_bindings`; only a small package on top makes `tensorrt_rtx` of it.
        if name == rules.RTX and error.name == name:
            try:
                module = importlib.import_module("tensorrt_rtx_bindings")
            except ImportError as inner:
                raise EnvironmentMissing(f"tensorrt_rtx is not installed ({inner}): {hint}") from inner
            sys.modules[name] = module
            return module
        raise EnvironmentMissing(f"{name} is not installed ({error}): {hint}") from error
    except ImportError as error:
        raise EnvironmentMissing(f"{name} is installed, but fails to import ({error}); try {hint}") from error
