"""What this machine has, found without importing it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from trtpipe import environment
from trtpipe.environment import Choice, Gpu
from trtpipe.errors import EnvironmentMissing

H100 = Gpu(0, "NVIDIA H100 80GB HBM3", "9.0", 2**36, "GPU-aaaa")
ADA = Gpu(1, "NVIDIA L4", "8.9", 2**34, "GPU-bbbb")


@pytest.fixture
def machine(monkeypatch):
    def make(gpus, **versions):
        monkeypatch.setattr(environment, "gpus", lambda: gpus)
        monkeypatch.setattr(environment, "runtime_version", versions.get)

    return make


@pytest.mark.parametrize("name", ["numpy", "onnx", "msgspec", "PyYAML", "jsonschema"])
def test_versions_are_those_that_the_standard_library_finds(name):
    assert environment.version(name) == importlib.metadata.version(name)


def test_auto_takes_tensorrt_where_there_is_a_gpu(machine):
    machine((H100,), tensorrt="10.16", tensorrt_rtx="1.7", onnxruntime="1.31")
    assert environment.choose("auto")[:2] == ("tensorrt", "10.16")


def test_auto_takes_rtx_only_on_a_gpu_that_it_supports(machine):
    machine((ADA,), tensorrt_rtx="1.7.1.116", onnxruntime="1.31")
    assert environment.choose("auto").backend == "tensorrt_rtx"
    machine((H100,), tensorrt_rtx="1.7.1.116", onnxruntime="1.31")
    assert environment.choose("auto").backend == "onnxruntime"
    machine((H100,), tensorrt_rtx="1.4.0.76", onnxruntime="1.31")
    assert environment.choose("auto").backend == "tensorrt_rtx"


def test_auto_without_a_gpu_takes_onnxruntime_and_says_why(machine):
    machine((), tensorrt="10.16", tensorrt_rtx="1.7", onnxruntime="1.31")
    assert environment.choose("auto") == Choice("onnxruntime", "1.31", "no GPU here")


def test_a_runtime_that_is_asked_for_is_never_replaced_by_another(machine):
    machine((H100,), onnxruntime="1.31")
    with pytest.raises(EnvironmentMissing, match=r"trtpipe\[tensorrt\].*installed here: onnxruntime"):
        environment.choose("tensorrt")
    machine((), tensorrt="10")
    with pytest.raises(EnvironmentMissing, match=r"trtpipe\[cpu\]"):
        environment.choose("auto")


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (None, (H100, ADA)), ("", ()), ("-1", ()), ("1", (ADA,)), ("1,0", (ADA, H100)), ("GPU-b", (ADA,)),
        ("0,7,1", (H100,)),
    ],
)  # fmt: skip
def test_cuda_visible_devices_is_honoured_as_cuda_does(monkeypatch, wish, expected):
    monkeypatch.setattr(environment, "_nvml", lambda: ((H100, ADA), "580"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if wish is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wish)
    assert environment.gpus() == expected


def test_a_missing_package_is_an_error_not_a_constant_in_the_key():
    with pytest.raises(EnvironmentMissing, match="pip install no-such-package"):
        environment.facets(("no-such-package",), None, None)


def test_the_facets_of_a_key_name_the_runtime_and_the_gpu():
    found = environment.facets(("numpy",), Choice("tensorrt", "8.6.0", ""), H100)
    assert found == {
        "numpy": environment.version("numpy"), "backend": "tensorrt", "backend_version": "8.6.0",
        "polygraphy": environment.version("polygraphy"), "gpu": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("capability", "new", "old"), [("7.0", False, False), ("7.5", True, True), ("8.0", True, True), ("8.9", True, True),
                                   ("9.0", False, True), ("10.0", False, False), ("12.0", True, True)]
)  # fmt: skip
def test_rtx_supports_what_was_measured(capability, new, old):
    assert environment.rtx_supports("1.7.1.116", capability) is new
    assert environment.rtx_supports("1.4.0.76", capability) is old


def test_looking_around_imports_no_runtime():
    code = """
import sys
from trtpipe.cli import doctor
doctor.examine(".")
heavy = {"torch", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "onnx", "onnxruntime", "numpy"}
print(sorted(heavy & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
