"""Time PyTorch for bench/gpu.py: ms a batch on the device, by CUDA events; or --export FILE to write the model."""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch

RECIPES = Path(__file__).resolve().parent.parent / "pipelines"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, RECIPES / name / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load().eval()


def export(name: str, path: str) -> None:
    """Write a recipe's model at opset 17, which TensorRT 8.6 reads."""
    shape = (2, 3, 224, 224) if name == "resnet50" else (2, 1, 8, 8)
    torch.onnx.export(
        load(name), (torch.zeros(shape),), path, input_names=["image"], output_names=["logits"], opset_version=17,
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}}, dynamo=False,
    )  # fmt: skip


def timed(call: Any, seconds: float) -> float:
    for _ in range(5):
        call()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(5):
        call()
    torch.cuda.synchronize()
    count = max(10, int(seconds / ((time.perf_counter() - begun) / 5)))
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / count


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--batches", default="1,8,128")
    options.add_argument("--seconds", type=float, default=2.0)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--export", nargs=2, metavar=("RECIPE", "FILE"))
    args = options.parse_args()
    warnings.simplefilter("ignore")
    if args.export:
        export(*args.export)
        return
    model = load("resnet50").cuda()
    half = load("resnet50").cuda().half().to(memory_format=torch.channels_last)
    found: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for batch in (int(b) for b in args.batches.split(",")):
            x = torch.rand((batch, 3, 224, 224), device="cuda")
            mine = found.setdefault(str(batch), {})
            # PyTorch lets cuDNN round convolutions to TF32 unless told not to.
            for name, tf32 in (("eager_fp32", False), ("eager_default_tf32_conv", True)):
                torch.backends.cudnn.allow_tf32 = tf32
                mine[name] = statistics.median(timed(partial(model, x), args.seconds) for _ in range(args.runs))
            if batch == 1:
                compiled = torch.compile(half, mode="reduce-overhead")
                y = x.half().to(memory_format=torch.channels_last)
                mine["compile_reduce_overhead_fp16"] = statistics.median(
                    timed(partial(compiled, y), args.seconds) for _ in range(args.runs)
                )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
