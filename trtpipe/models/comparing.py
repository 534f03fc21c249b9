"""Compare the outputs of two runtimes or two precisions: figures for each output and for each sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trtpipe.data import elements, metrics, steps, tensors
from trtpipe.data.ragged import Ragged
from trtpipe.documents.comparison import Different
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from trtpipe.data.tensors import Source

BATCH_BYTES = 1 << 25
LARGEST = 1e140
"""Squares of larger values overflow float64 when they are summed."""
EQUAL_DB = 200.0
"""The PSNR of equal arrays, in dB. It would be infinite, which JSON cannot hold."""
HIGHER_IS_BETTER = ("cosine", "cosine_min", "psnr")
"""The overall figure of these, and of top-k agreement, is the smallest over the outputs; of all others the largest."""
FORMULAS = {
    "allclose": "numpy.allclose: an element is beyond it if |candidate - reference| > atol + rtol * |reference|",
    "both": "Polygraphy's elemwise check: an element is beyond it if its absolute error exceeds atol and its relative "
    "error exceeds rtol",
}


class Tolerance(NamedTuple):
    """What counts as a mismatch, element by element; `formula` is a key of FORMULAS."""

    rtol: float
    atol: float
    formula: str


class Compared(NamedTuple):
    """One output's figures over all samples, and arrays with one value for each sample."""

    figures: dict[str, float]
    samples: dict[str, NDArray[np.float64]]


def mismatches(
    candidate: NDArray[Any], reference: NDArray[Any], tolerance: Tolerance, error: NDArray[np.float64] | None = None
) -> NDArray[np.bool_]:
    """Tell for each element whether it is beyond the tolerance. NaN is beyond it unless the reference is NaN too.

    `error` is the result of `errors`, if it was computed before.

    Sources: numpy.allclose's documentation; polygraphy/comparator/compare.py (check_error_stat: elemwise).
    """
    c, r = candidate.astype(np.float64), reference.astype(np.float64)
    error = errors(candidate, reference) if error is None else error
    with np.errstate(all="ignore"):
        if tolerance.formula == "allclose":
            beyond = ~(error <= tolerance.atol + tolerance.rtol * np.abs(r))
        else:
            beyond = ~(error <= tolerance.atol) & ~(error / np.abs(r) <= tolerance.rtol)
    same = (candidate == reference) | (np.isnan(c) & np.isnan(r))
    result: NDArray[np.bool_] = beyond & ~same
    return result


def errors(candidate: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """Give |candidate - reference|. For integers it is exact, also beyond 2^53, where float64 is not."""
    if candidate.dtype.kind in "iu" and candidate.dtype == reference.dtype:
        high, low = np.maximum(candidate, reference), np.minimum(candidate, reference)
        exact: NDArray[np.float64] = (high.astype(np.uint64) - low.astype(np.uint64)).astype(np.float64)
        return exact
    with np.errstate(all="ignore"):
        result: NDArray[np.float64] = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
    return result


def _rows(candidate: Source | Ragged, reference: Source | Ragged) -> Iterator[tuple[NDArray[Any], NDArray[Any], bool]]:
    """Give rows of both sides, flat, and whether they have one shape; samples of shapes of their own come alone."""
    if isinstance(candidate, Ragged) or isinstance(reference, Ragged):
        for pair in tensors.one_by_one({"c": candidate, "r": reference}):
            same = pair["c"].shape == pair["r"].shape
            one, other = (_numbers(pair[side].reshape(1, -1)[:, : None if same else 0]) for side in "cr")
            yield one, other, same
        return
    size = max(1, BATCH_BYTES // max(1, candidate.row_bytes + reference.row_bytes))
    for pair in tensors.batches({"c": candidate, "r": reference}, size):
        one, other = (_numbers(pair[side].reshape(len(pair[side]), -1)) for side in "cr")
        yield one, other, True


def _numbers(array: NDArray[Any]) -> NDArray[Any]:
    """Give values of types that NumPy lacks (bfloat16, int4 …) as float32, which holds each of them."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def output(candidate: Source | Ragged, reference: Source | Ragged, tolerance: Tolerance, top_k: int | None) -> Compared:
    """Compare two tensors [samples, …] batch by batch.

    max_abs, mean_abs; relative_l2 |c - r| / |r| over everything; cosine (mean over samples) and cosine_min; psnr in
    dB against the reference's largest magnitude; mismatched, the share of elements beyond the tolerance; nan, the
    elements that are not finite in one and not the same in the other: they count in no other figure. For [samples,
    classes] with more than `top_k` classes: topK_agreement, the share of samples whose best k classes are the same
    set. For ragged tensors: shapes, the number of samples that have another shape on the other side; they count in no
    other figure, but with a cosine of 0 and a relative_l2 of 1 among the samples.
    """
    total = tensors.count(candidate)
    ragged = isinstance(candidate, Ragged) or isinstance(reference, Ragged)
    shapes = 0
    per: dict[str, list[NDArray[np.float64]]] = {k: [] for k in ("max_abs", "mean_abs", "relative_l2", "cosine", "nan")}
    sums = {"abs": 0.0, "error2": 0.0, "right2": 0.0, "beyond": 0, "size": 0, "counted": 0, "peak": 0.0}
    ranked = (
        top_k is not None
        and not isinstance(candidate, Ragged)
        and len(candidate.shape) == 2
        and candidate.shape[1] > top_k
    )
    agree: list[NDArray[np.bool_]] = []
    for found, wanted, same_shape in _rows(candidate, reference):
        shapes += not same_shape
        error = errors(found, wanted)
        sums["beyond"] += int(mismatches(found, wanted, tolerance, error).sum())
        c, r = found.astype(np.float64), wanted.astype(np.float64)
        sums["size"] += c.size
        same = (c == r) | (np.isnan(c) & np.isnan(r))
        finite = np.isfinite(c) & np.isfinite(r)
        per["nan"].append((~finite & ~same).sum(axis=1).astype(np.float64))
        if ranked and top_k is not None:
            clean = [np.where(np.isfinite(x), x, -np.inf) for x in (c, r)]
            best = [np.sort(steps.top_k(x, top_k)[0], axis=1) for x in clean]
            agree.append((best[0] == best[1]).all(axis=1) & finite.all(axis=1))
        c, r, error = (np.where(finite, array, 0) for array in (c, r, error))
        largest = max(float(np.abs(array).max(initial=0.0)) for array in (c, r))
        if largest > LARGEST:
            raise StageFailed(f"{candidate.label}: values of {largest:.3g} are too large: float64 cannot square them")
        norms = np.linalg.norm(r, axis=1)
        lengths = np.linalg.norm(error, axis=1)
        counted = finite.sum(axis=1)
        with np.errstate(all="ignore"):
            relative = np.where(norms > 0, lengths / norms, np.where(lengths > 0, np.inf, 0.0))
        # If a sample's reference is all zeros, its relative error is undefined and counts as 1.
        per["relative_l2"].append(np.where(np.isinf(relative), 1.0, relative))
        per["max_abs"].append(error.max(axis=1, initial=0.0))
        per["mean_abs"].append(error.sum(axis=1) / np.maximum(counted, 1))
        # A sample without any comparable element has a cosine of 0.
        empty = not found.size and same_shape
        near = np.ones(len(c)) if empty else metrics.cosine(c, r)
        per["cosine"].append(np.where((counted == 0) & (per["nan"][-1] > 0) | (not same_shape), 0.0, near))
        if not same_shape:
            per["relative_l2"][-1] = np.ones(1)
        sums["abs"] += float(error.sum())
        sums["error2"] += float(np.square(error).sum())
        sums["right2"] += float(np.square(r).sum())
        sums["counted"] += int(counted.sum())
        sums["peak"] = max(sums["peak"], float(np.abs(r).max(initial=0.0)))
    samples = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in per.items()}
    right = math.sqrt(sums["right2"])
    figures = {
        "max_abs": float(samples["max_abs"].max(initial=0.0)),
        "mean_abs": sums["abs"] / max(sums["counted"], 1),
        "relative_l2": math.sqrt(sums["error2"]) / right if right else float(sums["error2"] > 0),
        "cosine": float(samples["cosine"].mean()) if total else 1.0,
        "cosine_min": float(samples["cosine"].min(initial=1.0)),
        "psnr": _psnr(sums["error2"] / max(sums["counted"], 1), sums["peak"]),
        "mismatched": sums["beyond"] / max(sums["size"], 1),
        "nan": float(samples["nan"].sum()),
    }
    if ragged:
        figures["shapes"] = float(shapes)
    if ranked:
        figures[f"top{top_k}_agreement"] = float(np.concatenate(agree).mean()) if agree else 1.0
    return Compared(figures, samples)


def _psnr(mean_square: float, peak: float) -> float:
    if not mean_square:
        return EQUAL_DB
    if not peak:
        return 0.0
    return min(EQUAL_DB, 20 * math.log10(peak) - 10 * math.log10(mean_square))


def pairs(
    candidate: Mapping[str, Source | Ragged], reference: Mapping[str, Source | Ragged], names: Mapping[str, str]
) -> list[tuple[str, Source | Ragged, Source | Ragged]]:
    """Pair outputs by name; `names` maps a candidate's name to the reference's.

    Raises StageFailed that lists outputs without a partner, with another shape, or that are not numeric.
    """
    problems = []
    found = []
    for name, given in candidate.items():
        if names.get(name, name) not in reference:
            problems.append(f"the reference has no {names.get(name, name)}; it has {', '.join(reference)}")
            continue
        one, partner = (tensors.plain(side) for side in (given, reference[names.get(name, name)]))
        if isinstance(one, Ragged) or isinstance(partner, Ragged):
            ranks = [side.rank if isinstance(side, Ragged) else len(side.shape) - 1 for side in (one, partner)]
            if ranks[0] != ranks[1] or tensors.count(one) != tensors.count(partner):
                had = [
                    f"{s.label} has {tensors.count(s)} samples of {r} axes"
                    for s, r in zip((one, partner), ranks, strict=True)
                ]
                problems.append(f"{', '.join(had)}; expected the same")
                continue
        elif one.shape != partner.shape or not one.shape:
            problems.append(
                f"{one.label} is {list(one.shape)}, {partner.label} {list(partner.shape)}; expected the same"
                + _axis(one, partner)
            )
            continue
        if any(side.dtype.kind not in "biuf" and side.element not in elements.LOST for side in (one, partner)):
            problems.append(f"{one.label} is {one.dtype}, {partner.label} {partner.dtype}; expected numbers")
        else:
            found.append((name, one, partner))
    problems += [f"names: the candidate has no {n}; it has {', '.join(candidate)}" for n in names if n not in candidate]
    if problems:
        raise StageFailed("\n".join(problems))
    if not found or not tensors.count(found[0][1]):
        raise StageFailed("there is nothing to compare: no outputs, or no samples")
    return found


def _axis(one: Source, other: Source) -> str:
    """Propose what helps where one side took an axis for the batch and the other did not."""
    few, many = sorted(([n for n in s.shape if n != 1] for s in (one, other)), key=len)
    return "; batch_axis of the model's tensors must be the same here and in allocate" if few == many else ""


def overall(outputs: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Give the worst of each figure over the outputs."""
    names = list(dict.fromkeys(name for figures in outputs.values() for name in figures))
    worst = {}
    for name in names:
        values = [figures[name] for figures in outputs.values() if name in figures]
        better = name in HIGHER_IS_BETTER or name.endswith("_agreement")
        worst[name] = min(values) if better else max(values)
    return worst


def most_different(compared: Mapping[str, Compared], ids: Sequence[str], number: int) -> list[Different]:
    """List the samples that differ most: by the number of NaN, then by the largest relative L2 over the outputs."""
    if not number:
        return []
    names = list(compared)
    nan = np.max([compared[n].samples["nan"] for n in names], axis=0)
    relative = np.stack([compared[n].samples["relative_l2"] for n in names])
    order = np.lexsort((np.arange(len(nan)), -relative.max(axis=0), -nan))[:number]
    result = []
    for index in order.tolist():
        name = names[int(relative[:, index].argmax())]
        figures = compared[name].samples
        own = {key: float(figures[key][index]) for key in ("relative_l2", "max_abs", "mean_abs", "cosine", "nan")}
        result.append(Different(index=index, id=ids[index], output=name, **own))
    return result
