"""The names of classes: from the document, from the model's own metadata, or from a text file with a name a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.data.step_params import FromMetadata
from trtpipe.documents.network import Network
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.stage import Input


def class_names(given: tuple[str, ...] | FromMetadata | None, inputs: Mapping[str, Input]) -> list[str]:
    """Give the names of the classes in order; `given` is the param `names` of a step.

    Reads the stage's input `network` for names from metadata, and `labels` where the step gives none. Raises
    StageFailed if they are nowhere.
    """
    if isinstance(given, tuple):
        return list(given)
    if isinstance(given, FromMetadata):
        if "network" not in inputs:
            raise StageFailed("names from metadata need the input `network` (a network or config)")
        metadata = inputs["network"].read(Network).metadata
        if given.metadata not in metadata:
            raise StageFailed(
                f"the model's metadata has no {given.metadata!r}; it has {', '.join(metadata) or 'nothing'}"
            )
        return lines_of(metadata[given.metadata])
    if "labels" not in inputs:
        raise StageFailed("found no names, expected `names` in the step, or the input `labels`: a text file")
    source = inputs["labels"]
    try:
        return lines_of(source.path(source.files[0]).read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise StageFailed(f"input labels ({source.label}) is not UTF-8: byte {error.start}") from error


def lines_of(text: str) -> list[str]:
    """Split at newlines only: str.splitlines would split at characters that are themselves names in some models."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines
