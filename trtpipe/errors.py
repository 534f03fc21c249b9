"""The classes of errors; each has the exit code with which the command ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class TrtpipeError(Exception):
    """Base of every error that trtpipe expects."""

    exit_code = 70


class StageFailed(TrtpipeError):
    """A stage's body failed; the message says why and what would be right."""

    exit_code = 1


class LimitExceeded(StageFailed):
    """A stage took more time or memory than its `run:` allows and was stopped. With other limits it may succeed."""


class PipelineInvalid(TrtpipeError):
    """The document or the command line is wrong.

    `problems` holds one line for each mistake: `file:line:column path: found, expected`.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class SchemaViolation(PipelineInvalid):
    """The document does not fit the JSON Schema."""


class UnknownReference(PipelineInvalid):
    """An input, a variable or a target names something that does not exist."""


class KindMismatch(PipelineInvalid):
    """An input is given an artifact of a kind that its stage cannot read."""


class Cycle(PipelineInvalid):
    """Stages depend on each other in a circle."""


class EnvironmentMissing(TrtpipeError):
    """A package, a GPU or a driver is missing; the message says how to get it."""

    exit_code = 3


class StoreError(TrtpipeError):
    """The store is damaged, locked, full or not writable, or fetched content has a wrong digest."""

    exit_code = 4


class GateFailed(TrtpipeError):
    """A requirement is not met: a figure, the lock file, a signature or a budget."""

    exit_code = 5


CLASSES: dict[str, type[TrtpipeError]] = {
    c.__name__: c
    for c in (
        TrtpipeError, StageFailed, LimitExceeded, PipelineInvalid, SchemaViolation, UnknownReference, KindMismatch,
        Cycle, EnvironmentMissing, StoreError, GateFailed,
    )
}  # fmt: skip
