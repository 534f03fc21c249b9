"""Documents as stages write them: a test says what it is about, and the rest is filled in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trtpipe.documents import files
from trtpipe.documents.benchmark import Benchmark, Environment, Host, MeasuredEngine, Settings
from trtpipe.documents.buffers import Buffer, Buffers, Totals
from trtpipe.documents.config import Asked, Config, Profile, Shapes
from trtpipe.documents.manifest import Binding, Manifest, Proof, Target
from trtpipe.documents.metrics import Metrics
from trtpipe.documents.network import Network
from trtpipe.models import signature

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import onnx

    from trtpipe.documents.base import Document
    from trtpipe.runtime import Built


def put(folder: Path, *documents: Document) -> Path:
    """Write documents into a folder, as a stage's artifact has them; give the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for document in documents:
        files.write(folder / document.file, document)
    return folder


def profile(given: Mapping[str, Mapping[str, Sequence[int]]]) -> Profile:
    """Make a profile of the mappings that people write: {image: {min: …, opt: …, max: …}}."""
    return msgspec.convert(given, Profile)


def shapes(low: Sequence[int], best: Sequence[int], high: Sequence[int]) -> Shapes:
    """Make an input's shapes within a profile."""
    return Shapes(min=tuple(low), opt=tuple(best), max=tuple(high))


def binding(name: str, mode: Any, dims: Sequence[int | str], dtype: str = "float32") -> Binding:
    """Make a binding; an axis with a name is dynamic."""
    shape = tuple(d if isinstance(d, int) else -1 for d in dims)
    return Binding(name=name, mode=mode, dtype=dtype, shape=shape, dims=tuple(dims))


_PLAIN: dict[str, Any] = {
    "precision": "model", "keep_fp32": (), "workspace": None, "profiles": (), "optimization_level": None,
    "timing_cache": "auto", "version_compatible": False, "hardware_compatibility": "none",
    "compute_capabilities": None, "sparse_weights": False, "strip_plan": False, "refit": False,
    "weight_streaming": False, "verbosity": "names_only",
}  # fmt: skip


def asked(**changed: Any) -> Asked:
    """Ask for what configure asks for without params."""
    return Asked(**{**_PLAIN, "strongly_typed": None, **changed})


def config(**changed: Any) -> Config:
    """Make a config of onnxruntime, of which nothing special is asked."""
    settled = {"strongly_typed": True, "flags": (), "not_applicable": (), "rewrite": None, "hold": None}
    runtime = {"runtime": "onnxruntime", "runtime_version": "1.0"}
    return Config(**{**_PLAIN, **settled, **runtime, **changed})


def network(**changed: Any) -> Network:
    """Make a network of nothing."""
    empty: dict[str, Any] = {
        "inputs": (), "outputs": (), "nodes": {}, "opset": {"ai.onnx": 17}, "ir_version": 8, "producer": "",
        "parameters": 0, "parameter_bytes": 0, "dtypes": {}, "metadata": {}, "layers": {}, "runtime": "onnxruntime",
        "runtime_version": "1.0",
    }  # fmt: skip
    return Network(**{**empty, **changed})


def described(model: onnx.ModelProto) -> Network:
    """Describe a model as parse does, but for what the runtime's parser makes of it."""
    return signature.describe(model, layers={}, runtime="onnxruntime", runtime_version="1.0")


def manifest(built: Built | None = None, **changed: Any) -> Manifest:
    """Make the manifest of what a backend built; without that, of an engine of onnxruntime that binds nothing."""
    empty: dict[str, Any] = {
        "runtime": "onnxruntime", "runtime_version": "1.0", "plan": "engine.onnx", "plan_bytes": 100, "bindings": (),
        "profiles": (), "precision": "model", "precision_proof": Proof(status="unproven", why="a test"),
        "version_compatible": False, "target": Target(), "key": "0" * 64,
    }  # fmt: skip
    if built is not None:
        empty |= {"bindings": built.bindings, "precision_proof": built.proof, "target": built.target}
    return Manifest(**{**empty, **changed})


def metrics(figures: Mapping[str, float]) -> Metrics:
    """Make the metrics of an evaluation."""
    return Metrics(metrics=dict(figures), counts={}, require={}, samples=1)


def benchmark(
    figures: Mapping[str, float],
    warnings: Sequence[str] = (),
    *,
    device: str | None = None,
    cpu: str = "",
    cpus: int = 0,
) -> Benchmark:
    """Make a benchmark on a machine."""
    host = Host(cpu=cpu, cpus=cpus, os="Linux", python="3.11", driver=None)
    runtime = {"runtime": "onnxruntime", "runtime_version": "1.0", "device": device}
    return Benchmark(
        metrics=dict(figures), queries=10, warm_up_queries=1, warnings=tuple(warnings), batch=1, shapes={},
        preset="trtexec-11", settings=Settings(), data="random",
        engine=MeasuredEngine(precision="model", precision_proof="unproven", plan_bytes=100),
        environment=Environment(**runtime, device_before=None, device_after=None, host=host),
    )  # fmt: skip


def buffers(bindings: Iterable[Binding], known: Mapping[str, Sequence[int]]) -> Buffers:
    """Make the buffers of bindings on a CPU: of `known` shapes, and of unknown size for all others."""
    found = []
    for b in bindings:
        shape = known.get(b.name)
        count = None if shape is None else math.prod(shape) * np.dtype(b.dtype).itemsize
        found.append(
            Buffer(
                name=b.name, mode=b.mode, dtype=b.dtype, shape=tuple(shape or ()), bytes=count,
                size="known" if count is not None else "data-dependent", batch_axis=None, host="pageable",
                device="cpu",
            )
        )  # fmt: skip
    return Buffers(
        bindings=tuple(found), slots=1, totals=Totals(host=sum(b.bytes or 0 for b in found), device=0),
        unknown=tuple(b.name for b in found if b.bytes is None), profile=0, batch=1,
    )  # fmt: skip
