"""Rounding to bfloat16."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trtpipe.models import (
    bfloat16,
)


@given(st.floats(width=32, allow_nan=True, allow_infinity=True))
@settings(max_examples=300)
def test_rounding_to_bfloat16_goes_to_the_nearest(value):
    bits = bfloat16.round_bfloat16(np.array([value], np.float32))
    back = bfloat16.from_bfloat16(bits)[0]
    if np.isnan(value):
        assert np.isnan(back)
        return
    number = int(bits[0])
    neighbours = [n for n in (number - 1, number + 1) if 0 <= n <= 0xFFFF]
    near = [bfloat16.from_bfloat16(np.array([n], np.uint16))[0] for n in neighbours]
    if np.isfinite(value) and np.isfinite(back):
        others = [abs(float(n) - float(value)) for n in near if np.isfinite(n)]
        assert all(abs(float(back) - float(value)) <= other for other in others)
