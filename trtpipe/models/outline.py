"""What a command must know of an ONNX model before it writes a document for it; remembered by the model's content."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from trtpipe.errors import PipelineInvalid, StageFailed
from trtpipe.formatting import size_text

if TYPE_CHECKING:
    from trtpipe.store.state import State

LARGEST = 2**31 - 1
"""Bytes of the largest message that protobuf reads."""
_REMEMBERED = "outline 1"


class Side(NamedTuple):
    """An input or an output: `dims` has a number for a fixed axis and a name for a dynamic one; None: unknown rank."""

    name: str
    dtype: str
    dims: tuple[int | str, ...] | None

    @property
    def dynamic(self) -> bool:
        """Whether an axis has no fixed size."""
        return any(isinstance(d, str) for d in self.dims or ())

    @property
    def names(self) -> tuple[str | None, ...]:
        """None: what an axis of fixed size is called is not kept, and the others have their names as dims."""
        return ()

    @property
    def shape_input(self) -> bool:
        """False: whether values are sizes is known only after parse."""
        return False

    @property
    def text(self) -> str:
        """The dims for people, such as `[batch, 3, 224, 224]`."""
        return "[…]" if self.dims is None else f"[{', '.join(map(str, self.dims))}]"


class Outline(NamedTuple):
    """A model's inputs and outputs in its own order, and its content's SHA-256."""

    sha256: str
    inputs: tuple[Side, ...]
    outputs: tuple[Side, ...]


def read(path: str, state: State) -> Outline:
    """Give a model's outline; onnx is imported only for a model that was not seen before.

    Raises PipelineInvalid for a file that is not there, is no ONNX model, or is larger than protobuf reads.
    """
    check(path)
    try:
        sha256 = state.file_digest(os.path.abspath(path))
    except OSError as error:
        raise PipelineInvalid(f"{path} cannot be read: {error.strerror}") from None
    known = state.derived(_REMEMBERED, sha256)
    if known is None:
        known = json.dumps(_look(path))
        state.remember_derived(_REMEMBERED, sha256, known)
    sides = [
        tuple(Side(name, dtype, None if dims is None else tuple(dims)) for name, dtype, dims in side)
        for side in json.loads(known)
    ]
    return Outline(sha256, *sides)


def check(path: str) -> None:
    """Refuse what cannot be an ONNX model before it is read: no file, a folder, an empty file, more than 2 GiB.

    Raises PipelineInvalid.
    """
    if not os.path.exists(path):
        from trtpipe.words import nearest

        folder = os.path.dirname(path)
        there = [n for n in (os.listdir(folder or ".") if os.path.isdir(folder or ".") else []) if n.endswith(".onnx")]
        close = nearest(os.path.basename(path), there)
        hint = f', did you mean "{os.path.join(folder, close)}"?' if close else ""
        raise PipelineInvalid(f"{path}: there is no such file{hint}")
    if not os.path.isfile(path):
        raise PipelineInvalid(
            f"{path}: found {'a folder' if os.path.isdir(path) else 'no file'}, expected an ONNX file"
        )
    size = os.path.getsize(path)
    if size > LARGEST:
        raise PipelineInvalid(
            f"{path}: found {size_text(size)}, and an ONNX file holds at most 2 GiB; keep its weights beside it: "
            "onnx.save_model(model, path, save_as_external_data=True)"
        )


def _look(path: str) -> list[list[tuple[str, str, list[int | str] | None]]]:
    from pathlib import Path

    from trtpipe.models import onnxfile, signature

    try:
        inputs, outputs = signature.of(onnxfile.load(Path(path)))
    except StageFailed as error:
        raise PipelineInvalid(f"{error}{_other(path)}") from None
    return [[(t.name, t.dtype, None if t.dims is None else list(t.dims)) for t in side] for side in (inputs, outputs)]


def _other(path: str) -> str:
    """Say what a file with another ending probably is."""
    what = {
        ".yaml": "it looks like a pipeline: trtpipe run", ".yml": "it looks like a pipeline: trtpipe run",
        ".pt": "it looks like a PyTorch file: export it first, with a stage `export`",
        ".pth": "it looks like a PyTorch file: export it first, with a stage `export`",
        ".plan": "it looks like an engine, which is built already: trtpipe inspect",
        ".engine": "it looks like an engine, which is built already: trtpipe inspect",
        ".trt": "it looks like an engine, which is built already: trtpipe inspect",
    }.get(os.path.splitext(path)[1].lower())  # fmt: skip
    return "" if what is None else f"; {what}{'' if what.endswith('`') else f' {path}'}"
