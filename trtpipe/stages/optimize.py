"""`optimize`: clean an ONNX model up before it is parsed; every step is checked against the model before it."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trtpipe.documents.optimisation import Nodes, Optimisation, Step
from trtpipe.errors import EnvironmentMissing, GateFailed, StageFailed
from trtpipe.stage import Context, CustomOps, Params, Port, StageType
from trtpipe.stages.parse import Dim, dim_problems

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import onnx

TOLERANCE = 1e-4


class OptimizeParams(Params, frozen=True, kw_only=True):
    """What is done, in this order: dims, opset, fold, simplify."""

    dims: Annotated[
        dict[str, list[Dim]],
        Meta(
            description="Declares the axes of inputs anew, by input: a number freezes an axis, a name renames it; two "
            "axes with one name are the same axis."
        ),
    ] = msgspec.field(default_factory=dict)
    opset: Annotated[
        Annotated[int, Meta(ge=7)] | None, Meta(description="Raise the model to this ONNX opset with ONNX's converter.")
    ] = None
    fold: Annotated[
        bool,
        Meta(
            description="Fold constants, BatchNormalizations and what computes shapes that are known, with "
            "onnxruntime's basic level, which stays within ONNX's operators."
        ),
    ] = True
    simplify: Annotated[
        Literal["none", "onnxslim"],
        Meta(description="Simplify further with onnxslim (`pip install 'trtpipe[onnxslim]'`)."),
    ] = "none"
    tolerance: Annotated[
        float, Meta(gt=0, description="Largest relative L2 difference of an output after each step.")
    ] = TOLERANCE

    custom_ops: CustomOps = msgspec.field(default_factory=list)

    def problems(self) -> Iterable[tuple[str, str]]:
        """Say which dims cannot be, and when nothing is asked for."""
        yield from dim_problems(self.dims)
        if not (self.dims or self.opset or self.fold) and self.simplify == "none":
            yield "fold", "found nothing to do, expected dims, opset, fold or simplify"

    def packages(self) -> Iterable[str]:
        """Name what changes the model."""
        return ("onnx", "onnxruntime", *(["onnxslim"] if self.simplify == "onnxslim" else []))


def run(ctx: Context) -> None:
    """Write model.onnx and optimize.json. Raises GateFailed where a step changes the results."""
    from trtpipe.models import custom_ops, folding, onnxfile, onnxgraph, opset, signature

    params: OptimizeParams = ctx.params
    custom_ops.take(ctx, ctx.inputs["model"], params.custom_ops)
    source, label, _, _ = onnxfile.open_input(ctx.inputs["model"])
    slim = _onnxslim() if params.simplify == "onnxslim" else None
    model = onnxfile.whole(source)
    before = _counts(model)
    steps: list[Step] = []
    checker = _Checker(ctx.scratch, source, params)
    if params.dims:
        signature.set_dims(model, params.dims, label=label)
        steps.append(checker.step("dims", model))
        if steps[-1].unchecked:
            ctx.note("the original cannot take these dims, so that they cannot be checked against it")
    if params.opset is not None:
        raised, was = opset.raise_opset(model, params.opset)
        if was is None:
            have = onnxgraph.opsets(model).get("ai.onnx", 0)
            ctx.note(f"opset {params.opset} asked for, the model has {have} already")
        else:
            model = raised
            steps.append(msgspec.structs.replace(checker.step("opset", model), before=was, after=params.opset))
    if params.fold:
        folded, why = folding.fold(model, ctx.scratch)
        if why is None:
            model = folded
            steps.append(checker.step("fold", model))
        else:
            ctx.note(f"not folded: {why}")
            steps.append(Step(step="fold", skipped=why))
    if slim is not None:
        try:
            model = slim(model)
        except Exception as error:
            raise StageFailed(f"onnxslim fails on this model: {type(error).__name__}: {error}") from error
        steps.append(checker.step("onnxslim", model))
    after = _counts(model)
    onnxfile.save(model, ctx.out / onnxfile.MODEL)
    nodes = (sum(before.values()), sum(after.values()))
    ctx.note(f"{nodes[0]} nodes → {nodes[1]}")
    ctx.write(Optimisation(nodes=Nodes(before=before, after=after), steps=tuple(steps)))


def _counts(model: onnx.ModelProto) -> dict[str, int]:
    from trtpipe.models import onnxgraph

    return dict(sorted(Counter(f.node.op_type for f in onnxgraph.walk(model)).items()))


class _Checker:
    """Runs the model after each step against the original, on the same seeded inputs."""

    def __init__(self, scratch: Path, source: Path, params: OptimizeParams) -> None:
        self._scratch, self._source, self._limit = scratch, source, params.tolerance
        self._feeds: list[Any] | None = None

    def step(self, name: Literal["dims", "opset", "fold", "onnxslim"], model: onnx.ModelProto) -> Step:
        """Check one step."""
        from trtpipe.models import deviation, feeding, onnxfile, onnxgraph, signature

        path = self._scratch / f"after-{name}.onnx"
        onnxfile.save(onnxgraph.copied(model), path)
        if self._feeds is None:
            # The first step decides on shapes: dims may freeze what the original leaves open.
            inputs, _ = signature.of(model)
            self._feeds = feeding.random_feeds(model, inputs)
            if name == "dims" and (why := _refuses(path, self._feeds[0])):
                raise StageFailed(f"dims: the model does not run with them: {why}")
            if name == "dims" and (why := _refuses(self._source, self._feeds[0])):
                # The original's own shapes are fixed at others: there is nothing to compare with but the new one.
                self._source = path
                return Step(step=name, unchecked=why)
        figures = deviation.against(self._source, path, self._feeds, what=name)
        if problems := deviation.beyond(figures, self._limit):
            raise GateFailed(
                f"{name} changes the model's results (on random inputs):\n  " + "\n  ".join(problems)
                + f"\nLeave {name} out, or raise tolerance"
            )  # fmt: skip
        return Step(step=name, outputs=figures)


def _refuses(path: Path, feed: Any) -> str | None:
    """Say why a model does not take these inputs; None if it does."""
    from trtpipe.models import ort_cpu

    try:
        ort_cpu.run(path, feed)
    except Exception as error:  # noqa: BLE001  whatever it raises is the reason
        return " ".join(str(error).split())
    return None


def _onnxslim() -> Any:
    try:
        slim = importlib.import_module("onnxslim").slim
    except ImportError as error:
        raise EnvironmentMissing(
            f"onnxslim is not installed ({error}): pip install 'trtpipe[onnxslim]', or leave simplify out"
        ) from error
    return slim


STAGE = StageType(
    name="optimize",
    version=4,
    Params=OptimizeParams,
    inputs={"model": Port(kinds=("model",), doc="An ONNX model.", outside=True)},
    output="model",
    doc="Cleans an ONNX model up (dims, opset, constants) and checks each step against the model before it.",
    run=run,
    packages=("numpy",),
)
