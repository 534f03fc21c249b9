"""What is fed in another type: only what loses nothing that matters, and the rest is refused with the value."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from trtpipe.data import conversion
from trtpipe.errors import StageFailed


@pytest.mark.parametrize(
    ("found", "wanted", "own", "good"),
    [
        ("float32", "bfloat16", None, True),
        ("float32", "float8e4m3fn", None, True),
        ("int8", "int4", None, True),
        ("uint8", "uint4", None, True),
        ("float64", "float32", "float64", True),
        ("int64", "int32", "int64", True),
        ("float64", "float32", None, False),
        ("int64", "int32", None, False),
        ("float64", "bfloat16", None, False),
        ("uint8", "int4", None, False),
    ],
)
def test_little_is_converted_by_itself(found, wanted, own, good):
    assert conversion.possible(found, wanted, own) is good


def test_floats_are_rounded_and_nan_stays_nan():
    made = conversion.converted(np.array([1.0009765625, np.nan, np.inf], np.float32), "bfloat16", "x")
    np.testing.assert_array_equal(made.astype(np.float32), np.array([1, np.nan, np.inf], np.float32))
    assert made.dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("values", "wanted", "message"),
    [
        (np.array([1, 8], np.int8), "int4", r"x: found 8 \(int8\), which does not fit int4"),
        (np.array([2**40]), "int32", r"x: found 1099511627776 \(int64\), which does not fit int32"),
        (np.array([1e300]), "float32", r"x: found 1e\+300 \(float64\), which does not fit float32"),
        (np.array([1000], np.float32), "float8e4m3fn", r"x: found 1000.0 \(float32\), which does not fit float8e4m3fn"),
    ],
)
def test_a_value_that_does_not_fit_is_named(values, wanted, message):
    with pytest.raises(StageFailed, match=message):
        conversion.converted(values, wanted, "x")
