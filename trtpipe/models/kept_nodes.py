"""The nodes that stay in float32 when the rest of a model is made half precision or quantised, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TOLD = 5
"""So many nodes that stay float32 are listed one by one."""


class Kept(NamedTuple):
    """A node that stays in float32, and why."""

    node: str
    op: str
    why: str


def tell_kept(kept: Sequence[Mapping[str, str]], record: str, note: Callable[[str], None]) -> None:
    """Note which nodes stay float32 and why: TOLD of them one by one, the rest as a number. `record` lists all."""
    for entry in kept[:TOLD]:
        note(f"stays float32: {entry['node']} [{entry['op']}], {entry['why']}")
    if len(kept) > TOLD:
        note(f"{len(kept) - TOLD} further nodes stay float32; {record} lists all, with the reasons")
