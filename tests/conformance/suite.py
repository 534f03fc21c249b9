"""The cases of ONNX's backend tests, which come with the package onnx."""

from __future__ import annotations

import importlib
import pkgutil
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ON_DISK = ("simple", "pytorch-converted", "pytorch-operator")
"""Kinds whose models and data are files; those of `real` would have to be downloaded."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model, one set of inputs, and what must come out. Arrays, or lists where a tensor is a sequence."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    rtol: float
    atol: float


def sampled(count: int, seed: int) -> list[Case]:
    """Give cases of some operators, chosen by a seed: all cases take half a minute to make."""
    from onnx.backend.test.case import node

    modules = sorted(m.name for m in pkgutil.iter_modules(node.__path__) if not m.name.startswith("_"))
    chooser = random.Random(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in chooser.sample(modules, 12):
            importlib.import_module(f"{node.__name__}.{name}")
    tests = chooser.sample(sorted(node._NodeTestCases, key=lambda test: str(test.name)), count * 3 // 4)
    made = [case for test in tests for case in _of_memory(test)]
    files = chooser.sample(_tests_on_disk(), count - len(tests))
    return made + [case for test in files for case in _read(test)]


def every() -> list[Case]:
    """Give all cases, in the order of their names."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    made = [case for test in tests for case in _of_memory(test)]
    made += [case for test in _tests_on_disk() for case in _read(test)]
    return sorted(made, key=lambda case: case.name)


def _of_memory(test: Any) -> Iterator[Case]:
    for number, (given, wanted) in enumerate(test.data_sets or []):
        yield _case(test, test.model, given, wanted, number)


def _tests_on_disk() -> list[Any]:
    from onnx.backend.test.loader import load_model_tests

    return sorted((test for kind in ON_DISK for test in load_model_tests(kind=kind)), key=lambda test: str(test.name))


def _read(test: Any) -> Iterator[Case]:
    folder = Path(test.model_dir)
    model = onnx.load(folder / "model.onnx")
    if not (_tensors(model.graph.input) and _tensors(model.graph.output)):
        return  # sequences, which are in other files
    for number, data in enumerate(sorted(folder.glob("test_data_set_*"))):
        given, wanted = (
            [numpy_helper.to_array(onnx.load_tensor(str(data / f"{side}_{i}.pb")))
             for i in range(len(list(data.glob(f"{side}_*.pb"))))]
            for side in ("input", "output")
        )  # fmt: skip
        yield _case(test, model, given, wanted, number)


def _tensors(values: Iterable[onnx.ValueInfoProto]) -> bool:
    return all(value.type.WhichOneof("value") == "tensor_type" for value in values)


def _case(test: Any, model: onnx.ModelProto, given: Any, wanted: Any, number: int) -> Case:
    inputs = dict(zip((v.name for v in model.graph.input), given, strict=False))
    outputs = dict(zip((v.name for v in model.graph.output), wanted, strict=False))
    name = test.name if not number else f"{test.name} {number}"
    return Case(
        name=name, model=model, inputs=_arrays(inputs), outputs=_arrays(outputs), rtol=test.rtol, atol=test.atol
    )


def _arrays(given: dict[str, Any]) -> dict[str, Any]:
    return {name: _array(value) for name, value in given.items()}


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):  # some cases are written so
        return numpy_helper.to_array(value)
    return value if value is None or isinstance(value, list) else np.asarray(value)


def differs(case: Case, found: dict[str, Any]) -> str | None:
    """Say how outputs differ from the suite's, by its own rules; None if they do not."""
    for name, wanted in case.outputs.items():
        if wanted is None or name not in found:
            continue
        if isinstance(wanted, list):  # a sequence, which comes from ONNX Runtime alone
            if len(found[name]) != len(wanted):
                return f"{name}: {len(found[name])} tensors, expected {len(wanted)}"
            continue
        one, right = np.asarray(found[name]), np.asarray(wanted)
        if one.shape != right.shape:
            return f"{name}: shape {list(one.shape)}, expected {list(right.shape)}"
        if one.dtype != right.dtype:
            return f"{name}: {one.dtype}, expected {right.dtype}"
        if right.dtype.kind in "OUS":
            if not np.array_equal(one, right):
                return f"{name}: other texts"
            continue
        rtol = case.rtol
        if right.dtype.kind == "V" or right.dtype.name in ("bfloat16", "int4", "uint4", "int2", "uint2"):
            rtol = max(rtol, 2**-6) if right.dtype.name == "bfloat16" else rtol
            one, right = one.astype(np.float32), right.astype(np.float32)
        if not np.allclose(one, right, rtol=rtol, atol=case.atol, equal_nan=True):
            return f"{name}: other values"
    return None
