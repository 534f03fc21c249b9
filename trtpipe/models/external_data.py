"""External data (weights outside the ONNX file): every reference is checked, and values are read by offset.

They are read here, not by onnx: its loader refuses a file that has several hard links, and in a store every file has.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from trtpipe.errors import StageFailed
from trtpipe.models import dtypes, onnxgraph

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray


def is_external(tensor: onnx.TensorProto) -> bool:
    """Tell whether a tensor's bytes lie in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def place(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """Give location, offset and length (in bytes) of external data; offset and length are -1 if they are no numbers.

    Locations are paths, so `./a//b` is given as `a/b`. A length of 0 says nothing, as in onnx and onnxruntime.
    """
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    try:
        offset = int(fields.get("offset", "0"))
        length = int(fields.get("length", "0")) or dtypes.tensor_bytes(tensor)
    except ValueError:
        offset = length = -1
    return PurePosixPath(location).as_posix() if location else "", offset, length


def external_files(
    model: onnx.ModelProto, folder: Path, *, label: str, known: Collection[str] | None = None, checked: bool = False
) -> tuple[str, ...]:
    """List the external data files of a model (sorted, relative to its folder), after checking every tensor's size.

    `known` are the files that the input is declared to hold, relative to the folder: a file outside them is not
    in the stage's key. A link among them may leave the folder, as in a model cache: the runner knows where it leads.
    `checked` says that this model's links were looked at before. Raises StageFailed listing each tensor whose length is
    not that of its shape and type, and each location that is absolute, leaves the folder (also by another link), is
    missing, or is shorter than the tensors that lie in it.
    """
    needed: dict[str, tuple[int, str]] = {}
    problems: list[str] = []
    for name, tensor in onnxgraph.constants(model):
        if not is_external(tensor):
            if problem := _inside(tensor):
                problems.append(f"tensor {name}: {problem}")
            continue
        if problem := _problem(tensor):
            problems.append(f"tensor {name}: {problem}")
            continue
        location, offset, length = place(tensor)
        end, _ = needed.get(location, (-1, ""))
        if offset + length > end:
            needed[location] = (offset + length, name)
    top = os.path.realpath(folder)
    for location, (end, name) in sorted(needed.items()):
        path = folder / location
        if _leaves(location):
            problems.append(f"external data {location!r} (tensor {name}) points outside the model's folder")
        elif not os.path.lexists(path):
            problems.append(f"external data {location!r} (tensor {name}) is missing; it must lie beside the model")
        elif not checked and location not in (known or ()) and os.path.commonpath([os.path.realpath(path), top]) != top:
            problems.append(f"external data {location!r} (tensor {name}) is a link that leaves the model's folder")
        elif not path.is_file():
            problems.append(f"external data {location!r} (tensor {name}) is no file")
        elif path.stat().st_size < end:
            problems.append(
                f"external data {location!r} is torn: tensor {name} ends at byte {end}, "
                f"the file at byte {path.stat().st_size}"
            )
        elif known is not None and location not in known:
            problems.append(f"external data {location!r} (tensor {name}) is not among the input's files")
    if problems:
        raise StageFailed("\n".join(f"{label}: {p}" for p in problems))
    return tuple(sorted(needed))


def _problem(tensor: onnx.TensorProto) -> str | None:
    """Say what is wrong with a reference by itself, whatever lies there; None if nothing is."""
    dtype, dims = dtypes.dtype_name(tensor.data_type), list(tensor.dims)
    if dtype not in dtypes.BITS or min(dims, default=0) < 0:
        return f"its type and shape are {dtype} {dims}, which cannot lie outside the ONNX file"
    location, offset, length = place(tensor)
    if not location or offset < 0 or length < 0:
        return "its external data has no location, or a bad offset or length"
    if length != dtypes.tensor_bytes(tensor):
        return f"its shape needs {dtypes.tensor_bytes(tensor)} bytes ({dtype} {dims}), it points to {length}"
    return None


def _inside(tensor: onnx.TensorProto) -> str | None:
    """Say how the values in the file itself do not fit their shape; None if they do, or if the type has no size."""
    dtype, dims = dtypes.dtype_name(tensor.data_type), list(tensor.dims)
    bits = dtypes.BITS.get(dtype)
    if bits is None or min(dims, default=0) < 0:
        return None
    needed = dtypes.tensor_bytes(tensor)
    if tensor.HasField("raw_data") or not needed:
        found = len(tensor.raw_data)
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        # A number a value; of complex types two, of those below a byte a byte's worth.
        found = sum(map(len, fields)) * max(8, bits // 2 if dtype.startswith("complex") else bits) // 8
    if found == needed or (not needed and not found):
        return None
    return f"its shape needs {needed} bytes ({dtype} {dims}), the ONNX file holds {found} for it"


def _leaves(location: str) -> bool:
    """Tell whether a location is none below the model's folder."""
    path = PurePosixPath(location)
    return path.is_absolute() or ".." in path.parts or "\\" in location


def array(tensor: onnx.TensorProto, folder: Path) -> NDArray[Any]:
    """Give a tensor's values, memory-mapped where they lie outside and NumPy knows the type.

    The model's external data has been checked (`external_files`). Raises StageFailed if the file has become shorter.
    """
    name = dtypes.dtype_name(tensor.data_type)
    if not is_external(tensor):
        return _values(tensor)
    if name == "bfloat16" or dtypes.BITS.get(name, 0) < 8 or name.startswith("float8"):
        inside = onnx.TensorProto()
        inside.CopyFrom(tensor)
        take_in(inside, folder)
        return _values(inside)
    location, offset, _ = place(tensor)
    shape = tuple(tensor.dims)
    if not math.prod(shape):
        return np.empty(shape, np.dtype(name))
    try:
        return np.memmap(folder / location, np.dtype(name).newbyteorder("<"), "r", offset, shape)
    except ValueError as error:
        raise StageFailed(f"external data {location!r} ends within tensor {tensor.name}: {error}") from None


def take_in(tensor: onnx.TensorProto, folder: Path) -> None:
    """Read a tensor's external data from its file in `folder` into the tensor itself.

    No more is read than its shape and type need. Raises StageFailed if that is not there, and OSError.
    """
    if problem := _problem(tensor):
        raise StageFailed(f"tensor {tensor.name}: {problem}")
    location, offset, size = place(tensor)
    if _leaves(location):
        raise StageFailed(f"external data {location!r} (tensor {tensor.name}) points outside the model's folder")
    with (folder / location).open("rb", buffering=0) as stream:
        tensor.raw_data = _read(stream.fileno(), offset, size)
    if len(tensor.raw_data) != size:
        raise StageFailed(
            f"external data {location!r} is torn: tensor {tensor.name} takes {size} bytes, "
            f"{len(tensor.raw_data)} are there"
        )
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _read(handle: int, offset: int, size: int) -> bytes:
    """Read so many bytes of an open file, fewer if it ends before."""
    size = max(0, min(size, os.fstat(handle).st_size - offset))
    data = os.pread(handle, size, offset)
    while len(data) < size and (more := os.pread(handle, size - len(data), offset + len(data))):
        data += more  # one call reads 2 GiB at the most
    return data


def _values(tensor: onnx.TensorProto) -> NDArray[Any]:
    values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    return values


def not_finite(tensor: onnx.TensorProto, folder: Path) -> tuple[int, int, bool]:
    """Count NaN and infinite values of a tensor, and tell whether it looks like an attention mask.

    A mask holds only zeros and infinities of one sign: there the infinities are intended. A large tensor is read in
    pieces of 4 Mi elements.
    """
    name = dtypes.dtype_name(tensor.data_type)
    if name not in ("float16", "float32", "float64", "bfloat16"):
        return 0, 0, False
    flat = array(tensor, folder).reshape(-1)
    nan = infinite = others = 0
    signs: set[bool] = set()
    step = 2**22
    for start in range(0, flat.size, step):
        piece = flat[start : start + step]
        if name == "bfloat16":
            piece = piece.astype(np.float32)
        finite = np.isfinite(piece)
        if finite.all():
            others += int(np.count_nonzero(piece))
            continue
        bad = piece[~finite]
        found = int(np.isnan(bad).sum())
        nan += found
        infinite += bad.size - found
        signs.update(bool(s) for s in np.unique(np.signbit(bad[~np.isnan(bad)])))
        others += int(np.count_nonzero(piece[finite]))
    return nan, infinite, bool(infinite) and not nan and not others and len(signs) == 1
