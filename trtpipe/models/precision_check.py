"""The check of a model in half precision: its outputs against those of the float32 original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto

from trtpipe.errors import StageFailed
from trtpipe.models import deviation, emulation, onnxgraph, ort_cpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trtpipe.documents.checks import Difference


class Judge:
    """Compares a rewritten model's outputs with the original's, which are computed once."""

    def __init__(
        self,
        original: onnx.ModelProto,
        precision: str,
        feeds: Sequence[Mapping[str, NDArray[Any]]],
        *,
        plain: bool,
        drawn: bool = False,
    ) -> None:
        self._precision, self._feeds, self._plain = precision, feeds, plain
        self._type, self._name = {
            "fp16": (TensorProto.FLOAT16, "float16"), "bf16": (TensorProto.BFLOAT16, "bfloat16"),
        }[precision]  # fmt: skip
        # A model that was float16 before is compared as it is: there is nothing to round, and its inputs stay float16.
        self._emulates = precision == "bf16" or not onnxgraph.has_half(original)
        self.remark = ""
        try:
            session = ort_cpu.Session(original.SerializeToString(), plain=plain)
            self._expected = [session(feed) for feed in feeds]
        except Exception as error:
            raise StageFailed(
                f"onnxruntime cannot run the original model to check against{_drawn(feeds) if drawn else ''}: {error}"
            ) from error

    def __call__(self, path: Path, limit: float) -> tuple[dict[str, Difference], list[str]]:
        """Give (each output's differences, the problems). Raises StageFailed if the model does not run."""
        target: bytes | str = str(path)
        if self._emulates:
            target, activations = emulation.emulated(path, self._type)
            rounded = "weights and activations" if activations else "weights (activations are not)"
            self.remark = f"; {self._name} is emulated: float32 with rounded {rounded}"
        outputs: dict[str, Difference] = {}
        problems = []
        found_all = self._run(target, self._feeds)
        for expected, found in zip(self._expected, found_all, strict=True):
            for name, wanted in expected.items():
                difference = deviation.compare(wanted, found[name])
                outputs[name] = deviation.larger(outputs.get(name, difference), difference)
                if difference.shape_differs:
                    problems.append(f"{name}: its shape changed")
                elif difference.not_finite:
                    problems.append(f"{name}: not finite where the original is")
        problems += deviation.beyond(outputs, limit)
        return outputs, problems

    def runs(self, path: Path, *, must: bool) -> None:
        """Run the rewritten model itself once. Raises StageFailed if it does not run and `must`; else remarks it."""
        if not self._emulates or self._precision != "fp16":  # the CPU has no kernels for bfloat16
            return
        try:
            self._run(str(path), self._feeds[:1])
        except StageFailed:
            if must:
                raise
            self.remark += "; the CPU has no kernels for the rewritten model itself"

    def _run(self, model: bytes | str, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, NDArray[Any]]]:
        try:
            session = ort_cpu.Session(model, plain=self._plain)
            return [session(feed) for feed in feeds]
        except Exception as error:
            raise StageFailed(
                f"precision: {self._precision}: onnxruntime cannot run the rewritten model ({error}); "
                "use precision: model, or name nodes in keep_fp32"
            ) from error


def _drawn(feeds: Sequence[Mapping[str, NDArray[Any]]]) -> str:
    """Say which inputs were made up, and how one gives true ones."""
    whole = [name for name, array in feeds[0].items() if array.dtype.kind in "iub"]
    drawn = f" ({', '.join(whole)} of 0 and 1, which may mean sizes, axes or masks)" if whole else ""
    return f" on made-up inputs{drawn}; give samples of what it will see: inputs: {{calibration: {{file: …}}}}"
