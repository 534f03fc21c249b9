"""evaluate: results against what is known to be right, with gates that stop the run."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trtpipe.errors import GateFailed, StageFailed
from trtpipe.gates import Rule, Verdict, holds, judge, malformed, unknown
from trtpipe.stage import Context, Params, Port, StageType

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

    from trtpipe.data.metrics import Boxes, Figure
    from trtpipe.data.tensors import Source

BATCH_BYTES = 1 << 25

Name = Annotated[str | None, Meta(description="The figure's name; by default the metric's.")]
BoxField = Annotated[str, Meta(description="The field of nms in the results.")]


class _Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="metric"):
    name: Name = None

    def figures(self) -> tuple[str, ...]:
        """Name the figures that this metric makes."""
        return (self.name or str(self.__struct_config__.tag),)


class TopKAccuracy(_Metric, frozen=True, tag="top_k"):
    """The part of the samples whose right class is among the best k; its name is top1, top5 and so on."""

    k: Annotated[int, Meta(ge=1, description="How many may be tried.")] = 1
    field: Annotated[
        str | None, Meta(description="The field of top_k, argmax or labels in the results; by default top_k.")
    ] = None
    tensor: Annotated[str | None, Meta(description="Instead: scores [samples, classes] of the input `tensors`.")] = None
    by: Annotated[
        Literal["auto", "class", "label"],
        Meta(
            description="Compare class numbers, or the labels that a labels step gave; auto: by label where the labels "
            "file holds texts and the results have labels."
        ),
    ] = "auto"

    def figures(self) -> tuple[str, ...]:
        """Name the figure."""
        return (self.name or f"top{self.k}",)


class ExactMatch(_Metric, frozen=True, tag="exact_match"):
    """The part of the samples whose field is the right text or number, whole."""

    field: Annotated[str, Meta(description="The field of the results.")] = "text"
    ignore_case: Annotated[bool, Meta(description="Upper and lower case are one.")] = False
    ignore_space: Annotated[bool, Meta(description="Spaces do not count.")] = False


class MeanIou(_Metric, frozen=True, tag="mean_iou"):
    """The mean intersection over union of each true box with the one found for it; 0 where none was."""

    field: BoxField = "nms"


class AveragePrecision(_Metric, frozen=True, tag="average_precision"):
    """The area under precision over recall, mean over classes; its name is ap50, ap75 and so on."""

    field: BoxField = "nms"
    iou_threshold: Annotated[float, Meta(gt=0, le=1, description="Overlap from which a box counts as found.")] = 0.5

    def figures(self) -> tuple[str, ...]:
        """Name the figure."""
        return (self.name or f"ap{round(100 * self.iou_threshold)}",)


class Cosine(_Metric, frozen=True, tag="cosine"):
    """The cosine between each sample's tensor and the reference's: the mean, and as cosine_min the least."""

    tensor: Annotated[
        str | None, Meta(description="Of the input `tensors`, or the results' arrays; by default the only one.")
    ] = None

    def figures(self) -> tuple[str, ...]:
        """Name the two figures."""
        name = self.name or "cosine"
        return (name, f"{name}_min")


Metric = TopKAccuracy | ExactMatch | MeanIou | AveragePrecision | Cosine


class EvaluateParams(Params, frozen=True):
    """What is measured, and what it must be."""

    metrics: Annotated[tuple[Metric, ...], Meta(min_length=1, description="What is measured.")]
    require: Annotated[
        dict[str, Rule], Meta(description='Rules by figure, such as {top1: ">= 0.97"}; a broken one fails the run.')
    ] = msgspec.field(default_factory=dict)

    def figures(self) -> Iterable[str]:
        """Name what is measured."""
        return [name for metric in self.metrics for name in metric.figures()]

    def problems(self) -> Iterable[tuple[str, str]]:
        """Find what the schema cannot say."""
        names = [name for metric in self.metrics for name in metric.figures()]
        for name, count in Counter(names).items():
            if count > 1:
                yield "metrics", f"found {count} figures called {name}, expected one; give them a `name`"
        for index, metric in enumerate(self.metrics):
            if isinstance(metric, TopKAccuracy) and metric.field and metric.tensor:
                yield f"metrics[{index}]", "found field and tensor, expected one of them"
        for name in self.require:
            if name not in names:
                yield f"require.{name}", unknown(name, names)
        yield from malformed(self.require)

    def missing(self, ports: Collection[str]) -> Iterable[tuple[str, str]]:
        """Find inputs that metrics read and that are not given."""
        for index, metric in enumerate(self.metrics):
            if isinstance(metric, Cosine):
                reads = ["reference", "tensors" if "tensors" in ports else "results"]
            else:
                reads = ["labels", "tensors" if isinstance(metric, TopKAccuracy) and metric.tensor else "results"]
            for name in reads:
                if name not in ports:
                    yield f"params.metrics[{index}]", f"found no input {name}, expected one: this metric reads it"


class _Evaluation:
    """The inputs, read once, and each metric on them."""

    def __init__(self, ctx: Context) -> None:
        self._inputs = ctx.inputs
        self._records: list[dict[str, Any]] | None = None
        self._truth: dict[str, list[Any]] = {}
        self.samples = 0

    def records(self) -> list[dict[str, Any]]:
        """Give results.jsonl. Raises StageFailed if it is not there or empty."""
        if self._records is None:
            path = self._input("results").path("results.jsonl")
            with path.open(encoding="utf-8") as lines:
                self._records = [json.loads(line) for line in lines]
            if not self._records:
                raise StageFailed(f"input results ({self._inputs['results'].label}) has no samples")
            self.samples = len(self._records)
        return self._records

    def _input(self, name: str) -> Any:
        if name not in self._inputs:
            raise StageFailed(f"found no input {name}, expected one: this metric reads it")
        return self._inputs[name]

    def column(self, field: str) -> tuple[list[str], list[Any]]:
        """Give (ids, values) of a field of the results."""
        records = self.records()
        known = list(dict.fromkeys(name for record in records for name in record))
        for record in records:
            if field not in record:
                near = difflib.get_close_matches(field, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise StageFailed(f"found no field {field} in the results, expected one of {', '.join(known)}{hint}")
        return [record["id"] for record in records], [record[field] for record in records]

    def truth(self, ids: Sequence[str]) -> list[Any]:
        """Give what is right for each sample, as the labels file has it."""
        from trtpipe.data import labels

        return labels.read(self._input("labels"), ids)

    def labels(self, ids: Sequence[str], *what: str) -> list[Any]:
        """Give the right number or text for each sample."""
        from trtpipe.data import labels

        return [self._named(i, labels.label, value, what) for i, value in zip(ids, self.truth(ids), strict=True)]

    def _named(self, identity: str, function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except ValueError as error:
            raise StageFailed(f"input labels ({self._inputs['labels'].label}), {identity}: {error}") from error

    def tensor(self, name: str | None, role: str = "tensors") -> Source:
        """Give a tensor of an input by name, or the only one."""
        from trtpipe.data import tensors

        given = self._input(role)
        if given.kind == "results" and tensors.INDEX not in given.files:
            raise StageFailed(f"input {role} ({given.label}) has no arrays; name them in postprocess' param arrays")
        sources = tensors.open_input(given)
        if name is None and len(sources) == 1:
            return next(iter(sources.values()))
        if name is None or name not in sources:
            found = "no name" if name is None else name
            raise StageFailed(f"found {found}, expected a tensor of input {role}: {', '.join(sources)}")
        return sources[name]

    # One method a metric. Each gives its figures.

    def top_k(self, metric: TopKAccuracy) -> list[Figure]:
        """Count the samples whose right class is among the best k."""
        from trtpipe.data.metrics import counted

        (name,) = metric.figures()
        right_ones: Sequence[Hashable]
        found: Sequence[Sequence[Hashable]]
        if metric.tensor is not None:
            ids, found = self._best(metric)
            expected = self.labels(ids, "class", "label")
            right_ones = self._whole(ids, expected, self.tensor(metric.tensor).shape[1])
        else:
            ids, values = self.column(metric.field or "top_k")
            expected = self.labels(ids, "label", "class")
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
        return [counted(name, right, ids, lambda i: f"found {_brief(found[i])}, expected {right_ones[i]}")]

    def _best(self, metric: TopKAccuracy) -> tuple[list[str], list[list[int]]]:
        """Read the best k classes off a tensor, batch by batch."""
        from trtpipe.data import steps, tensors
        from trtpipe.data.working_set import samples_of

        source = self.tensor(metric.tensor)
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
        return [s["id"] for s in samples_of(self._inputs["tensors"], len(found))], found

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

    def exact_match(self, metric: ExactMatch) -> list[Figure]:
        """Count the samples whose field is right, whole."""
        from trtpipe.data.metrics import counted

        ids, found = self.column(metric.field)
        expected = self.labels(ids, "text", "label", "class")
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
        return [counted(name, right, ids, lambda i: f"found {found[i]!r}, expected {expected[i]!r}")]

    def boxes(self, field: str) -> tuple[list[Boxes], list[Boxes]]:
        """Give what was found and what is true, with classes of one kind."""
        import numpy as np

        from trtpipe.data import labels
        from trtpipe.data.metrics import Boxes

        ids, values = self.column(field)
        true = [self._named(i, labels.boxes, value) for i, value in zip(ids, self.truth(ids), strict=True)]
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

    def mean_iou(self, metric: MeanIou) -> list[Figure]:
        """Measure how well the true boxes are met."""
        from trtpipe.data.metrics import Figure, mean_iou

        value, total = mean_iou(*self.boxes(metric.field))
        return [Figure(metric.figures()[0], value, total, "box")]

    def average_precision(self, metric: AveragePrecision) -> list[Figure]:
        """Measure how many boxes are found, and how many beside them."""
        from trtpipe.data.metrics import Figure, average_precision

        value, total = average_precision(*self.boxes(metric.field), metric.iou_threshold)
        return [Figure(metric.figures()[0], value, total, "box")]

    def cosine(self, metric: Cosine) -> list[Figure]:
        """Compare a tensor with the reference's, row by row."""
        import numpy as np

        from trtpipe.data import metrics, tensors
        from trtpipe.data.working_set import samples_of

        role = "tensors" if "tensors" in self._inputs else "results"
        one = self.tensor(metric.tensor, role)
        references = tensors.open_input(self._input("reference"))
        other = references[one.name] if one.name in references else self.tensor(None, "reference")
        if one.shape != other.shape or not one.shape or not one.shape[0]:
            raise StageFailed(
                f"{one.label} is {list(one.shape)}, {other.label} {list(other.shape)}; expected one shape, with samples"
            )
        size = max(1, BATCH_BYTES // max(1, one.row_bytes + other.row_bytes))
        pairs = tensors.batches({"one": one, "other": other}, size)
        found = np.concatenate([metrics.cosine(pair["one"], pair["other"]) for pair in pairs])
        self.samples = len(found)
        ids = [s["id"] for s in samples_of(self._input(role), len(found))] if role == "tensors" else None
        ids = ids or [record["id"] for record in self.records()]
        if np.isnan(found).any():
            first = ids[int(np.isnan(found).argmax())]
            raise StageFailed(f"{one.label} or {other.label} has NaN or infinity, first in {first}")
        name, least = metric.figures()
        worst = int(found.argmin())
        return [
            metrics.Figure(name, float(found.mean()), len(found), "sample"),
            metrics.Figure(least, float(found[worst]), len(found), "sample", remark=f"least: {ids[worst]}"),
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


def run(ctx: Context) -> None:
    """Write metrics.json and say every figure. Raises GateFailed for figures that are not what they must be."""
    params: EvaluateParams = ctx.params
    evaluation = _Evaluation(ctx)
    figures: dict[str, Figure] = {}
    for index, metric in enumerate(params.metrics):
        tag = str(metric.__struct_config__.tag)
        try:
            made: list[Figure] = getattr(evaluation, tag)(metric)
        except StageFailed as error:
            raise StageFailed(f"metrics[{index}] ({tag}): {error}") from error
        figures.update({figure.name: figure for figure in made})
        for figure in made:
            ctx.note(str(figure))
    verdicts = judge({name: figure.value for name, figure in figures.items()}, params.require)
    ctx.write_json(
        "metrics.json",
        {
            "metrics": {name: figure.value for name, figure in figures.items()},
            "counts": {
                name: {"passed": figure.passed, "total": figure.total, "unit": figure.unit}
                for name, figure in figures.items()
            },
            "require": {name: verdict._asdict() for name, verdict in verdicts.items()},
            "samples": evaluation.samples,
        },
    )
    if broken := [name for name, verdict in verdicts.items() if not verdict.passed]:
        raise GateFailed("; ".join(_broken(figures[name], verdicts[name]) for name in broken))


def _broken(figure: Figure, verdict: Verdict) -> str:
    # Four digits may look as if they kept the rule.
    exact = f" (exactly {figure.value!r})" if holds(round(figure.value, 4), verdict.rule) else ""
    return f"{figure}{exact}, but require says {verdict.rule}"


STAGE = StageType(
    name="evaluate",
    version=1,
    Params=EvaluateParams,
    inputs={
        "results": Port(kinds=("results",), doc="What postprocess made.", required=False),
        "tensors": Port(kinds=("tensors",), doc="Scores or embeddings themselves.", required=False, outside=True),
        "labels": Port(
            kinds=(),
            doc="What is right: .npy whole numbers, .txt a line a sample, .csv with id and label, .json or .jsonl.",
            required=False,
            outside=True,
        ),
        "reference": Port(
            kinds=("tensors", "results"), doc="Tensors to compare with by cosine.", required=False, outside=True
        ),
    },
    output="metrics",
    doc="Measures results against what is known to be right, and fails the run where a figure is not what it must be.",
    run=run,
    packages=("numpy",),
)
