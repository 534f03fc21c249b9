"""Render the lines of text.yaml: `python pipelines/text/render.py` writes lines/*.png and labels.txt beside it.

The font is the one inside Pillow (Aileron Regular, CC0), so that no font file is needed. The pictures are
checked in, because another version of Pillow or FreeType may draw a few pixels otherwise.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
LINES = (
    "Exit 5",
    "Hello, world!",
    "14.6 ms at batch 128",
    "Build once, run anywhere",
    "A plan is built for one version",
    "The quick brown fox jumps over 13 lazy dogs",
)
HEIGHT = 56
MARGIN = 4


def main() -> None:
    """Draw each line in black on white, as wide as its text."""
    folder = HERE / "lines"
    folder.mkdir(exist_ok=True)
    font = ImageFont.load_default(size=36)
    for number, line in enumerate(LINES):
        left, top, right, bottom = font.getbbox(line)
        size = (round(right - left) + 2 * MARGIN, HEIGHT)
        picture = Image.new("L", size, "white")
        ImageDraw.Draw(picture).text((MARGIN - left, (HEIGHT - bottom - top) / 2), line, fill="black", font=font)
        picture.save(folder / f"{number}.png", optimize=True)
    (HERE / "labels.txt").write_text("".join(f"{line}\n" for line in LINES), "utf-8")


if __name__ == "__main__":
    main()
