"""What several stages need of ONNX files: checked loading, external data, a walk over all nodes, a description.

Models are always loaded without their external data, so that memory follows the graph and not the weights;
`array` maps a weight that lies outside when somebody wants to see it.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trtpipe import stage
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from trtpipe.stage import Input

Dim = int | str
MODEL = "model.onnx"
DATA = "model.onnx.data"
INLINE_LIMIT = 1536 * 2**20
"""Weights above this many bytes go into an external file: protobuf itself ends at 2 GiB."""
SHAPE_LIKE = 4096
"""Initialisers up to this many bytes take part in shape inference; larger ones are weights, not shapes."""

_SPECIAL = {"FLOAT": "float32", "DOUBLE": "float64", "UNDEFINED": "undefined"}
_BITS = {
    "float32": 32, "float64": 64, "float16": 16, "bfloat16": 16, "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64, "bool": 8, "complex64": 64, "complex128": 128,
    "int4": 4, "uint4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2,
    "float8e4m3fn": 8, "float8e4m3fnuz": 8, "float8e5m2": 8, "float8e5m2fnuz": 8, "float8e8m0": 8,
}  # fmt: skip


class Located(NamedTuple):
    """A node and the graph that holds it; `scope` is empty for the main graph, else like `if_1/then_branch`."""

    node: onnx.NodeProto
    scope: str
    graph: onnx.GraphProto | onnx.FunctionProto


def dtype_name(element_type: int) -> str:
    """Give NumPy's name of an ONNX element type (`bfloat16`, `float8e4m3fn`, `string` where NumPy has none)."""
    try:
        name: str = onnx.TensorProto.DataType.Name(element_type)
    except ValueError:
        return f"type_{element_type}"
    return _SPECIAL.get(name, name.lower())


def itembits(dtype: str) -> int:
    """Give the bits that one element of a dtype takes. Raises KeyError for one without a fixed size."""
    return _BITS[dtype]


def of_input(given: Input) -> Path:
    """Give the path of an input's model: an artifact's `model.onnx`, or the only ONNX file from outside.

    Raises StageFailed if there is not just one.
    """
    return given.path(MODEL) if MODEL in given.files else given.one(".onnx")


def load(path: Path, *, label: str | None = None) -> onnx.ModelProto:
    """Read an ONNX file without its external data.

    Raises StageFailed that names the file (or `label`) if it is missing, empty, torn or no ONNX model.
    """
    name = label or path.name
    try:
        size = path.stat().st_size
        if not size:
            raise StageFailed(f"{name} is empty; expected an ONNX model")
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise StageFailed(f"{name} cannot be read: {error.strerror or error}") from error
    except (DecodeError, ValueError, RuntimeError) as error:
        raise StageFailed(f"{name} is no ONNX model, or a torn one ({size} bytes): {error}") from error
    # Protobuf reads much rubbish, and a file torn between two fields, without complaint: what every model has
    # must be there too.
    missing = [
        what
        for what, there in (
            ("an IR version", model.ir_version > 0),
            ("an opset", len(model.opset_import) > 0),
            ("a graph with outputs", len(model.graph.output) > 0),
        )
        if not there
    ]
    if missing:
        raise StageFailed(f"{name} is no ONNX model, or a torn one ({size} bytes): it has not {', nor '.join(missing)}")
    return model


class Opened(NamedTuple):
    """A stage's model: where it lies, what people call it, the model without external data, the names of that."""

    path: Path
    label: str
    model: onnx.ModelProto
    data: tuple[str, ...]


def open_input(given: Input) -> Opened:
    """Open an input's model, with all of its external data there. Raises StageFailed as those do that it calls."""
    path = of_input(given)
    label = given.label if given.kind == "file" else path.name
    model = load(path, label=label)
    return Opened(path, label, model, tuple(external_files(model, path.parent, label=label, known=given.files)))


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give a copy of a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def refill(field: Any, kept: Iterable[Any]) -> None:
    """Leave these of its own items in a repeated field, in this order."""
    # Copied first: clearing the field lets go of what its items hold.
    copies = [type(item).FromString(item.SerializeToString()) for item in kept]
    del field[:]
    field.extend(copies)


def graphs(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.GraphProto | onnx.FunctionProto]]:
    """Give the main graph, every subgraph below it and every function, each with its scope."""

    def below(scope: str, graph: Any) -> Iterator[tuple[str, Any]]:
        yield scope, graph
        for index, node in enumerate(graph.node):
            for attribute in node.attribute:
                inner = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
                for part in inner:
                    here = f"{node.name or f'{node.op_type}_{index}'}/{attribute.name}"
                    yield from below(f"{scope}/{here}" if scope else here, part)

    yield from below("", model.graph)
    for function in model.functions:
        yield from below(f"function {function.domain}:{function.name}", function)


def walk(model: onnx.ModelProto) -> Iterator[Located]:
    """Give every node of the model, also those of subgraphs and functions."""
    for scope, graph in graphs(model):
        for node in graph.node:
            yield Located(node, scope, graph)


def read_names(model: onnx.ModelProto) -> set[str]:
    """Name every tensor that something reads: a node anywhere, or whoever runs a graph, as its output."""
    names = {name for found in walk(model) for name in found.node.input}
    for _, graph in graphs(model):
        names |= {one.name if isinstance(one, onnx.ValueInfoProto) else one for one in graph.output}
    return names


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Give the node of the main graph that makes each tensor; inputs and initialisers have none."""
    return {name: node for node in model.graph.node for name in node.output}


def node_label(found: Located) -> str:
    """Name a node for people: its name if it has one, else what it makes."""
    node = found.node
    name = node.name or f"(unnamed, makes {', '.join(o for o in node.output if o) or 'nothing'})"
    return f"{name} in {found.scope}" if found.scope else name


def initializers(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Give every initialiser of the model and its subgraphs."""
    for _, graph in graphs(model):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer


def constants(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Give every tensor that the file holds, with its name: initialisers and the values of Constant nodes."""
    for tensor in initializers(model):
        yield tensor.name, tensor
    for found in walk(model):
        for attribute in found.node.attribute:
            if attribute.HasField("t"):
                yield f"{node_label(found)}.{attribute.name}", attribute.t
            for tensor in attribute.tensors:
                yield f"{node_label(found)}.{attribute.name}", tensor


def is_external(tensor: onnx.TensorProto) -> bool:
    """Tell whether a tensor's bytes lie in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Give the bytes that a tensor's values take, from its shape and type; 0 for strings."""
    bits = _BITS.get(dtype_name(tensor.data_type), 0)
    return -(-int(math.prod(tensor.dims)) * bits // 8)


def _place(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    fields = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset = int(fields.get("offset", "0"))
        length = int(fields.get("length", str(tensor_bytes(tensor))))
    except ValueError:
        offset = length = -1
    return fields.get("location", ""), offset, length


def external_files(
    model: onnx.ModelProto, folder: Path, *, label: str, known: Collection[str] | None = None
) -> tuple[str, ...]:
    """List the external data files of a model (sorted, relative to its folder), after checking every reference.

    `known` are the files that the input is declared to hold, relative to the folder: a file outside them is not
    in the stage's key. Raises StageFailed listing each location that is absolute, leaves the folder (also by a
    link), is missing, or is shorter than the tensors that lie in it.
    """
    needed: dict[str, tuple[int, str]] = {}
    problems: list[str] = []
    for name, tensor in constants(model):
        if not is_external(tensor):
            continue
        location, offset, length = _place(tensor)
        if not location or offset < 0 or length < 0:
            problems.append(f"tensor {name}: its external data has no location, or a bad offset or length")
            continue
        if length < tensor_bytes(tensor):
            problems.append(f"tensor {name}: its shape needs {tensor_bytes(tensor)} bytes, it points to {length}")
        end, _ = needed.get(location, (-1, ""))
        if offset + length > end:
            needed[location] = (offset + length, name)
    top = os.path.realpath(folder)
    for location, (end, name) in sorted(needed.items()):
        path = folder / location
        if PurePosixPath(location).is_absolute() or ".." in PurePosixPath(location).parts or "\\" in location:
            problems.append(f"external data {location!r} (tensor {name}) points outside the model's folder")
        elif not os.path.lexists(path):
            problems.append(f"external data {location!r} (tensor {name}) is missing; it must lie beside the model")
        elif os.path.commonpath([os.path.realpath(path), top]) != top:
            problems.append(f"external data {location!r} (tensor {name}) is a link that leaves the model's folder")
        elif not path.is_file():
            problems.append(f"external data {location!r} (tensor {name}) is no file")
        elif path.stat().st_size < end:
            problems.append(
                f"external data {location!r} is torn: tensor {name} ends at byte {end}, "
                f"the file at byte {path.stat().st_size}"
            )
        elif known is not None and location not in known:
            problems.append(f"external data {location!r} (tensor {name}) is not among the input's files")
    if problems:
        raise StageFailed("\n".join(f"{label}: {p}" for p in problems))
    return tuple(sorted(needed))


def copy_model(path: Path, out: Path, files: Iterable[str], *, link: bool) -> None:
    """Put a model into the folder `out` as `model.onnx`, with its external data under its own relative names.

    Raises StageFailed if one of those names is taken by the artifact itself.
    """
    for name in files:
        if name in (MODEL, "network.json", "config.json", "manifest.json"):
            raise StageFailed(f"{path.name}: its external data is called {name}, which the artifact needs; rename it")
        stage.put(path.parent / name, out / name, link=link)
    stage.put(path, out / MODEL, link=link)


def array(tensor: onnx.TensorProto, folder: Path) -> NDArray[Any]:
    """Give a tensor's values, memory-mapped where they lie outside and NumPy knows the type."""
    name = dtype_name(tensor.data_type)
    if not is_external(tensor):
        return _values(tensor)
    location, offset, _ = _place(tensor)
    if name in ("bfloat16", "string") or _BITS.get(name, 0) < 8 or name.startswith("float8"):
        loaded = onnx.TensorProto()
        loaded.CopyFrom(tensor)
        onnx.external_data_helper.load_external_data_for_tensor(loaded, str(folder))
        return _values(loaded)
    shape = tuple(tensor.dims)
    if not math.prod(shape):
        return np.empty(shape, np.dtype(name))
    return np.memmap(folder / location, np.dtype(name).newbyteorder("<"), "r", offset, shape)


def _values(tensor: onnx.TensorProto) -> NDArray[Any]:
    values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    return values


def not_finite(tensor: onnx.TensorProto, folder: Path) -> tuple[int, int, bool]:
    """Count NaN and infinite values of a tensor, and tell whether it looks like an attention mask.

    A mask holds nothing but zeros and infinities of one sign: there, infinity is meant. Works through a large
    tensor in pieces of 16 MiB.
    """
    name = dtype_name(tensor.data_type)
    if name not in ("float16", "float32", "float64", "bfloat16"):
        return 0, 0, False
    flat = array(tensor, folder).reshape(-1)
    nan = infinite = others = 0
    signs: set[bool] = set()
    step = 2**22
    for start in range(0, flat.size, step):
        piece = flat[start : start + step]
        if name == "bfloat16":
            piece = piece.astype(np.float32)
        finite = np.isfinite(piece)
        if finite.all():
            others += int(np.count_nonzero(piece))
            continue
        bad = piece[~finite]
        found = int(np.isnan(bad).sum())
        nan += found
        infinite += bad.size - found
        signs.update(bool(s) for s in np.unique(np.signbit(bad[~np.isnan(bad)])))
        others += int(np.count_nonzero(piece[finite]))
    return nan, infinite, bool(infinite) and not nan and not others and len(signs) == 1


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Give the inputs that a caller must feed: those without an initialiser of the same name (IR < 4 lists both)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in weights]


def value_dtype(value: onnx.ValueInfoProto) -> str:
    """Give the dtype of an input or output; `sequence`, `map`, `optional` or `sparse_tensor` if it is no tensor."""
    kind = value.type.WhichOneof("value")
    if kind == "tensor_type":
        return dtype_name(value.type.tensor_type.elem_type)
    return str(kind or "unknown").removesuffix("_type")


def _dims(value: onnx.ValueInfoProto) -> list[Dim | None] | None:
    if value.type.WhichOneof("value") != "tensor_type" or not value.type.tensor_type.HasField("shape"):
        return None
    found: list[Dim | None] = []
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param:
            found.append(dim.dim_param)
        elif dim.HasField("dim_value") and dim.dim_value >= 0:
            found.append(dim.dim_value)
        else:
            found.append(None)
    return found


def input_dims(value: onnx.ValueInfoProto) -> list[Dim] | None:
    """Give an input's dims; a dynamic axis without a name is called `<input>_<axis>`. None: unknown rank."""
    dims = _dims(value)
    return None if dims is None else [f"{value.name}_{axis}" if d is None else d for axis, d in enumerate(dims)]


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without weights, with named input axes and with outputs that promise no shape."""
    light = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = "g"
    light.graph.node.extend(model.graph.node)
    for value in graph_inputs(model):
        copy = light.graph.input.add()
        copy.CopyFrom(value)
        for dim, name in zip(copy.type.tensor_type.shape.dim, input_dims(value) or (), strict=False):
            if isinstance(name, str):
                dim.dim_param = name
    for tensor in model.graph.initializer:
        if is_external(tensor) or tensor_bytes(tensor) > SHAPE_LIKE:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
        else:
            light.graph.initializer.append(tensor)
    for value in model.graph.output:
        copy = light.graph.output.add(name=value.name)
        if value.type.WhichOneof("value") == "tensor_type":
            copy.type.tensor_type.elem_type = value.type.tensor_type.elem_type
    return light


def signature(model: onnx.ModelProto) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Describe inputs and outputs as `{"name", "dtype", "dims"}`.

    `dims` holds an int for a fixed axis and a name for a dynamic one, or is None where the rank is unknown. An
    output's axis is named after an input's axis where ONNX shape inference shows that they are the same one:
    exporters often leave names there that say nothing. What stays unknown is called `<output>_<axis>`.
    """
    inputs = [{"name": v.name, "dtype": value_dtype(v), "dims": input_dims(v)} for v in graph_inputs(model)]
    known = {d for entry in inputs for d in entry["dims"] or () if isinstance(d, str)}
    try:
        inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(_skeleton(model), data_prop=True).graph.output}
    except Exception:  # noqa: BLE001  a model that inference cannot follow may still be fine for the runtime
        inferred = {}
    outputs = []
    for value in model.graph.output:
        declared = _dims(value)
        seen = _dims(inferred[value.name]) if value.name in inferred else None
        outputs.append(
            {
                "name": value.name,
                "dtype": value_dtype(value),
                "dims": _merge(value.name, declared, seen, known),
            }
        )
    return inputs, outputs


def _merge(
    name: str, declared: Sequence[Dim | None] | None, seen: Sequence[Dim | None] | None, known: Collection[str]
) -> list[Dim] | None:
    rank = len(seen) if seen is not None else None if declared is None else len(declared)
    if rank is None:
        return None
    if declared is None or len(declared) != rank:
        declared = [None] * rank
    if seen is None:
        seen = [None] * rank
    merged: list[Dim] = []
    for axis, (said, found) in enumerate(zip(declared, seen, strict=True)):
        if found is not None and (isinstance(found, int) or found in known):
            merged.append(found)
        elif said is not None:
            merged.append(said)
        else:
            merged.append(f"{name}_{axis}")
    return merged


def set_dims(model: onnx.ModelProto, dims: Mapping[str, Sequence[Dim]], *, label: str) -> None:
    """Declare the axes of inputs anew, in place; shapes that followed from the old ones are inferred again.

    Raises StageFailed for an unknown input or another rank.
    """
    inputs = {value.name: value for value in graph_inputs(model)}
    problems = []
    for name, wanted in dims.items():
        value = inputs.get(name)
        if value is None:
            problems.append(f"{label} has no input {name!r}; it has {', '.join(inputs) or 'none'}")
            continue
        have = _dims(value)
        if have is not None and len(have) != len(wanted):
            problems.append(f"{label}: input {name} has {len(have)} axes, found {len(wanted)} dims: {list(wanted)}")
            continue
        shape = value.type.tensor_type.shape
        shape.ClearField("dim")
        for dim in wanted:
            if isinstance(dim, str):
                shape.dim.add(dim_param=dim)
            else:
                shape.dim.add(dim_value=dim)
    if problems:
        raise StageFailed("\n".join(problems))
    for _, graph in graphs(model):
        graph.ClearField("value_info")
    ranks = {value.name: _dims(value) for value in model.graph.output}
    for value in model.graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
    write_output_dims(model, ranks)


def write_output_dims(model: onnx.ModelProto, ranks: Mapping[str, Sequence[Any] | None]) -> None:
    """Write the inferred dims into outputs that have none; an axis that inference cannot follow stays open."""
    _, outputs = signature(model)
    for value, found in zip(model.graph.output, outputs, strict=True):
        rank = ranks[value.name]
        dims = found["dims"] if found["dims"] is not None else rank and [f"{value.name}_{a}" for a in range(len(rank))]
        if dims is None or value.type.WhichOneof("value") != "tensor_type":
            continue
        shape = value.type.tensor_type.shape
        for axis, dim in enumerate(dims):
            if isinstance(dim, int):
                shape.dim.add(dim_value=dim)
            elif dim == f"{value.name}_{axis}":
                shape.dim.add()
            else:
                shape.dim.add(dim_param=dim)
        if not dims:
            shape.SetInParent()


def describe(model: onnx.ModelProto) -> dict[str, Any]:
    """Describe a model for `network.json`, all but the runtime's own view."""
    inputs, outputs = signature(model)
    dtypes: Counter[str] = Counter()
    count = 0
    for _, tensor in constants(model):  # some exporters keep all weights in Constant nodes
        dtypes[dtype_name(tensor.data_type)] += tensor_bytes(tensor)
        count += math.prod(tensor.dims)
    nodes: Counter[str] = Counter()
    for found in walk(model):
        node = found.node
        nodes[node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}"] += 1
    return {
        "inputs": inputs,
        "outputs": outputs,
        "nodes": dict(sorted(nodes.items())),
        "opset": opsets(model),
        "ir_version": model.ir_version,
        "producer": " ".join(p for p in (model.producer_name, model.producer_version) if p),
        "parameters": count,
        "parameter_bytes": sum(dtypes.values()),
        "dtypes": dict(sorted(dtypes.items())),
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
    }


def opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Give the opset version of each domain; ONNX's own is `ai.onnx`."""
    return {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}


def save(model: onnx.ModelProto, path: Path, *, limit: int | None = None) -> None:
    """Write a model; inline weights of more than `limit` bytes (INLINE_LIMIT) in all go to `<name>.data` beside it.

    The bytes depend on the model alone. The model in memory loses the weights that went outside.
    """
    tensors = [t for t in initializers(model) if not is_external(t)]
    inline = sum(tensor_bytes(tensor) for tensor in tensors)
    if inline > (INLINE_LIMIT if limit is None else limit):
        data = path.name + ".data"
        with (path.parent / data).open("wb") as stream:
            for tensor in tensors:
                if tensor_bytes(tensor) < 1024 or dtype_name(tensor.data_type) == "string":
                    continue
                if not tensor.HasField("raw_data"):
                    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
                stream.write(bytes(-stream.tell() % 4096))  # so that every runtime can map it
                onnx.external_data_helper.set_external_data(tensor, data, stream.tell(), len(tensor.raw_data))
                stream.write(tensor.raw_data)
                tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString(deterministic=True))


def inline(path: Path, origin: Path) -> None:
    """Make a saved model stand alone: weights that it still names in the folder `origin` move in, or beside it.

    onnxruntime's optimised model goes on naming the external data of the model that it was made from.
    """
    model = load(path)
    own = path.name + ".data"
    for _, tensor in constants(model):
        if is_external(tensor):
            folder = path.parent if _place(tensor)[0] == own else origin
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    (path.parent / own).unlink(missing_ok=True)
    save(model, path)


def external_locations(path: str | Path) -> list[str]:
    """List the external data files that an ONNX file names, unchecked and sorted; none if it is no ONNX file.

    For whoever needs the names before the model is judged. What is wrong with them, `external_files` says.
    """
    try:
        model = load(Path(path))
    except StageFailed:
        return []
    return sorted({_place(tensor)[0] for _, tensor in constants(model) if is_external(tensor)} - {""})


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, by which converters and runtimes know it."""
    taken = {found.node.name for found in walk(model)}
    seen: set[str] = set()
    for index, found in enumerate(walk(model)):
        node = found.node
        if not node.name or node.name in seen:
            node.name = fresh(node.name or f"{node.op_type}_{index}", taken)
        seen.add(node.name)


def fresh(base: str, taken: set[str], joint: str = "_") -> str:
    """Give a name that is not taken yet, `base` if it can be, and take it."""
    name, number = base, 1
    while name in taken:
        name, number = f"{base}{joint}{number}", number + 1
    taken.add(name)
    return name
