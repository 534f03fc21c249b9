"""A call of an engine: what is fed is checked, parted into batches that the profile takes, and joined again."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe import batch as rule
from trtpipe.data import elements
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.documents.manifest import Binding, Manifest

    Arrays = dict[str, np.ndarray]

_REMEMBERED = 256


class Calls:
    """What an engine takes, worked out once."""

    def __init__(self, manifest: Manifest, profile: int) -> None:
        self.manifest = manifest
        self.inputs = {b.name: b for b in manifest.side("input")}
        self.profile = manifest.profiles[profile] if 0 <= profile < len(manifest.profiles) else {}
        self._number = profile
        ruled = rule.find(manifest.side("input"), manifest.side("output"), {}, {})
        self.axes = ruled.axes
        self.undecided = ruled.undecided
        limits = [
            (one.min[axis], one.max[axis])
            for name, one in self.profile.items()
            if name in self.inputs and (axis := self.axes[name]) is not None
        ]
        self.least = max((low for low, _ in limits), default=1)
        self.most = min((high for _, high in limits), default=math.inf)
        self._dtypes = {name: elements.in_memory(b.dtype) for name, b in self.inputs.items()}
        self._valued = [name for name, b in self.inputs.items() if b.shape_input]
        """Inputs whose values are sizes: the profile limits them too."""
        self._good: set[tuple[Any, ...]] = set()
        """Shapes and dtypes of calls that fitted as they were, in one batch: most calls are like one before."""

    def batches(self, feed: Mapping[str, Any]) -> Sequence[Mapping[str, np.ndarray]]:
        """Check what is fed, and part it into batches that the profile takes. Raises StageFailed as its parts do."""
        kind = None
        if (
            not self._valued
            and feed.keys() == self.inputs.keys()
            and all(type(array) is np.ndarray for array in feed.values())
        ):
            kind = tuple(
                (name, feed[name].shape, feed[name].dtype, feed[name].flags.c_contiguous) for name in self.inputs
            )
            if kind in self._good:
                return [feed]
        arrays = self.check(feed)
        parts = self.parts(arrays)
        if kind is not None and len(parts) == 1 and all(arrays[name] is feed[name] for name in feed):
            if len(self._good) >= _REMEMBERED:
                self._good.clear()
            self._good.add(kind)
        return parts

    def check_names(self, feed: Mapping[str, Any]) -> None:
        """Check that just the inputs are fed. Raises StageFailed."""
        if feed.keys() != self.inputs.keys():
            found = ", ".join(sorted(feed)) or "nothing"
            raise StageFailed(f"found data for {found}, expected {', '.join(self.inputs)}")

    def check(self, feed: Mapping[str, Any]) -> Arrays:
        """Give the arrays that are fed. Raises StageFailed with everything that does not fit."""
        self.check_names(feed)
        arrays: Arrays = {}
        problems: list[str] = []
        sizes: dict[str, tuple[int, str]] = {}
        for name, b in self.inputs.items():
            try:
                array = _array(name, feed[name])
            except StageFailed as error:
                problems.append(str(error))
                continue
            if array.dtype != self._dtypes[name]:
                if b.model_dtype != array.dtype.name:
                    problems.append(f"{name}: found {array.dtype}, expected {b.dtype}")
                    continue
                array = _narrowed(name, array, self._dtypes[name], problems)
            problems += self._misfit(b, array.shape, sizes)
            arrays[name] = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        for name in self._valued:
            if name in arrays and (
                why := self.manifest.values_outside(self._number, name, arrays[name].ravel().tolist())
            ):
                problems.append(f"{name}: {why}")
        if problems:
            raise StageFailed("\n".join(problems))
        return arrays

    def _misfit(self, b: Binding, shape: tuple[int, ...], sizes: dict[str, tuple[int, str]]) -> list[str]:
        dims = f"[{', '.join(map(str, b.dims))}]"
        if len(shape) != len(b.dims) or any(
            isinstance(want, int) and want != have for want, have in zip(b.dims, shape, strict=True)
        ):
            return [f"{b.name}: found the shape {list(shape)}, expected {dims}"]
        for have, want in zip(shape, b.dims, strict=True):
            if isinstance(want, str) and sizes.setdefault(want, (have, b.name))[0] != have:
                size, owner = sizes[want]
                return [f"{b.name}: found {want} of {have}, expected {size} as in {owner}: it is one axis"]
        within = self.profile.get(b.name)
        if within is None:
            return []
        batch = self.axes[b.name]
        for axis, (low, have, high) in enumerate(zip(within.min, shape, within.max, strict=True)):
            if have < low or (have > high and axis != batch):
                limits = f"min {list(within.min)}, max {list(within.max)}"
                return [f"{b.name}: found the shape {list(shape)}, outside profile {self._number}: {limits}"]
        return []

    def parts(self, arrays: Arrays) -> list[Arrays]:
        """Part a call into batches that the profile takes, as even as possible. Raises StageFailed if that is unclear.

        Inputs without a batch are in each part.
        """
        total = rows(arrays, self)
        if total <= self.most:
            return [arrays]
        if self.undecided:
            raise StageFailed(
                f"found {total} samples, and the profile takes {self.most}; nothing says which axis of "
                f"{', '.join(self.undecided)} is the batch, so it cannot be run in several parts"
            )
        count = -(-total // int(self.most))
        ends = [total * part // count for part in range(count + 1)]
        if min(end - start for start, end in pairwise(ends)) < self.least:
            raise StageFailed(
                f"found {total} samples, which cannot be parted into batches of {self.least} to {self.most}"
            )
        return [
            {name: self._cut(array, self.axes[name], start, end) for name, array in arrays.items()}
            for start, end in pairwise(ends)
        ]

    @staticmethod
    def _cut(array: np.ndarray, axis: int | None, start: int, end: int) -> np.ndarray:
        if axis is None:
            return array
        place = ((slice(None),) * axis) + (slice(start, end),)
        return np.ascontiguousarray(array[place])

    def joined(self, made: Sequence[Arrays], counts: Sequence[int]) -> Arrays:
        """Join the outputs of all parts along their batch. Raises StageFailed for an output without one."""
        joined: Arrays = {}
        for name, first in made[0].items():
            axis = self.axes[name]
            if axis is None or any(one[name].shape[axis] != count for one, count in zip(made, counts, strict=True)):
                raise StageFailed(
                    f"{name}: found {list(first.shape)} for {counts[0]} samples, so the parts of a call of "
                    f"{sum(counts)} cannot be joined; call with at most {self.most} samples"
                )
            joined[name] = np.concatenate([one[name] for one in made], axis)
        return joined


def rows(arrays: Mapping[str, np.ndarray], calls: Calls) -> int:
    """Give how many samples are fed; without a batch, one."""
    return max((array.shape[axis] for name, array in arrays.items() if (axis := calls.axes[name]) is not None),
               default=1)  # fmt: skip


def into(made: Arrays, out: Mapping[str, np.ndarray]) -> Arrays:
    """Write outputs into the arrays of their names. Raises StageFailed for a name, dtype or shape that does not fit."""
    for name, array in out.items():
        if name not in made:
            raise StageFailed(f"out: found {name}, expected an output; they are {', '.join(made)}")
        if (array.shape, array.dtype) != (made[name].shape, made[name].dtype):
            raise StageFailed(
                f"out: {name}: found {array.dtype} {list(array.shape)}, expected {made[name].dtype} "
                f"{list(made[name].shape)}"
            )
    for name, array in out.items():
        np.copyto(array, made[name])
        made[name] = array
    return made


def on_device(feed: Mapping[str, Any]) -> bool:
    """Tell whether arrays lie in a GPU's memory. Raises StageFailed if some do and some do not."""
    if all(type(one) is np.ndarray for one in feed.values()):
        return False
    from trtpipe.backends.trt.device import is_on_device

    there = [name for name, one in feed.items() if is_on_device(one)]
    if there and len(there) < len(feed):
        others = ", ".join(name for name in feed if name not in there)
        raise StageFailed(f"found {', '.join(there)} on a GPU and {others} in host memory, expected all in one place")
    return bool(there)


def _array(name: str, given: Any) -> np.ndarray:
    if isinstance(given, np.ndarray):
        return given
    if hasattr(given, "__dlpack__"):
        if given.__dlpack_device__()[0] not in (1, 3):  # kDLCPU, kDLCUDAHost
            raise StageFailed(
                f"{name}: found an array in a GPU's memory, expected one in host memory: this engine runs on the CPU; "
                "copy it if you mean that, such as tensor.cpu()"
            )
        detached = given.detach() if hasattr(given, "detach") else given  # PyTorch exports nothing that needs gradients
        try:
            return np.from_dlpack(detached)
        except (BufferError, RuntimeError, TypeError) as error:
            raise StageFailed(f"{name}: NumPy cannot read it through DLPack: {error}") from None
    raise StageFailed(f"{name}: found {type(given).__name__}, expected a NumPy array, or one with __dlpack__")


def _narrowed(name: str, array: np.ndarray, dtype: np.dtype[Any], problems: list[str]) -> np.ndarray:
    """Give values in the engine's type, where the model has a wider one; whole numbers must fit."""
    if dtype.kind == "i" and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            problems.append(f"{name}: found {array.dtype} values up to {array.max()}, which do not fit {dtype}")
    return array.astype(dtype)
