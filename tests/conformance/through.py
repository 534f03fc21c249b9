"""A case through trtpipe's stages: one document for all, made of the model and its data alone."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tests import onnx_models as models
from tests.conformance import suite
from tests.helpers import as_input, run_stage
from trtpipe.data import tensors
from trtpipe.documents import files
from trtpipe.documents.manifest import Manifest
from trtpipe.documents.network import Network
from trtpipe.errors import TrtpipeError
from trtpipe.models import onnxfile, ort_cpu, signature

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conformance.suite import Case


class Outcome(NamedTuple):
    """What came of a case: `right`, `refused`, `wrong` or `raw` (an exception that is none of trtpipe's)."""

    case: str
    came: str
    why: str = ""


def bare(case: Case) -> bool:
    """Tell whether ONNX Runtime by itself passes the case."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = ort_cpu.Session(case.model.SerializeToString())
            found = session({n: v for n, v in case.inputs.items() if v is not None})
    except Exception:  # noqa: BLE001
        return False
    return suite.differs(case, found) is None


def run(
    case: Case,
    folder: Path,
    *,
    backend: str = "onnxruntime",
    engine_only: bool = False,
    differs: Callable[[Case, dict[str, Any]], str | None] = suite.differs,
) -> Outcome:
    """Run a case through parse, configure, build, allocate and infer; `differs` judges what comes out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _run(case, folder, backend, engine_only=engine_only)
    except TrtpipeError as error:
        return Outcome(case.name, "refused", str(error))
    except Exception as error:  # noqa: BLE001
        return Outcome(case.name, "raw", f"{type(error).__name__}: {error}")
    if found is None:
        return Outcome(case.name, "right")
    wrong = differs(case, found)
    return Outcome(case.name, "wrong" if wrong else "right", wrong or "")


def _run(case: Case, folder: Path, backend: str, *, engine_only: bool) -> dict[str, Any] | None:
    path = models.save(case.model, folder / "model.onnx")
    named = {v.name for v in signature.graph_inputs(case.model)}
    given = {name: value for name, value in case.inputs.items() if name in named and isinstance(value, np.ndarray)}
    network = run_stage("parse", {"strict_lints": False}, {"model": path}, folder, backend=backend)
    profile = _profile(files.read(network / Network.file, Network), given)
    params = {"profiles": [profile]} if profile and backend != "onnxruntime" else {}
    config = run_stage("configure", params, {"network": network}, folder, backend=backend)
    engine = run_stage("build", {}, {"config": config}, folder, backend=backend)
    if engine_only:
        return None
    shapes = {b.name: list(given[b.name].shape) for b in files.read(engine / Manifest.file, Manifest).side("input")}
    buffers = run_stage("allocate", {"shapes": shapes}, {"engine": engine}, folder, backend=backend)
    data = folder / "data"
    data.mkdir()
    tensors.write(data, {name: np.ascontiguousarray(array[None]) for name, array in given.items()})
    inputs = {"engine": engine, "buffers": buffers, "data": data}
    out = run_stage("infer", {"allow_nan": True}, inputs, folder, backend=backend)
    return {name: tensors.fixed(source).read()[0] for name, source in tensors.open_input(as_input("made", out)).items()}


def _profile(network: Network, given: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Give the case's shapes, and values of shape inputs, as a profile."""
    found = {}
    for entry in network.inputs:
        array = given[entry.name]
        if entry.shape_input:
            exact = [int(v) for v in array.reshape(-1)]
        elif any(isinstance(d, str) for d in entry.dims or ()):
            exact = list(array.shape)
        else:
            continue
        found[entry.name] = {"min": exact, "opt": exact, "max": exact}
    return found


def bare_rtx(case: Case, folder: Path) -> bool:
    """Tell whether TensorRT-RTX's parser and builder take the case by themselves, for the case's shapes and values."""
    from trtpipe import backends

    library = backends.load("tensorrt_rtx").library
    trt, path = library.trt, models.save(case.model, folder / "bare.onnx")
    try:
        onnxfile.load(path)
        builder = trt.Builder(library.logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, library.logger)
        if not parser.parse_from_file(str(path)) or not network.num_outputs:
            return False
        profile, config = builder.create_optimization_profile(), builder.create_builder_config()
        for tensor in [network.get_input(i) for i in range(network.num_inputs)]:
            array = case.inputs[tensor.name]
            if tensor.is_shape_tensor:
                exact = [int(v) for v in array.reshape(-1)]
                profile.set_shape_input(tensor.name, exact, exact, exact)
            else:
                profile.set_shape(tensor.name, array.shape, array.shape, array.shape)
        config.add_optimization_profile(profile)
        return builder.build_serialized_network(network, config) is not None
    except Exception:  # noqa: BLE001  what it cannot take it need not
        return False


def reason(why: str) -> str:
    """Give the kind of a refusal, for a table."""
    kinds = (
        ("is of type string", "strings at an end of the model"),
        ("is of type sequence", "sequences at an end of the model"),
        ("is of type optional", "optionals at an end of the model"),
        ("is of type complex", "complex numbers at an end of the model"),
        ("which tensorrt_rtx cannot read or write", "a type that TensorRT has not"),
        ("has no shape in the model", "an input without a shape"),
        ("both an input and an output", "an output that is an input"),
        ("rejected:", "an operator that the runtime has not"),
        ("rejects", "an operator that the runtime has not"),
        ("an array holds one shape", "results of several shapes"),
        ("how many there are", "a shape input of unknown length"),
        ("answers otherwise", "the first answer was wrong"),
        ("cannot be built", "the builder refuses it"),
    )
    return next((label for text, label in kinds if text in why), " ".join(why.split())[:90])
