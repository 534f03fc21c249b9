"""Draw each result on the picture that its sample was made of, and write it as `pictures/<id>.png`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from trtpipe.data import draw, pictures, readable
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.documents.samples import Sample
    from trtpipe.stage import Input


class Painter:
    """Draws records of results.jsonl on the pictures that they are about.

    `images` is the input that preprocess read. The drawings go into `folder`.
    """

    def __init__(self, images: Input, folder: Path) -> None:
        self._images = images
        self._folder = folder
        self._open: tuple[str, Any] = ("", None)

    def draw(self, sample: Sample, record: dict[str, Any], index: int) -> None:
        """Draw the record of one sample into `<id>.png`; `index` counts the samples.

        Raises StageFailed if the sample's picture is not in the input.
        """
        name = sample.source
        if name is None:
            raise StageFailed("input images: nothing says which picture a sample is; expected tensors from preprocess")
        if name not in self._images.files:
            raise StageFailed(
                f"input images ({self._images.label}) has no {name}, of which sample {sample.id} was made; "
                f"expected the input of preprocess"
            )
        if self._open[0] != name:
            # No limit: preprocess has read it, under its own.
            self._open = (name, pictures.read(self._images.path(name), name, max_pixels=1 << 40))
        image = pictures.turned(self._open[1], sample.rotation or 0)
        boxes, captions = [], []
        for field, value in record.items():
            if isinstance(value, list) and value and isinstance(value[0], dict) and "box" in value[0]:
                for entry in value:
                    label = readable.entry({k: v for k, v in entry.items() if k != "box"})
                    boxes.append(draw.Box(tuple(entry["box"]), label, int(entry.get("class", 0))))
            elif field != "id":
                captions.append(f"{field}: {readable.text(value)}")
        path = self._folder / f"{_file_name(sample.id, index)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw.annotated(image, boxes, captions).save(path)


def _file_name(identity: str, index: int) -> str:
    """Give an id as a path below a folder, or a number if it is none that every system can hold."""
    parts = identity.split("/")
    if all(re.fullmatch(r"[^\\:*?\"<>|\x00-\x1f]{1,200}", part) and part.strip(". ") for part in parts):
        return identity
    return f"sample-{index}"
