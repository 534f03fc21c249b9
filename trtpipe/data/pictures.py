"""Read a picture file as an upright RGB picture. Every refusal names the file."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trtpipe.errors import EnvironmentMissing, StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
# Only formats that Pillow decodes itself: EPS, for one, would start Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485
"""Pillow's own limit for a decompression bomb: 1 GiB of 4 bytes and 3 channels a pixel."""
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)


def pillow() -> Any:
    """Give `PIL.Image`. Raises EnvironmentMissing if Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise EnvironmentMissing("pictures need Pillow, which is absent: pip install 'trtpipe[vision]'") from error
    return Image


@contextmanager
def _opened(path: Path, name: str, max_pixels: int) -> Iterator[Any]:
    """Open a picture without decoding it; what goes wrong until the end of the block names the file."""
    image_module = pillow()
    limit = image_module.MAX_IMAGE_PIXELS
    # Pillow only warns of a bomb up to twice its limit. Its check goes, ours comes before anything is decoded.
    image_module.MAX_IMAGE_PIXELS = None
    try:
        with image_module.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise StageFailed(
                    f"picture {name} has {width} x {height} = {width * height} pixels, more than max_pixels "
                    f"({max_pixels}); scale it down, or raise max_pixels if it is meant to be that large"
                )
            yield image
    except StageFailed:
        raise
    except Exception as error:
        # A decoder raises nearly anything on torn bytes: OSError, SyntaxError, struct.error, zlib.error, ...
        kind = type(error).__name__
        why = "not one of " + ", ".join(FORMATS) if kind == "UnidentifiedImageError" else f"{kind}: {error}"
        raise StageFailed(f"picture {name} cannot be read: {why}") from error
    finally:
        image_module.MAX_IMAGE_PIXELS = limit


def size(path: Path, name: str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Give (width, height) in pixels as the picture is looked at (after EXIF), reading only its header.

    Raises StageFailed that names the file if it is no picture or has more than `max_pixels`.
    """
    with _opened(path, name, max_pixels) as image:
        width, height = image.size
        sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
    return (height, width) if sideways else (width, height)


def read(path: Path, name: str, *, max_pixels: int = MAX_PIXELS) -> Any:
    """Decode a picture to an upright 8-bit RGB `PIL.Image`; of an animation, the first frame.

    The EXIF orientation is applied. 16-bit greys are scaled to 8, what is transparent lies on white.
    Raises StageFailed that names the file if it is torn, of an unknown format, of more than `max_pixels`
    or of 32-bit pixels, whose range nothing says.
    """
    with _opened(path, name, max_pixels) as image:
        from PIL import ImageOps

        return _rgb(ImageOps.exif_transpose(image), name)


def _rgb(image: Any, name: str) -> Any:
    if image.mode.startswith("I"):
        import numpy as np

        values = np.asarray(image)
        # Pillow before 11 opens a 16-bit PNG as 32-bit "I".
        if image.mode == "I" and values.size and not (values.min() >= 0 and values.max() <= 0xFFFF):
            raise StageFailed(f"picture {name} has 32-bit pixels, expected 8 or 16 bits a channel")
        image = pillow().fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise StageFailed(f"picture {name} has floating-point pixels, expected 8 or 16 bits a channel")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        front = image.convert("RGBA")
        back = pillow().new("RGBA", front.size, "white")
        back.alpha_composite(front)
        image = back
    return image.convert("RGB")


def turned(image: Any, degrees: int) -> Any:
    """Turn a picture clockwise by 0, 90, 180 or 270 degrees, without loss."""
    turns = pillow().Transpose
    if degrees == 0:
        return image
    return image.transpose({90: turns.ROTATE_270, 180: turns.ROTATE_180, 270: turns.ROTATE_90}[degrees])
