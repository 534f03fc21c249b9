"""Q/DQ nodes (QuantizeLinear and DequantizeLinear), and the check of their scales and zero points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from trtpipe.errors import StageFailed
from trtpipe.models import dtypes, onnxgraph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MARKS = ("QuantizeLinear", "DequantizeLinear")


def is_quantised(model: onnx.ModelProto) -> bool:
    """Tell whether a model has Q/DQ nodes."""
    return any(f.node.op_type in MARKS for f in onnxgraph.walk(model))


def check_scales(model: onnx.ModelProto, weighted: Mapping[str, str] | None = None) -> list[str]:
    """Check every Q/DQ node's scale and zero point, and that `weighted` nodes (name: op) are quantised on both sides.

    Gives the tensors that were 0 in every calibration run. Raises StageFailed that lists scales that are missing,
    not positive, different within one pair, or different for one tensor.
    """
    constants = {t.name: t for t in model.graph.initializer}
    for found in onnxgraph.walk(model):
        if found.node.op_type == "Constant" and found.node.attribute[0].name == "value":
            constants[found.node.output[0]] = found.node.attribute[0].t
    producers = onnxgraph.producers(model)
    problems: list[str] = []
    scales: dict[str, tuple[str, NDArray[Any]]] = {}
    idle: list[str] = []
    for node in model.graph.node:
        if node.op_type not in MARKS:
            continue
        tensor = node.input[0]
        scale = constants.get(node.input[1]) if len(node.input) > 1 else None
        if scale is None:
            problems.append(f"{node.name} ({node.op_type} of {tensor}): its scale is missing")
            continue
        values = dtypes.float_values(scale)
        if not values.size or not np.isfinite(values).all() or (values <= 0).any():
            problems.append(f"{node.name} ({node.op_type} of {tensor}): its scale is {values.ravel()[:3].tolist()}")
            continue
        if node.op_type == "QuantizeLinear":
            if tensor in scales and not np.array_equal(scales[tensor][1], values):
                problems.append(f"{tensor} has two different scales, in {scales[tensor][0]} and {node.name}")
            scales.setdefault(tensor, (node.name, values))
            zero = constants.get(node.input[2]) if len(node.input) > 2 else None
            if zero is not None and zero.data_type == TensorProto.INT8 and numpy_helper.to_array(zero).any():
                problems.append(f"{node.name}: its zero point is not 0, TensorRT takes symmetric ranges only")
        else:
            maker = producers.get(tensor)
            if maker is not None and maker.op_type == "QuantizeLinear" and maker.input[1] != node.input[1]:
                theirs = constants.get(maker.input[1])
                if theirs is None or not np.array_equal(dtypes.float_values(theirs), values):
                    problems.append(f"{maker.name} and {node.name} are one pair with two different scales")
    if weighted is not None:
        nodes = {n.name: n for n in model.graph.node}
        for name, op in weighted.items():
            sides = [producers.get(i) for i in nodes[name].input[:2]] if name in nodes else [None]
            if any(side is None or side.op_type != "DequantizeLinear" for side in sides):
                problems.append(f"{name} ({op}): the quantiser gave it no scale on both sides")
            else:
                quantize = producers.get(sides[0].input[0]) if sides[0] is not None else None
                if quantize is not None and float(scales[quantize.input[0]][1].max()) < np.finfo(np.float32).tiny * 1e6:
                    idle.append(quantize.input[0])
    if problems:
        raise StageFailed("the quantised model's scales are not right:\n  " + "\n  ".join(problems))
    return sorted(set(idle))
