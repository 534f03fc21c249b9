"""`export`: make an ONNX model of a PyTorch module, and show that the two agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trtpipe.documents.export import Agreement, Export
from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.models import torch_module
from trtpipe.models.torch_module import TensorSpec  # noqa: TC001  msgspec reads the annotations
from trtpipe.stage import Context, DocumentPath, Entrypoint, Env, Network, Params, StageType
from trtpipe.users_code import said

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZES = (2, 3)
"""The two sizes of a dynamic axis unless the document says others; PyTorch treats 0 and 1 specially."""


class Tolerance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far ONNX Runtime may be from PyTorch."""

    atol: Annotated[float, Meta(ge=0, description="Absolute part.")] = 1e-4
    rtol: Annotated[float, Meta(ge=0, description="Relative part.")] = 1e-3


class ExportParams(Params, frozen=True, kw_only=True):
    """Params of `export`."""

    framework: Annotated[Literal["torch"], Meta(description="What the model is written in.")]
    entrypoint: Annotated[
        Entrypoint, Meta(description="A callable that returns a torch.nn.Module, or the module's class.")
    ]
    env: Env = ()
    network: Network = False
    sources: Annotated[
        list[DocumentPath],
        Meta(
            description="Files, folders and patterns (`data/*.json`) that the code needs. What else it reads is seen, "
            "and counts too."
        ),
    ] = msgspec.field(default_factory=list)
    kwargs: Annotated[dict[str, Any], Meta(description="Keyword arguments of the entrypoint, as JSON values.")] = (
        msgspec.field(default_factory=dict)
    )
    inputs: Annotated[dict[str, TensorSpec], Meta(min_length=1, description="The module's inputs, by name.")]
    arguments: Annotated[
        list[str],
        Meta(
            description="The inputs in the order of forward's positional arguments; needed only where there are "
            "several inputs that are not called like forward's own parameters."
        ),
    ] = msgspec.field(default_factory=list)
    outputs: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(min_length=1, description="Names of the outputs, in the order in which forward gives them."),
    ]
    sizes: Annotated[
        dict[str, tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=1)]]],
        Meta(description="Two different sizes of a dynamic axis, for tracing and for the check; default 2 and 3."),
    ] = msgspec.field(default_factory=dict)
    exporter: Annotated[
        Literal["dynamo", "legacy"], Meta(description="torch.export's graph, or TorchScript's tracing.")
    ] = "dynamo"
    opset: Annotated[
        int, Meta(ge=11, le=26, description="ONNX opset; 17 is what TensorRT 8.6, RTX and onnxruntime all read.")
    ] = 17
    ir_version: Annotated[int, Meta(ge=6, le=13, description="Version of the ONNX file format.")] = 8
    tolerance: Annotated[
        Tolerance,
        Meta(
            description="onnxruntime must agree with PyTorch: |onnx - torch| <= atol + rtol * |torch| for every "
            "element (numpy.allclose); NaN never agrees."
        ),
    ] = Tolerance()
    seed: Annotated[
        int, Meta(ge=0, lt=2**32, description="Seed of the check's inputs, and of PyTorch while the model is made.")
    ] = 0

    def axes(self) -> list[str]:
        """Give the names of dynamic axes, in the order of the inputs' names."""
        return torch_module.axes(self.inputs)

    def trials(self) -> list[dict[str, int]]:
        """Give sizes of the dynamic axes: first all at their first, then each in turn at its second."""
        both = {axis: self.sizes.get(axis, SIZES) for axis in self.axes()}
        base = {axis: first for axis, (first, _) in both.items()}
        return [base, *({**base, axis: second} for axis, (_, second) in both.items())]

    def problems(self) -> Iterable[tuple[str, str]]:
        """Say which names clash or are unknown."""
        for name, (first, second) in self.sizes.items():
            if name not in self.axes():
                yield f"sizes.{name}", f"found an unknown axis, expected one of {', '.join(self.axes()) or 'none'}"
            elif first == second:
                yield f"sizes.{name}", f"found {first} twice, expected two different sizes"
        seen: set[str] = set()
        for index, name in enumerate(self.outputs):
            if name in seen or name in self.inputs:
                yield f"outputs[{index}]", f"found {name!r} again, expected a name of its own"
            seen.add(name)
        if self.arguments and sorted(self.arguments) != sorted(self.inputs):
            yield "arguments", f"found {self.arguments}, expected each of {sorted(self.inputs)} once"
        for name, spec in self.inputs.items():
            if spec.range is not None and not spec.range[0] < spec.range[1]:
                yield f"inputs.{name}.range", f"found {list(spec.range)}, expected low < high"


def run(ctx: Context) -> None:
    """Export, name, check and compare; write `model.onnx` and `export.json`."""
    params: ExportParams = ctx.params
    ctx.doing("importing PyTorch")
    try:
        import torch
    except ImportError as error:
        raise EnvironmentMissing(f"export needs PyTorch ({error}): pip install 'trtpipe[torch]'") from error
    try:
        import onnxruntime  # noqa: F401  found missing before the work, not after
    except ImportError as error:
        raise EnvironmentMissing(
            f"export compares its result with PyTorch in onnxruntime ({error}): pip install 'trtpipe[torch]'"
        ) from error
    from trtpipe.models import exported_graph, onnxfile, onnxgraph, signature, torch_check, torch_export

    ctx.doing(f"loading {params.entrypoint}")
    torch.manual_seed(params.seed)
    make = ctx.load(params.entrypoint)
    try:
        module = make(**params.kwargs)
    except Exception as error:
        raise StageFailed(f"{params.entrypoint} fails: {said(error)}") from error
    if not isinstance(module, torch.nn.Module):
        raise StageFailed(f"{params.entrypoint} gives a {type(module).__name__}, expected a torch.nn.Module")
    named = torch_module.NamedModule.of(module, params.inputs, params.outputs, params.arguments)

    trials = params.trials()
    inputs = [torch_module.random_arrays(params.inputs, sizes, params.seed) for sizes in trials]
    ctx.doing(f"running the module on {len(trials)} {'shapes' if len(trials) > 1 else 'shape'}")
    results = [named.run(arrays) for arrays in inputs]
    dims = torch_module.output_dims(trials, results)
    ctx.doing(f"exporting with {'torch.export' if params.exporter == 'dynamo' else 'TorchScript'}")
    proto, reason = torch_export.export(
        named, inputs[0], ctx.scratch / onnxfile.MODEL, exporter=params.exporter, wanted=params.opset
    )
    exported_graph.name_axes(proto, named, dims, reason)
    exported_graph.clean(proto, params.ir_version)
    target = ctx.out / onnxfile.MODEL
    onnxfile.save(proto, target)
    torch_check.valid(target)
    runs = list(zip(inputs, results, strict=True))
    tolerance = params.tolerance
    ctx.doing("comparing onnxruntime with PyTorch")
    errors = torch_check.agreement(target, trials, runs, atol=tolerance.atol, rtol=tolerance.rtol)
    final = onnxfile.load(target)
    model_inputs, model_outputs = signature.of(final)
    ctx.write(
        Export(
            framework=params.framework,
            exporter=params.exporter,
            opset=onnxgraph.opsets(final),
            ir_version=final.ir_version,
            inputs=model_inputs,
            outputs=model_outputs,
            checked=Agreement(
                formula="|onnx - torch| <= atol + rtol * |torch|",
                atol=tolerance.atol,
                rtol=tolerance.rtol,
                sizes=tuple(trials),
                max_abs_error=errors,
            ),
        )
    )


STAGE = StageType(
    name="export",
    version=2,
    Params=ExportParams,
    inputs={},
    output="model",
    doc="Makes an ONNX model of a PyTorch module, and checks it against PyTorch in onnxruntime.",
    run=run,
    packages=("torch", "onnx", "onnxscript", "onnxruntime", "numpy"),
)
