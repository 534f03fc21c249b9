"""evaluate: results against what is known to be right, with gates that stop the run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from trtpipe.data.metric_params import Cosine, Metric, TopKAccuracy
from trtpipe.documents.metrics import Counted, Metrics
from trtpipe.errors import GateFailed, StageFailed
from trtpipe.gates import Rule, Verdict, holds, judge, malformed, tell, unknown
from trtpipe.stage import Context, Params, Port, StageType

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from trtpipe.data.metrics import Figure


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


def run(ctx: Context) -> None:
    """Write metrics.json and say every figure. Raises GateFailed for figures that are not what they must be."""
    from trtpipe.data.metric_runs import Evaluation

    params: EvaluateParams = ctx.params
    evaluation = Evaluation(ctx.inputs)
    figures: dict[str, Figure] = {}
    for index, metric in enumerate(params.metrics):
        try:
            made = evaluation.measure(metric)
        except StageFailed as error:
            raise StageFailed(f"metrics[{index}] ({metric.__struct_config__.tag}): {error}") from error
        figures.update({figure.name: figure for figure in made})
        for figure in made:
            ctx.note(str(figure))
    verdicts = judge({name: figure.value for name, figure in figures.items()}, params.require)
    tell({name: figure.value for name, figure in figures.items()}, verdicts, ctx.figure)
    ctx.write(
        Metrics(
            metrics={name: figure.value for name, figure in figures.items()},
            counts={name: Counted(passed=f.passed, total=f.total, unit=f.unit) for name, f in figures.items()},
            require=verdicts,
            samples=evaluation.samples,
        )
    )
    if broken := [name for name, verdict in verdicts.items() if not verdict.passed]:
        raise GateFailed("; ".join(_broken(figures[name], verdicts[name]) for name in broken))


def _broken(figure: Figure, verdict: Verdict) -> str:
    # Four digits may look as if they kept the rule.
    exact = f" (exactly {figure.value!r})" if holds(round(figure.value, 4), verdict.rule) else ""
    return f"{figure}{exact}, but require says {verdict.rule}"


STAGE = StageType(
    name="evaluate",
    version=2,
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
