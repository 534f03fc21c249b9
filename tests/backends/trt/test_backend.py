"""The TensorRT backend on the real TensorRT-RTX, which parses and builds without a GPU."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests import onnx_models as models
from tests.helpers import PROJECT
from trtpipe import backends, environment
from trtpipe.backends import plan_header
from trtpipe.backends.trt.rules import settle
from trtpipe.errors import EnvironmentMissing, StageFailed

HERE = any(importlib.util.find_spec(m) for m in ("tensorrt_rtx", "tensorrt_rtx_bindings"))
needs_rtx = pytest.mark.skipif(not HERE, reason="TensorRT-RTX is not installed: pip install 'trtpipe[rtx]'")
needs_no_gpu = pytest.mark.skipif(bool(environment.gpus()), reason="this is about machines without a GPU")
PATHS = {"PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]), "PATH": ""}
IMAGE = {"image": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}}


@pytest.fixture
def rtx():
    return backends.load("tensorrt_rtx")


def config_for(backend, profiles=(), **settings):
    """Give a whole config record, as the stage would write it."""
    config = {
        "precision": "model", "keep_fp32": [], "workspace": None, "profiles": list(profiles),
        "optimization_level": None, "timing_cache": "auto", "version_compatible": False,
        "hardware_compatibility": "none", "compute_capabilities": None, "sparse_weights": False, "strip_plan": False,
        "refit": False, "weight_streaming": False, "verbosity": "names_only", "strongly_typed": None, **settings,
    }  # fmt: skip
    network = {"inputs": [], "outputs": [], "dtypes": {}}
    return config | settle(backend.name, backend.version, config, network)


def build(backend, model, tmp_path, profiles=(), name="engine.plan", **settings):
    notes = []
    part = backend.build(model, config_for(backend, profiles, **settings), tmp_path / name, tmp_path, notes.append)
    return tmp_path / name, part


@needs_rtx
def test_a_network_is_described_as_the_parser_sees_it(rtx, tmp_path):
    seen = rtx.parse(models.save(models.conv(), tmp_path / "m.onnx"))
    assert seen["inputs"] == [{"name": "image", "dtype": "float32", "shape": [-1, 3, 8, 8], "dims": ["batch", 3, 8, 8]}]
    assert [(o["name"], o["dtype"], o["shape"]) for o in seen["outputs"]] == [("logits", "float32", [-1, 5])]
    assert seen["layers"]["CONVOLUTION"] == 1
    assert seen["layers"]["MATRIX_MULTIPLY"] == 1


@needs_rtx
def test_every_rejected_node_is_listed_at_once_with_its_reason(rtx, tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="fine"),
        helper.make_node("Frobnicate", ["a"], ["b"], name="odd", domain="mine"),
        helper.make_node("Det", ["a"], ["c"], name="det"),
        helper.make_node("Det", ["b"], ["y"]),
    ]
    proto = models.model(nodes, [models.value("x", [1, 4, 4])], [models.value("y", None)], domains=("mine",))
    with pytest.raises(StageFailed) as caught:
        rtx.parse(models.save(proto, tmp_path / "m.onnx"))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"TensorRT-RTX {rtx.version} rejects 3 nodes of m.onnx:"
    assert lines[1].startswith("  node 1 odd [Frobnicate]: ")
    assert re.search("Plugin not found|is not supported", lines[1])
    assert lines[2].startswith("  node 2 det [Det]: unsupported node")
    assert lines[3].startswith("  node 3 (unnamed) [Det]: unsupported node")


@needs_rtx
def test_a_file_that_the_parser_takes_for_an_empty_model_is_refused(rtx, tmp_path):
    (tmp_path / "m.onnx").write_text("torn")
    with pytest.raises(StageFailed, match=r"m\.onnx holds no network: it is torn, or no ONNX model"):
        rtx.parse(tmp_path / "m.onnx")


@needs_rtx
def test_external_data_is_found_beside_the_model(rtx, tmp_path):
    path = models.with_external(tmp_path / "a" / "m.onnx", models.conv(2))
    assert rtx.parse(path)["layers"]["CONVOLUTION"] == 1
    plan, _ = build(rtx, path, tmp_path)
    inline, _ = build(rtx, models.save(models.conv(2), tmp_path / "m.onnx"), tmp_path, name="inline.plan")
    assert plan.read_bytes() == inline.read_bytes()


@needs_rtx
@needs_no_gpu
@pytest.mark.parametrize(("version", "said"), [("1.6.1.120", True), ("1.7.1.116", False)])
def test_a_failed_build_of_int8_says_which_tensorrt_rtx_has_none(rtx, monkeypatch, tmp_path, version, said):
    scales = {"s": np.asarray(0.1, np.float32), "z": np.asarray(0, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    proto = models.model(nodes, [models.value("x", [2, 3])], [models.value("y", [2, 3])], scales)
    monkeypatch.setattr(rtx, "version", version)
    # What fails here is something else: an older one cannot be had beside this one.
    with pytest.raises(StageFailed) as told:
        build(rtx, models.save(proto, tmp_path / "m.onnx"), tmp_path, refit=True)
    assert ("before 1.7 has no int8 convolution" in str(told.value)) is said


@needs_rtx
def test_a_real_plan_is_built_and_its_header_read(rtx, tmp_path):
    plan, part = build(rtx, models.save(models.conv(), tmp_path / "m.onnx"), tmp_path, [IMAGE])
    assert plan_header.read_header(plan) == {
        "flavour": "tensorrt_rtx",
        "version": rtx.version,
        "bytes": plan.stat().st_size,
    }
    plan_header.check(plan, "tensorrt_rtx", rtx.version)
    assert part["bindings"][0] == {
        "name": "image", "mode": "input", "dtype": "float32", "shape": [-1, 3, 8, 8], "dims": ["batch", 3, 8, 8],
    }  # fmt: skip
    assert part["target"] == {"compute_capabilities": "8.0+"}
    assert part["precision_proof"]["status"] == "unproven"


@needs_rtx
def test_a_static_network_gives_the_same_bytes_in_two_processes(tmp_path):
    models.save(models.conv(2), tmp_path / "m.onnx")
    config = json.dumps(config_for(backends.load("tensorrt_rtx")))
    code = (
        "import sys, json; from pathlib import Path; from trtpipe import backends\n"
        "backends.load('tensorrt_rtx').build(Path('m.onnx'), json.loads(sys.argv[1]), Path(sys.argv[2]), Path(), print)"
    )
    digests = set()
    for name in ("a.plan", "b.plan"):
        subprocess.run(
            [sys.executable, "-c", code, config, name],
            cwd=tmp_path, env=PATHS, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


@needs_rtx
def test_tf32_reaches_the_builder_and_is_off_otherwise(rtx, tmp_path):
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    plans = {p: build(rtx, model, tmp_path, precision=p, name=p)[0].read_bytes() for p in ("model", "fp32", "tf32")}
    assert plans["model"] == plans["fp32"] != plans["tf32"]


class Weak:
    """A parsed network whose layers take a precision, as those of weakly typed networks do."""

    def __init__(self, network):
        self.layers = [Layer(network.get_layer(i)) for i in range(network.num_layers)]
        self.num_layers = len(self.layers)

    def get_layer(self, index):
        return self.layers[index]


class Layer:
    def __init__(self, real):
        self.real, self.precision, self.types = real, None, {}

    def __getattr__(self, name):
        return getattr(self.real, name)

    def set_output_type(self, index, dtype):
        self.types[index] = dtype


@needs_rtx
@pytest.mark.parametrize(("held", "conv", "last"), [([], "half", "half"), (["conv", "norm"], "single", "half")])
def test_products_are_asked_to_be_half_and_what_is_held_to_be_float32(rtx, tmp_path, held, conv, last):
    from polygraphy.backend.trt import network_from_onnx_path

    trt = rtx.trt
    parts = network_from_onnx_path(str(models.save(models.folding(), tmp_path / "m.onnx")), strongly_typed=True)
    network = Weak(parts[1])
    rtx._ask_for_half(network, "fp16", obeyed=bool(held))
    rtx._keep_fp32(network, [], held)
    types = {"half": trt.float16, "single": trt.float32}
    found = {layer.name: layer for layer in network.layers}
    assert (found["conv"].precision, found["last"].precision) == (types[conv], types[last])
    assert found["relu"].precision is None
    assert found["conv"].types == ({0: trt.float32} if held else {})
    with pytest.raises(StageFailed, match="no layer could be kept in float32 for the nodes nobody"):
        rtx._keep_fp32(network, ["nobody"])


@needs_rtx
def test_settings_reach_the_builder(rtx, tmp_path, monkeypatch):
    seen, build_it = [], rtx.trt.Builder.build_serialized_network

    def look(builder, network, config):
        workspace = config.get_memory_pool_limit(rtx.trt.MemoryPoolType.WORKSPACE)
        sparse = config.get_flag(rtx.trt.BuilderFlag.SPARSE_WEIGHTS)
        seen.append((workspace, sparse, config.profiling_verbosity))
        return build_it(builder, network, config)

    monkeypatch.setattr(rtx.trt.Builder, "build_serialized_network", look)
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    build(rtx, model, tmp_path, workspace=32 << 20, sparse_weights=True, verbosity="detailed")
    assert seen == [(32 << 20, True, rtx.trt.ProfilingVerbosity.DETAILED)]


@needs_rtx
def test_capabilities_are_the_target_and_change_the_plan(rtx, tmp_path):
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    both, part = build(rtx, model, tmp_path, compute_capabilities=[86, 89], name="both")
    one, _ = build(rtx, model, tmp_path, compute_capabilities=[89], name="one")
    assert part["target"] == {"compute_capabilities": [86, 89]}
    assert both.read_bytes() != one.read_bytes()


@needs_rtx
def test_a_capability_that_the_bindings_do_not_know_is_refused(rtx):
    config = config_for(rtx) | {"compute_capabilities": [90]}
    with pytest.raises(StageFailed, match="compute_capabilities: 90: it knows 75, 80, 86, 89"):
        rtx.configure(config, {"inputs": [], "outputs": []})


@needs_rtx
def test_a_workspace_that_is_too_small_fails_with_the_number_and_the_builders_words(rtx, tmp_path):
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    with pytest.raises(StageFailed) as caught:
        build(rtx, model, tmp_path, workspace=1)
    message = str(caught.value)
    assert "workspace 1 bytes: if that is too little for it, give more" in message
    assert re.search(rf"TensorRT-RTX {re.escape(rtx.version)} says:\s+\w", message)
    assert "Invalid Engine" not in message


@needs_rtx
@needs_no_gpu
def test_refit_without_a_gpu_fails_with_the_likely_reason(rtx, tmp_path):
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    with pytest.raises(StageFailed, match=r"refit and strip_plan are known to fail.*where there is no GPU"):
        build(rtx, model, tmp_path, refit=True)


@needs_rtx
def test_errors_of_one_build_are_not_told_by_the_next(rtx, tmp_path):
    model = models.save(models.conv(2), tmp_path / "m.onnx")
    with pytest.raises(StageFailed):
        build(rtx, model, tmp_path, workspace=1)
    build(rtx, model, tmp_path)
    assert not rtx.errors


@needs_rtx
def test_dynamic_inputs_without_a_profile_are_refused(rtx):
    network = {
        "inputs": [{"name": "x", "dtype": "float32", "dims": ["n", 3]}, {"name": "z", "dtype": "float32", "dims": [1]}],
        "outputs": [],
        "dtypes": {},
    }
    with pytest.raises(StageFailed, match=r"needs a profile for dynamic inputs.*profiles is empty: x \[n, 3\];"):
        rtx.configure(config_for(rtx), network)


@needs_rtx
def test_several_profiles_and_integer_and_boolean_tensors_build(rtx, tmp_path):
    nodes = [
        helper.make_node("Greater", ["ids", "zero"], ["mask"], name="greater"),
        helper.make_node("Cast", ["half"], ["wide"], name="cast", to=TensorProto.FLOAT),
    ]
    proto = models.model(
        nodes,
        [models.value("ids", ["n"], TensorProto.INT64), models.value("half", ["n"], TensorProto.FLOAT16)],
        [models.value("mask", ["n"], TensorProto.BOOL), models.value("wide", ["n"])],
        {"zero": np.zeros(1, np.int64)},
    )
    profiles = [{name: {"min": [a], "opt": [b], "max": [b]} for name in ("ids", "half")} for a, b in ((1, 4), (8, 16))]
    _, part = build(rtx, models.save(proto, tmp_path / "m.onnx"), tmp_path, profiles)
    assert {b["name"]: b["dtype"] for b in part["bindings"]} == {
        "ids": "int64", "half": "float16", "mask": "bool", "wide": "float32",
    }  # fmt: skip


@needs_rtx
@needs_no_gpu
def test_running_without_a_gpu_says_what_works_instead(rtx, tmp_path):
    plan, part = build(rtx, models.save(models.conv(2), tmp_path / "m.onnx"), tmp_path)
    with pytest.raises(EnvironmentMissing, match="builds here, but running a plan needs a GPU.*--target engine"):
        rtx.open(plan, {"bindings": part["bindings"]}, {}, print)


@needs_rtx
def test_a_plan_that_cannot_load_is_refused_before_it_is_loaded(rtx, tmp_path):
    plan, part = build(rtx, models.save(models.conv(2), tmp_path / "m.onnx"), tmp_path)
    good = plan.read_bytes()
    plan.write_bytes(good[:-10])
    with pytest.raises(StageFailed, match="truncated"):
        rtx.open(plan, part, {}, print)
    plan.write_bytes(good[:24] + bytes([1, 2, 0, 54]) + good[28:])
    with pytest.raises(StageFailed, match=r"built by tensorrt_rtx 1\.2\.0\.54, and .* is installed"):
        rtx.open(plan, part, {}, print)
    plan.write_bytes(b"ftrt" + good[4:])
    with pytest.raises(StageFailed, match="--backend tensorrt"):
        rtx.open(plan, part, {}, print)


@needs_rtx
@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_a_torn_timing_cache_is_ignored_loudly_and_a_good_one_is_replaced_whole(rtx, tmp_path):
    # RTX has no use for timing caches, but the same calls: enough to see the file handled.
    from polygraphy.backend.trt import create_network

    from trtpipe.backends.trt.backend import _TimingCache

    builder, _network = create_network()
    notes = []
    cache = _TimingCache(rtx, _TimingCache.place(rtx, tmp_path), notes.append)
    assert cache.path.parent.parent == tmp_path
    assert cache.path.parent.name.startswith(f"tensorrt_rtx-{rtx.version}-")
    config = builder.create_builder_config()
    cache.attach(config)
    assert not notes
    cache.finish(config, complete=False)
    saved = cache.path.read_bytes()
    assert saved
    assert sorted(p.name for p in cache.path.parent.iterdir()) == ["lock", "timing.cache"]
    cache.path.write_bytes(b"torn")
    config = builder.create_builder_config()
    cache.attach(config)
    assert notes == ["ignored the timing cache timing.cache: it is torn, or of another TensorRT or GPU"]
    cache.finish(config, complete=False)
    assert cache.path.read_bytes() == saved
    pinned = tmp_path / "pinned.cache"
    pinned.write_bytes(b"torn")
    with pytest.raises(StageFailed, match="the timing cache pinned.cache is torn, or of another TensorRT or GPU"):
        _TimingCache(rtx, pinned, notes.append, pinned=True).attach(builder.create_builder_config())
    assert pinned.read_bytes() == b"torn"


def run_alone(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**PATHS, **env}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {hidden!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Hide())
from trtpipe import backends
from trtpipe.errors import EnvironmentMissing
try:
    backends.load({backend!r})
except EnvironmentMissing as error:
    print(error)
"""


@pytest.mark.parametrize(("backend", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "rtx")])
def test_a_runtime_that_is_not_installed_is_named_with_the_command_that_installs_it(backend, extra):
    hidden = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
    said = run_alone(HIDE.format(hidden=hidden, backend=backend))
    assert f"{backend} is not installed" in said.stdout, said.stderr
    assert f"pip install 'trtpipe[{extra}]'" in said.stdout


@needs_rtx
def test_a_process_serves_one_flavour(rtx):
    with pytest.raises(EnvironmentMissing, match="this process has already loaded tensorrt_rtx"):
        backends.load("tensorrt")
    assert backends.load("tensorrt_rtx") is rtx


@needs_rtx
def test_loading_prints_nothing_to_stdout(tmp_path):
    said = run_alone("from trtpipe import backends; backends.load('tensorrt_rtx')")
    assert said.returncode == 0
    assert said.stdout == ""
