"""Imports point down only."""

from __future__ import annotations

import ast

import pytest

from tests.helpers import PROJECT

LAYERS = [
    {"errors", "events", "key", "reasons", "variant", "columns", "__init__"},
    {"state", "environment", "store", "locks", "quarantine", "signing", "transport", "measure", "parallel", "backends",
     "extents"},
    {"stage", "entrypoint", "onnxfile", "tensors", "steps", "precision", "planheader", "preflight", "pictures", "draw",
     "tradeoff", "metrics", "lower", "working", "readable", "truth", "gates", "trial", "quantization", "comparing",
     "bisection", "modelopt", "runtimes"},
    {"stages", "stage types"},
    {"document", "matrix", "pipeline", "schema", "inputs", "remote"},
    {"runner", "worker", "lock", "history", "care", "verify", "sharing", "attest"},
    {"cli", "__main__", "console", "doctor", "bench", "reference", "upkeep"},
]  # fmt: skip
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
DOOR = {"polygraphy": "backends", "tensorrt": "backends", "tensorrt_rtx": "backends"}


def modules():
    return sorted((PROJECT / "trtpipe").rglob("*.py"))


def name_of(path):
    relative = path.relative_to(PROJECT / "trtpipe")
    if relative.parts[0] == "stages":
        return "stages" if path.name == "__init__.py" else "stage types"
    if relative.parts[0] == "backends":
        return "backends" if path.name == "__init__.py" else "runtimes"
    return path.stem


def is_module(name):
    return (PROJECT / "trtpipe" / "backends" / f"{name}.py").exists()


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PROJECT)))
def test_a_module_imports_only_from_its_layer_or_below(path):
    here = LEVEL[name_of(path)]
    for imported in imports(path):
        parts = imported.split(".")
        if parts[0] == "trtpipe" and len(parts) > 1:
            inner = parts[1] == "backends" and len(parts) > 2 and parts[2][0].islower() and is_module(parts[2])
            part = "runtimes" if inner else parts[1]
            assert LEVEL.get(part, 0) <= here, f"{path.name} imports {imported} from a layer above"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PROJECT)))
def test_only_backends_import_the_runtimes(path):
    for imported in imports(path):
        door = DOOR.get(imported.split(".")[0])
        assert door is None or path.parent.name == door, f"{path.name} imports {imported}"
