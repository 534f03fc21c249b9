"""`parse`: read an ONNX model with the runtime's own parser, after lints that explain what parsers do not."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from trtpipe.errors import StageFailed
from trtpipe.stage import Context, CustomOps, DocumentPath, Params, Port, StageType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx

    from trtpipe.documents.manifest import Binding
    from trtpipe.documents.network import Network, Tensor

Dim = Annotated[int, Meta(ge=0)] | Annotated[str, Meta(min_length=1)]

UNFEEDABLE = {"string", "complex64", "complex128", "sequence", "map", "optional", "sparse_tensor", "opaque"}
TENSORRT_IO = {
    "float32", "float16", "bfloat16", "int8", "int32", "int64", "uint8", "bool", "int4", "uint4", "float4e2m1",
    "float8e4m3fn", "float64",
}  # fmt: skip


class ParseParams(Params, frozen=True, kw_only=True):
    """Params of `parse`."""

    dims: Annotated[
        dict[str, list[Dim]],
        Meta(
            description="Declares the axes of inputs anew, by input: a name for a dynamic axis, a number for a fixed "
            "one. Two axes with one name are the same axis. Use it where an exporter gave axes names that say "
            "nothing (`?`), one name to two axes, or a fixed size to an axis that is not fixed."
        ),
    ] = msgspec.field(default_factory=dict)
    outputs: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(
            description="The outputs to keep, in this order; the others are left out, with all that only they need. "
            "An inner tensor may be named too. By default all outputs are kept."
        ),
    ] = msgspec.field(default_factory=list)
    custom_ops: CustomOps = msgspec.field(default_factory=list)
    plugins: Annotated[
        list[DocumentPath],
        Meta(
            description="Libraries of TensorRT plugins, for operators that TensorRT does not have: native code, which "
            "runs in parse and in every later stage that uses TensorRT. It travels with the model."
        ),
    ] = msgspec.field(default_factory=list)
    strict_lints: Annotated[
        bool,
        Meta(description="What the lints find fails the stage. If false, NaN, infinities and shared names are notes."),
    ] = True

    def problems(self) -> Iterable[tuple[str, str]]:
        """Say which dims and outputs cannot be."""
        yield from dim_problems(self.dims)
        for name, count in Counter(self.outputs).items():
            if count > 1:
                yield "outputs", f"found {name} {count} times, expected it once"


def dim_problems(declared: Mapping[str, Sequence[int | str]]) -> Iterable[tuple[str, str]]:
    """Give (path, what is wrong) for declared dims that are no number and no name."""
    for name, dims in declared.items():
        for axis, dim in enumerate(dims):
            if isinstance(dim, str) and not re.fullmatch(r"[A-Za-z_][\w.]*", dim):
                yield f"dims.{name}[{axis}]", f"found {dim!r}, expected a number or a name such as batch"


def run(ctx: Context) -> None:
    """Lint, parse, and write `network.json` beside the model."""
    from trtpipe.models import custom_ops, external_data, onnxfile, onnxgraph, pruning, signature

    params: ParseParams = ctx.params
    given = ctx.inputs["model"]
    custom_ops.take(ctx, given, params.custom_ops, params.plugins)
    source, label, model, files = onnxfile.open_input(given)

    gone = pruning.keep_outputs(model, params.outputs, label=label) if params.outputs else []
    if gone:
        ctx.note(f"the inputs {', '.join(gone)} go too: only outputs that are left out need them")
    if params.outputs:
        needed = {external_data.place(t)[0] for _, t in onnxgraph.constants(model) if external_data.is_external(t)}
        files = tuple(name for name in files if name in needed)
    stop, doubtful = _lint_types(model, ctx.backend_name, params.dims), _lint_weights(model, source.parent)
    doubtful += _lint_dims(model, params.dims)
    if params.strict_lints:
        stop += doubtful
    else:
        for finding in doubtful:
            ctx.note(finding)
    if stop:
        raise StageFailed("\n".join(f"{label}: {finding}" for finding in stop))

    onnxfile.copy_model(source, ctx.out, files, link=given.kind not in ("file", "folder"))
    target = ctx.out / onnxfile.MODEL
    if params.dims:
        signature.set_dims(model, params.dims, label=label)
    if params.dims or params.outputs:
        target.unlink()  # it may be a hard link to the input's own bytes
        onnxfile.save(model, target)
    backend = ctx.backend()
    seen = backend.parse(target)
    network = signature.describe(model, layers=seen.layers, runtime=backend.name, runtime_version=backend.version)
    for remark in seen.told:
        ctx.note(remark)
    _tell_types(ctx, network, seen.bindings)
    ctx.write(
        msgspec.structs.replace(
            network,
            inputs=_joined(network.inputs, seen.side("input"), "inputs", backend.name),
            outputs=_joined(network.outputs, seen.side("output"), "outputs", backend.name),
        )
    )


def _tell_types(ctx: Context, network: Network, bindings: Sequence[Binding]) -> None:
    """Say which inputs and outputs the runtime has in another type than the model."""
    own = {("input", t.name): t.dtype for t in network.inputs} | {("output", t.name): t.dtype for t in network.outputs}
    for b in bindings:
        kind = own.get((b.mode, b.name), b.dtype)
        if kind != b.dtype:
            less = ", with fewer digits" if kind == "float64" else ""
            ctx.note(f"{b.mode} {b.name} is {kind} in the model and {b.dtype} to {ctx.backend_name}{less}")


def _joined(ours: Sequence[Tensor], theirs: Sequence[Binding], side: str, runtime: str) -> tuple[Tensor, ...]:
    """Fill in ranks that only the runtime knows, and which inputs decide sizes.

    Both must name the same inputs and outputs.
    """
    known = {b.name: b for b in theirs}
    if {one.name for one in ours} != set(known):
        raise StageFailed(
            f"the {side} are {', '.join(one.name for one in ours)} in the ONNX file, "
            f"but {', '.join(known) or 'none'} to {runtime}"
        )
    return tuple(
        msgspec.structs.replace(
            one,
            dims=known[one.name].dims if one.dims is None and known[one.name].shape else one.dims,
            shape_input=known[one.name].shape_input,
        )
        for one in ours
    )


def _lint_types(model: onnx.ModelProto, runtime: str, declared: Mapping[str, Sequence[Dim]]) -> list[str]:
    from trtpipe.models import dtypes, signature

    found = []
    inputs = signature.graph_inputs(model)
    values = [("input", v) for v in inputs] + [("output", v) for v in model.graph.output]
    good = [v.name for v in model.graph.output if dtypes.value_dtype(v) not in UNFEEDABLE]
    # scikit-learn's converter puts a ZipMap before the probabilities, unless it is told not to.
    zipped = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "ZipMap"}
    for mode, value in values:
        dtype = dtypes.value_dtype(value)
        if dtype in UNFEEDABLE:
            way = f"; leave it out with params: {{outputs: [{', '.join(good)}]}}" if mode == "output" and good else ""
            if mode == "output" and (inside := zipped.get(value.name)):
                way = (
                    f"; a ZipMap makes it of the tensor {inside}: take that with params: "
                    f"{{outputs: [{', '.join([*good, inside])}]}}"
                )
            found.append(f"{mode} {value.name} is of type {dtype}; expected a tensor of numbers or booleans{way}")
        elif runtime != "onnxruntime" and dtype not in TENSORRT_IO:
            found.append(
                f"{mode} {value.name} is of type {dtype}, which {runtime} cannot read or write; "
                f"cast it in the model, or use --backend onnxruntime"
            )
    tensors = [v for v in inputs if dtypes.value_dtype(v) in dtypes.BITS and v.name not in declared]
    found += [
        f"input {value.name} has no shape in the model, so that nothing says how many axes it has; say it with "
        f"params.dims, such as {{{value.name}: [batch, 3]}}"
        for value in tensors
        if signature.input_dims(value) is None
    ]
    both = {v.name for v in inputs} & {v.name for v in model.graph.output}
    if both and runtime != "onnxruntime":
        others = ", ".join(v.name for v in model.graph.output if v.name not in both)
        way = f"leave it out with params: {{outputs: [{others}]}}, or " if others else ""
        found += [
            f"{name} is both an input and an output, and {runtime}'s parser gives one of the two another name; {way}"
            "export the model with an Identity between them"
            for name in sorted(both)
        ]
    return found


def _lint_weights(model: onnx.ModelProto, folder: Any) -> list[str]:
    from trtpipe.models import external_data, onnxgraph

    found = []
    for name, tensor in onnxgraph.constants(model):
        nan, infinite, mask = external_data.not_finite(tensor, folder)
        parts = [f"{count} {what}" for count, what in ((nan, "NaN"), (infinite, "Inf")) if count]
        if parts and not mask:
            total = 1
            for size in tensor.dims:
                total *= size
            found.append(f"weight {name} holds {' and '.join(parts)} among {total} values; expected finite numbers")
    return found


def _lint_dims(model: onnx.ModelProto, declared: Mapping[str, Sequence[Any]]) -> list[str]:
    from trtpipe.models import signature

    found = []
    for value in signature.graph_inputs(model):
        dims = signature.input_dims(value)
        if dims is None or value.name in declared:
            continue
        names = Counter(d for d in dims if isinstance(d, str))
        for name, count in names.items():
            if count > 1:
                axes = ", ".join(str(a) for a, d in enumerate(dims) if d == name)
                example = [f"{d}_{a}" if d == name and name.isidentifier() else f"axis_{a}" if d == name else d
                           for a, d in enumerate(dims)]  # fmt: skip
                found.append(
                    f"input {value.name} {_text(dims)}: axes {axes} share the name {name!r}, so that every runtime "
                    f"takes them for one axis; say what they are with params.dims: "
                    f"{{{value.name}: {_text(example)}}} (the same name twice if they really are one)"
                )
    return found


def _text(dims: Sequence[Any]) -> str:
    return "[" + ", ".join(str(d) for d in dims) + "]"


STAGE = StageType(
    name="parse",
    version=5,
    Params=ParseParams,
    inputs={"model": Port(kinds=("model",), doc="An ONNX model, with its external data.", outside=True)},
    output="network",
    doc="Reads an ONNX model with the runtime's own parser and describes its network.",
    run=run,
    packages=("onnx",),
    backend=True,
)
