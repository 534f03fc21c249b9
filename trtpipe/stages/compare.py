"""`compare`: two runtimes or two precisions on the same data, with gates, and the first node that goes wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from trtpipe import batch as rule
from trtpipe import formatting
from trtpipe.documents.buffers import Split, SplitBy
from trtpipe.documents.comparison import Bisect, Comparison, Different, Tolerance
from trtpipe.errors import EnvironmentMissing, GateFailed, PipelineInvalid, StageFailed
from trtpipe.gates import Rule, judge, malformed, tell, unknown
from trtpipe.stage import BatchAxis, Context, DocumentPath, Params, Port, StageType

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from trtpipe.data.tensors import Ragged, Source
    from trtpipe.models.comparing import Compared

FIGURES = ("max_abs", "mean_abs", "relative_l2", "cosine", "cosine_min", "psnr", "mismatched", "nan", "shapes")
WIDE = 80
"""Columns of a terminal."""
BISECTED = 2
"""Samples that the bisect runs on: those that differ most, if the data is given."""


class CompareParams(Params, frozen=True, kw_only=True):
    """What is compared, and what it must be."""

    names: Annotated[
        dict[str, str], Meta(description="Where they differ: the reference's name for a candidate's output, by output.")
    ] = msgspec.field(default_factory=dict)
    batch_axis: BatchAxis = msgspec.field(default_factory=dict)
    split_by: SplitBy = msgspec.field(default_factory=list)
    rtol: Annotated[float, Meta(ge=0, description="Relative tolerance of the figure mismatched.")] = 1e-3
    atol: Annotated[float, Meta(ge=0, description="Absolute tolerance of the figure mismatched.")] = 1e-5
    formula: Annotated[
        Literal["allclose", "both"],
        Meta(
            description="`allclose` (NumPy's): an element mismatches if its error exceeds atol + rtol·|reference|. "
            "`both` (Polygraphy's elemwise): only if it exceeds atol and, relatively, rtol."
        ),
    ] = "allclose"
    top_k: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="For outputs [samples, classes]: the share of samples with the same best k classes."),
    ] = None
    worst: Annotated[int, Meta(ge=0, le=1000, description="How many of the most different samples are listed.")] = 5
    require: Annotated[
        dict[str, Rule],
        Meta(
            description='Rules by figure, such as {cosine: ">= 0.999"} for the worst output, or {logits.max_abs: '
            '"<= 0.1"} for one; a broken one fails the run.'
        ),
    ] = msgspec.field(default_factory=dict)
    bisect: Annotated[
        bool,
        Meta(
            description="Compare the inner tensors of the inputs model and candidate_model in onnxruntime, and name "
            "the first node whose error exceeds `bound`."
        ),
    ] = False
    bound: Annotated[float, Meta(gt=0, description="With bisect: the relative L2 error that names a node.")] = 0.01
    custom_ops: Annotated[
        list[DocumentPath],
        Meta(
            description="Libraries of operators that ONNX Runtime does not have, for models that bring none: native "
            "code, which runs in this stage."
        ),
    ] = msgspec.field(default_factory=list)

    def overall(self) -> tuple[str, ...]:
        """Name the figures over all outputs."""
        return (*FIGURES, *([f"top{self.top_k}_agreement"] if self.top_k else []))

    def figures(self) -> tuple[str, ...]:
        """Name the figures over all outputs, and of each output, whose names are known when it runs."""
        return (*self.overall(), *(f"*.{name}" for name in self.overall()))

    def problems(self) -> Iterable[tuple[str, str]]:
        """Find what the schema cannot say."""
        for name in self.require:
            # Which outputs there are is known when it runs; a figure's name can be judged now.
            if name.rpartition(".")[2] not in self.overall():
                yield f"require.{name}", unknown(name, self.overall())
        yield from malformed(self.require)

    def missing(self, ports: Collection[str]) -> Iterable[tuple[str, str]]:
        """Find inputs that are asked for and not given."""
        if self.bisect and not {"model", "candidate_model"} <= set(ports):
            needed = "the inputs model (the right one) and candidate_model (the one in question)"
            yield "params.bisect", f"bisect needs {needed}"
        if "reference" not in ports and not {"model", "data"} <= set(ports):
            needed = "expected it, or model and data: then onnxruntime runs the model on the data"
            yield "inputs", f"found no input reference, {needed}"

    def packages(self) -> Iterable[str]:
        """Name what runs the models."""
        return ("onnx", "onnxruntime")


def run(ctx: Context) -> None:
    """Write comparison.json. Raises GateFailed where figures are not what they must be, and for NaN."""
    from trtpipe.data import tensors
    from trtpipe.data.samples import ids_of
    from trtpipe.models import comparing, custom_ops

    params: CompareParams = ctx.params
    models = [given for port, given in ctx.inputs.items() if port in ("model", "candidate_model")]
    custom_ops.use(ctx, params.custom_ops, models)
    given = ctx.inputs["candidate"]
    for _, message in params.missing(ctx.inputs.keys()):
        raise StageFailed(message)
    candidate = tensors.open_input(given)
    reference = _reference(ctx)
    paired = comparing.pairs(candidate, reference, params.names)
    if alone := sorted({*reference} - {params.names.get(name, name) for name, _, _ in paired}):
        ctx.note(f"not compared: {', '.join(alone)}, which only the reference has")
    tolerance = comparing.Tolerance(params.rtol, params.atol, params.formula)
    compared: dict[str, Compared] = {}
    for index, (name, one, other) in enumerate(paired):
        ctx.progress(index, len(paired), "outputs")
        compared[name] = comparing.output(one, other, tolerance, params.top_k)
    if params.top_k is not None and not any(f"top{params.top_k}_agreement" in c.figures for c in compared.values()):
        raise StageFailed(f"top_k: no output is [samples, more than {params.top_k} classes]")
    outputs = {name: c.figures for name, c in compared.items()}
    whole = comparing.overall(outputs)
    figures = whole | {f"{name}.{k}": v for name, f in outputs.items() for k, v in f.items()}
    for name in params.require:
        if name not in figures:
            raise PipelineInvalid(f"require.{name}: {unknown(name, tuple(figures))}")
    verdicts = judge(figures, params.require)
    told = {name: value for name, value in figures.items() if name in verdicts or name in TOLD}
    tell(told, verdicts, ctx.figure)
    total = tensors.count(paired[0][1])
    ids = ids_of(given, total) if given.kind == "tensors" else list(map(str, range(total)))
    most = comparing.most_different(compared, ids, max(params.worst, BISECTED))
    worst = most[: params.worst]
    (ctx.out / "table.txt").write_text(_table(outputs, worst), "utf-8")
    for name, f in outputs.items():
        ctx.note(_line(name, f))
    bisect = _bisect(ctx, most) if params.bisect else None
    if bisect is not None:
        ctx.note(_found(bisect))
    means = comparing.FORMULAS[params.formula]
    ctx.write(
        Comparison(
            metrics=figures,
            outputs=outputs,
            samples=total,
            tolerance=Tolerance(rtol=params.rtol, atol=params.atol, formula=params.formula, means=means),
            require=verdicts,
            worst=tuple(worst),
            bisect=bisect,
        )
    )
    broken = [
        f"{name} = {v.value:.6g}, but require says {v.rule}{_where(name, most)}"
        for name, v in verdicts.items()
        if not v.passed
    ]
    if whole["nan"] and not any(name.rpartition(".")[2] == "nan" for name in params.require):
        broken.insert(0, f"{int(whole['nan'])} values are NaN or infinite on one side alone{_where('', most)}")
    if whole.get("shapes") and not any(name.rpartition(".")[2] == "shapes" for name in params.require):
        broken.insert(0, f"{int(whole['shapes'])} samples have another shape on one side{_where('', most)}")
    if broken:
        if bisect is not None:
            broken.append(_found(bisect))
        raise GateFailed("; ".join(broken))


def _reference(ctx: Context) -> Mapping[str, Source | Ragged]:
    """Give the reference's tensors: the input, or what the model makes of the data in onnxruntime."""
    from trtpipe.data import tensors
    from trtpipe.data.outputs import Outputs
    from trtpipe.models import feeding, onnxfile, ort_cpu, signature

    if "reference" in ctx.inputs:
        return tensors.open_input(ctx.inputs["reference"])
    path, _, model, _ = onnxfile.open_input(ctx.inputs["model"])
    said = ctx.params.batch_axis
    inputs, outputs = signature.of(model)
    samples = feeding.samples(ctx.inputs["data"], inputs, batch_axis=said, outputs=outputs).all()
    batch = feeding.decide(inputs, outputs, said)
    if batch.problems:
        raise StageFailed("\n".join(batch.problems))
    splits = (asked,) if isinstance(asked := ctx.params.split_by, Split) else tuple(asked)
    parted = {name for one in splits for name in (one.tensor, *one.also)}
    if wrong := sorted(parted - {entry.name for entry in outputs}):
        names = ", ".join(entry.name for entry in outputs)
        raise StageFailed(
            f"split_by: found {', '.join(wrong)}, expected outputs of the reference model; they are {names}"
        )
    undecided = [entry for entry in outputs if entry.name in batch.undecided and entry.name not in parted]
    if undecided and samples.batched:
        line = rule.line(undecided, batch.size)
        raise StageFailed(
            f"the reference model's batch has {batch.size} samples, and nothing says which axis of "
            f"{', '.join(entry.name for entry in undecided)} they lie along; expected in params: {line}, or split_by "
            "as in allocate if a column has the sample's number"
        )
    try:
        session = ort_cpu.Session(path)
    except (StageFailed, EnvironmentMissing):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise StageFailed(
            f"onnxruntime cannot load the reference model: {text}; operators from a library need params: "
            "{custom_ops: [lib.so]}, and other models the input reference"
        ) from error
    folder = ctx.scratch / "reference"
    folder.mkdir()
    axes = {name: batch.axes.get(name) for name in session.outputs}
    with tensors.Writer(folder) as writer:
        known = {d for entry in inputs for d in entry.dims or () if isinstance(d, str)}
        ragged = [
            e.name
            for e in outputs
            if e.dims is None
            or any(
                isinstance(d, str) and (samples.ragged or d not in known)
                for a, d in enumerate(e.dims)
                if a != axes.get(e.name)
            )
        ]
        made = Outputs(writer, axes, samples.total, batched=samples.batched, ragged=ragged, splits=splits)
        for number, feed in enumerate(samples):
            ctx.progress(number, samples.runs, "reference runs")
            try:
                result = session(feed)
            except Exception as error:
                raise StageFailed(f"onnxruntime cannot run the reference model: {error}") from error
            made.write(result, samples.rows, min(samples.rows, samples.total - number * samples.rows))
    ctx.note(f"reference: onnxruntime on the CPU, {samples.total} samples of {samples.label}")
    from trtpipe.stage import Input

    files = tuple(sorted(p.name for p in folder.iterdir()))
    return tensors.open_input(Input(name="reference", kind="tensors", folder=folder, files=files, label="onnxruntime"))


def _bisect(ctx: Context, worst: Sequence[Different]) -> Bisect:
    """Compare the two models' inner tensors, on the samples that differ most."""
    from trtpipe.models import bisection, feeding, onnxfile, signature

    params: CompareParams = ctx.params
    right, _, model, _ = onnxfile.open_input(ctx.inputs["model"])
    wrong = onnxfile.of_input(ctx.inputs["candidate_model"])
    inputs, _ = signature.of(model)
    if "data" in ctx.inputs:
        samples = feeding.samples(ctx.inputs["data"], inputs, batch_axis=params.batch_axis, most=BISECTED)
        feeds = list(samples.pick([one.index for one in worst[:BISECTED]]))
        how = f"{len(feeds)} runs of {samples.label}"
    else:
        feeds, how = feeding.random_feeds(model, inputs), feeding.told(model, inputs)
    return bisection.layers(right, wrong, feeds, bound=params.bound, on=how)


def _found(bisect: Bisect) -> str:
    first = bisect.first
    if first is None:
        return f"bisect: none of {bisect.compared} inner tensors exceeds {bisect.bound:g}: the models agree"
    how = f"{first.not_finite} values not finite" if first.not_finite else f"relative L2 {first.relative_l2:g}"
    return f"bisect: the first node beyond {bisect.bound:g} is {first.node} [{first.op}], {how} on {first.tensor}"


def _where(name: str, worst: Sequence[Different]) -> str:
    output = name.rpartition(".")[0]
    one = next((w for w in worst if not output or w.output == output), None)
    return "" if one is None else f" (most different: sample {one.id}, output {one.output})"


def _line(name: str, figures: Mapping[str, float]) -> str:
    more = "".join(f", {k} {v:.4f}" for k, v in figures.items() if re.fullmatch(r"top\d+_agreement", k))
    return (
        f"{name}: max abs {figures['max_abs']:.3g}, relative L2 {figures['relative_l2']:.3g}, "
        f"cosine {figures['cosine']:.6f} (least {figures['cosine_min']:.6f}){more}"
    )


def _table(outputs: Mapping[str, Mapping[str, float]], worst: Sequence[Different]) -> str:
    names = list(dict.fromkeys(k for f in outputs.values() for k in f))
    rows = [["output", *names]]
    rows += [[name, *(_figure(k, f[k]) if k in f else "" for k in names)] for name, f in outputs.items()]
    lines = _aligned(rows, 1)
    if max(map(len, lines)) > WIDE:  # a column an output is narrower, unless there are many
        lines = min(lines, _aligned([list(row) for row in zip(*rows, strict=True)], 1), key=lambda t: max(map(len, t)))
    if worst:
        keys = ("relative_l2", "max_abs", "mean_abs", "cosine", "nan")
        rows = [["sample", "output", *keys]]
        rows += [[one.id, one.output, *(_figure(key, getattr(one, key)) for key in keys)] for one in worst]
        lines += ["", "the most different samples", *_aligned(rows, 2)]
    return "\n".join(lines) + "\n"


def _figure(name: str, value: float) -> str:
    """Write a figure; a cosine with the digits that tell it from 1."""
    return f"{value:.6f}" if name.startswith("cosine") else f"{value:.4g}"


def _aligned(rows: list[list[str]], names: int) -> list[str]:
    """Align rows: the first `names` columns to the left, numbers to the right."""
    return formatting.table(rows, right=range(names, len(rows[0])))


TOLD = ("max_abs", "relative_l2", "cosine_min")
"""The figures that are always told, with those that have a rule."""

STAGE = StageType(
    name="compare",
    version=9,
    Params=CompareParams,
    inputs={
        "candidate": Port(kinds=("tensors",), doc="The outputs in question.", outside=True),
        "reference": Port(
            kinds=("tensors",),
            doc="The outputs that are right; without it, onnxruntime runs `model` on `data`.",
            required=False,
            outside=True,
        ),
        "model": Port(
            kinds=("model", "network", "config"),
            doc="The right model: for the reference, and for bisect.",
            required=False,
            outside=True,
        ),
        "candidate_model": Port(
            kinds=("model", "network", "config"),
            doc="With bisect: the model in question.",
            required=False,
            outside=True,
        ),
        "data": Port(
            kinds=("tensors",), doc="What was fed: for the reference, and for bisect.", required=False, outside=True
        ),
    },
    output="comparison",
    doc="Compares outputs with a reference, sample by sample, and fails the run where they differ too much.",
    run=run,
    packages=("numpy",),
)
