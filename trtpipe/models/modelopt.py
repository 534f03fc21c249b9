"""NVIDIA's modelopt, an optional extra: fp8 and int4 Q/DQ models, and AutoCast's mixed precision.

modelopt needs PyTorch. It prints and writes files as it works: here it works in a scratch folder, and its output is
held back.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import random
import re
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trtpipe.documents.config import Kept
from trtpipe.documents.quantisation import Opset, Quantised
from trtpipe.errors import EnvironmentMissing, PipelineInvalid, StageFailed, TrtpipeError
from trtpipe.models import feeding, folding, onnxfile, onnxgraph, qdq, quantizable
from trtpipe.models.opset import raise_opset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import onnx

SEED = 20240229
OPSETS = {"fp8": 19, "int4_weights": 21}
"""The first opsets whose QuantizeLinear knows the type (and for int4, blocks)."""


def require() -> None:
    """Raise EnvironmentMissing if modelopt is not installed."""
    if importlib.util.find_spec("modelopt") is None:
        raise EnvironmentMissing(
            "modelopt is not installed: pip install 'trtpipe[modelopt]' (with PyTorch's CPU build installed first, "
            "the CPU is enough)"
        )


def _module(name: str) -> Any:
    require()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise EnvironmentMissing(
            f"modelopt is installed, but fails to import ({error}): pip install 'trtpipe[modelopt]'"
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hold back what modelopt prints and logs, and seed its random choices."""
    root = logging.getLogger()
    level = root.level
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002  modelopt draws from the old global generator
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root.setLevel(logging.ERROR)
            yield
    finally:
        root.setLevel(level)


def _called(what: str, call: Callable[[], Any]) -> Any:
    try:
        with _quietly():
            return call()
    except TrtpipeError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise StageFailed(f"modelopt's {what} fails on this model ({type(error).__name__}: {text})") from error


class _Reader:
    """Feeds modelopt's calibration, which may start again at any time."""

    def __init__(self, samples: feeding.Samples) -> None:
        self._samples = samples
        self.rewind()

    def rewind(self) -> None:
        """Start again with the first feed."""
        self._feeds = iter(self._samples)

    def get_next(self) -> feeding.Feed | None:
        """Give the next feed, None at the end."""
        return next(self._feeds, None)

    def get_first(self) -> feeding.Feed:
        """Give the first feed; the position does not change."""
        return next(iter(self._samples))

    def __iter__(self) -> Iterator[feeding.Feed]:
        return iter(self._samples)


def quantise(
    path: Path,
    out: Path,
    scratch: Path,
    mode: Literal["fp8", "int4_weights"],
    samples: feeding.Samples | None,
    *,
    method: str = "minmax",
    ops: Sequence[str] = (),
    exclude: Sequence[str] = (),
    opset: int | None = None,
    block_size: int = 128,
) -> Quantised:
    """Write the model at `path` in fp8 or with int4 weights to `out` (a file). Gives what was done.

    Raises StageFailed for what modelopt cannot do, EnvironmentMissing without it.
    """
    library = _module("modelopt.onnx.quantization")
    original = onnxfile.whole(path)
    least = max(OPSETS[mode], opset or 0)
    work, before = raise_opset(original, least)
    onnxgraph.constants_are_no_inputs(work)
    onnxgraph.name_nodes(work)
    work, _ = folding.fold(work, scratch)
    onnxgraph.name_nodes(work)
    present = Counter(f.node.op_type for f in onnxgraph.walk(work))
    if not any(present[op] for op in (ops or quantizable.WEIGHTED)):
        raise PipelineInvalid(quantizable.nothing(present, []))
    patterns = onnxgraph.matching_nodes(work, exclude, "exclude")
    source, target = scratch / "float.onnx", scratch / "quantised.onnx"
    onnxfile.save(work, source)
    settings: dict[str, Any] = {
        "quantize_mode": "int4" if mode == "int4_weights" else mode,
        "calibration_method": "rtn_dq" if mode == "int4_weights" else {"minmax": "max", "entropy": "entropy"}[method],
        "calibration_eps": ["cpu"],
        "high_precision_dtype": "fp32",
        "output_path": str(target),
        "log_level": "ERROR",
        "opset": max(least, onnxgraph.opsets(work).get("ai.onnx", 0)),
        "nodes_to_exclude": [_exactly(n) for n in sorted(patterns)],
        "op_types_to_quantize": list(ops) or None,
    }
    if mode == "int4_weights":
        settings["block_size"] = block_size
    if samples is not None:
        settings["calibration_data_reader"] = _Reader(samples)
    _called(f"{mode} quantisation", lambda: library.quantize(str(source), **settings))
    if not target.exists():
        raise PipelineInvalid(
            f"modelopt found nothing to quantise in {mode}: the model has {quantizable.counts(present)}"
        )
    result = onnxfile.whole(target)
    quantised = _quantised(result)
    if not quantised:
        raise PipelineInvalid(
            f"modelopt quantised nothing in {mode}: the model has {quantizable.counts(present)}"
            + (
                f"; int4 wants weights whose rows are a multiple of block_size ({block_size})"
                if samples is None
                else ""
            )
        )
    onnxgraph.restore(result, original)
    qdq.check_scales(result)
    onnxfile.save(result, out)
    nodes = {n.name: n.op_type for n in result.graph.node}
    left = [
        Kept(node=n, op=op, why=f"exclude: {patterns[n]}" if n in patterns else "modelopt leaves it")
        for n, op in nodes.items()
        if op in quantizable.WEIGHTED and n not in quantised
    ]
    return Quantised(
        mode=mode,
        method=settings["calibration_method"],
        opset=Opset(
            before=before or onnxgraph.opsets(original).get("ai.onnx"),
            after=onnxgraph.opsets(result).get("ai.onnx"),
        ),
        quantized=dict(sorted(Counter(nodes[n] for n in quantised).items())),
        nodes=tuple(sorted(quantised)),
        left=tuple(left),
        block_size=block_size if mode == "int4_weights" else None,
    )


def _exactly(name: str) -> str:
    """Give a pattern for one node: modelopt reads names as regular expressions."""
    return f"^{re.escape(name)}$"


def _quantised(model: onnx.ModelProto) -> set[str]:
    """Name the weighted nodes that read a dequantised weight, directly or through a change of shape or type."""
    producers = onnxgraph.producers(model)
    found = set()
    for node in model.graph.node:
        if node.op_type not in quantizable.WEIGHTED:
            continue
        made = producers.get(node.input[1])
        while made is not None and made.op_type in ("Cast", "Reshape", "Transpose", "Identity") and made.input:
            made = producers.get(made.input[0])
        if made is not None and made.op_type == "DequantizeLinear":
            found.add(node.name)
    return found


def autocast(
    path: Path, target: Path, kind: str, *, keep: Sequence[str] = (), feed: feeding.Feed | None = None
) -> onnx.ModelProto:
    """Give the model in mixed precision (`fp16` or `bf16`) as AutoCast writes it; `keep` are node names.

    `target` is a scratch folder. With `feed`, AutoCast's range rule uses its values. Inputs and outputs keep their
    types.
    """
    library = _module("modelopt.onnx.autocast")
    data = None
    if feed is not None:
        data = target / "calibration.npz"
        np.savez(data, **feed)
    model: onnx.ModelProto = _called(
        "AutoCast",
        lambda: library.convert_to_mixed_precision(
            str(path),
            low_precision_type=kind,
            keep_io_types=True,
            nodes_to_exclude=[_exactly(n) for n in keep] or None,
            calibration_data=None if data is None else str(data),
        ),
    )
    return model
