"""Reading and writing ONNX files.

Models are loaded without their external data unless a function says otherwise, so that memory follows the graph and
not the weights. `external_data.array` gives the values of one weight.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trtpipe import stage
from trtpipe.documents.config import Config
from trtpipe.documents.manifest import Manifest
from trtpipe.documents.network import Network
from trtpipe.errors import StageFailed
from trtpipe.models import dtypes, external_data, onnxgraph

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.stage import Input

MODEL = "model.onnx"
PARSED = "parsed"
"""The folder in artifacts of a model as it was parsed, beside what was made of it."""
INLINE_LIMIT = 1536 * 2**20
"""Weights above this many bytes go into an external file: protobuf itself ends at 2 GiB."""


def of_input(given: Input) -> Path:
    """Give the path of an input's model: an artifact's `model.onnx`, or the only ONNX file from outside.

    Raises StageFailed if there is not just one.
    """
    return given.path(MODEL) if MODEL in given.files else given.one(".onnx")


def load(path: Path, *, label: str | None = None) -> onnx.ModelProto:
    """Read an ONNX file without its external data.

    Raises StageFailed that names the file (or `label`) if it is missing, empty, torn or no ONNX model.
    """
    name = label or path.name
    try:
        size = path.stat().st_size
        if not size:
            raise StageFailed(f"{name} is empty; expected an ONNX model")
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise StageFailed(f"{name} cannot be read: {error.strerror or error}") from error
    except (DecodeError, ValueError, RuntimeError) as error:
        raise StageFailed(f"{name} is no ONNX model, or a torn one ({size} bytes): {error}") from error
    # Protobuf reads many other files, and a file cut between two fields, without an error. So check for what every
    # model has.
    missing = [
        what
        for what, there in (
            ("an IR version", model.ir_version > 0),
            ("an opset", len(model.opset_import) > 0),
            ("a graph with outputs", len(model.graph.output) > 0),
        )
        if not there
    ]
    if missing:
        raise StageFailed(f"{name} is no ONNX model, or a torn one ({size} bytes): it has not {', nor '.join(missing)}")
    return model


class Opened(NamedTuple):
    """A stage's model: its path, its name in messages, the model without external data, the external data files."""

    path: Path
    label: str
    model: onnx.ModelProto
    data: tuple[str, ...]


def open_input(given: Input) -> Opened:
    """Open an input's model and check its external data. Raises StageFailed as `load` and `external_files` do."""
    path = of_input(given)
    label = given.label if given.kind == "file" else path.name
    model = load(path, label=label)
    data = external_data.external_files(model, path.parent, label=label, known=given.files)
    return Opened(path, label, model, data)


def copy_model(path: Path, out: Path, files: Iterable[str], *, link: bool) -> None:
    """Put a model into the folder `out` as `model.onnx`, with its external data under its own relative names.

    Raises StageFailed if one of those names is taken by the artifact itself.
    """
    for name in files:
        if name in (MODEL, Network.file, Config.file, Manifest.file):
            raise StageFailed(f"{path.name}: its external data is called {name}, which the artifact needs; rename it")
        stage.put(path.parent / name, out / name, link=link)
    stage.put(path, out / MODEL, link=link)


def save(model: onnx.ModelProto, path: Path, *, limit: int | None = None) -> None:
    """Write a model. Inline weights that take more than `limit` bytes (INLINE_LIMIT) in all go to `<name>.data`.

    The bytes depend on the model alone. The model in memory loses the weights that went outside.
    """
    tensors = [t for t in onnxgraph.initializers(model) if not external_data.is_external(t)]
    inline = sum(dtypes.tensor_bytes(tensor) for tensor in tensors)
    if inline > (INLINE_LIMIT if limit is None else limit):
        data = path.name + ".data"
        with (path.parent / data).open("wb") as stream:
            for tensor in tensors:
                if dtypes.tensor_bytes(tensor) < 1024 or dtypes.dtype_name(tensor.data_type) == "string":
                    continue
                if not tensor.HasField("raw_data"):
                    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
                stream.write(bytes(-stream.tell() % 4096))  # so that every runtime can map it
                onnx.external_data_helper.set_external_data(tensor, data, stream.tell(), len(tensor.raw_data))
                stream.write(tensor.raw_data)
                tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString(deterministic=True))


def inline(path: Path, origin: Path) -> None:
    """Make a saved model independent of the folder `origin`: external data there is copied into the model or beside it.

    A model that onnxruntime optimised still refers to the external data of the model that it was made from.
    """
    model = load(path)
    own = path.name + ".data"
    for _, tensor in onnxgraph.constants(model):
        if external_data.is_external(tensor):
            folder = path.parent if external_data.place(tensor)[0] == own else origin
            external_data.take_in(tensor, folder)
    (path.parent / own).unlink(missing_ok=True)
    save(model, path)


def external_locations(path: str | Path) -> list[str]:
    """List the external data files that an ONNX file names, unchecked and sorted; none if it is no ONNX file.

    Each is relative to its folder, with `.` and double slashes left out. For callers that need the names before the
    model is checked. `external_files` checks them.
    """
    try:
        model = load(Path(path))
    except StageFailed:
        return []
    outside = [tensor for _, tensor in onnxgraph.constants(model) if external_data.is_external(tensor)]
    return sorted({external_data.place(tensor)[0] for tensor in outside} - {""})


def whole(path: Path) -> onnx.ModelProto:
    """Load a model with its external data, which `open_input` has checked or we have written.

    Raises StageFailed as `load` and `external_files` do, and OSError.
    """
    model = load(path)
    if external_data.external_files(model, path.parent, label=path.name, checked=True):
        for _, tensor in onnxgraph.constants(model):
            if external_data.is_external(tensor):
                external_data.take_in(tensor, path.parent)
    return model
