"""Measures what a call of `trtpipe.Engine` costs over ONNX Runtime's own `session.run`, with a model that is tiny."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from common import machine, versions
from onnx import TensorProto, helper

import trtpipe

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS, TURNS = 2000, 15
DOCUMENT = """\
name: call
stages:
  network: {type: parse, inputs: {model: {file: m.onnx}}}
  config: {type: configure, inputs: {network: network}}
  engine: {type: build, inputs: {config: config}}
"""


def microseconds(call: Callable[[], object]) -> float:
    """Give the time of one call, over many."""
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def main() -> None:
    """Print the two medians, taken in turns, and their difference."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [8, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", sides[:1], sides[1:])
    given = np.ones((8, 4), np.float32)
    print(machine())
    print(versions("onnxruntime"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / "m.onnx")
        (folder / "p.yaml").write_text(DOCUMENT)
        with trtpipe.load(folder / "p.yaml", artifacts=folder / "artifacts", backend="onnxruntime") as pipeline:
            made = pipeline.run()["engine"]
            assert made.folder is not None
            session = onnxruntime.InferenceSession(made.path("engine.onnx"), providers=["CPUExecutionProvider"])
            with trtpipe.Engine.open(made.folder) as engine:
                turns = [
                    (microseconds(lambda: session.run(["y"], {"x": given})), microseconds(lambda: engine(x=given)))
                    for _ in range(TURNS)
                ]
    bare, ours = (statistics.median(one) for one in zip(*turns, strict=True))
    least_bare, least_ours = (min(one) for one in zip(*turns, strict=True))
    print("\n| | median, microseconds | least |\n| --- | --- | --- |")
    print(f"| `session.run` | {bare:.1f} | {least_bare:.1f} |")
    print(f"| `engine(x=…)` | {ours:.1f} | {least_ours:.1f} |")
    print(f"| the difference | {ours - bare:.1f} | {least_ours - least_bare:.1f} |")


if __name__ == "__main__":
    main()
