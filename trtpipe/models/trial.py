"""Trial runs: an ONNX model in onnxruntime on the CPU, on random inputs or on given samples, against another one.

This is how every stage that changes a model (precision, quantisation, clean-up) finds out whether it is still right,
before anything is built of it.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trtpipe.data import tensors
from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.models import onnxfile
from trtpipe.runtime import batch_dim

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from trtpipe.stage import Input

FLOOR = 1e-4
"""The relative difference of an output that is almost nothing (a detector that sees noise) is taken against an
output with this root mean square."""
SEED = 20240229
GUESSES = (1, 64, 224, 16, 320, 8)
"""Sizes tried for dynamic axes when there is no profile to take them from."""

PROVIDERS = ["CPUExecutionProvider"]
BROKEN = "SimplifiedLayerNormFusion"
"""A fusion that ends float16 models in onnxruntime 1.23 to 1.25 at least (its issue 26717), which are all that Python
3.10 can have. Without it nothing but a little speed is lost."""

SAME_NAME = "two nodes with same node name"
"""What onnxruntime refuses and TensorRT's parser does not."""

Feed = dict[str, Any]


def onnxruntime() -> Any:
    """Import onnxruntime. Raises EnvironmentMissing without it."""
    try:
        import onnxruntime as module
    except ImportError as error:
        raise EnvironmentMissing(
            "a model that is changed is checked in onnxruntime, and it is not there "
            f"({error}): pip install 'trtpipe[cpu]'"
        ) from error
    return module


def load(model: bytes | str | Path, options: Any) -> Any:
    """Load a model in onnxruntime on the CPU with these SessionOptions. Raises whatever onnxruntime raises."""
    make, source = onnxruntime().InferenceSession, model if isinstance(model, bytes) else str(model)
    try:
        return make(source, options, providers=PROVIDERS)
    except Exception as error:
        if BROKEN in str(error):
            return make(source, options, providers=PROVIDERS, disabled_optimizers=[BROKEN])
        if SAME_NAME not in str(error):
            raise
    import onnx

    named = onnx.load_from_string(model) if isinstance(model, bytes) else whole(Path(model))
    onnxfile.name_nodes(named)
    return make(named.SerializeToString(), options, providers=PROVIDERS)


class Trial:
    """A model in onnxruntime. `plain` computes node by node as the file says, without any fusion.

    Without fusions a Q/DQ network computes in float32 what an exact int8 kernel would; with them the CPU's own int8
    kernels answer, which on older processors saturate.
    """

    def __init__(self, model: bytes | str | Path, *, plain: bool = False) -> None:
        module = onnxruntime()
        options = module.SessionOptions()
        options.intra_op_num_threads = min(4, os.cpu_count() or 1)
        options.log_severity_level = 4
        if plain:
            options.graph_optimization_level = module.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = load(model, options)
        self.outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, feed: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run one feed."""
        names = list(self.outputs if outputs is None else outputs)
        return dict(zip(names, self._session.run(names, dict(feed)), strict=True))


def run(model: bytes | str | Path, feed: Mapping[str, Any], *, plain: bool = False) -> dict[str, NDArray[Any]]:
    """Run a model once. Raises whatever onnxruntime raises."""
    return Trial(model, plain=plain)(feed)


# -- what is fed -------------------------------------------------------------------------------------------------


def random_feeds(
    model: onnx.ModelProto,
    inputs: Sequence[Mapping[str, Any]],
    profiles: Sequence[Mapping[str, Mapping[str, Sequence[int]]]] = (),
) -> list[Feed]:
    """Make two feeds of seeded random inputs: floats normal, then uniform in [0, 1); integers 0 or 1.

    Dynamic axes take the first profile's `opt`, with a batch (axis 0) of at most 2; without a profile, the first of
    GUESSES with which the model runs. Raises StageFailed if none does.
    """
    unknown = [entry["name"] for entry in inputs if entry["dims"] is None]
    if unknown:
        raise StageFailed(f"the model does not say how many axes {', '.join(unknown)} has; fix its shape in the model")
    profile = profiles[0] if profiles else {}
    named: dict[str, int] = {}
    for entry in inputs:
        shapes = profile.get(entry["name"])
        for axis, dim in enumerate(entry["dims"]):
            if isinstance(dim, str) and shapes is not None:
                size = shapes["opt"][axis]
                if axis == 0:
                    size = max(shapes["min"][0], min(size, 2))
                named.setdefault(dim, size)
    missing = [d for e in inputs for d in e["dims"] if isinstance(d, str) and d not in named]
    if not missing:
        return _random(inputs, named)
    batches = {e["dims"][0] for e in inputs if e["dims"] and isinstance(e["dims"][0], str)}
    said = ""
    for guess in GUESSES:
        sizes = {d: 1 if d in batches else guess for d in missing} | named
        feeds = _random(inputs, sizes)
        try:
            run(model.SerializeToString(), feeds[0])
        except Exception as error:  # noqa: BLE001 - each guess may fail in any way; the last one is told
            said = str(error)
        else:
            return feeds
    raise StageFailed(
        f"the changed model cannot be checked: no size of {', '.join(sorted(set(missing)))} out of "
        f"{', '.join(map(str, GUESSES))} runs in onnxruntime; give params.profiles or data ({said})"
    )


def _random(inputs: Sequence[Mapping[str, Any]], named: Mapping[str, int]) -> list[Feed]:
    feeds = []
    for uniform in (False, True):
        random = np.random.default_rng(SEED)
        feed: Feed = {}
        for entry in inputs:
            shape = [named[d] if isinstance(d, str) else d for d in entry["dims"]]
            dtype = np.dtype(entry["dtype"])
            values: NDArray[Any]
            if dtype.kind == "f":
                values = random.random(shape) if uniform else random.standard_normal(shape)
            else:
                values = random.integers(0, 2, shape)
            feed[entry["name"]] = np.asarray(values).astype(dtype)
        feeds.append(feed)
    return feeds


class _Fed(NamedTuple):
    name: str
    how: str  # batch: rows of axis 0; run: axis 0 is added for the samples; constant: the same in every run
    source: tensors.Source


@dataclass(frozen=True)
class Samples:
    """Samples for a model's inputs, read from disk as they are asked for; iterating gives one feed a run.

    `count` samples are chosen evenly out of `total`; `rows` of them are fed at a time.
    """

    fed: tuple[_Fed, ...]
    total: int
    count: int
    rows: int
    label: str
    picked: tuple[int, ...] = ()
    """Instead of an even choice: these samples, in rising order."""
    filled: bool = False
    """Whether a last batch that is not full is fed, filled with its last sample."""

    @property
    def runs(self) -> int:
        """How many feeds there are."""
        return -(-self.count // self.rows)

    def __iter__(self) -> Iterator[Feed]:
        """Give the feeds; the arrays are their own."""
        still = {f.name: f.source.read() for f in self.fed if f.how == "constant"}
        moving = {f.name: f for f in self.fed if f.how != "constant"}
        even = np.linspace(0, self.total - 1, self.count).round().astype(int).tolist()
        wanted = set(self.picked or even)
        waiting: list[Feed] = []
        for index, row in enumerate(tensors.batches({n: f.source for n, f in moving.items()}, 1)):
            if index not in wanted:
                continue
            waiting.append({n: a.copy() for n, a in row.items()})
            if self.filled and index == self.total - 1:
                waiting += waiting[-1:] * (self.rows - len(waiting))
            if len(waiting) == self.rows:
                feed = dict(still)
                for name, one in moving.items():
                    rows = [w[name] for w in waiting]
                    feed[name] = np.asarray(rows[0][0]) if one.how == "run" else np.concatenate(rows)
                waiting = []
                yield feed

    def all(self) -> Samples:
        """Give every sample in order; what is too few for a fixed batch is filled up."""
        return replace(self, picked=(), count=self.total, filled=True)

    def pick(self, indices: Sequence[int]) -> Samples:
        """Give these samples alone; a fixed batch is filled with the first of the others."""
        inside = {i for i in indices if 0 <= i < self.total}
        if not inside:
            return self
        others = (i for i in range(self.total) if i not in inside)
        inside |= set(itertools.islice(others, -len(inside) % self.rows))
        # What is too few for a last batch is left out, as where nothing is picked.
        picked = tuple(sorted(inside)[: len(inside) // self.rows * self.rows])
        return replace(self, picked=picked, count=len(picked))

    def first(self, number: int) -> list[Feed]:
        """Give the first feeds, as a list."""
        found = []
        for feed in self:
            found.append(feed)
            if len(found) == number:
                break
        return found


def samples(
    given: Input, inputs: Sequence[Mapping[str, Any]], *, names: Mapping[str, str] | None = None, most: int = 128
) -> Samples:
    """Match data with a model's inputs. `inputs` is network.json's list; `most` limits the samples.

    Raises StageFailed that lists every mismatch: found, expected.
    """
    sources = tensors.open_input(given)
    names = names or {}
    known = [entry["name"] for entry in inputs]
    problems = [f"params.names.{n}: the model's inputs are {', '.join(known)}" for n in names if n not in known]
    fed: list[_Fed] = []
    rows, batch = 1, batch_dim(inputs)
    for entry in inputs:
        name, dims = entry["name"], entry["dims"]
        source = sources.get(names.get(name, name))
        if source is None:
            problems.append(
                f"{given.label} has no {names.get(name, name)} for the input {name}; it has {', '.join(sources)}. "
                "params.names says which is which"
            )
            continue
        if source.dtype.name != entry["dtype"]:
            problems.append(f"{source.label}: found {source.dtype.name}, expected {entry['dtype']}")
            continue
        how = "batch"
        if dims is None:
            pass
        elif not dims or (len(source.shape) == len(dims) and _fits(source.shape, dims) and isinstance(dims[0], int)):
            how = "batch" if dims and dims[0] == batch else "constant"
            if not dims and source.shape:
                how = "run"
        elif len(source.shape) == len(dims) + 1 and _fits(source.shape[1:], dims):
            how = "run"
        elif len(source.shape) != len(dims) or not _fits(source.shape[1:], dims[1:]):
            expected = ", ".join(["samples", *map(str, dims[1:])])
            problems.append(f"{source.label}: found shape {list(source.shape)}, expected [{expected}]")
            continue
        if how == "batch" and dims and isinstance(dims[0], int):
            rows = dims[0]
        fed.append(_Fed(name, how, source))
    if problems:
        raise StageFailed("\n".join(problems))
    counts = {f.source.label: f.source.shape[0] for f in fed if f.how != "constant"}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{label} {count}" for label, count in counts.items())
        raise StageFailed(f"the tensors differ in their number of samples: {text}")
    total = next(iter(counts.values()), 0)
    if any(f.how == "run" for f in fed):
        rows = 1
    if total and total < rows:
        raise StageFailed(f"{given.label}: found {total} samples, expected at least {rows}: the model's batch is fixed")
    count = min(most, total) // rows * rows or (rows if total else 0)
    return Samples(tuple(fed), total, count, rows, given.label)


def _fits(shape: Sequence[int], dims: Sequence[Any]) -> bool:
    return len(shape) == len(dims) and all(isinstance(d, str) or d == n for n, d in zip(shape, dims, strict=True))


# -- what comes out ----------------------------------------------------------------------------------------------


def compare(wanted: NDArray[Any], found: NDArray[Any]) -> dict[str, Any]:
    """Compare one output. Only floats of equal shape get a `relative_l2`: a label may flip on a random input."""
    if wanted.shape != found.shape:
        return {"shape_differs": True}
    if wanted.dtype.kind != "f":
        return {"differing": digits(float(np.mean(wanted != found)) if wanted.size else 0.0)}
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    judged = np.isfinite(a)
    if not np.isfinite(b[judged]).all():
        return {"finite": False}
    difference = a[judged] - b[judged]
    size = max(float(np.linalg.norm(a[judged])), FLOOR * difference.size**0.5)
    relative = float(np.linalg.norm(difference)) / size if size else 0.0
    largest = float(np.abs(difference).max()) if difference.size else 0.0
    return {"max_abs": digits(largest), "relative_l2": digits(relative)}


def digits(value: float) -> float:
    """Round to three digits: what follows differs from one processor to the next."""
    return float(f"{value:.3g}")


class Differences:
    """The differences between two models' outputs over many runs, without keeping the outputs."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._other: dict[str, dict[str, Any]] = {}

    def add(self, wanted: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> None:
        """Take in one run."""
        for name, right in wanted.items():
            one = found[name]
            if right.shape != one.shape or right.dtype.kind != "f":
                figures = compare(right, one)
                before = self._other.setdefault(name, figures)
                self._other[name] = {key: max(before.get(key, value), value) for key, value in figures.items()}
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

    def figures(self) -> dict[str, dict[str, Any]]:
        """Give max_abs, relative_l2 and cosine an output, over all runs together; `not_finite` where there are any."""
        result = dict(self._other)
        for name, (aa, bb, ab, dd, size, bad, largest) in self._sums.items():
            scale = max(float(aa**0.5), FLOOR * float(size**0.5))
            cosine = ab / (aa * bb) ** 0.5 if aa and bb else float(aa == bb)
            result[name] = {
                "max_abs": digits(float(largest)),
                "relative_l2": digits(float(dd**0.5) / scale if scale else 0.0),
                "cosine": float(f"{min(1.0, float(cosine)):.6f}"),
            }
            if bad:
                result[name]["not_finite"] = int(bad)
        return result


def against(
    original: bytes | str | Path,
    changed: bytes | str | Path,
    feeds: Iterable[Feed],
    *,
    what: str,
    plain: bool = False,
    both: bool = False,
) -> dict[str, dict[str, Any]]:
    """Run two models on the same feeds; give the differences an output.

    Raises StageFailed if one does not run, or the changed one has other outputs or makes NaN or infinities where the
    original makes none. `what` names the change, for messages; `plain` is the changed one's, and with `both` the
    original's too.
    """
    differences = Differences()
    try:
        right = Trial(original, plain=plain and both)
    except Exception as error:
        raise StageFailed(f"onnxruntime cannot load the original model to check against: {error}") from error
    try:
        tried = Trial(changed, plain=plain)
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
    problems = [f"{name}: {f['not_finite']} values not finite" for name, f in figures.items() if f.get("not_finite")]
    problems += [f"{name}: its shape changed" for name, f in figures.items() if f.get("shape_differs")]
    if problems:
        raise StageFailed(f"{what} breaks the model:\n  " + "\n  ".join(problems))
    return figures


def beyond(figures: Mapping[str, Mapping[str, Any]], limit: float) -> list[str]:
    """Say which outputs differ more than a relative L2 of `limit`."""
    return [
        f"{name}: relative L2 difference {f['relative_l2']:.3g}, tolerance {limit:g}"
        for name, f in figures.items()
        if f.get("relative_l2", 0.0) > limit
    ]


def remarks(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which outputs that are no floats differ, and how much: no tolerance is about them."""
    return [
        f"{name}: {f['differing']:.1%} of its values are others than the original's, and no tolerance judges them"
        for name, f in figures.items()
        if f.get("differing")
    ]


def whole(path: Path) -> onnx.ModelProto:
    """Load a model with its external data. Raises StageFailed."""
    import onnx

    model = onnxfile.load(path)
    onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    return model
