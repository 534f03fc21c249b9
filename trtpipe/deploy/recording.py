"""Samples that travel with an engine: the first ones that a stage `infer` fed to it, and what came out."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trtpipe.data import elements, tensors
from trtpipe.documents import files
from trtpipe.documents.buffers import Buffers
from trtpipe.stage import Input

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from trtpipe.documents.manifest import Manifest
    from trtpipe.pipeline.graph import Stage
    from trtpipe.run.lookup import Walk
    from trtpipe.store.artifact import Artifact

SAMPLES, EXPECTED = "samples.npz", "expected.npz"
FEW = 4
"""How many samples are recorded, unless the engine takes only another number."""
_MOST_BYTES = 64 * 2**20


class Recorded(NamedTuple):
    """Arrays by name, rows along axis 0; or none, and a sentence that says why there are none."""

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    why: str = ""

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.inputs.values()))) if self.inputs else 0


def take(walk: Walk, engine: str, manifest: Manifest) -> Recorded:
    """Give the first samples of a stage `infer` that runs this engine and is in the store."""
    stages = walk.lookup.pipeline.stages.values()
    found = [one for one in stages if one.type == "infer" and one.inputs.get("engine") == engine]
    ready = [one for one in found if (known := walk.found.get(one.name)) is not None and known.hit is not None]
    if not ready:
        have = f"{', '.join(one.name for one in found)} has not run" if found else "no stage infer runs this engine"
        return Recorded({}, {}, f"no samples are recorded: {have}")
    stage = ready[0]
    try:
        return _of(walk, stage, manifest)
    except _Unfit as why:
        return Recorded({}, {}, f"no samples of {stage.name} are recorded: {why}")


class _Unfit(Exception):
    """Why the samples of a stage cannot be recorded."""


def _of(walk: Walk, stage: Stage, manifest: Manifest) -> Recorded:
    planned = stage.inputs["buffers"]
    assert isinstance(planned, str)
    buffers = files.read(Path(walk.lookup.store.tree(walk.artifacts[planned])) / Buffers.file, Buffers)
    if odd := [one.name for one in buffers.bindings if one.batch_axis != 0]:
        raise _Unfit(f"axis 0 of {', '.join(odd)} is not the batch")
    if stage.params.get("state") or buffers.buckets or buffers.splits:
        raise _Unfit("a sample is not a row there")
    given = tensors.open_input(_input(walk, stage))
    names = stage.params.get("names") or {}
    fed = {b.name: given.get(names.get(b.name, b.name)) for b in manifest.side("input")}
    made = tensors.open_input(_as_input(walk, "scores", walk.artifacts[stage.name]))
    came = {b.name: made.get(b.name) for b in manifest.side("output")}
    even: dict[str, dict[str, tensors.Source]] = {"in": {}, "out": {}}
    for side, sources in (("in", fed), ("out", came)):
        for name, source in sources.items():
            if not isinstance(source, tensors.Source):
                raise _Unfit(f"{name} has no fixed shape")
            even[side][name] = source
    kinds = {b.name: b.dtype for b in manifest.bindings}
    for name, one in {**even["in"], **even["out"]}.items():
        if one.element != kinds[name] or one.element in elements.LOST:
            raise _Unfit(f"{name} is {one.element} there and {kinds[name]} in the engine, or a type that NumPy lacks")
    count = _count(manifest, buffers.profile, min(one.shape[0] for one in even["in"].values()))
    every = (*even["in"].values(), *even["out"].values())
    size = sum(math.prod(one.shape[1:]) * elements.itemsize(one.element) for one in every) * count
    if size > _MOST_BYTES:
        raise _Unfit(f"{count} of them are {size} bytes, more than {_MOST_BYTES}")
    inputs, outputs = (_rows(even[side], count) for side in ("in", "out"))
    return Recorded(inputs, outputs)


def _count(manifest: Manifest, profile: int, total: int) -> int:
    """Give a number of samples that the engine takes, and that there are."""
    sizes = {b.dims[0] for b in manifest.side("input")}
    fixed = [one for one in sizes if isinstance(one, int)]
    limits = manifest.profiles[profile].values() if profile < len(manifest.profiles) else ()
    least = max((one.min[0] for one in limits if one.min), default=1)
    most = min((one.max[0] for one in limits if one.max), default=FEW)
    count = fixed[0] if fixed else max(least, min(total, most, FEW))
    if count > total:
        raise _Unfit(f"the engine takes {count} at a time, and there are {total}")
    return count


def _rows(sources: Mapping[str, tensors.Source], count: int) -> dict[str, NDArray[Any]]:
    return {name: array.copy() for name, array in next(tensors.batches(sources, count)).items()}


def _input(walk: Walk, stage: Stage) -> Input:
    source = stage.inputs["data"]
    if isinstance(source, str):
        return _as_input(walk, "data", walk.artifacts[source])
    found = walk.found[stage.name].now.found["data"]
    if found.folder is None:
        raise _Unfit(f"{source.label} is not here")
    return _as_input(walk, "data", found.artifact, found.folder)


def _as_input(walk: Walk, name: str, artifact: Artifact, folder: str | None = None) -> Input:
    place = Path(folder or walk.lookup.store.tree(artifact))
    return Input(name=name, kind=artifact.kind, folder=place, files=tuple(artifact.files), label=name)


def npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Give the bytes of a .npz file, the same each time: NumPy writes the time of day into it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, values in arrays.items():
            one = io.BytesIO()
            np.lib.format.write_array(one, values)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), one.getvalue())
    return stream.getvalue()
