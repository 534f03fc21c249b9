"""bfloat16, which NumPy does not have: float32 values to its 16 bits and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def round_bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Round float32 to bfloat16 (nearest, ties to even), given as its 16 bits. NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Give the float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
