"""The arithmetic of evaluate: how well results fit the ground truth. Pure functions; NaN never counts as right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trtpipe.data import readable, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray


class Figure(NamedTuple):
    """One metric's value, of how many it was counted, and what else people should know.

    `unit` is what was counted, in the singular; `passed` is how many of `total` were right, if that was counted.
    """

    name: str
    value: float
    total: int
    unit: str
    passed: int | None = None
    remark: str = ""

    def __str__(self) -> str:
        """Say it in a line, such as `top1 = 0.9833 (354 of 360)`."""
        over = f"over {readable.count(self.total, self.unit)}"
        counted = over if self.passed is None else f"{self.passed} of {self.total}"
        return f"{self.name} = {self.value:.4f} ({counted}{'; ' + self.remark if self.remark else ''})"


class Boxes(NamedTuple):
    """One sample's boxes [m, 4] (xyxy), the class of each, and for what was found the score of each."""

    boxes: NDArray[np.float64]
    classes: Sequence[Hashable]
    scores: NDArray[np.float64] | None = None


def counted(name: str, right: Sequence[bool], ids: Sequence[str], remark: Callable[[int], str] | None = None) -> Figure:
    """Give the part of samples that are right. Names the first that is not, with a remark on it."""
    passed = sum(right)
    text = ""
    if passed < len(right):
        first = next(i for i, ok in enumerate(right) if not ok)
        text = f"first wrong: {ids[first]}" + (f", {remark(first)}" if remark else "")
    return Figure(name, passed / len(right), len(right), "sample", passed, text)


def cosine(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Give the cosine between the rows of two arrays of one shape [n, …], as [n] in float64.

    Two rows of zeros have 1 (they are equal), one has 0; a row with NaN or infinity has NaN.
    """
    a, b = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (one, other))
    with np.errstate(all="ignore"):
        largest = [np.abs(rows).max(axis=1, initial=0, keepdims=True) for rows in (a, b)]
        zero = [top[:, 0] == 0 for top in largest]
        # Scaled by the largest value: squares of float32's ends stay numbers in float64, float64's would not.
        a, b = (rows / np.where(top == 0, 1, top) for rows, top in zip((a, b), largest, strict=True))
        result: NDArray[np.float64] = (a * b).sum(axis=1) / np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    bad = ~(np.isfinite(largest[0][:, 0]) & np.isfinite(largest[1][:, 0]))
    result = np.where(zero[0] | zero[1], (zero[0] & zero[1]).astype(np.float64), np.clip(result, -1, 1))
    return np.where(bad, np.nan, result)


def match(found: Boxes, truth: Boxes, least: float) -> list[tuple[int, float]]:
    """Match what was found to what is true, as (index in truth or -1, IoU) for each found box.

    By falling score, each takes the true box of its class, not yet taken, with the largest IoU, if that is more
    than 0 and at least `least`.
    """
    assert found.scores is not None
    overlap = steps.iou(found.boxes, truth.boxes)
    result = [(-1, 0.0)] * len(found.boxes)
    free = set(range(len(truth.boxes)))
    for i in np.argsort(-found.scores, kind="stable").tolist():
        rivals = [j for j in free if truth.classes[j] == found.classes[i] and overlap[i, j] > 0]
        best = max(rivals, key=lambda j: (overlap[i, j], -j), default=-1)
        if best >= 0 and overlap[i, best] >= least:
            result[i] = (best, float(overlap[i, best]))
            free.remove(best)
    return result


def mean_iou(found: Sequence[Boxes], truth: Sequence[Boxes]) -> tuple[float, int]:
    """Give the mean, over all true boxes, of the IoU with the box that was found for it (0 for none), and their number.

    Boxes found beside the true ones do not lower it: `average_precision` tells of those.
    """
    total = sum(len(t.boxes) for t in truth)
    shared = sum(iou for f, t in zip(found, truth, strict=True) for _, iou in match(f, t, 0.0))
    return (shared / total if total else math.nan), total


def average_precision(found: Sequence[Boxes], truth: Sequence[Boxes], iou_threshold: float) -> tuple[float, int]:
    """Give the mean over the true boxes' classes of the area under precision over recall, and the number of true boxes.

    A found box is right if it is matched with at least `iou_threshold`. Precision is made non-rising from the
    right, and the area taken at every step of recall. Source: Everingham et al., "The PASCAL Visual Object Classes
    Challenge: A Retrospective", 2015, as computed since VOC2010.
    """
    classes = list(dict.fromkeys(c for t in truth for c in t.classes))
    points: dict[Hashable, list[tuple[float, bool]]] = {c: [] for c in classes}
    for f, t in zip(found, truth, strict=True):
        assert f.scores is not None
        for (index, _), score, c in zip(match(f, t, iou_threshold), f.scores.tolist(), f.classes, strict=True):
            if c in points:
                points[c].append((score, index >= 0))
    total = sum(len(t.boxes) for t in truth)
    areas = []
    for c in classes:
        there = sum(t.classes.count(c) for t in truth)
        ordered = sorted(points[c], key=lambda p: -p[0])
        right = np.cumsum([ok for _, ok in ordered])
        precision = right / np.arange(1, len(ordered) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        steps_up = np.diff(right, prepend=0)
        areas.append(float((envelope * steps_up).sum() / there))
    return (float(np.mean(areas)) if areas else math.nan), total
