"""Measure each metric of evaluate on the stage's inputs. The arithmetic is in `metrics`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import ground_truth, metrics, results, steps, tensors
from trtpipe.data.metrics import Boxes, Figure
from trtpipe.data.samples import ids_of
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from trtpipe.data.metric_params import AveragePrecision, Cosine, ExactMatch, MeanIou, Metric, TopKAccuracy
    from trtpipe.data.tensors import Source
    from trtpipe.stage import Input

BATCH_BYTES = 1 << 25


class Evaluation:
    """The inputs of evaluate by their ports, each read once, and each metric on them.

    `samples` is how many samples were measured, as far as a metric has run.
    """

    def __init__(self, inputs: Mapping[str, Input]) -> None:
        self._inputs = inputs
        self._records: list[dict[str, Any]] = []
        self.samples = 0

    def measure(self, metric: Metric) -> list[Figure]:
        """Give the figures of one metric. Raises StageFailed where the inputs do not fit it."""
        found: list[Figure] = getattr(self, f"_{metric.__struct_config__.tag}")(metric)
        return found

    def _input(self, name: str) -> Input:
        if name not in self._inputs:
            raise StageFailed(f"found no input {name}, expected one: this metric reads it")
        return self._inputs[name]

    def _results(self) -> list[dict[str, Any]]:
        if not self._records:
            self._records = results.read(self._input("results"))
            self.samples = len(self._records)
        return self._records

    def _labels(self, ids: Sequence[str], *what: str) -> list[Any]:
        return ground_truth.each_label(self._input("labels"), ids, *what)

    def _tensor(self, name: str | None, role: str = "tensors") -> Source:
        """Give a tensor of an input by name, or the only one."""
        given = self._input(role)
        if given.kind == "results" and tensors.INDEX not in given.files:
            raise StageFailed(f"input {role} ({given.label}) has no arrays; name them in postprocess' param arrays")
        sources = tensors.open_input(given)
        if name is None and len(sources) == 1:
            return tensors.fixed(next(iter(sources.values())))
        if name is None or name not in sources:
            found = "no name" if name is None else name
            raise StageFailed(f"found {found}, expected a tensor of input {role}: {', '.join(sources)}")
        return tensors.fixed(sources[name])

    # One method for each metric; its name is the metric's tag.

    def _top_k(self, metric: TopKAccuracy) -> list[Figure]:
        """Count the samples whose right class is among the best k."""
        (name,) = metric.figures()
        right_ones: Sequence[Hashable]
        found: Sequence[Sequence[Hashable]]
        if metric.tensor is not None:
            ids, found = self._best(metric)
            expected = self._labels(ids, "class", "label")
            right_ones = self._whole(ids, expected, self._tensor(metric.tensor).shape[1])
        else:
            ids, values = results.column(self._results(), metric.field or "top_k")
            expected = self._labels(ids, "label", "class")
            tried = [_tries(value) for value in values]
            by = metric.by if metric.by != "auto" else _by(expected, tried)
            if max(len(each) for each in tried) < metric.k:
                most = max(len(each) for each in tried)
                raise StageFailed(f"found {most} tries a sample, expected {metric.k}: postprocess must make as many")
            if missing := [i for i, each in zip(ids, tried, strict=True) if any(by not in t for t in each)]:
                raise StageFailed(f"found no {by} in the results, first {missing[0]}; expected a step that makes it")
            found = [[t[by] for t in each[: metric.k]] for each in tried]
            right_ones = self._whole(ids, expected, None) if by == "class" else [str(e) for e in expected]
        right = [e in f for e, f in zip(right_ones, found, strict=True)]
        return [metrics.counted(name, right, ids, lambda i: f"found {_brief(found[i])}, expected {right_ones[i]}")]

    def _best(self, metric: TopKAccuracy) -> tuple[list[str], list[list[int]]]:
        """Read the best k classes off a tensor, batch by batch."""
        source = self._tensor(metric.tensor)
        if len(source.shape) != 2 or source.shape[1] < metric.k or source.dtype.kind not in "biuf":
            raise StageFailed(
                f"tensor {metric.tensor}: found {source.dtype} {list(source.shape)}, "
                f"expected numbers [samples, classes] with at least {metric.k} classes"
            )
        found: list[list[int]] = []
        for batch in tensors.batches({"x": source}, max(1, BATCH_BYTES // max(1, source.row_bytes))):
            if (bad := steps.unusable(batch["x"])).size:
                raise StageFailed(f"tensor {metric.tensor}: found NaN in row {len(found) + int(bad[0])}")
            found += steps.top_k(batch["x"], metric.k)[0].tolist()
        if not found:
            raise StageFailed(f"tensor {metric.tensor} has no samples")
        self.samples = len(found)
        return ids_of(self._inputs["tensors"], len(found)), found

    def _whole(self, ids: Sequence[str], expected: Sequence[Any], count: int | None) -> list[int]:
        """Give the true classes as numbers in their range."""
        result = []
        for identity, value in zip(ids, expected, strict=True):
            number = int(value) if isinstance(value, int) or re.fullmatch(r"[0-9]+", value) else -1
            if number < 0 or (count is not None and number >= count):
                wanted = f"0 to {count - 1}" if count is not None else "a class number"
                raise StageFailed(
                    f"input labels ({self._inputs['labels'].label}): found {value!r} for {identity}, expected {wanted}"
                )
            result.append(number)
        return result

    def _exact_match(self, metric: ExactMatch) -> list[Figure]:
        """Count the samples whose field is right, whole."""
        ids, found = results.column(self._results(), metric.field)
        expected = self._labels(ids, "text", "label", "class")
        for identity, value in zip(ids, found, strict=True):
            if isinstance(value, bool) or not isinstance(value, str | int):
                raise StageFailed(
                    f"field {metric.field} of {identity}: found a {type(value).__name__}, "
                    f"expected a text or a whole number"
                )

        def plain(value: Any) -> str:
            text = "".join(str(value).split()) if metric.ignore_space else str(value)
            return text.casefold() if metric.ignore_case else text

        right = [plain(f) == plain(e) for f, e in zip(found, expected, strict=True)]
        (name,) = metric.figures()
        return [metrics.counted(name, right, ids, lambda i: f"found {found[i]!r}, expected {expected[i]!r}")]

    def _boxes(self, field: str) -> tuple[list[Boxes], list[Boxes]]:
        """Give what was found and what is true, with classes of one kind."""
        ids, values = results.column(self._results(), field)
        true = ground_truth.each_boxes(self._input("labels"), ids)
        kinds = {kind for corners, _, kind in true if corners}
        if not kinds:
            raise StageFailed(f"input labels ({self._inputs['labels'].label}) has no boxes, expected some")
        if len(kinds) > 1:
            raise StageFailed("found boxes with and without a class or label in the labels, expected one kind for all")
        (kind,) = kinds
        found = []
        for identity, entries in zip(ids, values, strict=True):
            if not isinstance(entries, list) or any(not isinstance(e, dict) or "box" not in e for e in entries):
                raise StageFailed(f"field {field} of {identity}: expected entries with a box, as nms makes them")
            if kind and any(kind not in e for e in entries):
                raise StageFailed(f"field {field} of {identity}: found no {kind}, expected one, as the labels have it")
            corners = np.asarray([e["box"] for e in entries], np.float64).reshape(-1, 4)
            scores = np.asarray([e.get("score", 1.0) for e in entries], np.float64)
            found.append(Boxes(corners, [e[kind] if kind else 0 for e in entries], scores))
        return found, [Boxes(np.asarray(c, np.float64).reshape(-1, 4), names) for c, names, _ in true]

    def _mean_iou(self, metric: MeanIou) -> list[Figure]:
        """Measure how well the true boxes are met."""
        value, total = metrics.mean_iou(*self._boxes(metric.field))
        return [Figure(metric.figures()[0], value, total, "box")]

    def _average_precision(self, metric: AveragePrecision) -> list[Figure]:
        """Measure how many boxes are found, and how many beside them."""
        value, total = metrics.average_precision(*self._boxes(metric.field), metric.iou_threshold)
        return [Figure(metric.figures()[0], value, total, "box")]

    def _cosine(self, metric: Cosine) -> list[Figure]:
        """Compare a tensor with the reference's, row by row."""
        role = "tensors" if "tensors" in self._inputs else "results"
        one = self._tensor(metric.tensor, role)
        references = tensors.open_input(self._input("reference"))
        other = tensors.fixed(references[one.name]) if one.name in references else self._tensor(None, "reference")
        if one.shape != other.shape or not one.shape or not one.shape[0]:
            raise StageFailed(
                f"{one.label} is {list(one.shape)}, {other.label} {list(other.shape)}; expected one shape, with samples"
            )
        size = max(1, BATCH_BYTES // max(1, one.row_bytes + other.row_bytes))
        pairs = tensors.batches({"one": one, "other": other}, size)
        found = np.concatenate([metrics.cosine(pair["one"], pair["other"]) for pair in pairs])
        self.samples = len(found)
        ids = ids_of(self._input(role), len(found)) if role == "tensors" else None
        ids = ids or [record["id"] for record in self._results()]
        if np.isnan(found).any():
            first = ids[int(np.isnan(found).argmax())]
            raise StageFailed(f"{one.label} or {other.label} has NaN or infinity, first in {first}")
        name, least = metric.figures()
        worst = int(found.argmin())
        return [
            Figure(name, float(found.mean()), len(found), "sample"),
            Figure(least, float(found[worst]), len(found), "sample", remark=f"least: {ids[worst]}"),
        ]


def _tries(value: Any) -> list[dict[str, Any]]:
    """Give a field's tries, best first, each with `class` or `label`: of top_k its entries, else the one value."""
    if isinstance(value, list) and all(isinstance(e, dict) for e in value):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return [{"class": value}]
    if isinstance(value, str):
        return [{"label": value}]
    raise StageFailed(f"found a {type(value).__name__}, expected what top_k, argmax or labels make")


def _by(expected: Sequence[Any], tried: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Choose what to compare: see TopKAccuracy.by."""
    labels = {t["label"] for each in tried for t in each if "label" in t}
    if not labels:
        return "class"
    if not all("class" in t for each in tried for t in each):
        return "label"
    if all(isinstance(e, int) for e in expected):
        return "class"
    numbers = all(isinstance(e, int) or re.fullmatch(r"[0-9]+", e) for e in expected)
    # Numbers among names that are none must be class numbers; else they are names such as "90" for 90 degrees.
    return "class" if numbers and not any(re.fullmatch(r"[0-9]+", label) for label in labels) else "label"


def _brief(found: Sequence[Hashable]) -> str:
    return ", ".join(map(str, found[:5])) or "nothing"
