"""How much disk a model takes on its way from a file to a result, and how long the way is.

A model with 200 MB of weights in external data goes through parse, configure, build, allocate and infer on ONNX
Runtime. What is counted is what `du` counts: the blocks of all that lies in the store, a file with several links once.
ONNX Runtime's plan is its optimised model, weights included, which is another content: so 2.0 times the model's bytes
are the least.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import common

GOAL = 2.1
WIDTH = 1024
STAGES = {
    "network": {"type": "parse", "inputs": {"model": {"file": "model.onnx"}}},
    "config": {
        "type": "configure",
        "inputs": {"network": "network"},
        "params": {"profiles": [{"x": {"min": [1, WIDTH], "opt": [2, WIDTH], "max": [4, WIDTH]}}]},
    },
    "engine": {"type": "build", "inputs": {"config": "config"}},
    "buffers": {"type": "allocate", "inputs": {"engine": "engine"}, "params": {"shapes": {"x": [2, WIDTH]}}},
    "scores": {"type": "infer", "inputs": {"engine": "engine", "buffers": "buffers", "data": {"file": "data.npz"}}},
}


def model(folder: Path, layers: int) -> int:
    """Write a model of matrix products with its weights in external data, and data for it; give the model's bytes."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5), f"w{n}")
        for n in range(layers)
    ]
    nodes = [helper.make_node("MatMul", [f"t{n}", f"w{n}"], [f"t{n + 1}"]) for n in range(layers)]
    nodes[0].input[0], nodes[-1].output[0] = "x", "y"
    sides = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", WIDTH])] for n in ("x", "y")]
    graph = helper.make_graph(nodes, "products", *sides, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(made, folder / "model.onnx", save_as_external_data=True, location="weights.bin")
    np.savez(folder / "data.npz", x=random.standard_normal((4, WIDTH), np.float32))
    return sum((folder / name).stat().st_size for name in ("model.onnx", "weights.bin"))


def taken(folder: Path) -> dict[str, int]:
    """Give the bytes on the disk of each part of a store, as `du` counts them."""
    seen: set[tuple[int, int]] = set()
    parts: dict[str, int] = {}
    for top, folders, names in os.walk(folder):
        folders.sort()  # blobs before the trees that are linked to them
        part = Path(top).relative_to(folder).parts[:1]
        for name in names:
            status = os.lstat(os.path.join(top, name))
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                parts[(*part, name)[0]] = parts.get((*part, name)[0], 0) + status.st_blocks * 512
    return parts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--layers", type=int, default=50, help="how many products; the weights of one are 4 MiB")
    parser.add_argument("--package", default=str(common.PROJECT), help="another checkout to measure")
    parser.add_argument("--folder", help="the disk on which to work")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as top:
        folder = Path(top)
        size = model(folder, args.layers)
        document = {"name": "disk", "backend": "onnxruntime", "stages": STAGES}
        (folder / "disk.yaml").write_text(json.dumps(document))
        command = [sys.executable, "-m", "trtpipe", "run", "disk.yaml", "--quiet", "--artifacts"]
        env = {**os.environ, "PYTHONPATH": args.package}
        times = []
        for turn in range(args.times):
            store = folder / f"store{turn}"
            os.sync()
            times.append(common.seconds([*command, store.name], cwd=folder, env=env))
        again = [common.seconds([*command, store.name], cwd=folder, env=env) for _ in range(args.times)]
        parts = taken(store)
    factor = sum(parts.values()) / size
    rows = [["what", "found", "goal"]]
    rows += [["the store over the model's bytes", f"{factor:.2f}", _verdict(factor)]]
    rows += [[f"{part}/ over the model's bytes", f"{n / size:.2f}", ""] for part, n in parts.items() if n > size / 100]
    rows += [["parse to infer, s", common.spread(times, 1, 2), ""], ["again, s", common.spread(again, 1, 2), ""]]
    notes = [f"A model of {size / 1e6:.0f} MB; median (lowest to highest) of {args.times} runs, each in a new store. "
             + common.versions("onnx", "onnxruntime") + "; " + common.machine()]  # fmt: skip
    common.show("The disk that a model takes", rows, notes)


def _verdict(factor: float) -> str:
    return f"{GOAL}: {'met' if factor <= GOAL else 'MISSED'}"


if __name__ == "__main__":
    main()
