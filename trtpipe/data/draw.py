"""Draw on a picture: boxes with what they are, and lines of text below the picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALL = 240
"""A picture whose longer side has fewer pixels is enlarged, so that there is room for text."""
COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#808000", "#000075")
MARGIN = 4


class Box(NamedTuple):
    """A box in pixels of the picture (left, top, right, bottom), its text, and which colour it gets."""

    corners: tuple[float, float, float, float]
    text: str
    color: int = 0


def annotated(image: Any, boxes: Sequence[Box] = (), captions: Sequence[str] = ()) -> Any:
    """Give a new RGB `PIL.Image` with boxes drawn on it and a caption a line below it.

    Small pictures are enlarged by a whole factor. What the built-in font lacks (it is Latin) shows as an empty
    box. Needs Pillow.
    """
    from PIL import Image, ImageDraw

    factor = max(1, math.ceil(SMALL / max(image.size)))
    width, height = (side * factor for side in image.size)
    size = max(12, min(width, height) // 32)
    font = _font(size)
    lines = [_cut(_drawable(line, font), font, width - 2 * MARGIN) for line in captions]
    line_height = size + MARGIN
    result = Image.new("RGB", (width, height + (line_height * len(lines) + MARGIN if lines else 0)), "white")
    result.paste(image.convert("RGB").resize((width, height), Image.Resampling.NEAREST))
    pen = ImageDraw.Draw(result)
    stroke = max(2, min(width, height) // 200)
    for box in boxes:
        color = COLORS[box.color % len(COLORS)]
        left, top, right, bottom = (_inside(v * factor, (width, height)[i % 2]) for i, v in enumerate(box.corners))
        left, right = sorted((left, right))
        top, bottom = sorted((top, bottom))
        pen.rectangle((left, top, right, bottom), outline=color, width=stroke)
        if box.text:
            text = _cut(_drawable(box.text, font), font, width)
            wide = font.getlength(text) + 2 * MARGIN
            x = max(0, min(left, width - wide))
            y = top - line_height if top >= line_height else top
            pen.rectangle((x, y, x + wide, y + line_height), fill=color)
            pen.text((x + MARGIN, y + MARGIN // 2), text, fill="white", font=font)
    for index, line in enumerate(lines):
        pen.text((MARGIN, height + MARGIN // 2 + index * line_height), line, fill="black", font=font)
    return result


def _font(size: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):  # Pillow 10.0, or one without FreeType: one small bitmap font
        return ImageFont.load_default()


def _drawable(text: str, font: Any) -> str:
    """Leave out what the bitmap font would raise on, and what would break the line."""
    text = " ".join(text.split())
    return text if hasattr(font, "path") else text.encode("latin-1", "replace").decode("latin-1")


def _cut(text: str, font: Any, width: float) -> str:
    """Shorten a text to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _inside(value: float, side: int) -> float:
    """Keep a coordinate on the picture; Pillow overflows on huge ones."""
    return min(max(value, 0.0), side - 1.0)
