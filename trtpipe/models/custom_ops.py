"""Libraries of operators that ONNX Runtime or TensorRT does not have: native code that travels with the model.

The first stage that reads the model takes them and puts them beside it; every later artifact has them too, so that an
engine cannot meet others than those it was built with.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from trtpipe import stage
from trtpipe.models import ort_cpu

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from trtpipe.stage import Context, Input

FOLDER = "ops"
PLUGINS = "plugins"
"""TensorRT's backend looks for this folder beside the model, or beside the plan."""


def take(ctx: Context, source: Input, custom_ops: Sequence[str], plugins: Sequence[str] = ()) -> None:
    """Put declared libraries, and those that came with a model, into the artifact; ONNX Runtime uses its own from now.

    A user's own folder brings none: what is native code is declared.
    """
    for folder, declared in ((FOLDER, custom_ops), (PLUGINS, plugins)):
        came = _brought(source, folder)
        for name in came:
            stage.put(source.path(name), ctx.out / name, link=True)
        for number, path in enumerate(declared, len(came)):
            name = f"{folder}/{number:02}-{PurePosixPath(path).name}"
            stage.put(ctx.sources[path], ctx.out / name, link=False)
    ort_cpu.use_custom_ops(sorted((ctx.out / FOLDER).glob("*")))


def use(ctx: Context, declared: Sequence[str], models: Iterable[Input]) -> None:
    """Let ONNX Runtime use declared libraries, and those that came with some models, for a stage that makes none."""
    came = [source.path(name) for source in models for name in _brought(source, FOLDER)]
    ort_cpu.use_custom_ops([*came, *(ctx.sources[path] for path in declared)])


def _brought(source: Input, folder: str) -> list[str]:
    if source.kind in ("file", "folder"):
        return []
    return sorted(name for name in source.files if name.startswith(f"{folder}/"))


def carry(ctx: Context, source: Input) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Put an input's libraries into the artifact too, and let ONNX Runtime use its own.

    Gives the names of these, and those of TensorRT's plugins.
    """
    names = [
        tuple(sorted(name for name in source.files if name.startswith(f"{folder}/"))) for folder in (FOLDER, PLUGINS)
    ]
    for name in (*names[0], *names[1]):
        stage.put(source.path(name), ctx.out / name, link=source.kind != "folder")
    ort_cpu.use_custom_ops([source.path(name) for name in names[0]])
    return names[0], names[1]


def beside(plan: Path, names: tuple[str, ...]) -> None:
    """Let ONNX Runtime use the libraries that an engine's manifest names; none from elsewhere than its own folder."""
    ort_cpu.use_custom_ops([plan.parent / FOLDER / PurePosixPath(name).name for name in names])
