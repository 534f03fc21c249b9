"""Run an ONNX model in onnxruntime on the CPU.

Every stage that changes a model (precision, quantisation, clean-up) runs it here against the original, before an engine
is built from it. `feeding` makes the inputs, `deviation` measures how far the outputs differ.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.models import onnxfile, onnxgraph, ort_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

PROVIDERS = ["CPUExecutionProvider"]
BROKEN = "SimplifiedLayerNormFusion"
"""A fusion with which float16 models fail to load in onnxruntime 1.23 to 1.25 at least (its issue 26717). Python 3.10
has no newer ones. Without the fusion only a little speed is lost."""
SAME_NAME = "two nodes with same node name"
"""Part of onnxruntime's message for duplicate node names, which TensorRT's parser accepts."""


_libraries: list[Path] = []
_loaded: dict[str, tuple[Path, ctypes.CDLL]] = {}
"""Libraries by their content, held: a library that is unloaded, or loaded twice, may end the process
(onnxruntime-extensions does)."""


def use_custom_ops(libraries: Sequence[Path]) -> None:
    """Say which libraries of operators every session of this process has from now on, in the place of any before."""
    _libraries[:] = libraries


def onnxruntime() -> Any:
    """Import onnxruntime. Raises EnvironmentMissing without it."""
    try:
        import onnxruntime as module
    except ImportError as error:
        raise EnvironmentMissing(
            "a model that is changed is checked in onnxruntime, and it is not there "
            f"({error}): pip install 'trtpipe[cpu]'"
        ) from error
    return module


def register(options: Any) -> None:
    """Give SessionOptions the libraries of custom operators. Raises StageFailed for one that cannot be loaded."""
    for library in _libraries:
        try:
            content = hashlib.sha256(library.read_bytes()).hexdigest()
            if content not in _loaded:
                _loaded[content] = library, ctypes.CDLL(str(library))
            options.register_custom_ops_library(str(_loaded[content][0]))
        except Exception as error:
            text = " ".join(str(error).split())
            raise StageFailed(f"custom_ops: onnxruntime cannot load {library.name}: {text}") from error


def load(model: bytes | str | Path, options: Any) -> Any:
    """Load a model in onnxruntime on the CPU with these SessionOptions.

    Raises whatever onnxruntime raises, and StageFailed for a library of custom operators that it cannot load.
    """
    register(options)
    make, source = onnxruntime().InferenceSession, model if isinstance(model, bytes) else str(model)
    try:
        return make(source, options, providers=PROVIDERS)
    except Exception as error:
        if BROKEN in str(error):
            return make(source, options, providers=PROVIDERS, disabled_optimizers=[BROKEN])
        if SAME_NAME not in str(error):
            raise
    named = onnx.load_from_string(model) if isinstance(model, bytes) else onnxfile.whole(Path(model))
    onnxgraph.name_nodes(named)
    return make(named.SerializeToString(), options, providers=PROVIDERS)


class Session:
    """A model in onnxruntime. With `plain` it computes node by node as the file says, without any fusion.

    Without fusions a Q/DQ network computes in float32 what an exact int8 kernel would. With fusions the CPU's own int8
    kernels compute it, and on older processors these saturate.
    """

    def __init__(self, model: bytes | str | Path, *, plain: bool = False) -> None:
        module = onnxruntime()
        options = module.SessionOptions()
        options.intra_op_num_threads = min(4, os.cpu_count() or 1)
        options.log_severity_level = 4
        if plain:
            options.graph_optimization_level = module.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = load(model, options)
        self.outputs = [value.name for value in self._session.get_outputs()]
        self._lost = bool(ort_values.lost(self._session))

    def __call__(self, feed: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run one feed; give its outputs by name (all, or those in `outputs`)."""
        names = list(self.outputs if outputs is None else outputs)
        if self._lost:
            return dict(zip(names, ort_values.run(self._session, names, feed), strict=True))
        return dict(zip(names, self._session.run(names, dict(feed)), strict=True))


def run(model: bytes | str | Path, feed: Mapping[str, Any], *, plain: bool = False) -> dict[str, NDArray[Any]]:
    """Run a model once. Raises whatever onnxruntime raises."""
    return Session(model, plain=plain)(feed)
