"""Render the pictures of text.yaml and text-det-fp16.yaml: `python pipelines/text/render.py`.

It writes lines/*.png and labels.txt (single lines), and pages/*.png (whole pages), beside itself or into --folder.

The font is the one inside Pillow (Aileron Regular, CC0), so that no font file is needed. The pictures are
checked in, because another version of Pillow or FreeType may draw a few pixels otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

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
PAGE = (640, 480)
PAPERS = {"white": 18, "#e8e4d8": 24, "#b8c4d0": 32, "#d8e8d8": 21}


def main() -> None:
    """Draw each line in black on white, as wide as its text, and the pages."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the files are written")
    folder = options.parse_args().folder
    (folder / "lines").mkdir(exist_ok=True)
    font = ImageFont.load_default(size=36)
    for number, line in enumerate(LINES):
        left, top, right, bottom = font.getbbox(line)
        size = (round(right - left) + 2 * MARGIN, HEIGHT)
        picture = Image.new("L", size, "white")
        ImageDraw.Draw(picture).text((MARGIN - left, (HEIGHT - bottom - top) / 2), line, fill="black", font=font)
        picture.save(folder / "lines" / f"{number}.png", optimize=True)
    render_pages(folder / "pages")
    (folder / "labels.txt").write_text("".join(f"{line}\n" for line in LINES), "utf-8")


def render_pages(folder: Path) -> None:
    """Draw the lines below each other, in two sizes a page, on paper of several colours."""
    folder.mkdir(exist_ok=True)
    for number, (paper, size) in enumerate(PAPERS.items()):
        page = Image.new("RGB", PAGE, paper)
        draw = ImageDraw.Draw(page)
        y = 24
        for index, line in enumerate(LINES * 2):
            font = ImageFont.load_default(size=size + 4 * (index % 2))
            if y + 2 * size > PAGE[1]:
                break
            draw.text((24 + 12 * (index % 3), y), line, fill="black", font=font)
            y += 2 * size
        page.save(folder / f"{number}.png", optimize=True)


if __name__ == "__main__":
    main()
