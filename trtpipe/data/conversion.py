"""Values of one element type as another, where what is fed is not of the type that is wanted.

Little is converted by itself: only where the model's own type is not the runtime's, or where files cannot hold the type
that is wanted. Whatever does not fit is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import elements
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIDER = {"int4": "int8", "int2": "int8", "uint4": "uint8", "uint2": "uint8"}


def possible(found: str, wanted: str, own: str | None = None) -> bool:
    """Tell whether values of type `found` may be fed where `wanted` is; `own` is the type in the model, if another.

    Types that `.npy` files cannot hold may be fed as float32, and small whole numbers as int8 or uint8.
    """
    if found == own:
        return True
    return found == (_WIDER.get(wanted, "float32") if wanted in elements.LOST else None)


def converted(values: NDArray[Any], wanted: str, label: str) -> NDArray[Any]:
    """Give values in the type `wanted`, floats rounded.

    Raises StageFailed if whole numbers do not fit, or a finite value would become infinite or NaN.
    """
    dtype = elements.in_memory(wanted)
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        made = values.astype(dtype)
        back = made.astype(values.dtype)
    finite = np.isfinite(values) & ~np.isfinite(back) if elements.is_float(values.dtype) else None
    lost = back != values if finite is None else finite
    if lost.any():
        value = values[lost].reshape(-1)[0]
        raise StageFailed(f"{label}: found {value} ({elements.name(values.dtype)}), which does not fit {wanted}")
    return made
