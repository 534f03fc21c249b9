"""Types of elements: names, and the bits of those that NumPy's files lose."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtpipe.data import elements
from trtpipe.errors import StageFailed

EVERY = pytest.mark.parametrize("element", [*elements.PLAIN, *elements.LOST])


@EVERY
def test_a_type_has_a_name_and_comes_back_by_it(element):
    dtype = elements.in_memory(element)
    assert elements.name(dtype) == element
    assert elements.name(element) == element
    assert dtype.itemsize == elements.itemsize(element)


def test_the_names_are_those_of_onnx_and_none_of_its_small_types_is_forgotten():
    from trtpipe.models.dtypes import BITS

    assert {name: lost.bits for name, lost in elements.LOST.items()} == {
        name: bits for name, bits in BITS.items() if name not in elements.PLAIN
    }


@pytest.mark.parametrize("dtype", [object, "U3", "S2", [("a", "f4")], "V2", "nonsense"])
def test_what_is_no_number_has_no_name(dtype):
    with pytest.raises(StageFailed, match="found dtype .*, expected one of bool, int8, "):
        elements.name(dtype)


@EVERY
@settings(deadline=None)
@given(shape=st.lists(st.integers(0, 5), max_size=4).map(tuple), seed=st.integers(0, 99))
def test_rows_come_back_as_they_were_packed(element, shape, seed):
    random, dtype = np.random.default_rng(seed), elements.in_memory(element)
    if element in elements.LOST:
        bits = random.integers(0, 1 << elements.LOST[element].bits, shape).astype(elements.stored(element))
        values = np.empty(shape, dtype)
        if elements.per_byte(element) == 1:
            values = bits.view(dtype)
        else:
            elements.unpack(elements.pack(bits.view(dtype), element), element, values)
    else:
        values = random.integers(0, 2, shape).astype(dtype)
    raw = elements.pack(values, element)
    assert raw.dtype == elements.stored(element)
    assert raw.shape == elements.stored_shape(element, shape)
    back = np.empty(shape, dtype)
    if elements.per_byte(element) == 1:
        back[...] = raw.view(dtype)
    else:
        elements.unpack(raw, element, back)
    assert back.tobytes() == values.tobytes()


def test_small_integers_are_packed_row_by_row_the_first_one_lowest():
    rows = np.array([[1, -2, 3], [-8, 7, 0]], ml_dtypes.int4)
    raw = elements.pack(rows, "int4")
    assert raw.tolist() == [[0xE1, 0x03], [0x78, 0x00]]
    back = np.empty((2, 3), ml_dtypes.int4)
    elements.unpack(raw, "int4", back)
    assert back.astype(int).tolist() == [[1, -2, 3], [-8, 7, 0]]
    assert elements.pack(np.array([[1, 2, 3, 0, 1]], ml_dtypes.uint2), "uint2").tolist() == [[0b00111001, 0b01]]


def test_an_array_of_one_axis_has_a_byte_for_each_small_integer():
    raw = elements.pack(np.array([-1, 5], ml_dtypes.int4), "int4")
    assert raw.tolist() == [0x0F, 0x05]
    back = np.empty(2, ml_dtypes.int4)
    elements.unpack(raw, "int4", back)
    assert back.astype(int).tolist() == [-1, 5]


def test_bfloat16_is_stored_as_its_bits():
    assert elements.pack(np.array([1.0, -2.0], ml_dtypes.bfloat16), "bfloat16").tolist() == [0x3F80, 0xC000]


def test_types_that_can_hold_nan_are_known():
    floats = {name for name in (*elements.PLAIN, *elements.LOST) if elements.is_float(elements.in_memory(name))}
    assert floats == {
        "float16", "float32", "float64", "complex64", "complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz",
        "float8e5m2", "float8e5m2fnuz", "float8e8m0",
    }  # fmt: skip


WITHOUT = """
import sys
sys.modules["ml_dtypes"] = None
import numpy as np
from pathlib import Path
from trtpipe.data import tensors
from trtpipe.errors import EnvironmentMissing
from trtpipe.stage import Input
folder = Path(sys.argv[1])
files = tuple(sorted(p.name for p in folder.iterdir()))
found = tensors.open_input(Input(name="d", kind="tensors", folder=folder, files=files, label="d"))
print(found["half"].element, found["half"].row_bytes, found["plain"].read().tolist())
try:
    found["half"].read()
except EnvironmentMissing as error:
    print(error)
print(np.load(folder / "0-00000.npy").tolist())
"""


def test_without_ml_dtypes_other_tensors_are_read_and_such_a_one_says_what_to_install(tmp_path):
    from trtpipe.data import tensors

    tensors.write(tmp_path, {"half": np.ones((2, 3), ml_dtypes.bfloat16), "plain": np.ones(2, np.int8)})
    run = subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True, check=True)
    wanted = "install ml_dtypes to read or write it (pip install ml_dtypes)"
    assert run.stdout.splitlines() == [
        "bfloat16 6 [1, 1]",
        f"NumPy has no bfloat16: {wanted}; the stored bits are plain uint16 arrays",
        "[[16256, 16256, 16256], [16256, 16256, 16256]]",
    ]
