"""Calibration data: check it before the calibration, which takes minutes, and feed it to onnxruntime's calibrator."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.errors import PipelineInvalid
from trtpipe.models import ort_cpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from trtpipe.models import feeding

LEAST = 2
"""The fewest calibration samples from which a range can be taken."""
FEW = 16
"""With fewer calibration samples than this, a remark says that ranges may be too narrow."""


def check_samples(samples: feeding.Samples) -> list[str]:
    """Check calibration data before the calibration, which takes minutes. Gives remarks.

    Raises PipelineInvalid for none or too few samples, NaN or infinities, and for inputs that never change.
    """
    if samples.total and samples.count < LEAST:
        raise PipelineInvalid(
            f"{samples.label}: found {samples.count} sample, expected at least {LEAST}: "
            "one sample says nothing of a range"
        )
    if not check_values(samples):
        raise PipelineInvalid(
            f"{samples.label}: all {samples.count} samples are the same one; calibration needs data like what the "
            "model will see"
        )
    if samples.count < FEW:
        return [f"only {samples.count} calibration samples: ranges may be too narrow (a few hundred are usual)"]
    return []


def check_values(samples: feeding.Samples) -> bool:
    """Check the values of calibration data. Tells whether any two samples differ.

    Raises PipelineInvalid for no samples, NaN or infinities, and for inputs that have the same value everywhere.
    """
    if not samples.total:
        raise PipelineInvalid(
            f"{samples.label} holds no samples; calibration needs at least {LEAST}, a few hundred are usual"
        )
    moved = False
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    first: dict[str, NDArray[Any]] = {}
    for number, feed in enumerate(samples):
        for name, array in feed.items():
            if array.dtype.kind == "f":
                bad = int((~np.isfinite(array)).sum())
                if bad:
                    raise PipelineInvalid(
                        f"{samples.label}[{name}]: found {bad} value{'s that are' if bad > 1 else ' that is'} NaN or "
                        f"infinite in calibration run {number}, expected numbers"
                    )
            if array.size:
                lowest[name] = min(lowest.get(name, np.inf), float(array.min()))
                highest[name] = max(highest.get(name, -np.inf), float(array.max()))
            moved = moved or (name in first and not np.array_equal(first[name], array))
            if samples.rows > 1 and array.ndim and len(array) > 1:
                moved = moved or bool((array[1:] != array[:1]).any())
            first.setdefault(name, array)
    still = {f.name for f in samples.fed if f.how == "constant"}
    floats = sorted(n for n in lowest if n not in still and first[n].dtype.kind == "f")
    flat = [n for n in floats if lowest[n] == highest[n]]
    if flat and flat == floats:  # one among others may be a factor that is always 1
        raise PipelineInvalid(
            f"{samples.label}: every value of {', '.join(f'{n} is {lowest[n]:g}' for n in flat)}; calibration needs "
            "data like what the model will see"
        )
    return moved


@contextmanager
def taught() -> Iterator[None]:
    """Let onnxruntime's calibrator pass over tensors without values, and use libraries of custom operators.

    A tensor of no detections has none. Its own percentile method ends at the second such tensor (fmax of nothing), and
    a first one spoils a histogram's bins.
    """
    from onnxruntime.quantization.calibrate import CalibraterBase, HistogramCollector

    collect, create = HistogramCollector.collect, CalibraterBase.create_inference_session

    def with_libraries(self: Any) -> None:
        module = ort_cpu.onnxruntime()
        options = module.SessionOptions()
        options.graph_optimization_level = module.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.infer_session = ort_cpu.load(self.augmented_model_path, options)

    def with_values(self: Any, found: Mapping[str, Any]) -> Any:
        lists = {name: arrays if isinstance(arrays, list) else [arrays] for name, arrays in found.items()}
        kept = {name: [array for array in arrays if array.size] for name, arrays in lists.items()}
        return collect(self, {name: arrays for name, arrays in kept.items() if arrays})

    HistogramCollector.collect = with_values
    CalibraterBase.create_inference_session = with_libraries
    try:
        yield
    finally:
        HistogramCollector.collect = collect
        CalibraterBase.create_inference_session = create


class Reader:
    """Feeds onnxruntime's calibrator run by run, so that memory does not grow with the data."""

    def __init__(self, samples: feeding.Samples, progress: Any) -> None:
        self._samples, self._progress = samples, progress
        self._feeds: Iterator[feeding.Feed] = iter(samples)
        self._left = samples.runs
        self._done = 0

    def __len__(self) -> int:
        return self._samples.runs

    def set_range(self, start_index: int, end_index: int) -> None:
        """Give so many runs before the next None; they come in order."""
        self._left = end_index - start_index

    def get_next(self) -> feeding.Feed | None:
        """Give the next feed, or None at the end of the range."""
        if not self._left:
            return None
        self._left -= 1
        self._done += 1
        self._progress(self._done, self._samples.runs, "calibration runs")
        return next(self._feeds, None)

    def __iter__(self) -> Iterator[feeding.Feed]:
        return self

    def __next__(self) -> feeding.Feed:
        feed = self.get_next()
        if feed is None:
            raise StopIteration
        return feed
