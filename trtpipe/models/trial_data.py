"""Seeded data with which a model runs, made for its inputs: what a scaffold checks with until there are real samples.

Whole numbers are within the tables that the model looks them up in, and masks are ones, so that a language model gets
tokens that it knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import elements
from trtpipe.models import feeding, lookups, onnxfile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from trtpipe.documents.config import Shapes, Values
    from trtpipe.documents.manifest import Manifest
    from trtpipe.documents.network import Network, Tensor
    from trtpipe.models.outline import Side

SEED = 20240229


def make(
    model: onnx.ModelProto | None, inputs: Sequence[Side | Tensor], shapes: Mapping[str, Sequence[int]]
) -> dict[str, NDArray[Any]]:
    """Make an array of the given shape for each input: floats normal, whole numbers small, masks ones.

    Without a model, whole numbers are 0 or 1. Raises TypeError for a type that NumPy lacks.
    """
    random = np.random.default_rng(SEED)
    bounds = {} if model is None else lookups.table_sizes(model)
    made = {}
    for one in inputs:
        shape = tuple(shapes[one.name])
        values: NDArray[Any]
        dtype = np.dtype(one.dtype)
        if dtype.kind == "f":
            values = random.standard_normal(shape)
        elif "mask" in one.name.lower() or dtype.kind == "b":
            values = np.ones(shape)
        else:
            values = random.integers(0, min(bounds.get(one.name, 2), lookups.MOST), shape)
        made[one.name] = np.ascontiguousarray(values.astype(dtype))
    return made


def batch(path: Path, manifest: Manifest, network: Network) -> dict[str, NDArray[Any]]:
    """Make one small batch for an engine that was built of the model at `path`, in the types that it takes.

    Shapes are the first profile's best with at most two samples; without a profile, sizes with which the model runs.
    Shape inputs have the profile's best values. Raises StageFailed if no sizes are found.
    """
    values = manifest.profile_values[0] if manifest.profile_values else {}
    ranges: list[dict[str, Shapes | Values]] = []
    if manifest.profiles or values:
        ranges = [{**(manifest.profiles[0] if manifest.profiles else {}), **values}]
    model = onnxfile.load(path)
    guessed = any(isinstance(d, str) for e in network.inputs if e.name not in (ranges or [{}])[0] for d in e.dims or ())
    drawn = feeding.random_feeds(onnxfile.whole(path) if guessed else model, network.inputs, ranges)[0]
    feed = make(model, network.inputs, {name: array.shape for name, array in drawn.items()})
    feed |= {name: drawn[name] for name in values}
    kinds = {b.name: elements.in_memory(b.dtype) for b in manifest.side("input")}
    return {name: np.ascontiguousarray(array.astype(kinds[name])) for name, array in feed.items()}
