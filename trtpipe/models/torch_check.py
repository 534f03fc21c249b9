"""The checks of an exported model: that it is valid ONNX, and that onnxruntime gives with it what PyTorch gave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def valid(path: Path) -> None:
    """Ask ONNX's own checker. Raises StageFailed if the model is not valid.

    The checker refuses external data in a file with several links, so this is for a model that was just written.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise StageFailed(f"the exported model is not valid ONNX: {str(error).strip()}") from error


def agreement(
    path: Path,
    trials: Sequence[Mapping[str, int]],
    runs: Sequence[tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]],
    *,
    atol: float,
    rtol: float,
) -> dict[str, float]:
    """Run the model in onnxruntime at every trial's sizes; give the largest absolute error of each output.

    `trials` are the sizes by axis, `runs` PyTorch's (inputs, outputs) at each of them, by name. Raises StageFailed if
    for any element not |onnx - torch| <= atol + rtol * |torch|, which NaN never fulfils, or if the model does not run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Unoptimised, so that what is compared is the file and not what a runtime makes of it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise StageFailed(f"onnxruntime cannot load the exported model: {error}") from error
    worst = dict.fromkeys(runs[0][1], 0.0)
    problems: list[str] = []
    for sizes, (arrays, expected) in zip(trials, runs, strict=True):
        at = ", ".join(f"{axis} {size}" for axis, size in sizes.items()) or "its fixed shape"
        try:
            results = session.run(list(expected), dict(arrays))
        except Exception as error:  # noqa: BLE001  whatever the runtime raises is the finding
            problems.append(f"at {at}: onnxruntime fails: {error}")
            continue
        for name, found in zip(expected, results, strict=True):
            want = expected[name]
            if found.shape != want.shape or found.dtype != want.dtype:
                problems.append(
                    f"at {at}: output {name} is {found.dtype} {list(found.shape)}, "
                    f"PyTorch gives {want.dtype} {list(want.shape)}"
                )
                continue
            apart, agrees = _apart(found, want, atol, rtol)
            worst[name] = max(worst[name], apart)
            if not agrees:
                problems.append(f"at {at}: output {name} differs from PyTorch by up to {apart:.6g}")
    if problems:
        raise StageFailed(
            "the exported model does not agree with PyTorch "
            f"(|onnx - torch| <= {atol:g} + {rtol:g} * |torch|):\n" + "\n".join(f"  {p}" for p in problems)
        )
    return {name: float(f"{error:.3g}") for name, error in worst.items()}


def _apart(found: NDArray[Any], want: NDArray[Any], atol: float, rtol: float) -> tuple[float, bool]:
    """Give the largest absolute difference, and whether every element agrees; other types than floats agree exactly."""
    if not want.size:
        return 0.0, True
    if want.dtype.kind not in "fc":
        differ = float(np.abs(found.astype(np.float64) - want.astype(np.float64)).max())
        return differ, differ == 0
    a, b = found.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a - b))  # equal infinities agree
        agrees = bool(np.all((difference <= atol + rtol * np.abs(b)) & np.isfinite(difference)))
    return float(difference.max()), agrees
