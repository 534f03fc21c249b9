"""Which inputs of a model hold values that say how large other tensors are: TensorRT calls them shape tensors.

TensorRT's parser says it itself. ONNX Runtime does not ask, so that here the graph is read backwards from every place
that takes a size, so that one document means the same on every backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.models import dtypes, onnxgraph

if TYPE_CHECKING:
    import onnx

SIZES: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "ConstantOfShape": (0,), "Slice": (1, 2, 3, 4), "TopK": (1,),
    "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1, 3), "Split": (1,), "Range": (0, 1, 2), "OneHot": (1,),
    "AffineGrid": (1,), "CenterCropPad": (1,), "Col2Im": (1, 2), "MaxUnpool": (2,), "HannWindow": (0,),
    "HammingWindow": (0,), "BlackmanWindow": (0,), "MelWeightMatrix": (0, 1), "DFT": (1,), "STFT": (1, 3),
    "Unsqueeze": (1,), "Squeeze": (1,), "CumSum": (1,), "Loop": (0,),
}  # fmt: skip
"""By op, the places of the inputs whose values decide a size, or which axes are meant."""
ARITHMETIC = {
    "Identity", "Cast", "Concat", "Gather", "Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Neg", "Abs", "Where",
    "Unsqueeze", "Squeeze", "Reshape", "Slice", "Floor", "Ceil", "Round", "ReduceProd", "ReduceSum", "ReduceMax",
    "ReduceMin", "Equal", "Greater", "Less", "And", "Or", "Not", "Sqrt", "Flatten",
}  # fmt: skip
"""Ops with which exporters compute sizes out of sizes."""
WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def find(model: onnx.ModelProto) -> set[str]:
    """Name the inputs of whole numbers that decide a size."""
    made_by: dict[str, onnx.NodeProto] = {}
    open_names: set[str] = set()
    for node in (found.node for found in onnxgraph.walk(model)):
        made_by.update(dict.fromkeys((o for o in node.output if o), node))
        if node.domain in ("", "ai.onnx"):
            places = SIZES.get(node.op_type, ())
            open_names.update(name for place, name in enumerate(node.input) if place in places and name)
    seen: set[str] = set()
    while open_names:
        name = open_names.pop()
        seen.add(name)
        node = made_by.get(name)
        if node is not None and node.op_type in ARITHMETIC:
            open_names.update(n for n in node.input if n and n not in seen)
    return {value.name for value in model.graph.input if value.name in seen and dtypes.value_dtype(value) in WHOLE}
