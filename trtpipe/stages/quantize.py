"""`quantize`: an ONNX model anew with Q/DQ nodes, checked against the original before anything is built of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from trtpipe.documents.checks import Check
from trtpipe.documents.quantisation import Quantisation
from trtpipe.errors import GateFailed, PipelineInvalid
from trtpipe.stage import BatchAxis, Context, CustomOps, Params, Port, StageType

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from trtpipe.documents.network import Tensor
    from trtpipe.documents.quantisation import Quantised
    from trtpipe.models.feeding import Samples


class QuantizeParams(Params, frozen=True, kw_only=True):
    """What is quantised, and how its ranges are found."""

    mode: Annotated[
        Literal["int8", "fp8", "int4_weights"],
        Meta(
            description="`int8`: weights and activations, through onnxruntime. `fp8`: weights and activations (E4M3), "
            "and `int4_weights`: weights alone in blocks, both through modelopt (`pip install 'trtpipe[modelopt]'`)."
        ),
    ] = "int8"
    method: Annotated[
        Literal["minmax", "entropy", "percentile"],
        Meta(
            description="How ranges come from the calibration data. `minmax`: all that was seen. `entropy`: what loses "
            "least information. `percentile`: without the outliers beyond `percentile`."
        ),
    ] = "minmax"
    percentile: Annotated[
        Annotated[float, Meta(gt=50, lt=100)] | None,
        Meta(description="With method percentile: the share of values within the range; default 99.99."),
    ] = None
    per_channel: Annotated[bool, Meta(description="Weights have a scale for each output channel.")] = True
    samples: Annotated[
        int, Meta(ge=2, description="At most so many calibration samples are read, evenly from all there are.")
    ] = 128
    ops: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(description="Quantise these op types only; default Conv, ConvTranspose, Gemm, MatMul and residual Add."),
    ] = msgspec.field(default_factory=list)
    exclude: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(description="Nodes that stay as they are, by name or op; `*` and `?` are wildcards."),
    ] = msgspec.field(default_factory=list)
    opset: Annotated[
        Annotated[int, Meta(ge=13)] | None,
        Meta(description="Raise the model to this ONNX opset first; without it, to 13 where it is older."),
    ] = None
    names: Annotated[
        dict[str, str],
        Meta(description="Where they differ: the calibration data's tensor name for a model's input, by input."),
    ] = msgspec.field(default_factory=dict)
    batch_axis: BatchAxis = msgspec.field(default_factory=dict)
    block_size: Annotated[
        Annotated[int, Meta(ge=16)] | None,
        Meta(description="With int4_weights: how many weights share a scale; default 128."),
    ] = None
    tolerance: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Largest relative L2 difference of an output against the original; default 0.5."),
    ] = None

    custom_ops: CustomOps = msgspec.field(default_factory=list)

    def problems(self) -> Iterable[tuple[str, str]]:
        """Give what the schema cannot say."""
        if self.percentile is not None and self.method != "percentile":
            yield "percentile", f"found with method {self.method}, expected with percentile only"
        if self.mode != "int8" and self.method == "percentile":
            yield "method", f"found percentile with {self.mode}, expected minmax or entropy"
        if self.mode == "int4_weights" and self.method != "minmax":
            yield (
                "method",
                f"found {self.method} with int4_weights, whose weights are rounded as they are: leave it out",
            )
        if self.mode != "int4_weights" and self.block_size is not None:
            yield "block_size", f"found with mode {self.mode}, expected with int4_weights only"

    def missing(self, ports: Collection[str]) -> Iterable[tuple[str, str]]:
        """Find the input that is asked for and not given."""
        if self.mode != "int4_weights" and "calibration" not in ports:
            needed = "samples of what the model will see (a tensors artifact such as preprocess makes, or a .npz file)"
            yield "inputs", f"mode {self.mode} needs the input calibration: {needed}"

    def packages(self) -> Iterable[str]:
        """Name what quantises."""
        return ("onnx", "onnxruntime") if self.mode == "int8" else ("onnx", "onnxruntime", "nvidia-modelopt")


def run(ctx: Context) -> None:
    """Write model.onnx with Q/DQ nodes and quantize.json.

    Raises PipelineInvalid for data and models that it cannot work with, GateFailed for a result that is too far off.
    """
    from trtpipe.models import (
        calibration,
        custom_ops,
        deviation,
        feeding,
        modelopt,
        onnxfile,
        quantizable,
        quantization,
        signature,
    )

    params: QuantizeParams = ctx.params
    custom_ops.take(ctx, ctx.inputs["model"], params.custom_ops)
    if params.mode != "int8":
        modelopt.require()
    source, label, model, _ = onnxfile.open_input(ctx.inputs["model"])
    quantizable.refuse_quantised(model, label)
    inputs, _ = signature.of(model)
    samples: Samples | None = None
    if "calibration" in ctx.inputs:
        data = ctx.inputs["calibration"]
        samples = feeding.samples(data, inputs, names=params.names, batch_axis=params.batch_axis, most=params.samples)
        for remark in calibration.check_samples(samples):
            ctx.note(remark)
    for _, message in params.missing(ctx.inputs.keys()):
        raise PipelineInvalid(message)
    out = ctx.out / onnxfile.MODEL
    ctx.doing(f"calibrating on {samples.total} samples" if samples is not None else f"quantising to {params.mode}")
    if params.mode == "int8":
        assert samples is not None  # or it would have ended above
        done = quantization.int8(
            source, out, ctx.scratch, samples, method=params.method, percentile=params.percentile or 99.99,
            per_channel=params.per_channel, ops=params.ops, exclude=params.exclude, opset=params.opset,
            progress=ctx.progress,
        )  # fmt: skip
    else:
        done = modelopt.quantise(
            source, out, ctx.scratch, params.mode, samples, method=params.method, ops=params.ops,
            exclude=params.exclude, opset=params.opset, block_size=params.block_size or 128,
        )  # fmt: skip
    _tell(ctx, done)
    limit = quantization.TOLERANCE if params.tolerance is None else params.tolerance
    ctx.doing("comparing with the original model")
    check = _check(source, out, samples, inputs, mode=params.mode, tolerance=limit)
    ctx.write(Quantisation(**asdict(done), check=check))
    for name, figures in check.outputs.items():
        if figures.relative_l2 is not None:
            ctx.note(f"{name}: relative L2 {figures.relative_l2:g}, cosine {figures.cosine:g} against the original")
    deviation.tell(check.outputs, limit, ctx.figure)
    for remark in deviation.remarks(check.outputs):
        ctx.note(remark)
    if problems := deviation.beyond(check.outputs, limit):
        raise GateFailed(
            f"{params.mode} changes the model's results too much:\n  " + "\n  ".join(problems)
            + "\nTry method: entropy or percentile, more calibration samples, exclude: for the nodes that lose most "
            "(compare with bisect: true names the first), or a larger tolerance"
        )  # fmt: skip


def _tell(ctx: Context, done: Quantised) -> None:
    from trtpipe.models import kept_nodes

    counts = ", ".join(f"{n} {op}" for op, n in done.quantized.items())
    ctx.note(f"quantised: {counts}")
    kept_nodes.tell_kept(done.left, Quantisation.file, ctx.note)
    if done.never_active:
        ctx.note(f"always 0 in calibration: {', '.join(done.never_active[: kept_nodes.TOLD])}")


def _check(
    source: Path, out: Path, samples: Samples | None, inputs: Sequence[Tensor], *, mode: str, tolerance: float
) -> Check:
    from trtpipe.models import deviation, feeding, onnxfile, quantization

    if samples is not None:
        feeds = samples.first(quantization.CHECKED)
        how = f"{len(feeds)} calibration runs"
    else:
        model = onnxfile.load(source)
        feeds, how = feeding.random_feeds(model, inputs), feeding.told(model, inputs)
    figures = deviation.against(source, out, feeds, what=f"mode {mode}", plain=True)
    return Check(how=f"onnxruntime on the CPU without fusions, {how}", outputs=figures, tolerance=tolerance)


STAGE = StageType(
    name="quantize",
    version=6,
    Params=QuantizeParams,
    inputs={
        "model": Port(kinds=("model",), doc="A float32 ONNX model.", outside=True),
        "calibration": Port(
            kinds=("tensors",),
            doc="Samples of what the model will see, by input: a tensors artifact, a .npz file or a folder of .npy.",
            required=False,
            outside=True,
        ),
    },
    output="model",
    doc="Makes a low-precision model with Q/DQ nodes, and says how far it is from the original.",
    run=run,
    packages=("numpy",),
)
