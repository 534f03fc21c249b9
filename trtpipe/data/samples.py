"""What is known of each sample of a tensors artifact: the lines of its samples.jsonl."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trtpipe.data.tensors import SAMPLES
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.stage import Input


def samples_of(source: Input, total: int) -> Iterator[dict[str, Any]]:
    """Give the lines of samples.jsonl in order, or numbers for ids if there is none.

    Raises StageFailed if it has not as many lines as there are samples.
    """
    if SAMPLES not in source.files:
        yield from ({"id": str(index)} for index in range(total))
        return
    with source.path(SAMPLES).open("rb") as lines:
        count = sum(1 for _ in lines)
    if count != total:
        raise StageFailed(f"input {source.name} ({source.label}): {SAMPLES} has {count} lines for {total} samples")
    with source.path(SAMPLES).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
