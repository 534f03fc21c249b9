"""What a TensorRT plan says about itself in its first bytes, read without TensorRT and without a GPU.

The layout is not documented by NVIDIA; it was observed on plans of TensorRT 8.6 and TensorRT-RTX 1.4 and 1.7:
bytes 0-3 the flavour, bytes 16-23 the size of the plan (little endian), bytes 24-27 the version. Nothing here
is needed to load a plan; it turns the runtime's terse refusals into a sentence before anything is loaded.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, NamedTuple

from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from pathlib import Path

FLAVOURS: dict[bytes, Literal["tensorrt", "tensorrt_rtx"]] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}
LENGTH = 32


class Header(NamedTuple):
    """What a plan says of itself: who built it, the full version ("1.7.1.116"), and how many bytes it claims to have.

    `size` is None where the field holds no plausible size.
    """

    flavour: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    size: int | None


def read_header(path: Path) -> Header:
    """Read a plan's header. Raises StageFailed if the file is no plan."""
    with open(path, "rb") as stream:
        head = stream.read(LENGTH)
    if len(head) < LENGTH or head[:4] not in FLAVOURS:
        found = f"starts with {head[:4]!r}" if head else "is empty"
        raise StageFailed(
            f"{path.name} is no TensorRT plan: it {found}, expected 'ftrt' (TensorRT) or 'vtrt' (TensorRT-RTX)"
        )
    size = int.from_bytes(head[16:24], "little")
    return Header(
        flavour=FLAVOURS[head[:4]],
        version=".".join(str(part) for part in head[24:28]),
        size=size if LENGTH < size < 1 << 48 else None,
    )


def check(path: Path, flavour: str, version: str, *, version_compatible: bool = False) -> None:
    """Say no to a plan that the runtime `flavour` `version` would refuse, with what to do instead.

    A plan that was built version compatible may be of another version. Raises StageFailed.
    """
    header = read_header(path)
    if header.flavour != flavour:
        raise StageFailed(
            f"{path.name} was built by {header.flavour} {header.version}, and {flavour} {version} "
            f"cannot load it; run with --backend {header.flavour}, or build it again"
        )
    size = os.stat(path).st_size
    if flavour == "tensorrt_rtx" and header.size is not None and size < header.size:
        raise StageFailed(f"{path.name} is truncated: {size} bytes, its header says {header.size}; build it again")
    # A version has as many parts as its wheel says: "8.6.0" is the header's 8.6.0 with any build number.
    parts = version.split(".")[:4]
    if header.version.split(".")[: len(parts)] != parts and not version_compatible:
        raise StageFailed(
            f"{path.name} was built by {flavour} {header.version}, and {version} is installed; plans belong to "
            "one version: build it again here, or install the version that built it"
        )
