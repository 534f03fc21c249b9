"""A model repository for Triton Inference Server: config.pbtxt from the manifest, and the plan where Triton looks.

Source: triton-inference-server/common, protobuf/model_config.proto; tests compare with tritonclient's copy of it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from trtpipe import batch as rule
from trtpipe.deploy import recording
from trtpipe.errors import PipelineInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.deploy.writing import Ready
    from trtpipe.documents.manifest import Binding, Manifest

TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64", "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64", "bfloat16": "TYPE_BF16",
}  # fmt: skip
"""Our names of types → Triton's."""
CONFIG = "config.pbtxt"
_WARM = "warmup"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class Batch(NamedTuple):
    """How Triton batches. `most` is 0 where first axes are not the batch: it then sends what it gets."""

    most: int
    best: int


def files_of(ready: Ready, name: str) -> dict[str, bytes | str]:
    """Give the files of one version of a Triton model, by their paths in the model's folder: `1/model.plan` and so on.

    Raises PipelineInvalid for an engine that Triton has no backend for.
    """
    manifest = ready.manifest
    if not _NAME.fullmatch(name):
        raise PipelineInvalid(f"found the folder {name}, expected letters, digits, dots, dashes and underscores")
    if manifest.runtime == "tensorrt_rtx":
        raise PipelineInvalid(
            "Triton has no backend for plans of TensorRT-RTX: build with --backend tensorrt, or --backend onnxruntime"
        )
    if lacking := [f"{b.name} is {b.dtype}" for b in manifest.bindings if b.dtype not in TYPES]:
        raise PipelineInvalid(f"Triton has no such type: {', '.join(lacking)}; put a Cast at this end of the model")
    if libraries := [*manifest.custom_ops, *manifest.plugins]:
        raise PipelineInvalid(
            f"the engine needs {', '.join(libraries)}, which Triton loads only if it is started with them: use --as "
            "folder, and name them when you start Triton"
        )
    plan = "model.plan" if manifest.runtime == "tensorrt" else "model.onnx"
    inside: dict[str, bytes | str] = {}
    for file, content in ready.contents.items():
        if file == manifest.plan:
            inside[f"1/{plan}"] = content
        elif file.startswith(f"{manifest.plan}."):  # weights, which the plan names
            inside[f"1/{file}"] = content
        else:
            inside[f"about/{file}"] = content
    warm = _warm(ready)
    if not _warm_up(manifest, batch_of(manifest), tuple(warm)):
        warm = {}
    inside |= {f"{_WARM}/{file}": content for file, content in warm.items()}
    inside[CONFIG] = config(manifest, name, warm=tuple(warm)).encode()
    return inside


def batch_of(manifest: Manifest) -> Batch:
    """Say what Triton may put together: several samples only if axis 0 of every tensor is the batch, and varies."""
    ruled = rule.find(manifest.side("input"), manifest.side("output"), {}, {})
    first = [b.dims[0] if b.dims else None for b in manifest.bindings]
    if ruled.undecided or any(axis != 0 for axis in ruled.axes.values()) or not all(isinstance(d, str) for d in first):
        return Batch(0, 0)
    ranges = [one for profile in manifest.profiles for one in profile.values()]
    if not ranges or min(one.min[0] for one in ranges) > 1:
        return Batch(0, 0)  # Triton's batches begin at one sample
    return Batch(max(one.max[0] for one in ranges), max(one.opt[0] for one in ranges))


def config(manifest: Manifest, name: str, *, warm: Sequence[str] = ()) -> str:
    """Write config.pbtxt, in protobuf's text format."""
    batch = batch_of(manifest)
    is_gpu = manifest.runtime == "tensorrt"
    lines = [
        f"name: {_text(name)}",
        f"backend: {_text('tensorrt' if is_gpu else 'onnxruntime')}",
        f"max_batch_size: {batch.most}",
    ]
    for mode in ("input", "output"):
        for b in manifest.side("input" if mode == "input" else "output"):
            lines += [f"{mode} {{", f"  name: {_text(b.name)}", f"  data_type: {TYPES[b.dtype]}"]
            dims = _dims(b, batch)
            # Triton wants at least one axis; one that only the batch has is an axis of length 1 that is taken away.
            lines += [f"  dims: [ {', '.join(map(str, dims or [1]))} ]"]
            lines += ["  reshape { shape: [ ] }"] if not dims else []
            lines += ["  is_shape_tensor: true"] if b.shape_input else []
            lines += ["}"]
    if batch.most > 1:
        lines += ["dynamic_batching {", f"  preferred_batch_size: [ {batch.best} ]", "}"]
    group = ["  count: 1", f"  kind: {'KIND_GPU' if is_gpu else 'KIND_CPU'}"]
    if is_gpu and manifest.profiles:
        numbers = ", ".join(_text(str(number)) for number in range(len(manifest.profiles)))
        group.append(f"  profile: [ {numbers} ]")
    lines += ["instance_group {", *group, "}"]
    if warm:
        lines += _warm_up(manifest, batch, warm)
    lines += [
        "parameters {", '  key: "trtpipe.key"', f"  value {{ string_value: {_text(manifest.key)} }}", "}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _dims(b: Binding, batch: Batch) -> list[int]:
    own = b.dims[1:] if batch.most else b.dims
    return [d if isinstance(d, int) else -1 for d in own]


def _warm(ready: Ready) -> dict[str, bytes]:
    """Give the raw bytes of the first recorded sample of each input; where Triton does not batch, of all of them."""
    if recording.SAMPLES not in ready.contents:
        return {}
    import io

    import numpy as np

    content = ready.contents[recording.SAMPLES]
    assert isinstance(content, bytes)
    rows = 1 if batch_of(ready.manifest).most else None
    with np.load(io.BytesIO(content)) as archive:
        return {name: np.ascontiguousarray(archive[name][:rows]).tobytes() for name in archive.files
                if _NAME.fullmatch(name)}  # fmt: skip


def _warm_up(manifest: Manifest, batch: Batch, warm: Sequence[str]) -> list[str]:
    inputs = manifest.side("input")
    if {b.name for b in inputs} != set(warm):
        return []  # a name that is no file's name
    fixed = {b.name: _dims(b, batch) for b in inputs}
    if any(-1 in dims for dims in fixed.values()):
        return []  # the dims of a warm-up must be sizes, and here only the first axes are
    lines = ["model_warmup {", '  name: "recorded"', f"  batch_size: {1 if batch.most else 0}"]
    for b in inputs:
        dims = "".join(f" dims: {size}" for size in fixed[b.name] or [1])
        value = f"data_type: {TYPES[b.dtype]}{dims} input_data_file: {_text(b.name)}"
        lines.append(f"  inputs {{ key: {_text(b.name)} value {{ {value} }} }}")
    return [*lines, "}"]


def _text(value: str) -> str:
    """Write a string in protobuf's text format, in ASCII: JSON's escapes of controls and Unicode are not its own."""
    return '"' + "".join(_escaped(byte) for byte in value.encode()) + '"'


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return f"\\{chr(byte)}"
    return chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
