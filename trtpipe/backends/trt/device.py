"""Arrays in a GPU's memory: read from other libraries, and given to them, without a way through the host.

Sources: CUDA Array Interface version 3 (Numba's documentation); DLPack's dlpack.h, the form without a version.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import elements
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from trtpipe.backends.trt.cuda import Runtime

CUDA = 2
"""DLPack's kDLCUDA."""
_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}


@dataclass(frozen=True, kw_only=True)
class Given:
    """An array of another library: its address on the GPU, its shape, and the name of its type."""

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    owner: Any = field(repr=False)
    """What keeps the memory: hold it until the GPU has read it."""


class DeviceArray:
    """An output in a GPU's memory. Its memory is given back in the order of its stream when the last name of it goes.

    PyTorch takes it by `torch.as_tensor(array, device="cuda")`, CuPy by `cupy.asarray(array)`, both without a copy.
    Work on other streams than `stream` must have ended, or that stream must wait for it, before it goes.
    """

    def __init__(self, cuda: Runtime, name: str, shape: tuple[int, ...], dtype: str, stream: int) -> None:
        self._cuda, self.name, self.shape, self.dtype, self.stream = cuda, name, shape, dtype, stream
        self.nbytes = math.prod(shape) * elements.itemsize(dtype)
        self.pointer = cuda.malloc_async(max(1, self.nbytes), stream)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype in elements.LOST:
            raise AttributeError(f"{self.name} is {self.dtype}, which the CUDA array interface has no name for")
        # 1 and 2 are the default streams there; 0 is not allowed, because it could mean either.
        return {"shape": self.shape, "typestr": np.dtype(self.dtype).str, "data": (self.pointer, False), "version": 3,
                "strides": None, "stream": self.stream or 1}  # fmt: skip

    def __del__(self) -> None:
        pointer, self.pointer = getattr(self, "pointer", 0), 0
        if pointer:
            self._cuda.free_async(pointer, self.stream)


def is_on_device(given: Any) -> bool:
    """Tell whether an array of another library lies in a GPU's memory."""
    if isinstance(given, np.ndarray):
        return False
    if hasattr(given, "__dlpack_device__"):
        return bool(int(given.__dlpack_device__()[0]) == CUDA)
    return hasattr(given, "__cuda_array_interface__")


def current_stream(arrays: list[Any]) -> int:
    """Give the stream on which the arrays' library works now; 0, the default stream, where it does not say."""
    import sys

    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    for one in arrays:
        if torch is not None and isinstance(one, torch.Tensor):
            return int(torch.cuda.current_stream(one.device).cuda_stream)
        if cupy is not None and isinstance(one, cupy.ndarray):
            return int(cupy.cuda.get_current_stream().ptr)
    return 0


def read(name: str, given: Any, stream: int) -> Given:
    """Read an array's address, shape and type; the library makes it ready for `stream`.

    Raises StageFailed for an array whose elements do not lie one after the other, or that lies on another GPU.
    """
    if hasattr(given, "__dlpack__"):
        kind, number = given.__dlpack_device__()
        if int(kind) != CUDA or int(number) != 0:
            raise StageFailed(f"{name}: found an array on device {int(number)} of kind {int(kind)}, expected GPU 0")
        detached = given.detach() if hasattr(given, "detach") else given
        return _from_capsule(name, detached.__dlpack__(stream=stream or 1), given)
    interface = given.__cuda_array_interface__
    shape = tuple(int(n) for n in interface["shape"])
    dtype = np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None and not _is_dense(shape, [int(s) // dtype.itemsize for s in strides]):
        raise StageFailed(f"{name}: found an array with gaps or another order, expected a contiguous one")
    return Given(pointer=int(interface["data"][0]), shape=shape, dtype=dtype.name, owner=given)


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("number", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device", _Device), ("ndim", ctypes.c_int32), ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


def _from_capsule(name: str, capsule: Any, given: Any) -> Given:
    """Read a capsule that is not consumed: it stays the owner's, and its end ends the loan."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(get(capsule, b"dltensor"))
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    if tensor.strides and not _is_dense(shape, [tensor.strides[axis] for axis in range(tensor.ndim)]):
        raise StageFailed(f"{name}: found an array with gaps or another order, expected a contiguous one")
    code = _CODES.get(tensor.dtype.code)
    if code is None or tensor.dtype.lanes != 1:
        raise StageFailed(f"{name}: found DLPack's type {tensor.dtype.code} with {tensor.dtype.lanes} lanes")
    dtype = "bool" if code == "bool" else f"{code}{tensor.dtype.bits}"
    return Given(pointer=(tensor.data or 0) + tensor.byte_offset, shape=shape, dtype=dtype, owner=(capsule, given))


def _is_dense(shape: tuple[int, ...], strides: list[int]) -> bool:
    """Tell whether elements lie one after the other, the last axis first; strides are in elements."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
