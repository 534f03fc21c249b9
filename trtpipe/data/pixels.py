"""The pixels of a picture as the values of a tensor: resized, put on a canvas, scaled and normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trtpipe.data.pictures import pillow
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trtpipe.data.resizing import Channels, Fit, Resize


def placed(image: Any, place: Fit, resize: Resize, color: Literal["RGB", "BGR", "L"]) -> NDArray[np.float32]:
    """Resize an upright RGB `PIL.Image`, and put it on its canvas: padded, cropped or both.

    Gives [height, width, channels] with pixel values from 0 to 255.
    """
    if color == "L":
        image = image.convert("L")
    method = getattr(resize, "interpolation", "bilinear")
    if image.size != place.resized:
        image = image.resize(place.resized, getattr(pillow().Resampling, method.upper()))
    pixels = np.atleast_3d(np.asarray(image))
    if color == "BGR":
        pixels = pixels[:, :, ::-1]
    width, height = place.canvas
    values = np.empty((height, width, pixels.shape[2]), np.float32)
    values[:] = getattr(resize, "pad", 0.0)
    top, left = max(place.top, 0), max(place.left, 0)
    part = pixels[max(-place.top, 0) :, max(-place.left, 0) :][: height - top, : width - left]
    values[top : top + part.shape[0], left : left + part.shape[1]] = part
    return values


def normalize(values: NDArray[np.float32], *, scale: float, mean: Channels, std: Channels) -> None:
    """Make each value (value * scale - mean) / std, in place; the channels are the last axis."""
    values *= np.float32(scale)
    values -= np.asarray(mean, np.float32)
    values /= np.asarray(std, np.float32)


def as_sample(values: NDArray[np.float32], layout: Literal["NCHW", "NHWC"], dtype: str) -> NDArray[Any]:
    """Give [height, width, channels] as one sample in the layout and dtype asked, without the sample axis.

    Raises StageFailed if the dtype cannot hold the values.
    """
    if layout == "NCHW":
        values = values.transpose(2, 0, 1)
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(values, dtype=dtype)
    if not np.isfinite(result).all():
        raise StageFailed(f"{dtype} cannot hold the normalised pixels (up to {np.abs(values).max():.6g})")
    return result
