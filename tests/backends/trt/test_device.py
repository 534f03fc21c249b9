"""Arrays of other libraries are read by address: by DLPack, which NumPy exports too, and by the CUDA interface."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.backends.trt import device
from trtpipe.errors import StageFailed


def capsule(array):
    """Read an array as NumPy exports it: the same form as a GPU's, but for the device that it names."""
    return device._from_capsule("x", array.__dlpack__(), array)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool"])
def test_a_dlpack_capsule_gives_address_shape_and_type(dtype):
    array = np.ones((2, 3, 4), dtype)
    found = capsule(array)
    assert (found.pointer, found.shape, found.dtype) == (array.ctypes.data, (2, 3, 4), dtype)


def test_a_part_of_an_array_begins_where_it_begins():
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[2:]
    assert capsule(array).pointer == array.ctypes.data
    assert capsule(np.array(1, np.float32)).shape == ()


def test_the_memory_is_held_as_long_as_what_was_read():
    array = np.arange(5, dtype=np.float32)
    given, where = capsule(array), array.ctypes.data
    del array
    assert np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 5).from_address(where)).tolist() == [0, 1, 2, 3, 4]
    assert given.owner is not None


@pytest.mark.parametrize("array", [np.ones((4, 6), np.float32)[:, ::2], np.ones((4, 6), np.float32).T])
def test_gaps_and_other_orders_are_refused(array):
    with pytest.raises(StageFailed, match="x: found an array with gaps or another order, expected a contiguous one"):
        capsule(array)


def test_a_type_that_nobody_knows_is_refused():
    with pytest.raises(StageFailed, match="x: found DLPack's type 5 with 1 lanes"):
        capsule(np.ones(2, np.complex64))


class Interface:
    """What a library exports that has the CUDA array interface alone."""

    def __init__(self, shape, strides=None, typestr="<f4"):
        self.__cuda_array_interface__ = {
            "shape": shape, "typestr": typestr, "data": (4096, False), "version": 3, "strides": strides,
        }  # fmt: skip


def test_the_cuda_array_interface_is_read_by_its_fields():
    for strides in (None, (48, 16, 4)):
        found = device.read("x", Interface((2, 3, 4), strides), 0)
        assert (found.pointer, found.shape, found.dtype) == (4096, (2, 3, 4), "float32")
    with pytest.raises(StageFailed, match="found an array with gaps"):
        device.read("x", Interface((2, 3, 4), (96, 32, 8)), 0)


def test_only_what_lies_on_a_gpu_is_taken_for_that():
    assert device.is_on_device(Interface((2,)))
    assert not device.is_on_device(np.ones(2))
    assert not device.is_on_device([1.0])
    assert device.current_stream([Interface((2,))]) == 0
