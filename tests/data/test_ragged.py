"""Ragged tensors come back as they were written, whole, in blocks and sample by sample."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import as_input
from trtpipe.data import tensors

DTYPES = [np.bool_, np.int8, np.int64, np.float32, np.complex64, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2,
          ml_dtypes.int4, ml_dtypes.uint2, ml_dtypes.float4_e2m1fn]  # fmt: skip


@st.composite
def many(draw):
    rank = draw(st.integers(0, 3))
    shapes = draw(st.lists(st.tuples(*[st.integers(0, 4)] * rank), min_size=1, max_size=12))
    dtype = draw(st.sampled_from(DTYPES))
    return [(np.arange(int(np.prod(shape))) % 2).reshape(shape).astype(dtype) for shape in shapes]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=many(), size=st.integers(1, 200), data=st.data())
def test_samples_come_back_as_they_were_written(samples, size, data):
    with tempfile.TemporaryDirectory() as folder:
        tensors.write(Path(folder), {"x": samples, "y": np.arange(3)})
        found = tensors.open_input(as_input("d", Path(folder)))["x"]
        assert (len(found), found.rank, found.dtype) == (len(samples), samples[0].ndim, samples[0].dtype)
        start = data.draw(st.integers(0, len(samples)))
        stop = data.draw(st.integers(start, len(samples)))
        with found.reader() as reader:
            blocks = list(reader.blocks(size))
            some = reader.rows(start, stop)
        assert all(len(block) == 1 or sum(row.nbytes for row in block) <= size for block in blocks)
        for got, wanted in (([row for block in blocks for row in block], samples), (some, samples[start:stop])):
            assert [row.shape for row in got] == [row.shape for row in wanted]
            assert [row.tobytes() for row in got] == [row.tobytes() for row in wanted]


def test_a_sample_that_is_not_there_is_an_error(tmp_path):
    tensors.write(tmp_path, {"x": [np.ones(1)]})
    with tensors.open_input(as_input("d", tmp_path))["x"].reader() as reader, pytest.raises(IndexError):
        reader.row(1)


def test_a_sample_without_elements_may_have_an_axis_of_any_size(tmp_path):
    tensors.write(tmp_path, {"x": [np.empty((10**12, 0), np.float32)]})
    with tensors.open_input(as_input("d", tmp_path))["x"].reader() as reader:
        assert reader.row(0).shape == (10**12, 0)
