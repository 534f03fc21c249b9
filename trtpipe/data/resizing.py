"""How pictures get one size: what a document says of it, and where each picture then lies in the prepared one.

This file imports no NumPy, because a document is checked without it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from trtpipe.documents.samples import Sample

Positive = Annotated[int, Meta(ge=1)]
HeightWidth = Annotated[tuple[Positive, Positive], Meta(description="Height and width in pixels.")]
Interpolation = Annotated[
    Literal["nearest", "bilinear", "bicubic", "lanczos", "box"],
    Meta(description="How pixels are resampled; all but nearest are widened when shrinking, against aliasing."),
]
Channels = float | tuple[float, ...]
Pad = Annotated[
    Channels,
    Meta(description="What fills the border, in pixel values 0..255: a number, or one a channel in `color`'s order."),
]
Multiple = Annotated[int, Meta(ge=1, description="Sides are made multiples of this many pixels.")]


class _Resize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="mode"):
    pass


class KeepSize(_Resize, frozen=True, tag="keep"):
    """Pictures keep their size, which must be one for all."""


class ExactSize(_Resize, frozen=True, tag="exact"):
    """Stretched or squeezed to a size."""

    size: HeightWidth
    interpolation: Interpolation = "bilinear"


class Letterbox(_Resize, frozen=True, tag="letterbox"):
    """Made as large as fits into a size with the sides' ratio kept; the rest is a border."""

    size: HeightWidth
    pad: Pad = 114.0
    align: Annotated[Literal["center", "top_left"], Meta(description="Where the picture lies in the size.")] = "center"
    interpolation: Interpolation = "bilinear"


class ShorterSide(_Resize, frozen=True, tag="shorter_side"):
    """The shorter side gets a length, the other follows; each is rounded to the nearest multiple of `multiple_of`."""

    size: Annotated[int, Meta(ge=1, description="The length of the shorter side in pixels.")]
    multiple_of: Multiple = 1
    interpolation: Interpolation = "bilinear"


class FixedHeight(_Resize, frozen=True, tag="height"):
    """Lines of text: one height, the width follows; padded on the right to one width for all."""

    size: Annotated[int, Meta(ge=1, description="The height in pixels.")]
    multiple_of: Annotated[int, Meta(ge=1, description="The common width is rounded up to a multiple of this.")] = 1
    width: Annotated[
        int | None, Meta(description="The common width, by default the widest picture's; wider ones are squeezed.")
    ] = None
    max_width: Annotated[int | None, Meta(description="Wider pictures are squeezed to this width.")] = None
    pad: Pad = 0.0
    interpolation: Interpolation = "bilinear"


Resize = KeepSize | ExactSize | Letterbox | ShorterSide | FixedHeight


class Crop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is cut out after resizing."""

    size: HeightWidth
    mode: Annotated[Literal["center"], Meta(description="From where.")] = "center"


class Fit(NamedTuple):
    """Where a picture of width x height lies in the prepared one: resized, then put at (left, top) of the canvas."""

    width: int
    height: int
    resized: tuple[int, int]  # (width, height)
    canvas: tuple[int, int]  # (width, height)
    left: int
    top: int

    def sample(self, identity: str, source: str, turn: int) -> Sample:
        """Say of a sample where its picture lies: prepared_xy = original_xy * scale + pad."""
        seen = [
            max(0, min(place + size, room) - max(place, 0))
            for place, size, room in zip((self.left, self.top), self.resized, self.canvas, strict=True)
        ]
        return Sample(
            id=identity,
            source=source,
            width=self.width,
            height=self.height,
            rotation=turn,
            scale_x=self.resized[0] / self.width,
            scale_y=self.resized[1] / self.height,
            pad_x=self.left,
            pad_y=self.top,
            input_width=self.canvas[0],
            input_height=self.canvas[1],
            valid_width=seen[0],
            valid_height=seen[1],
        )


def fit(width: int, height: int, resize: Resize, crop: Crop | None) -> Fit:
    """Find where a picture comes to lie. Raises ValueError if it is smaller than the crop."""
    left = top = 0
    resized = (width, height)
    canvas = None
    if isinstance(resize, ExactSize):
        resized = (resize.size[1], resize.size[0])
    elif isinstance(resize, Letterbox):
        room_height, room_width = resize.size
        ratio = min(room_width / width, room_height / height)
        resized = (
            min(room_width, max(1, round(width * ratio))),
            min(room_height, max(1, round(height * ratio))),
        )
        canvas = (room_width, room_height)
        if resize.align == "center":
            left, top = (room_width - resized[0]) // 2, (room_height - resized[1]) // 2
    elif isinstance(resize, ShorterSide):
        ratio, step = resize.size / min(width, height), resize.multiple_of
        resized = (max(1, round(width * ratio / step)) * step, max(1, round(height * ratio / step)) * step)
    elif isinstance(resize, FixedHeight):
        wide = math.ceil(width * resize.size / height)
        resized = (min(wide, resize.max_width or wide, resize.width or wide), resize.size)
    canvas = canvas or resized
    if crop:
        crop_height, crop_width = crop.size
        if crop_width > canvas[0] or crop_height > canvas[1]:
            raise ValueError(
                f"is {canvas[0]} x {canvas[1]} pixels (width x height) after resizing, "
                f"less than the crop's {crop_width} x {crop_height}"
            )
        left -= (canvas[0] - crop_width) // 2
        top -= (canvas[1] - crop_height) // 2
        canvas = (crop_width, crop_height)
    return Fit(width, height, resized, canvas, left, top)
