"""How far the outputs of a changed model are from those of the original, both run in onnxruntime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.documents.checks import Difference
from trtpipe.errors import StageFailed
from trtpipe.models import feeding, ort_cpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FLOOR = 1e-4
"""The least root mean square that a relative difference divides by, for outputs that are almost zero (a detector that
sees noise)."""


def compare(wanted: NDArray[Any], found: NDArray[Any]) -> Difference:
    """Compare one output. Only floats of equal shape get a `relative_l2`: on a random input a label may change."""
    if wanted.shape != found.shape:
        return Difference(shape_differs=True)
    if wanted.dtype.kind != "f":
        return Difference(differing=digits(float(np.mean(wanted != found)) if wanted.size else 0.0))
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    judged = np.isfinite(a)
    if bad := int((~np.isfinite(b[judged])).sum()):
        return Difference(not_finite=bad)
    difference = a[judged] - b[judged]
    size = max(float(np.linalg.norm(a[judged])), FLOOR * difference.size**0.5)
    relative = float(np.linalg.norm(difference)) / size if size else 0.0
    largest = float(np.abs(difference).max()) if difference.size else 0.0
    return Difference(max_abs=digits(largest), relative_l2=digits(relative))


def larger(one: Difference, other: Difference) -> Difference:
    """Give the larger of each figure that `compare` gave for two runs."""
    figures = {}
    for name in one.__struct_fields__:
        known = [value for value in (getattr(one, name), getattr(other, name)) if value is not None]
        figures[name] = max(known, default=None)
    return Difference(**figures)


def digits(value: float) -> float:
    """Round to three digits: further digits differ between processors."""
    return float(f"{value:.3g}")


class Differences:
    """The differences between two models' outputs over many runs, without keeping the outputs."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._other: dict[str, Difference] = {}

    def add(self, wanted: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> None:
        """Add one run's outputs: the original's and the changed model's."""
        for name, right in wanted.items():
            one = found[name]
            if right.shape != one.shape or right.dtype.kind != "f":
                difference = compare(right, one)
                self._other[name] = larger(self._other.get(name, difference), difference)
                continue
            a, b = right.astype(np.float64).ravel(), one.astype(np.float64).ravel()
            judged = np.isfinite(a)
            bad = float((~np.isfinite(b[judged])).sum())
            a, b = a[judged], b[judged]
            a, b = a[np.isfinite(b)], b[np.isfinite(b)]
            largest = float(np.abs(a - b).max()) if a.size else 0.0
            sums = np.array([a @ a, b @ b, a @ b, (a - b) @ (a - b), a.size, bad, largest])
            if name in self._sums:
                sums[:6] += self._sums[name][:6]
                sums[6] = max(sums[6], self._sums[name][6])
            self._sums[name] = sums

    def figures(self) -> dict[str, Difference]:
        """Give each output's max_abs, relative_l2 and cosine over all runs; `not_finite` (a count) if there are any."""
        result = dict(self._other)
        for name, (aa, bb, ab, dd, size, bad, largest) in self._sums.items():
            scale = max(float(aa**0.5), FLOOR * float(size**0.5))
            cosine = ab / (aa * bb) ** 0.5 if aa and bb else float(aa == bb)
            result[name] = Difference(
                max_abs=digits(float(largest)),
                relative_l2=digits(float(dd**0.5) / scale if scale else 0.0),
                cosine=float(f"{min(1.0, float(cosine)):.6f}"),
                not_finite=int(bad) or None,
            )
        return result


def against(
    original: bytes | str | Path,
    changed: bytes | str | Path,
    feeds: Iterable[feeding.Feed],
    *,
    what: str,
    plain: bool = False,
    both: bool = False,
) -> dict[str, Difference]:
    """Run two models on the same feeds; give the differences of each output.

    Raises StageFailed if one does not run, or the changed one has other outputs or makes NaN or infinities where the
    original makes none. `what` names the change in messages. `plain` (no fusions) applies to the changed model, with
    `both` also to the original.
    """
    differences = Differences()
    try:
        right = ort_cpu.Session(original, plain=plain and both)
    except Exception as error:
        raise StageFailed(f"onnxruntime cannot load the original model to check against: {error}") from error
    try:
        tried = ort_cpu.Session(changed, plain=plain)
    except Exception as error:
        raise StageFailed(f"{what}: onnxruntime cannot load the changed model: {error}") from error
    if set(right.outputs) != set(tried.outputs):
        raise StageFailed(f"{what}: the outputs were {', '.join(right.outputs)}, now they are {tried.outputs}")
    for feed in feeds:
        try:
            wanted = right(feed)
        except Exception as error:
            raise StageFailed(f"onnxruntime cannot run the original model to check against: {error}") from error
        try:
            found = tried(feed)
        except Exception as error:
            raise StageFailed(f"{what}: onnxruntime cannot run the changed model: {error}") from error
        differences.add(wanted, found)
    figures = differences.figures()
    problems = [f"{name}: {f.not_finite} values not finite" for name, f in figures.items() if f.not_finite]
    problems += [f"{name}: its shape changed" for name, f in figures.items() if f.shape_differs]
    if problems:
        raise StageFailed(f"{what} breaks the model:\n  " + "\n  ".join(problems))
    return figures


def beyond(figures: Mapping[str, Difference], limit: float) -> list[str]:
    """Say which outputs differ more than a relative L2 of `limit`."""
    return [
        f"{name}: relative L2 difference {f.relative_l2:.3g}, tolerance {limit:g}"
        for name, f in figures.items()
        if f.relative_l2 is not None and f.relative_l2 > limit
    ]


def tell(
    outputs: Mapping[str, Difference], tolerance: float, figure: Callable[[str, float, str, bool | None], None]
) -> None:
    """Tell how far each float output is from the original's, with the tolerance as its rule."""
    for name, found in outputs.items():
        if found.not_finite:
            figure(f"{name}: not finite", found.not_finite, "== 0", False)
        elif found.relative_l2 is not None:
            figure(f"{name}: relative L2", found.relative_l2, f"<= {tolerance:g}", found.relative_l2 <= tolerance)


def remarks(figures: Mapping[str, Difference]) -> list[str]:
    """Say which outputs that are not floats differ, and how much: the tolerance does not apply to them."""
    return [
        f"{name}: {f.differing:.1%} of its values are others than the original's, and no tolerance judges them"
        for name, f in figures.items()
        if f.differing
    ]
