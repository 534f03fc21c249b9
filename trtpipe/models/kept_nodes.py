"""The nodes that stay in float32 when the rest of a model is made half precision or quantised, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.documents.config import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx

TOLD = 5
"""So many nodes that stay float32 are listed one by one."""


def kept(node: onnx.NodeProto, why: str) -> Kept:
    """Say of a node that it stays as it is."""
    return Kept(node=node.name, op=node.op_type, why=why)


def tell_kept(nodes: Sequence[Kept], document: str, note: Callable[[str], None]) -> None:
    """Note which nodes stay float32 and why: TOLD of them one by one, the rest as a number. `document` lists all."""
    for one in nodes[:TOLD]:
        note(f"stays float32: {one.node} [{one.op}], {one.why}")
    if len(nodes) > TOLD:
        note(f"{len(nodes) - TOLD} further nodes stay float32; {document} lists all, with the reasons")
