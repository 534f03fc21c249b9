"""The head of a .npy file: NumPy reads ours, and we read NumPy's."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtpipe.data import elements, npy
from trtpipe.errors import StageFailed

SHAPES = st.lists(st.integers(0, 10**12), max_size=6).map(tuple)


@settings(deadline=None)
@given(st.sampled_from(elements.PLAIN), SHAPES)
def test_numpy_reads_a_head_as_it_was_written(dtype, shape):
    stream = io.BytesIO(npy.head(np.dtype(dtype), shape))
    assert np.lib.format.read_magic(stream) == (1, 0)
    assert np.lib.format.read_array_header_1_0(stream) == (shape, False, np.dtype(dtype))
    assert stream.tell() % npy.ALIGNED == 0
    assert stream.read() == b""


@settings(deadline=None)
@given(SHAPES.filter(bool), st.integers(0, 10**19))
def test_a_head_is_as_long_for_any_number_of_rows(shape, rows):
    assert len(npy.head(np.dtype("float32"), shape)) == len(npy.head(np.dtype("float32"), (rows, *shape[1:])))


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 3, 4)])
def test_what_numpy_saves_is_read(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.ones(shape, np.int16))
    head = npy.of_file(tmp_path / "x.npy", "x.npy")
    assert (head.dtype, head.shape) == (np.dtype("int16"), shape)
    assert head.start + 2 * int(np.prod(shape)) == (tmp_path / "x.npy").stat().st_size


@pytest.mark.parametrize("text", ["{'descr': '<f4', 'shape': (3,", "(" * 5000, "{'descr': 3}", "[", "1 +", "\x00"])
def test_a_head_that_is_none_is_refused_whatever_numpy_says_of_it(text):
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    with pytest.raises(StageFailed, match=r"x\.npy is no \.npy array, or a torn one"):
        npy.read(io.BytesIO(data), "x.npy", len(data))
