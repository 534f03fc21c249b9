"""What is known of each sample of a tensors artifact: the lines of its samples.jsonl."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe.documents import files
from trtpipe.documents.samples import Sample
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.stage import Input


class Line(NamedTuple):
    """One sample: what is known of it, and its line of samples.jsonl as it stands, for users' code."""

    sample: Sample
    fields: dict[str, Any]


def lines_of(source: Input, total: int) -> Iterator[Line]:
    """Give the lines of samples.jsonl in order, or numbers for ids if there is none.

    Raises StageFailed if it has not as many lines as there are samples, or for a line that says nothing of a sample.
    """
    if Sample.file not in source.files:
        yield from (Line(Sample(id=str(index)), {"id": str(index)}) for index in range(total))
        return
    where = f"input {source.name} ({source.label}): {Sample.file}"
    with source.path(Sample.file).open("rb") as lines:
        count = sum(1 for _ in lines)
    if count != total:
        raise StageFailed(f"{where} has {count} lines for {total} samples")
    yield from (Line(sample, fields) for sample, fields in files.read_lines(source.path(Sample.file), Sample, where))


def ids_of(source: Input, total: int) -> list[str]:
    """Give the ids of all samples in order. Raises as `lines_of` does."""
    return [line.sample.id for line in lines_of(source, total)]
