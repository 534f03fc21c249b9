"""`serve-check`: a bundle loaded as a server would load it, run on its recorded samples, compared, and timed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trtpipe.deploy import reading
from trtpipe.deploy.recording import EXPECTED, SAMPLES
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from trtpipe.documents.bundle import Bundle

    Arrays = Mapping[str, NDArray[Any]]


class Checked(NamedTuple):
    """What came of a check: relative L2 by output, the bound, and the times of calls in milliseconds."""

    bundle: Bundle
    differences: dict[str, float]
    bound: float
    problems: tuple[str, ...]
    open_ms: float
    first_ms: float
    median_ms: float
    p99_ms: float
    calls: int


def check(
    folder: Path,
    call: Callable[[Arrays], Arrays],
    bundle: Bundle,
    *,
    opened: float,
    bound: float | None = None,
    latency_ms: float | None = None,
    calls: int = 50,
) -> Checked:
    """Run an opened bundle on its samples. `call` runs a batch; `opened` is the seconds that opening took.

    Raises StageFailed for a bundle without samples.
    """
    if not bundle.samples:
        raise StageFailed(
            f"{folder}: found no recorded samples, expected those of a stage infer that ran this engine before deploy"
        )
    feed, wanted = _read(folder / SAMPLES), _read(folder / EXPECTED)
    limit = bundle.tolerance if bound is None else bound
    assert limit is not None
    start = time.perf_counter()
    found = call(feed)
    first = time.perf_counter() - start
    differences, problems = _compared(wanted, found, limit)
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call(feed)
        times.append((time.perf_counter() - start) * 1000)
    median, late = (float(np.percentile(times, q)) for q in (50, 99))
    if latency_ms is not None and median > latency_ms:
        problems.append(f"a call takes {median:.3g} ms (median of {calls}), and at most {latency_ms:g} ms are allowed")
    return Checked(
        bundle, differences, limit, tuple(problems), opened * 1000, first * 1000, median, late, calls
    )  # fmt: skip


def _read(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def _compared(wanted: Arrays, found: Arrays, limit: float) -> tuple[dict[str, float], list[str]]:
    from trtpipe.models import deviation

    differences: dict[str, float] = {}
    problems: list[str] = []
    for name, right in wanted.items():
        if name not in found:
            problems.append(f"{name}: the engine has no such output")
            continue
        one = deviation.compare(right, found[name])
        if one.shape_differs:
            problems.append(f"{name}: found the shape {list(found[name].shape)}, expected {list(right.shape)}")
        elif one.not_finite:
            problems.append(f"{name}: {one.not_finite} values are not finite, and the recorded ones are")
        else:
            value = one.relative_l2 if one.relative_l2 is not None else one.differing or 0.0
            differences[name] = value
            if value > limit:
                what = "relative L2 difference" if one.relative_l2 is not None else "share of other values"
                problems.append(f"{name}: {what} {value:.3g} from what was recorded, bound {limit:g}")
    return differences, problems


def find(given: str, trust: Mapping[str, str] | None) -> tuple[Path, Bundle]:
    """Find a bundle and check its files. Raises StageFailed or GateFailed."""
    folder = reading.find(given)
    bundle = reading.verify(folder, trust)
    assert bundle is not None
    return folder, bundle
