"""PyTorch's two exporters to ONNX: torch.export's graph (dynamo), and TorchScript's tracing (legacy)."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from trtpipe.errors import StageFailed
from trtpipe.models import onnxfile, onnxgraph, opset, torch_module
from trtpipe.models.torch_module import quiet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from trtpipe.models.torch_module import NamedModule

NEWEST_EXACT = 18
"""The opset that the dynamo exporter writes by itself; 17 is made from it by trtpipe.models.opset."""


def export(
    named: NamedModule, arrays: Mapping[str, NDArray[Any]], path: Path, *, exporter: str, wanted: int
) -> tuple[onnx.ModelProto, str]:
    """Run an exporter (`dynamo` or `legacy`) on sample inputs; give the model, with all weights in memory.

    `wanted` is the opset, and `path` is where the exporter may write its own file. Beside the model, why torch.export
    would not keep all axes free, if it would not. Raises StageFailed if the exporter fails, or cannot write the opset.
    """
    import torch

    tensors = {name: torch.from_numpy(arrays[name].copy()) for name in named.order}
    common: dict[str, Any] = {
        "args": () if named.by_name else tuple(tensors.values()),
        "kwargs": tensors if named.by_name else None,
        "input_names": list(named.order),
        "output_names": list(named.outputs),
        "verbose": False,
    }
    reason = ""
    if exporter == "legacy":
        with torch.no_grad():
            _legacy(named, path, wanted, common)
    else:
        reason = _dynamo(named, path, wanted, common)
    try:
        proto = onnxfile.whole(path)
    except StageFailed as error:
        raise StageFailed(f"the exporter {exporter} wrote a file that is no ONNX model: {error}") from error
    found = onnxgraph.opsets(proto).get("ai.onnx")
    if found == NEWEST_EXACT and wanted == 17:
        try:
            opset.to_opset_17(proto)
        except StageFailed as error:
            raise StageFailed(
                f"the exporter {exporter} writes opset 18, and opset 17 was asked for; {error}\n"
                "exporter: legacy may say it otherwise; opset: 18 keeps it, but TensorRT 8.6 does not read it"
            ) from None
    elif found != wanted:
        raise StageFailed(
            f"the exporter {exporter} wrote opset {found}, asked for {wanted}; "
            "ask for 17 or 18, or try the other exporter"
        )
    return proto, reason


def _legacy(named: NamedModule, path: Path, wanted: int, common: dict[str, Any]) -> None:
    import torch

    axes = {
        name: {a: d for a, d in enumerate(named.inputs[name].shape) if isinstance(d, str)} for name in named.order
    }  # fmt: skip
    axes.update({name: {} for name in named.outputs})
    try:
        with quiet():
            torch.onnx.export(
                named.module,
                f=str(path),
                opset_version=wanted,
                dynamic_axes={name: dims for name, dims in axes.items() if dims},
                dynamo=False,
                **common,
            )
    except Exception as error:
        raise StageFailed(f"torch.onnx.export (legacy) fails: {_first_lines(error)}") from error


def _dynamo(named: NamedModule, path: Path, wanted: int, common: dict[str, Any]) -> str:
    import torch

    asked = NEWEST_EXACT if wanted == 17 else wanted
    dynamic = torch_module.axes(named.inputs)
    own = {axis: torch.export.Dim(axis, min=1) for axis in dynamic}
    auto = dict.fromkeys(dynamic, torch.export.Dim.AUTO)
    failures: list[Exception] = []
    # With named axes torch.export refuses relations between axes that it finds, such as a width that must be a
    # multiple of 8; it lives with them when it may choose. exported_graph.name_axes finds an axis that it then fixes.
    for axes in (own, auto):
        shapes = [
            {a: axes[d] for a, d in enumerate(named.inputs[name].shape) if isinstance(d, str)} or None
            for name in named.order
        ]
        try:
            with quiet():
                program = torch.onnx.export(
                    named.module,
                    opset_version=asked,
                    dynamic_shapes=(dict(zip(named.order, shapes, strict=True)) if named.by_name else tuple(shapes)),
                    dynamo=True,
                    **common,
                )
                program.save(str(path), external_data=_large(named.module))
            return _first_lines(failures[0]) if failures else ""
        except Exception as error:  # noqa: BLE001  the exporter raises whatever its passes raise
            failures.append(error)
    raise StageFailed(f"torch.onnx.export (dynamo) fails: {_first_lines(failures[0])}") from failures[0]


def _large(module: Any) -> bool:
    tensors = itertools.chain(module.parameters(), module.buffers())
    total = sum(int(t.numel()) * int(t.element_size()) for t in tensors)
    return total > onnxfile.INLINE_LIMIT


def _first_lines(error: BaseException) -> str:
    """Give the root cause of an exporter's chain of errors, in at most 12 lines, without paths to its own files."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}")
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:12])
