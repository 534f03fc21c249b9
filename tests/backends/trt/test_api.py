"""Each name of TensorRT's API that the backend uses exists in every version, or the branch for its absence is taken.

Needs no TensorRT: tests/backends/trt/api holds the public names of real bindings, written by snapshot.py there.
"""

from __future__ import annotations

import ast
import json

import pytest

from tests import made
from tests.helpers import PROJECT
from trtpipe.backends.trt import rules
from trtpipe.backends.trt.dtypes import DTYPES
from trtpipe.documents.network import Tensor
from trtpipe.errors import StageFailed

FILES = sorted((PROJECT / "tests" / "backends" / "trt" / "api").glob("*.json"))
SNAPSHOTS = {path.stem: json.loads(path.read_text()) for path in FILES}
OLD, TEN, ELEVEN, RTX, RTX_NEW = (
    "tensorrt-8.6.0", "tensorrt-10.16.1.11", "tensorrt-11.4.0.106", "tensorrt_rtx-1.4.0.76", "tensorrt_rtx-1.7.1.116",
)  # fmt: skip
EVERY = {OLD, TEN, ELEVEN, RTX, RTX_NEW}
WEAK = {OLD, TEN}
REAL = {OLD, TEN, ELEVEN}
JIT = {RTX, RTX_NEW}

# class or enum → its members that the backend uses → where they must be. None: the backend asks first (getattr,
# hasattr, or the rules' table) and goes on without. Any member may be in more versions than it must.
USED = {
    "BuilderFlag": {
        "TF32": EVERY, "REFIT": EVERY, "SPARSE_WEIGHTS": EVERY, "FP16": WEAK, "BF16": {TEN}, "INT8": WEAK, "FP8": WEAK,
        "OBEY_PRECISION_CONSTRAINTS": WEAK, "PREFER_PRECISION_CONSTRAINTS": WEAK, "STRIP_PLAN": EVERY - {OLD},
        "WEIGHT_STREAMING": EVERY - {OLD}, "VERSION_COMPATIBLE": REAL, "ERROR_ON_TIMING_CACHE_MISS": None,
    },
    "ComputeCapability": {"SM80": JIT, "SM75": JIT},
    "CudaGraphStrategy": {"WHOLE_GRAPH_CAPTURE": JIT},
    "DynamicShapesKernelSpecializationStrategy": {"EAGER": JIT},
    "HardwareCompatibilityLevel": {"AMPERE_PLUS": REAL, "SAME_COMPUTE_CAPABILITY": {TEN, ELEVEN}},
    "IBuilderConfig": {
        "clear_flag": EVERY, "set_flag": EVERY, "create_timing_cache": REAL, "get_timing_cache": REAL,
        "set_timing_cache": REAL,
    },
    "ICudaEngine": {
        **dict.fromkeys((
            "create_engine_inspector", "create_execution_context", "get_tensor_dtype", "get_tensor_location",
            "get_tensor_mode", "get_tensor_name", "get_tensor_shape", "num_io_tensors", "num_optimization_profiles",
        ), EVERY),
        "create_runtime_config": JIT, "device_memory_size": {OLD}, "device_memory_size_v2": EVERY - {OLD},
    },
    "IExecutionContext": dict.fromkeys((
        "enqueue_emits_profile", "execute_async_v3", "get_tensor_shape", "infer_shapes", "profiler", "set_input_shape",
        "set_optimization_profile_async", "set_output_allocator", "set_tensor_address",
    ), EVERY),
    "ILayer": {
        **dict.fromkeys(("get_output", "name", "num_outputs", "type"), EVERY), "precision": WEAK,
        "set_output_type": WEAK,
    },
    "ILogger": {"Severity": EVERY, "log": EVERY},
    "INetworkDefinition": dict.fromkeys((
        "get_input", "get_layer", "get_output", "num_inputs", "num_layers", "num_outputs",
    ), EVERY),
    # Ours to define: TensorRT calls them, and lists them on its own class in 8.6 only.
    "IOutputAllocator": {"notify_shape": {OLD}, "reallocate_output": {OLD}, "reallocate_output_async": None},
    "IProfiler": {"report_layer_time": EVERY},
    "IRuntimeCache": {"deserialize": JIT, "serialize": JIT},
    "IRuntimeConfig": dict.fromkeys((
        "create_runtime_cache", "cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy",
        "set_runtime_cache",
    ), JIT),
    "ITensor": {
        **dict.fromkeys(("dtype", "is_shape_tensor", "name", "shape"), EVERY), "get_dimension_name": EVERY,
    },
    "ITimingCache": {"combine": REAL, "serialize": REAL},
    "LayerInformationFormat": {"JSON": EVERY},
    "LayerType": {"CONVOLUTION": EVERY, "DECONVOLUTION": EVERY, "MATRIX_MULTIPLY": EVERY, "FULLY_CONNECTED": {OLD}},
    "MemoryPoolType": {"WORKSPACE": EVERY},
    "OnnxParser": {
        "clear_errors": EVERY, "get_error": EVERY, "num_errors": EVERY, "parse_from_file": EVERY,
        "supports_model": {OLD},
    },
    "ParserError": {
        "code": EVERY, "desc": EVERY, "func": EVERY, "node": EVERY, "node_name": EVERY - {OLD},
        "node_operator": EVERY - {OLD},
    },
    "ProfilingVerbosity": {"DETAILED": EVERY, "LAYER_NAMES_ONLY": EVERY, "NONE": EVERY},
    "Runtime": {"engine_host_code_allowed": REAL},
    "TacticSource": {},
    "TensorIOMode": {"INPUT": EVERY},
    "TensorLocation": {"HOST": EVERY},
    "init_libnvinfer_plugins": {},
    "bfloat16": {}, "float16": {}, "float32": {},
}  # fmt: skip
# Of these the name itself is not everywhere, and the backend does without.
ABSENT = {
    "ComputeCapability": REAL, "CudaGraphStrategy": REAL, "DynamicShapesKernelSpecializationStrategy": REAL,
    "IRuntimeCache": REAL, "IRuntimeConfig": {OLD}, "bfloat16": {OLD},
}  # fmt: skip


def has(snapshot):
    names = SNAPSHOTS[snapshot]["names"]
    return lambda enum, member: member in names.get(enum, ())


def test_the_snapshots_are_those_of_five_versions():
    assert set(SNAPSHOTS) == EVERY
    for name, snapshot in SNAPSHOTS.items():
        assert name == f"{snapshot['flavour']}-{snapshot['version']}"


@pytest.mark.parametrize("snapshot", sorted(EVERY))
def test_every_name_that_the_backend_uses_is_there_or_known_to_be_absent(snapshot):
    names = SNAPSHOTS[snapshot]["names"]
    missing = []
    for owner, members in USED.items():
        if owner not in names:
            if snapshot not in ABSENT.get(owner, ()):
                missing.append(owner)
            continue
        missing += [
            f"{owner}.{member}"
            for member, where in members.items()
            if where is not None and snapshot in where and member not in names[owner]
        ]
    assert missing == []


def test_every_name_of_the_api_in_the_backends_source_is_in_the_table():
    found = set()
    for file in sorted((PROJECT / "trtpipe" / "backends" / "trt").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            value = node.value
            module = (isinstance(value, ast.Name) and value.id == "trt") or (
                isinstance(value, ast.Attribute) and value.attr in ("trt", "_trt")
            )
            if module and not node.attr.startswith("__"):
                found.add(node.attr)
    assert found <= USED.keys(), sorted(found - USED.keys())


NETWORK = made.network(inputs=(Tensor(name="x", dtype="float32", dims=(1,)),), dtypes={"float32": 4})


def settle(snapshot, **changed):
    library = SNAPSHOTS[snapshot]
    return rules.settle(library["flavour"], library["version"], made.asked(**changed), NETWORK, has(snapshot))


@pytest.mark.parametrize("snapshot", sorted(EVERY))
@pytest.mark.parametrize("precision", ["model", "fp32", "tf32", "fp16", "bf16"])
def test_the_rules_ask_for_flags_that_the_version_has(snapshot, precision):
    if snapshot == OLD and precision == "bf16":
        with pytest.raises(StageFailed, match="it knows no bfloat16"):
            settle(snapshot, precision=precision)
        return
    part = settle(snapshot, precision=precision)
    assert all(has(snapshot)("BuilderFlag", flag) for flag in part.flags)
    half = precision in ("fp16", "bf16")
    assert part.rewrite == (precision if half and snapshot != OLD else None)
    assert part.flags == (("FP16",) if half and snapshot == OLD else ("TF32",) if precision == "tf32" else ())


@pytest.mark.parametrize("snapshot", sorted(EVERY))
@pytest.mark.parametrize(
    "setting",
    [
        {"version_compatible": True}, {"hardware_compatibility": "ampere+"}, {"strip_plan": True}, {"refit": True},
        {"hardware_compatibility": "same_compute_capability"}, {"weight_streaming": True}, {"sparse_weights": True},
        {"compute_capabilities": (80,)}, {"precision": "fp16", "strongly_typed": False, "keep_fp32": ("head",)},
    ],
)  # fmt: skip
def test_a_setting_is_honoured_with_names_that_are_there_or_refused(snapshot, setting):
    try:
        part = settle(snapshot, **setting)
    except StageFailed as error:
        assert "cannot honour" in str(error)
    else:
        assert all(has(snapshot)("BuilderFlag", flag) for flag in part.flags)


def test_every_data_type_has_a_name_of_ours():
    for snapshot, library in SNAPSHOTS.items():
        kinds = {n for n in library["names"]["DataType"] if n.isupper() and n != "DEFAULT"}
        assert kinds <= DTYPES.keys(), (snapshot, kinds - DTYPES.keys())
