"""TensorRT networks (INetworkDefinition): their inputs and outputs, and the precision that layers are asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from trtpipe.backends.trt import dtypes
from trtpipe.documents.manifest import Binding
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.backends.trt.library import Library


def describe(network: Any) -> list[Binding]:
    """Describe a network's inputs, then its outputs."""

    def binding(tensor: Any, mode: Literal["input", "output"]) -> Binding:
        shape = _shape(tensor.shape)
        dims = tuple(_dim(tensor, axis) if size < 0 else size for axis, size in enumerate(shape))
        dtype = dtypes.dtype_name(tensor.dtype)
        decides = mode == "input" and bool(tensor.is_shape_tensor)
        return Binding(name=tensor.name, mode=mode, dtype=dtype, shape=shape, dims=dims, shape_input=decides)

    return [
        *(binding(network.get_input(i), "input") for i in range(network.num_inputs)),
        *(binding(network.get_output(i), "output") for i in range(network.num_outputs)),
    ]


def ask_for_half(library: Library, network: Any, precision: str, *, obeyed: bool) -> None:
    """Ask for half precision in convolutions and matrix products (weakly typed networks only).

    A flag alone lets the builder take float32 where that is a little faster, so that fp16 would not mean what
    it means where networks are strongly typed. Where nodes are kept in float32 (`obeyed`), the builder obeys all
    that is asked for; else it may take float32 where it has no half kernel.
    """
    half = library.trt.float16 if precision == "fp16" else library.trt.bfloat16
    kinds = library.trt.LayerType.__members__
    products = [kinds[k] for k in ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED") if k in kinds]
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type not in products or (obeyed and layer.name.startswith("(Unnamed")):
            continue  # a layer without its node's name (in an LSTM, say) could not be kept in float32 if it had to be
        made = layer.get_output(0)
        if made.dtype in (library.trt.float32, half) and not made.is_shape_tensor:
            layer.precision = half


def keep_fp32(library: Library, network: Any, names: Iterable[str], held: Iterable[str] = ()) -> None:
    """Keep the layers of named ONNX nodes in float32 (weakly typed networks only).

    `names` is what the user asked for: raises StageFailed for a node that has no such layer. `held` is what trtpipe
    found to need float32: a node there may compute shapes, or be folded away.
    """
    asked, seen = set(names), set()
    wanted = asked | set(held)
    floating = (library.trt.float32, library.trt.float16)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        # The parser names a node's first layer after the node, and further ones with a suffix.
        node = next((n for n in (layer.name, re.sub(r"_\d+$", "", layer.name)) if n in wanted), None)
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        if node is None or not outputs or any(o.dtype not in floating or o.is_shape_tensor for o in outputs):
            continue
        layer.precision = library.trt.float32
        for i in range(len(outputs)):
            layer.set_output_type(i, library.trt.float32)
        seen.add(node)
    missing = sorted(asked - seen)
    if missing:
        raise StageFailed(f"{library.title}: no layer could be kept in float32 for the nodes {', '.join(missing)}")


def _shape(dims: Any) -> tuple[int, ...]:
    try:
        return tuple(int(d) for d in dims)
    except ValueError:  # an unknown rank has a negative length
        return ()


def _dim(tensor: Any, axis: int) -> str:
    """Give the ONNX name of an axis, or a made-up one."""
    get = getattr(tensor, "get_dimension_name", None)
    return (get(axis) if get is not None else None) or f"{tensor.name}_{axis}"
