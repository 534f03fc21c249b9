"""`export`: make an ONNX model of a PyTorch module, and show that the two agree."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import logging
import math
import re
import warnings
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.stage import Context, Entrypoint, Params, SourcePath, StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

Dim = Annotated[int, Meta(ge=1)] | Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Dtype = Literal["float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool"]

SIZES = (2, 3)
"""The two sizes of a dynamic axis unless the document says others; PyTorch treats 0 and 1 specially."""
NEWEST_EXACT = 18
"""The opset that the dynamo exporter writes by itself; 17 is made from it by trtpipe.models.opset."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input of the module."""

    shape: Annotated[
        list[Dim],
        Meta(description="A number for a fixed axis, a name for a dynamic one; the same name is the same axis."),
    ]
    dtype: Annotated[Dtype, Meta(description="NumPy's name of the element type.")] = "float32"
    range: Annotated[
        tuple[float, float] | None,
        Meta(
            description="Random values for the check lie in [low, high); default: normal numbers for floats, "
            "0 and 1 for integers."
        ),
    ] = None


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
    sources: Annotated[
        list[SourcePath], Meta(description="Every other file that the entrypoint reads: code, weights.")
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

    def entrypoints(self) -> Iterable[str]:
        """Give the module's entrypoint."""
        return (self.entrypoint,)

    def files(self) -> Iterable[str]:
        """Give the declared sources."""
        return self.sources

    def axes(self) -> list[str]:
        """Give the names of dynamic axes, in the order of the inputs' names."""
        named = (d for name in sorted(self.inputs) for d in self.inputs[name].shape if isinstance(d, str))
        return list(dict.fromkeys(named))

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
    from trtpipe.models import onnxfile, onnxgraph, signature

    torch.manual_seed(params.seed)
    make = ctx.load(params.entrypoint)
    try:
        module = make(**params.kwargs)
    except Exception as error:
        raise StageFailed(f"{params.entrypoint} fails: {type(error).__name__}: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise StageFailed(f"{params.entrypoint} gives a {type(module).__name__}, expected a torch.nn.Module")
    module = module.eval()
    order, by_name = _order(module, params)

    base = {axis: _sizes(params, axis)[0] for axis in params.axes()}
    trials = [base] + [{**base, axis: _sizes(params, axis)[1]} for axis in params.axes()]
    runs = [_torch_run(module, params, order, sizes, by_name=by_name) for sizes in trials]
    dims = _output_dims(params, trials, [outputs for _, outputs in runs])

    target = ctx.out / onnxfile.MODEL
    proto, reason = _export(ctx, module, params, order, runs[0][0], by_name=by_name)
    _name(proto, params, order, dims, reason)
    _clean(proto, params)
    onnxfile.save(proto, target)
    _check(target)
    errors = _compare(target, params, trials, runs)
    final = onnxfile.load(target)
    inputs, outputs = signature.of(final)
    ctx.write_json(
        "export.json",
        {
            "framework": params.framework,
            "exporter": params.exporter,
            "opset": onnxgraph.opsets(final),
            "ir_version": final.ir_version,
            "inputs": inputs,
            "outputs": outputs,
            "checked": {
                "formula": "|onnx - torch| <= atol + rtol * |torch|",
                "atol": params.tolerance.atol,
                "rtol": params.tolerance.rtol,
                "sizes": trials,
                "max_abs_error": errors,
            },
        },
    )


def _sizes(params: ExportParams, axis: str) -> tuple[int, int]:
    return params.sizes.get(axis, SIZES)


def _order(module: Any, params: ExportParams) -> tuple[list[str], bool]:
    """Give the inputs in the order of forward's arguments, and whether to pass them by name.

    The order in the document says nothing: it is not in the key.
    """
    if params.arguments:
        return list(params.arguments), False
    parameters = inspect.signature(module.forward).parameters
    named = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if set(params.inputs) <= set(named):
        order = [n for n in named if n in params.inputs]
        needed = [n for n in named if parameters[n].default is inspect.Parameter.empty and n not in params.inputs]
        if needed:
            raise StageFailed(f"forward also needs {', '.join(needed)}; inputs are {', '.join(order)}")
        return order, order != named[: len(order)] or any(parameters[n].kind == 3 for n in order)
    if len(params.inputs) == 1:
        return list(params.inputs), False
    raise StageFailed(
        f"inputs {', '.join(sorted(params.inputs))} are not forward's parameters ({', '.join(parameters)}); "
        "call them so, or give their order in params.arguments"
    )


def _arrays(params: ExportParams, sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Make the check's inputs; the values depend on seed, name and shape alone."""
    import numpy as np

    made: dict[str, NDArray[Any]] = {}
    for name in sorted(params.inputs):
        spec = params.inputs[name]
        shape = [sizes[d] if isinstance(d, str) else d for d in spec.shape]
        random = np.random.default_rng([params.seed, *name.encode(), *shape])
        if spec.dtype == "bool":
            made[name] = random.integers(0, 2, shape).astype(bool)
        elif "int" in spec.dtype:
            low, high = spec.range or (0, 2)
            made[name] = random.integers(math.ceil(low), math.ceil(high), shape).astype(spec.dtype)
        elif spec.range:
            made[name] = random.uniform(*spec.range, shape).astype(spec.dtype)
        else:
            made[name] = random.standard_normal(shape).astype(spec.dtype)
    return made


def _torch_run(
    module: Any, params: ExportParams, order: Sequence[str], sizes: Mapping[str, int], *, by_name: bool
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Run the module once. Gives inputs and outputs by name."""
    import torch

    arrays = _arrays(params, sizes)
    # Copies, since a module may write into its inputs.
    tensors = {name: torch.from_numpy(arrays[name].copy()) for name in order}
    try:
        with torch.inference_mode(), _quiet():
            result = module(**tensors) if by_name else module(*tensors.values())
    except Exception as error:
        shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in arrays.items())
        hint = "; params.sizes gives other sizes to its dynamic axes" if sizes else ""
        raise StageFailed(f"the module itself fails on {shapes}: {type(error).__name__}: {error}{hint}") from error
    flat = list(_flatten(result))
    if len(flat) != len(params.outputs):
        raise StageFailed(
            f"outputs: found {len(params.outputs)} names ({', '.join(params.outputs)}), "
            f"but the module gives {len(flat)} tensors"
        )
    return arrays, {name: t.detach().numpy().copy() for name, t in zip(params.outputs, flat, strict=True)}


def _flatten(result: Any) -> Iterator[Any]:
    import torch

    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, dict):
        for part in result.values():
            yield from _flatten(part)
    elif isinstance(result, (list, tuple)):
        for part in result:
            yield from _flatten(part)
    elif result is not None:
        raise StageFailed(f"the module gives a {type(result).__name__}; expected tensors")


def _output_dims(
    params: ExportParams, trials: Sequence[Mapping[str, int]], runs: Sequence[Mapping[str, NDArray[Any]]]
) -> dict[str, list[int | str]]:
    """Work out the outputs' dims from what PyTorch gave at the different sizes.

    An axis that never changes is fixed, one that always equals a dynamic axis has its name, any other is called
    `<output>_<axis>`.
    """
    found: dict[str, list[int | str]] = {}
    for name in params.outputs:
        shapes = [r[name].shape for r in runs]
        if len({len(s) for s in shapes}) > 1:
            raise StageFailed(f"output {name} changes its rank with the sizes of the inputs")
        dims: list[int | str] = []
        for axis in range(len(shapes[0])):
            seen = [s[axis] for s in shapes]
            equal = [a for a in params.axes() if [t[a] for t in trials] == seen]
            dims.append(seen[0] if len(set(seen)) == 1 else equal[0] if equal else f"{name}_{axis}")
        found[name] = dims
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own chatter off the terminal: prints, warnings and log lines below errors."""
    loggers = [logging.getLogger(n) for n in ("torch", "torch.onnx", "torch.export", "torch._export", "onnxscript",
                                              "onnx_ir", "torch.fx", "torch._dynamo")]  # fmt: skip
    levels = [(logger, logger.level) for logger in loggers]
    loggers += [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and name.startswith(("torch", "onnx"))
    ]
    levels = [(logger, logger.level) for logger in loggers]
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for logger, level in levels:
            logger.setLevel(level)


def _export(
    ctx: Context,
    module: Any,
    params: ExportParams,
    order: Sequence[str],
    arrays: Mapping[str, NDArray[Any]],
    *,
    by_name: bool,
) -> tuple[onnx.ModelProto, str]:
    """Run PyTorch's exporter; give the model with all weights in memory, at the opset asked for.

    Beside it, why torch.export would not keep all axes free, if it would not.
    """
    import onnx
    import torch

    from trtpipe.models import onnxfile, onnxgraph, opset

    path = ctx.scratch / onnxfile.MODEL
    tensors = {name: torch.from_numpy(arrays[name].copy()) for name in order}
    common: dict[str, Any] = {
        "args": () if by_name else tuple(tensors.values()),
        "kwargs": tensors if by_name else None,
        "input_names": list(order),
        "output_names": list(params.outputs),
        "verbose": False,
    }
    reason = ""
    if params.exporter == "legacy":
        with torch.no_grad():
            _legacy(module, path, params, order, common)
    else:
        reason = _dynamo(module, path, params, order, common, by_name=by_name)
    try:
        proto = onnx.load_model(str(path))
    except Exception as error:
        raise StageFailed(f"the exporter {params.exporter} wrote a file that is no ONNX model: {error}") from error
    found = onnxgraph.opsets(proto).get("ai.onnx")
    if found == NEWEST_EXACT and params.opset == 17:
        try:
            opset.to_opset_17(proto)
        except StageFailed as error:
            raise StageFailed(
                f"the exporter {params.exporter} writes opset 18, and opset 17 was asked for; {error}\n"
                "exporter: legacy may say it otherwise; opset: 18 keeps it, but TensorRT 8.6 does not read it"
            ) from None
    elif found != params.opset:
        raise StageFailed(
            f"the exporter {params.exporter} wrote opset {found}, asked for {params.opset}; "
            "ask for 17 or 18, or try the other exporter"
        )
    return proto, reason


def _legacy(module: Any, path: Path, params: ExportParams, order: Sequence[str], common: dict[str, Any]) -> None:
    import torch

    axes = {
        name: {a: d for a, d in enumerate(params.inputs[name].shape) if isinstance(d, str)} for name in order
    }  # fmt: skip
    axes.update({name: {} for name in params.outputs})
    try:
        with _quiet():
            torch.onnx.export(
                module,
                f=str(path),
                opset_version=params.opset,
                dynamic_axes={name: named for name, named in axes.items() if named},
                dynamo=False,
                **common,
            )
    except Exception as error:
        raise StageFailed(f"torch.onnx.export (legacy) fails: {_first_lines(error)}") from error


def _dynamo(
    module: Any, path: Path, params: ExportParams, order: Sequence[str], common: dict[str, Any], *, by_name: bool
) -> str:
    import torch

    asked = NEWEST_EXACT if params.opset == 17 else params.opset
    named = {axis: torch.export.Dim(axis, min=1) for axis in params.axes()}
    auto = dict.fromkeys(params.axes(), torch.export.Dim.AUTO)
    failures: list[Exception] = []
    # With named axes torch.export refuses relations between axes that it finds, such as a width that must be a
    # multiple of 8; it lives with them when it may choose. An axis that it then fixes is found by _name.
    for axes in (named, auto):
        shapes = [
            {a: axes[d] for a, d in enumerate(params.inputs[name].shape) if isinstance(d, str)} or None
            for name in order
        ]
        try:
            with _quiet():
                program = torch.onnx.export(
                    module,
                    opset_version=asked,
                    dynamic_shapes=(dict(zip(order, shapes, strict=True)) if by_name else tuple(shapes)),
                    dynamo=True,
                    **common,
                )
                program.save(str(path), external_data=_large(module))
            return _first_lines(failures[0]) if failures else ""
        except Exception as error:  # noqa: BLE001  the exporter raises whatever its passes raise
            failures.append(error)
    raise StageFailed(f"torch.onnx.export (dynamo) fails: {_first_lines(failures[0])}") from failures[0]


def _large(module: Any) -> bool:
    from trtpipe.models import onnxfile

    tensors = itertools.chain(module.parameters(), module.buffers())
    total = sum(int(t.numel()) * int(t.element_size()) for t in tensors)
    return total > onnxfile.INLINE_LIMIT


def _first_lines(error: BaseException) -> str:
    """Give the root cause of an exporter's chain of errors, in at most 12 lines, without paths to its own files."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}")
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:12])


def _name(
    proto: onnx.ModelProto,
    params: ExportParams,
    order: Sequence[str],
    dims: Mapping[str, Sequence[int | str]],
    reason: str,
) -> None:
    """Give inputs and outputs exactly the dims asked for. Raises StageFailed for an axis that was baked in."""
    from trtpipe.models import onnxgraph, signature

    names = [value.name for value in proto.graph.input]
    outputs = [value.name for value in proto.graph.output]
    if outputs != list(params.outputs):
        raise StageFailed(
            f"the exported model's outputs are {', '.join(outputs)}, expected {', '.join(params.outputs)}"
        )
    if sorted(names) != sorted(order):
        gone = sorted(set(order) - set(names))
        raise StageFailed(
            f"the exported model's inputs are {', '.join(names) or 'none'}, expected {', '.join(order)}"
            + (f": the module does not use {', '.join(gone)}" if gone else "")
        )
    for value in proto.graph.input:
        have = signature.input_dims(value) or []
        for axis, dim in enumerate(params.inputs[value.name].shape):
            if isinstance(dim, str) and axis < len(have) and isinstance(have[axis], int):
                raise StageFailed(
                    f"axis {dim} of input {value.name} was baked in as {have[axis]}: the module's code fixes it; "
                    f"write a number there, or change the code (often a len(), an int() or a shape kept in Python)"
                    + (f"\n{reason}" if reason else "")
                )
    for _, graph in onnxgraph.graphs(proto):
        graph.ClearField("value_info")
    for value in proto.graph.input:
        _set_shape(value, params.inputs[value.name].shape)
    for value in proto.graph.output:
        _set_shape(value, dims[value.name])


def _set_shape(value: onnx.ValueInfoProto, dims: Sequence[int | str]) -> None:
    shape = value.type.tensor_type.shape
    shape.ClearField("dim")
    shape.SetInParent()
    for dim in dims:
        if isinstance(dim, str):
            shape.dim.add(dim_param=dim)
        else:
            shape.dim.add(dim_value=dim)


def _clean(proto: onnx.ModelProto, params: ExportParams) -> None:
    """Drop what differs from machine to machine: stack traces, paths, versions (they are in the key)."""
    from trtpipe.models import onnxgraph

    proto.ir_version = params.ir_version
    proto.producer_name = "pytorch"
    proto.graph.name = "main_graph"
    for field in ("producer_version", "domain", "model_version", "doc_string", "metadata_props"):
        proto.ClearField(field)
    for scope, graph in onnxgraph.graphs(proto):
        graph.ClearField("doc_string")
        _forget(graph)
        if hasattr(graph, "initializer"):
            for tensor in graph.initializer:
                tensor.ClearField("doc_string")
                _forget(tensor)
            for value in itertools.chain(graph.input, graph.output):
                value.ClearField("doc_string")
                _forget(value)
        elif proto.ir_version < 8:
            raise StageFailed(
                f"the model has functions ({scope}), which came with IR version 8; expected ir_version >= 8"
            )
    for found in onnxgraph.walk(proto):
        found.node.ClearField("doc_string")
        _forget(found.node)
    used = {found.node.domain for found in onnxgraph.walk(proto)} | {""}
    kept = [(o.domain, o.version) for o in proto.opset_import if o.domain in used]
    del proto.opset_import[:]
    for domain, version in sorted(kept):
        proto.opset_import.add(domain=domain, version=version)


def _forget(message: Any) -> None:
    if "metadata_props" in message.DESCRIPTOR.fields_by_name:
        message.ClearField("metadata_props")


def _check(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise StageFailed(f"the exported model is not valid ONNX: {str(error).strip()}") from error


def _compare(
    path: Path,
    params: ExportParams,
    trials: Sequence[Mapping[str, int]],
    runs: Sequence[tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]],
) -> dict[str, float]:
    """Run the model in onnxruntime at every trial's sizes. Gives the largest absolute error of each output."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Unoptimised, so that what is compared is the file and not what a runtime makes of it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise StageFailed(f"onnxruntime cannot load the exported model: {error}") from error
    worst = dict.fromkeys(params.outputs, 0.0)
    problems: list[str] = []
    close = _allclose(params, np)
    for sizes, (arrays, expected) in zip(trials, runs, strict=True):
        at = ", ".join(f"{axis} {size}" for axis, size in sizes.items()) or "its fixed shape"
        try:
            results = session.run(list(params.outputs), dict(arrays))
        except Exception as error:  # noqa: BLE001  whatever the runtime raises is the finding
            problems.append(f"at {at}: onnxruntime fails: {error}")
            continue
        for name, found in zip(params.outputs, results, strict=True):
            want = expected[name]
            if found.shape != want.shape or found.dtype != want.dtype:
                problems.append(
                    f"at {at}: output {name} is {found.dtype} {list(found.shape)}, "
                    f"PyTorch gives {want.dtype} {list(want.shape)}"
                )
                continue
            apart, agrees = close(found, want)
            worst[name] = max(worst[name], apart)
            if not agrees:
                problems.append(f"at {at}: output {name} differs from PyTorch by up to {apart:.6g}")
    if problems:
        tolerance = params.tolerance
        raise StageFailed(
            "the exported model does not agree with PyTorch "
            f"(|onnx - torch| <= {tolerance.atol:g} + {tolerance.rtol:g} * |torch|):\n"
            + "\n".join(f"  {p}" for p in problems)
        )
    return {name: float(f"{error:.3g}") for name, error in worst.items()}


def _allclose(params: ExportParams, np: Any) -> Callable[[Any, Any], tuple[float, bool]]:
    atol, rtol = params.tolerance.atol, params.tolerance.rtol

    def close(found: Any, want: Any) -> tuple[float, bool]:
        if not want.size:
            return 0.0, True
        if want.dtype.kind not in "fc":
            differ = float(np.abs(found.astype(np.float64) - want.astype(np.float64)).max())
            return differ, differ == 0
        a, b = found.astype(np.float64), want.astype(np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.where(a == b, 0.0, np.abs(a - b))  # equal infinities agree
            agrees = bool(np.all((difference <= atol + rtol * np.abs(b)) & np.isfinite(difference)))
        return float(difference.max()), agrees

    return close


STAGE = StageType(
    name="export",
    version=1,
    Params=ExportParams,
    inputs={},
    output="model",
    doc="Makes an ONNX model of a PyTorch module, and checks it against PyTorch in onnxruntime.",
    run=run,
    packages=("torch", "onnx", "onnxscript", "onnxruntime", "numpy"),
)
