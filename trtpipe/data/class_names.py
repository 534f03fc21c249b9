"""The names of classes: from the document, from the model's own metadata, or from a text file with a name a line."""

from __future__ import annotations

import ast
import json
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
        return of_metadata(metadata[given.metadata], given.metadata)
    if "labels" not in inputs:
        raise StageFailed("found no names, expected `names` in the step, or the input `labels`: a text file")
    source = inputs["labels"]
    try:
        return lines_of(source.path(source.files[0]).read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise StageFailed(f"input labels ({source.label}) is not UTF-8: byte {error.start}") from error


def of_metadata(text: str, key: str) -> list[str]:
    """Read names as exporters write them: a name a line, a list, or a mapping of class number to name.

    A list or a mapping is in JSON or as Python writes it (`{0: 'person', 1: 'bicycle'}`). Raises StageFailed for a text
    that begins as one and is none, and for numbers that are not 0, 1, 2 and so on.
    """
    if text.lstrip()[:1] not in ("{", "["):
        return lines_of(text)
    forms = "expected a name a line, a list, or a mapping such as {0: 'person', 1: 'bicycle'}, in JSON or Python"
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise StageFailed(f"the model's metadata {key}: found {text[:60]!r}, {forms}") from None
    if isinstance(found, dict):
        numbered = {str(number): name for number, name in found.items()}
        if len(numbered) != len(found) or sorted(numbered) != sorted(map(str, range(len(found)))):
            some = ", ".join(map(repr, list(found)[:5]))
            raise StageFailed(
                f"the model's metadata {key}: found the class numbers {some}, expected 0 to {len(found) - 1}, each once"
            )
        found = [numbered[str(number)] for number in range(len(found))]
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise StageFailed(f"the model's metadata {key}: found {text[:60]!r}, {forms}")
    return list(found)


def lines_of(text: str) -> list[str]:
    """Split at newlines only: str.splitlines would split at characters that are themselves names in some models."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines
