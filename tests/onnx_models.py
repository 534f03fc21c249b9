"""Small real ONNX models, at the opset and IR version that every runtime reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path


def value(name: str, dims: list[Any] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(w, n) for n, w in (weights or {}).items()]
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return path


def conv(rows: Any = "batch", *, side: int = 8, channels: int = 4) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, pooling and a matrix product: image [rows, 3, side, side] -> logits [rows, 5]."""
    random = np.random.default_rng(0)
    f = np.float32
    weights = {
        "w": random.standard_normal((channels, 3, 3, 3)).astype(f),
        "scale": np.ones(channels, f),
        "bias": np.zeros(channels, f),
        "mean": np.full(channels, 0.1, f),
        "var": np.ones(channels, f),
        "head": random.standard_normal((channels, 5)).astype(f),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "head"], ["logits"], name="head"),
    ]
    return model(nodes, [value("image", [rows, 3, side, side])], [value("logits", [rows, 5])], weights)


def images(count: int, seed: int = 0) -> np.ndarray:
    """Give data for `conv`."""
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def stages_to_engine(least: int = 1) -> str:
    """Write the stages from m.onnx, which is `conv`, to an engine that takes so many to four samples."""
    return f"""\
  network: {{type: parse, inputs: {{model: {{file: m.onnx}}}}}}
  config:
    type: configure
    inputs: {{network: network}}
    params: {{profiles: [{{image: {{min: [{least}, 3, 8, 8], opt: [2, 3, 8, 8], max: [4, 3, 8, 8]}}}}]}}
  engine: {{type: build, inputs: {{config: config}}}}
"""


def overflowing() -> onnx.ModelProto:
    """x [n, 16] -> y, by way of products that float16 cannot hold: every weight fits, and yet the product does not."""
    f = np.float32
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["t"], name="up"),
        helper.make_node("Mul", ["t", "a"], ["u"], name="over"),
        helper.make_node("Div", ["u", "b"], ["v"], name="down"),
        helper.make_node("Relu", ["v"], ["y"], name="relu"),
    ]
    weights = {"a": np.array([1e3], f), "b": np.array([2e6 / 40], f)}
    return model(nodes, [value("x", ["n", 16])], [value("y", ["n", 16])], weights)


def folding() -> onnx.ModelProto:
    """x [n, 3, 6, 6] of about 2e4 -> y, by way of a BatchNormalization with a variance beyond float16.

    Folded into the convolution before it, as builders do, it makes weights of 1e-7, which float16 cannot tell apart.
    """
    f, four, random = np.float32, np.zeros(4, np.float32), np.random.default_rng(0)
    weights = {
        "w": random.uniform(0.5e-3, 1e-3, (4, 3, 3, 3)).astype(f), "half": np.full((1,), 0.5, f),
        "s": four + 1, "b": four, "m": four, "v": four + 9.8e7,
        "w2": random.uniform(10, 20, (2, 4, 1, 1)).astype(f),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Mul", ["c", "half"], ["h"], name="half"),
        helper.make_node("BatchNormalization", ["h", "s", "b", "m", "v"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w2"], ["y"], name="last"),
    ]
    return model(nodes, [value("x", ["n", 3, 6, 6])], [value("y", ["n", 2, 4, 4])], weights)


def doubling(dims: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = x + x."""
    return model([helper.make_node("Add", ["x", "x"], ["y"], name="add")], [value("x", dims, kind)],
                 [value("y", dims, kind)])  # fmt: skip


def with_external(path: Path, proto: onnx.ModelProto, location: str = "weights.bin") -> Path:
    """Save a model whose weights lie in a file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(
        proto, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=location, size_threshold=0
    )
    return path


def branching(kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = (x · m if any x else x) · m, with one weight in the body of an If and outside; x [n, 6]."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weights = {"m": np.random.default_rng(0).standard_normal((6, 6)).astype(dtype), "z": np.zeros((), dtype)}
    product = helper.make_graph([helper.make_node("MatMul", ["x", "m"], ["t"], name="inner")], "then", [],
                                [value("t", None, kind)])  # fmt: skip
    plain = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [value("e", None, kind)])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "z"], ["c"]),
        helper.make_node("If", ["c"], ["i"], name="branch", then_branch=product, else_branch=plain),
        helper.make_node("MatMul", ["i", "m"], ["y"], name="outer"),
    ]
    return model(nodes, [value("x", ["n", 6], kind)], [value("y", ["n", 6], kind)], weights)


def custom() -> onnx.ModelProto:
    """y = the inverse of x [3, 3], by an operator that only onnxruntime-extensions has, and twice that."""
    nodes = [
        helper.make_node("Inverse", ["x"], ["i"], name="inverse", domain="ai.onnx.contrib"),
        helper.make_node("Add", ["i", "i"], ["y"], name="twice"),
    ]
    return model(nodes, [value("x", [3, 3])], [value("y", [3, 3])], domains=("ai.onnx.contrib",))


def reading(rows: Any = 1, name: str = "n") -> onnx.ModelProto:
    """y [rows, 8] = the sum of the first n lines of cache [rows, 64, 8]: what n [1] holds is a size."""
    nodes = [
        helper.make_node("Slice", ["cache", "zero", name, "axis"], ["used"]),
        helper.make_node("ReduceSum", ["used", "axis"], ["y"], keepdims=0),
    ]
    inputs = [value("cache", [rows, 64, 8]), value(name, [1], TensorProto.INT64)]
    return model(nodes, inputs, [value("y", [rows, 8])], {"zero": np.array([0]), "axis": np.array([1])})
