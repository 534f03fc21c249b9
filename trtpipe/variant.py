"""Names of variants: `engine@precision=fp16,batch=1` is a stage with its values of the matrix.

The name gives both, because stages, axes and values may not hold `@`, `,`, `=` or `/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Reference(NamedTuple):
    """A reference to a stage; `pins` restrict it to the variants with these values."""

    stage: str
    pins: dict[str, str]

    def fits(self, name: str) -> bool:
        """Tell whether the reference names this stage or variant."""
        stage, values = split(name)
        return stage == self.stage and all(values.get(axis) == value for axis, value in self.pins.items())


def split(name: str) -> Reference:
    """Give the parts of `stage@axis=value,…`."""
    stage, _, rest = name.partition("@")
    pairs = (pair.partition("=") for pair in rest.split(",")) if rest else ()
    return Reference(stage, {axis.strip(): value.strip() for axis, _, value in pairs})


def join(stage: str, values: Mapping[str, str]) -> str:
    """Give the name of a stage's variant; without values, the name of the stage."""
    return f"{stage}@{label(values)}" if values else stage


def label(values: Mapping[str, str]) -> str:
    """Write a combination: `precision=fp16,batch=1`."""
    return ",".join(f"{axis}={value}" for axis, value in values.items())
