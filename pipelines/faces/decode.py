"""What belongs to CenterFace alone: from its maps to boxes. The rest is trtpipe's `nms`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAT, SIZE, SHIFT = "537", "538", "539"


def decode(
    arrays: dict[str, NDArray[np.float32]],
    samples: list[dict[str, Any]],  # noqa: ARG001  boxes stay in the prepared picture: nms maps them back
    *,
    stride: int = 4,
    threshold: float = 0.5,
) -> dict[str, list[NDArray[np.float32]]]:
    """Read boxes off the maps of an object-as-a-point detector.

    `arrays` holds three maps a sample, each a `stride`-th of the picture's height h and width w: the probability
    that a cell is the middle of a face [n, 1, h, w], the natural logarithm of the box's height and width in cells
    [n, 2, h, w], and the middle's shift (y, x) inside its cell [n, 2, h, w]. A cell with more than `threshold`
    says a box. Gives `boxes`, one [m, 4] a sample (x1, y1, x2, y2 in pixels of the prepared picture), and
    `scores`, one [m] a sample. Source: "Objects as Points" (arXiv 1904.07850), section 3 and 4.
    """
    boxes, scores = [], []
    for heat, size, shift in zip(arrays[HEAT], arrays[SIZE], arrays[SHIFT], strict=True):
        rows, columns = np.nonzero(heat[0] > threshold)
        cells = np.stack([rows, columns])
        middle = (cells + shift[:, rows, columns] + 0.5) * stride
        half = np.exp(size[:, rows, columns]) * stride / 2
        corners = np.concatenate([(middle - half)[::-1], (middle + half)[::-1]])
        boxes.append(corners.T.astype(np.float32))
        scores.append(heat[0, rows, columns].astype(np.float32))
    return {"boxes": boxes, "scores": scores}
