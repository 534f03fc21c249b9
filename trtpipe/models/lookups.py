"""What a model's graph says of the values of its inputs: ids that it looks up in tables, and masks by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.models import onnxgraph

if TYPE_CHECKING:
    import onnx

MOST = 1000
"""Made-up ids are below this number, however large a table is."""
_PASSES = ("Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


def is_mask(name: str) -> bool:
    """Tell whether an input is a mask by its name: of zeros, nothing would be left to compute with."""
    return "mask" in name.lower()


def table_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Give, for each input that is looked up in a table of weights, the number of the table's rows (the smallest)."""
    rows = {tensor.name: tensor.dims[0] for _, tensor in onnxgraph.constants(model) if tensor.dims and tensor.name}
    origin = {value.name: value.name for value in model.graph.input}
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in _PASSES and node.input and node.input[0] in origin:
            origin.update(dict.fromkeys(node.output, origin[node.input[0]]))
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if node.op_type == "Gather" and axis == 0 and node.input[0] in rows and node.input[1] in origin:
            name = origin[node.input[1]]
            found[name] = min(found.get(name, rows[node.input[0]]), rows[node.input[0]])
    return found
