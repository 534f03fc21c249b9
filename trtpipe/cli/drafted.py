"""What `build` and `init` have in common: the ranges of a model's inputs, and the backend that builds it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from trtpipe import batch as rule
from trtpipe import environment, key
from trtpipe.errors import PipelineInvalid
from trtpipe.pipeline import ranges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.environment import Choice
    from trtpipe.models.outline import Outline
    from trtpipe.pipeline.ranges import Range, Ranges
    from trtpipe.pipeline.trtexec import Translated
    from trtpipe.store.state import State

PLANS = (".plan", ".engine", ".trt")
"""How people end the names of plans."""


def choose(asked: str | None, output: str | None) -> Choice:
    """Choose the runtime that builds: the one asked for, or one that makes plans, if there is one here.

    Without a GPU, TensorRT-RTX builds plans that run elsewhere, so it comes before ONNX Runtime here, unless the output
    is to be an ONNX file. Raises EnvironmentMissing.
    """
    choice = environment.choose(asked or "auto")
    if asked in (None, "auto") and choice.backend == "onnxruntime" and not environment.gpus():
        version = environment.runtime_version("tensorrt_rtx")
        if version is not None and not (output or "").endswith(".onnx"):
            return environment.Choice("tensorrt_rtx", version, "it builds plans without a GPU")
    return choice


def runs_here(choice: Choice) -> bool:
    """Tell whether an engine of this runtime can run on this machine."""
    gpus = environment.gpus()
    if choice.backend == "onnxruntime" or not gpus:
        return choice.backend == "onnxruntime"
    return choice.backend == "tensorrt" or environment.rtx_supports(choice.version, gpus[0].compute_capability)


def settle(path: str, found: Outline, given: Mapping[str, tuple[Range, ...]], state: State) -> Ranges:
    """Give the ranges of a model's inputs, of which guessed ones are tried in onnxruntime; trials are remembered.

    Raises PipelineInvalid if something does not fit.
    """
    trial = _Trial(path, found, state)
    return ranges.settle(found.inputs, given, runs=trial)


def settle_more(path: str, found: Outline, line: Translated, first: Ranges, state: State) -> list[Ranges]:
    """Give the ranges of the profiles after the first that a line for trtexec has.

    Raises PipelineInvalid if something does not fit.
    """
    made = []
    for number, shapes in enumerate(line.more, 1):
        one = settle(path, found, shapes, state)
        if one.dims != first.dims:  # axes of one name, of one size here and of several there
            raise PipelineInvalid(
                f"--from: profile {number}: found sizes by which axes need other names than in profile 0; "
                "write the document: trtpipe init, and names of axes in dims of parse"
            )
        made.append(one)
    return made


def batch_axes(path: str, found: Outline, shapes: Mapping[str, Sequence[int]], state: State) -> dict[str, int]:
    """Give the batch's axis of inputs and outputs whose names do not say it, as far as a trial in onnxruntime shows it.

    The rule says which outputs neither names nor a batch of one sample decide. Of those, samples that are fed in the
    reverse order must come out in the reverse order along an axis. `shapes` has the shape of each input. Where no input
    names a batch, the first axes of all are tried. Without onnxruntime there is no answer.
    """
    sizes = {
        dim: shapes[one.name][axis]
        for one in found.inputs
        for axis, dim in enumerate(one.dims or ())
        if isinstance(dim, str) and one.name in shapes
    }
    said: dict[str, int | str] = {}
    ruled = rule.find(found.inputs, found.outputs, said, sizes)
    if not ruled.names:
        said = {one.name: 0 for one in found.inputs if one.dims}
        ruled = rule.find(found.inputs, found.outputs, said, sizes)
    if ruled.problems or not ruled.undecided or not ruled.size or environment.runtime_version("onnxruntime") is None:
        return {}
    along = {one.name: axis for one in found.inputs if (axis := ruled.axes[one.name]) is not None}
    rows = min(ruled.size, 3) if ruled.names else ruled.size  # a named axis takes any length, and three show it
    tried = {name: [rows if along.get(name) == a else n for a, n in enumerate(one)] for name, one in shapes.items()}
    name = f"batch {key.digest({'shapes': tried, 'along': along, 'asked': ruled.undecided})}"
    known = state.derived(name, found.sha256)
    if known is None:
        known = json.dumps(_reversed(path, found, tried, along, ruled.undecided))
        state.remember_derived(name, found.sha256, known)
    axes: dict[str, int] = json.loads(known)
    return {**dict.fromkeys(said, 0), **axes} if axes else {}


def _reversed(
    path: str,
    found: Outline,
    shapes: Mapping[str, Sequence[int]],
    along: Mapping[str, int],
    asked: Sequence[str],
) -> dict[str, int]:
    from pathlib import Path

    import numpy as np

    from trtpipe.models import onnxfile, ort_cpu, trial_data

    try:
        feed = trial_data.make(onnxfile.load(Path(path)), found.inputs, shapes)
        session = ort_cpu.Session(path)
        straight = session(feed, asked)
        turned = {n: np.ascontiguousarray(np.flip(v, along[n])) if n in along else v for n, v in feed.items()}
        other_way = session(turned, asked)
    except Exception:  # noqa: BLE001 — what does not run is told by the stage that runs it
        return {}
    axes = {}
    rows = next(shapes[name][axis] for name, axis in along.items())
    for name, one in straight.items():
        other = other_way[name]
        if one.shape != other.shape or np.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True):
            continue  # nothing is learnt from what does not depend on the order
        places = [
            axis for axis, size in enumerate(one.shape)
            if size == rows and np.allclose(np.flip(one, axis), other, rtol=1e-3, atol=1e-5, equal_nan=True)
        ]  # fmt: skip
        if len(places) == 1:
            axes[name] = places[0]
    return axes


class _Trial:
    """Runs a model with given shapes; the model is loaded once, and only if a trial is not remembered."""

    def __init__(self, path: str, found: Outline, state: State) -> None:
        self._path, self._found, self._state = path, found, state
        self._loaded: tuple[object, object] | None = None

    def __call__(self, shapes: Mapping[str, Sequence[int]]) -> bool | None:
        """Tell whether the model runs with these shapes; None if onnxruntime is not here."""
        if environment.runtime_version("onnxruntime") is None:
            return None
        name = f"runs {key.digest(dict(shapes))}"
        known = self._state.derived(name, self._found.sha256)
        if known is None:
            known = json.dumps(self._run(shapes))
            self._state.remember_derived(name, self._found.sha256, known)
        answer: bool | None = json.loads(known)
        return answer

    def _run(self, shapes: Mapping[str, Sequence[int]]) -> bool | None:
        from pathlib import Path

        from trtpipe.models import onnxfile, ort_cpu, trial_data

        if self._loaded is None:
            try:
                self._loaded = onnxfile.load(Path(self._path)), ort_cpu.Session(self._path)
            except Exception:  # noqa: BLE001 — a model that onnxruntime does not load is told by the stage that parses it
                return None
        model, session = self._loaded
        try:
            session(trial_data.make(model, self._found.inputs, shapes))  # type: ignore[operator]
        except TypeError:
            return None  # NumPy has no such type
        except Exception:  # noqa: BLE001 — however it fails, it does not run with these shapes
            return False
        return True
