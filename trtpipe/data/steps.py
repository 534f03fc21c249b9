"""The arithmetic of postprocess on plain NumPy arrays: softmax, top-k, non-maximum suppression, CTC decoding and more.

Each function can be used alone; `step_params` has what a document says of each, and `step_runs` calls them.

Axis 0 is the sample axis unless a function says otherwise. All arithmetic on float16 and on whole numbers
is done in float32 (float64 stays float64), so that a sum of exponentials or squares does not overflow.
Every function raises ValueError with what it found and what it expected. NaN is not looked for here:
`unusable` counts it, and the stage refuses it before any step sees it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Array = np.ndarray[Any, np.dtype[Any]]
BoxFormat = Literal["xyxy", "cxcywh", "xywh"]


def floats(values: Array) -> Array:
    """Give the values as float32, or as float64 if they are float64. Raises ValueError for what are no numbers."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"found dtype {values.dtype}, expected numbers")
    return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)


def unusable(values: Array) -> NDArray[np.int64]:
    """Give the indices on axis 0 of the samples that hold NaN, in order."""
    if values.dtype.kind != "f" or not values.size:
        return np.empty(0, np.int64)
    bad = np.isnan(values).reshape(len(values), -1).any(axis=1)
    return np.flatnonzero(bad).astype(np.int64)


def inner_axis(values: Array, axis: int) -> int:
    """Give the axis counted from the front. Raises ValueError if there is none, or if it is the sample axis 0."""
    rank = values.ndim
    if not -rank <= axis < rank:
        raise ValueError(f"found axis {axis}, expected one from {-rank} to {rank - 1} because the rank is {rank}")
    front = axis % rank
    if front == 0:
        raise ValueError(f"found axis {axis}, which is the sample axis; expected an axis from 1 to {rank - 1}")
    return front


def softmax(values: Array, axis: int = -1) -> Array:
    """Give e^v / Σ e^v along an axis, in the same shape; the largest value is taken off first.

    -inf gives 0. Raises ValueError for +inf and for a row of nothing but -inf, which have no softmax.
    """
    work = floats(values)
    axis = inner_axis(work, axis)
    if not work.size:
        return work
    top = work.max(axis=axis, keepdims=True)
    if np.isinf(top).any():
        raise ValueError("found rows with infinity (or nothing but -infinity), expected finite values")
    powers = np.exp(work - top)
    total: Array = powers / powers.sum(axis=axis, keepdims=True)
    return total


def sigmoid(values: Array) -> Array:
    """Give 1 / (1 + e^-v) in the same shape, without overflow on either side."""
    work = floats(values)
    small = np.exp(-np.abs(work))
    result: Array = np.where(work >= 0, 1 / (1 + small), small / (1 + small))
    return result


def argmax(values: Array, axis: int = -1) -> NDArray[np.int64]:
    """Give the index of the largest value along an axis (int64, that axis gone); the lowest index of equals."""
    axis = inner_axis(values, axis)
    if not values.shape[axis]:
        raise ValueError(f"found axis {axis} of length 0, expected at least 1")
    found: NDArray[np.int64] = np.argmax(values, axis=axis).astype(np.int64)
    return found


def top_k(values: Array, k: int, axis: int = -1) -> tuple[NDArray[np.int64], Array]:
    """Give the k largest values along an axis, falling, as (indices, values); of equals the lowest index first.

    Both have length k on that axis. Raises ValueError if the axis is shorter than k.
    """
    axis = inner_axis(values, axis)
    if not 1 <= k <= values.shape[axis]:
        raise ValueError(f"found k {k}, expected 1 to {values.shape[axis]}, the length of axis {axis}")
    order = np.argsort(_falling(values), axis=axis, kind="stable")
    indices = np.take(order, np.arange(k), axis=axis).astype(np.int64)
    return indices, np.take_along_axis(values, indices, axis=axis)


def _falling(values: Array) -> Array:
    """Give numbers whose rising order is the falling order of the values."""
    # Not the negative: that of the least int64 is itself, and unsigned numbers and booleans have none.
    result: Array = np.invert(values) if values.dtype.kind in "iub" else -floats(values)
    return result


def threshold(values: Array, at: float) -> NDArray[np.bool_]:
    """Tell for each value whether it is at least `at`."""
    result: NDArray[np.bool_] = floats(values) >= at
    return result


def labels(classes: Array, names: Sequence[str]) -> list[Any]:
    """Give the name of each class index, nested as the array is. Raises ValueError for an index without a name."""
    if classes.dtype.kind not in "iu":
        raise ValueError(f"found dtype {classes.dtype}, expected whole numbers")
    outside = classes[(classes < 0) | (classes >= len(names))]
    if outside.size:
        raise ValueError(
            f"found class {int(outside[0])}, expected 0 to {len(names) - 1} because there are {len(names)} names"
        )
    found: list[Any] = np.asarray(names, dtype=object)[classes].tolist()
    return found


def l2_normalize(values: Array, axis: int = -1) -> Array:
    """Divide by the Euclidean length along an axis; a vector of zeros stays one."""
    work = floats(values)
    axis = inner_axis(work, axis)
    if not work.size:
        return work
    # Scaled by the largest value first: squares of big float32 numbers overflow, of small ones vanish.
    largest = np.abs(work).max(axis=axis, keepdims=True)
    if np.isinf(largest).any():
        raise ValueError("found infinity, expected finite values")
    scaled = work / np.where(largest == 0, 1, largest)
    length = np.sqrt(np.square(scaled).sum(axis=axis, keepdims=True))
    result: Array = scaled / np.where(length == 0, 1, length)
    return result


def mean_pool(values: Array, mask: Array | None = None, axis: int = 1) -> Array:
    """Give the mean along an axis (that axis gone), of the places where the mask is not 0.

    `mask` has shape [samples, length of the axis]. A sample whose mask is all 0 gives zeros.
    """
    work = floats(values)
    axis = inner_axis(work, axis)
    length = work.shape[axis]
    if mask is None:
        if not length:
            raise ValueError(f"found axis {axis} of length 0, expected at least 1")
        mean: Array = work.mean(axis=axis)
        return mean
    if mask.shape != (len(work), length):
        raise ValueError(f"found a mask of shape {list(mask.shape)}, expected {[len(work), length]}")
    shape = [1] * work.ndim
    shape[0], shape[axis] = mask.shape
    here = (mask != 0).reshape(shape)
    # np.where, not a product: what is masked may be anything, and 0 * inf is NaN.
    total = np.where(here, work, 0).sum(axis=axis)
    count = here.sum(axis=axis)
    pooled: Array = total / np.maximum(count, 1).astype(work.dtype)
    return pooled


def to_xyxy(boxes: Array, form: BoxFormat) -> NDArray[np.float64]:
    """Give boxes [..., 4] as left, top, right, bottom in float64.

    `form` says what the four are: xyxy, cxcywh (centre and size) or xywh (left, top and size).
    """
    if boxes.ndim < 1 or boxes.shape[-1] != 4:
        raise ValueError(f"found boxes of shape {list(boxes.shape)}, expected 4 numbers on the last axis")
    work = boxes.astype(np.float64)
    if form == "xyxy":
        return work
    corner, size = work[..., :2], work[..., 2:]
    if form == "cxcywh":
        corner = corner - size / 2
    return np.concatenate([corner, corner + size], axis=-1)


def iou(one: Array, other: Array) -> NDArray[np.float64]:
    """Give the intersection over union of each box in one [m, 4] with each in other [n, 4], xyxy, as [m, n].

    Sides are differences of coordinates (nothing is added for a last pixel). Boxes with no area have 0 with all.
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a = np.prod(np.clip(a[:, 2:] - a[:, :2], 0, None), axis=1)
    area_b = np.prod(np.clip(b[:, 2:] - b[:, :2], 0, None), axis=1)
    union = area_a[:, None] + area_b[None, :] - shared
    result: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def nms(
    boxes: Array,
    scores: Array,
    classes: Array | None = None,
    *,
    iou_threshold: float = 0.5,
    max_detections: int | None = None,
) -> NDArray[np.int64]:
    """Give the indices of the boxes that non-maximum suppression keeps, by falling score.

    Greedy: the best box left is kept, and what overlaps it by more than `iou_threshold` goes (of the same class
    only, if `classes` are given); of equal scores the lower index is first. boxes [m, 4] xyxy, scores [m],
    classes [m]. The overlap must exceed the threshold, as in ONNX's NonMaxSuppression.
    """
    count = len(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (count,):
        raise ValueError(
            f"found boxes {list(boxes.shape)} and scores {list(scores.shape)}, expected [m, 4] and [m] with one m"
        )
    if classes is not None and classes.shape != (count,):
        raise ValueError(f"found classes {list(classes.shape)}, expected {[count]}")
    left = np.argsort(_falling(scores), kind="stable")
    kept: list[int] = []
    while left.size and (max_detections is None or len(kept) < max_detections):
        best, left = left[0], left[1:]
        kept.append(int(best))
        gone = iou(boxes[best : best + 1], boxes[left])[0] > iou_threshold
        if classes is not None:
            gone &= classes[left] == classes[best]
        left = left[~gone]
    return np.asarray(kept, dtype=np.int64)


def ctc_decode(values: Array, names: Sequence[str], blank: int = 0) -> list[tuple[str, float]]:
    """Read the best path of each sample: repeats become one, blanks go.

    values [samples, time, classes]; `names` are the characters of the classes without the blank, so that there
    are len(names) + 1 classes. Gives (text, mean score of the steps that made its characters, 0.0 for no text).
    Source: Graves et al., "Connectionist Temporal Classification", 2006, best path decoding.
    """
    if values.ndim != 3:
        raise ValueError(f"found rank {values.ndim}, expected 3: [samples, time, classes]")
    count = values.shape[2]
    if count != len(names) + 1:
        raise ValueError(f"found {count} classes, expected {len(names) + 1}: the blank and {len(names)} characters")
    if not 0 <= blank < count:
        raise ValueError(f"found blank {blank}, expected 0 to {count - 1}")
    table = [*names[:blank], "", *names[blank:]]
    best = values.argmax(axis=2)
    score = np.take_along_axis(floats(values), best[:, :, None], axis=2)[:, :, 0]
    starts = np.ones(best.shape, dtype=bool)
    starts[:, 1:] = best[:, 1:] != best[:, :-1]
    starts &= best != blank
    found = []
    for row, points, here in zip(best, score, starts, strict=True):
        mean = float(points[here].mean()) if here.any() else 0.0
        found.append(("".join(table[i] for i in row[here]), mean))
    return found
