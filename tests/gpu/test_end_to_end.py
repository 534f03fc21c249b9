"""On a GPU: build, load and run with the TensorRT that is installed, against onnxruntime on the same inputs.

Runs on TensorRT 8.6 (CPython 3.10, NumPy 1.26) and on TensorRT-RTX 1.4 alike; the flavour is whichever is
installed (TRTPIPE_TEST_BACKEND chooses where both are).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper

from tests import onnx_models as models
from tests.helpers import flip_everywhere, inference, project, run_stage, trtpipe
from trtpipe import environment
from trtpipe.backends import plan_header
from trtpipe.backends.trt import builder, proof
from trtpipe.documents import files
from trtpipe.documents.buffers import Buffers
from trtpipe.documents.config import Config
from trtpipe.documents.manifest import Manifest
from trtpipe.errors import StageFailed
from trtpipe.stages.build import check_precision

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not environment.gpus(), reason="there is no NVIDIA GPU here"),
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"),
    pytest.mark.timeout(600),
]


def old(backend):
    return backend.name == "tensorrt" and int(backend.version.split(".")[0]) < 9


class Chain:
    """parse, configure, build, allocate, open: each by its stage's own body."""

    def __init__(self, backend, tmp_path, proto, *, shapes=None, slots=1, host="auto", **params):
        tmp_path.mkdir(exist_ok=True)
        self.backend, self.tmp, self.proto = backend, tmp_path, proto
        self.notes = []
        self.model = models.save(proto, tmp_path / "model.onnx")
        self.network = self.stage("parse", {}, model=self.model)
        self.config = self.stage("configure", params, network=self.network)
        self.engine = self.stage("build", {}, config=self.config)
        self.manifest = files.read(self.engine / Manifest.file, Manifest)
        self.plan = self.engine / self.manifest.plan
        allocate = {"shapes": shapes or {}, "slots": slots, "host": host}
        self.buffers = files.read(self.stage("allocate", allocate, engine=self.engine) / Buffers.file, Buffers)

    def stage(self, name, params, **inputs):
        return run_stage(name, params, inputs, self.tmp, backend=self.backend.name, notes=self.notes)

    def open(self, **changed):
        return self.backend.open(self.plan, self.manifest, replace(self.buffers, **changed), self.notes.append)

    def expected(self, feed):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(self.model), options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        return dict(zip(names, session.run(names, feed), strict=True))


def image(rows, side=8, seed=0):
    return {"image": np.random.default_rng(seed).standard_normal((rows, 3, side, side)).astype(np.float32)}


PROFILE = {"image": {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [8, 3, 8, 8]}}
BATCH = {"image": [8, 3, 8, 8]}


def free_memory():
    from trtpipe.backends.trt.cuda import Runtime

    return Runtime().free_memory()[0]


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("model", 1e-5), ("fp32", 1e-5), ("tf32", 5e-3), ("fp16", 1e-2), ("bf16", 5e-2)]
)
def test_results_agree_with_onnxruntime_in_every_precision(backend, tmp_path, precision, tolerance):
    if precision == "bf16" and old(backend):
        with pytest.raises(StageFailed, match="it knows no bfloat16"):
            Chain(backend, tmp_path, models.conv(), profiles=[PROFILE], precision=precision, shapes=BATCH)
        return
    chain = Chain(backend, tmp_path, models.conv(), profiles=[PROFILE], precision=precision, shapes=BATCH)
    session = chain.open()
    # TensorRT-RTX on Hopper multiplies float32 in TF32, with the flag and without it; and it says so.
    rounded = max(tolerance, 5e-3)
    assert any("in TF32 on" in note for note in chain.notes) == (backend.name == "tensorrt_rtx" and precision != "tf32")
    try:
        for rows in (1, 8, 3):
            feed = image(rows, seed=rows)
            got, want = session.run(feed)["logits"], chain.expected(feed)["logits"]
            assert got.shape == want.shape == (rows, 5)
            assert got.dtype == np.float32
            error = np.linalg.norm(got - want) / np.linalg.norm(want)
            print(f"{backend.library.title} {precision}, {rows} rows: relative error {error:.3g}")
            assert error < (rounded if backend.name == "tensorrt_rtx" else tolerance)
    finally:
        session.close()


@pytest.mark.parametrize("host", ["pageable", "pinned"])
@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("rows", [8, "batch"])
def test_a_stream_of_batches_gives_the_bits_that_single_runs_give(backend, tmp_path, host, slots, rows):
    profiles = [PROFILE] if rows == "batch" else []
    chain = Chain(backend, tmp_path, models.conv(rows), host=host, shapes=BATCH, slots=slots, profiles=profiles)
    sizes = [8] * 9 if rows == 8 else [8, 8, 8, 8, 8, 3, 8, 8, 8, 8, 8, 8, 2]
    feeds = [image(n, seed=s) for s, n in enumerate(sizes)]
    session = chain.open()
    try:
        streamed = [out["logits"].copy() for out in session.stream(iter(feeds))]
        # TensorRT-RTX launches graphs of its own; a change of shape makes ours void.
        assert any(slot.graph for slot in session._execution.slots) == (rows == 8 and backend.name == "tensorrt")
    finally:
        session.close()
    session = chain.open(slots=1)
    try:
        single = []
        for feed in feeds:
            session._execution.slots[0].drop_graph()
            single.append(session.run(feed)["logits"].copy())
    finally:
        session.close()
    for one, other in zip(streamed, single, strict=True):
        assert np.array_equal(one, other)
    assert [note for note in chain.notes if "graph" in note] == []


def test_a_stream_that_is_given_up_leaves_the_session_usable(backend, tmp_path):
    chain = Chain(backend, tmp_path, models.conv(8), shapes=BATCH, slots=2)
    session = chain.open()
    try:
        stream = session.stream(image(8, seed=s) for s in range(100))
        first = next(stream)["logits"].copy()
        stream.close()
        assert np.array_equal(session.run(image(8, seed=0))["logits"], first)

        def torn():
            yield image(8)
            yield image(8)
            raise StageFailed("the disk is gone")

        with pytest.raises(StageFailed, match="the disk is gone"):
            list(session.stream(torn()))
        assert np.array_equal(session.run(image(8, seed=0))["logits"], first)
    finally:
        session.close()


@pytest.mark.parametrize("preset", ["trtexec-10", "trtexec-11"])
def test_a_benchmark_measures_on_the_device(backend, tmp_path, preset):
    chain = Chain(backend, tmp_path, models.conv(8, side=64, channels=32), shapes={"image": [8, 3, 64, 64]}, slots=2)
    allocate = {"shapes": {"image": [8, 3, 64, 64]}, "batch_axis": {"image": 0, "logits": 0}}
    buffers = chain.stage("allocate", allocate, engine=chain.engine)
    params = {"preset": preset, "duration": 0.5, "profile": True}
    out = chain.stage("benchmark", params, engine=chain.engine, buffers=buffers)
    record = json.loads((out / "benchmark.json").read_text())
    m = record["metrics"]
    print((out / "table.txt").read_text())
    assert record["queries"] >= 10
    assert m["gpu_compute_p50_ms"] > 0
    assert m["wall_ms"] >= 450
    assert ("h2d_p50_ms" in m) == (preset == "trtexec-10")
    assert record["environment"]["device_before"]["sm_clock_mhz"] > 0
    assert record["settings"]["cuda_graph"] == (preset == "trtexec-11")
    layers = json.loads((out / "profile.json").read_text())
    assert layers[0]["count"] >= 10
    assert len(layers) > 1


def test_what_tensorrt_rtx_compiled_is_kept_for_the_next_start(backend, tmp_path):
    if backend.name != "tensorrt_rtx":
        pytest.skip("TensorRT compiles when it builds")
    chain = Chain(backend, tmp_path, models.conv(), profiles=[PROFILE], shapes=BATCH)
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        session = chain.backend.open(chain.plan, chain.manifest, chain.buffers, chain.notes.append, tmp_path / "timing")
        session.run(image(8))
        seconds.append(time.perf_counter() - begun)
        session.close()
    print(f"first start {seconds[0]:.3f} s, second {seconds[1]:.3f} s")
    (kept,) = (tmp_path / "timing").glob("*/*.runtime")
    assert kept.stat().st_size
    kept.write_bytes(b"torn")
    session = chain.backend.open(chain.plan, chain.manifest, chain.buffers, chain.notes.append, tmp_path / "timing")
    session.run(image(8))
    session.close()
    assert [note for note in chain.notes if note.startswith("ignored the runtime cache")]
    assert kept.stat().st_size > 4


def test_the_plan_says_who_built_it(backend, tmp_path):
    chain = Chain(backend, tmp_path, models.conv(2))
    header = plan_header.read_header(chain.plan)
    assert header.flavour == backend.name
    assert header.version.startswith(".".join(backend.version.split(".")[:3]))
    plan_header.check(chain.plan, backend.name, backend.version)
    if backend.name == "tensorrt":
        assert chain.manifest.target.gpu == environment.gpus()[0].name


def test_the_inspector_proves_the_precision_of_a_tensorrt_engine(backend, tmp_path):
    if backend.name != "tensorrt":
        pytest.skip("a TensorRT-RTX plan is compiled when it is loaded")
    proto = models.conv(64, side=64, channels=64)
    chain = Chain(backend, tmp_path, proto, precision="fp16", verbosity="detailed")
    proven = chain.manifest.precision_proof
    assert proven.status == "proven", proven
    assert "unknown" not in proven.layers, proven
    assert proven.layers.get("float16", 0) > 0, proven


def test_a_rebuilt_engine_is_compared_by_its_tactics_and_by_its_outputs(backend, tmp_path):
    if backend.name != "tensorrt":
        pytest.skip("a TensorRT-RTX plan is compiled when it is loaded, and tells no tactics")
    models.save(models.conv(8, side=64, channels=64), tmp_path / "m.onnx")
    np.save(tmp_path / "image.npy", image(8, side=64)["image"])
    path = project(tmp_path, inference("{verbosity: detailed}"))
    said = trtpipe("run", path, "--backend", backend.name, cwd=tmp_path)
    assert said.returncode == 0, said.stderr + said.stdout
    stored = trtpipe("show", path, "engine/layers.json", "--backend", backend.name, cwd=tmp_path)
    record = json.loads(Path(stored.stdout.strip()).read_text())
    print(json.dumps(record, indent=1))
    assert record["detail"] == "detailed"
    assert any(layer.get("tactic") or layer.get("tactic_value") for layer in record["layers"])
    assert all(output["type"] != "unknown" for layer in record["layers"] for output in layer["outputs"])
    said = trtpipe("verify", path, "engine", "--backend", backend.name, "--bound", "0.01", cwd=tmp_path)
    print(said.stdout, said.stderr)
    assert said.returncode == 0
    # TensorRT times kernels, so either may come out; what differs is told in words, by layers and by outputs.
    if "files are byte-equal" not in said.stdout:
        assert "engine.plan" in said.stdout
        assert f"layers: {len(record['layers'])}, " in said.stdout
        assert "not compared" not in said.stdout
        assert "of the largest value (the outputs of scores; bound 0.01)" in said.stdout


def test_integer_half_and_boolean_tensors_pass_through(backend, tmp_path):
    nodes = [
        helper.make_node("Add", ["ids", "ids"], ["twice"], name="twice"),
        helper.make_node("Greater", ["ids", "zero"], ["mask"], name="greater"),
        helper.make_node("Add", ["half", "half"], ["double"], name="double"),
    ]
    kind = TensorProto.INT32 if old(backend) else TensorProto.INT64
    integer = np.int32 if old(backend) else np.int64
    proto = models.model(
        nodes,
        [models.value("ids", ["n"], kind), models.value("half", ["n"], TensorProto.FLOAT16)],
        [
            models.value("twice", ["n"], kind),
            models.value("mask", ["n"], TensorProto.BOOL),
            models.value("double", ["n"], TensorProto.FLOAT16),
        ],
        {"zero": np.zeros(1, integer)},
    )
    profile = {name: {"min": [1], "opt": [4], "max": [9]} for name in ("ids", "half")}
    precision = "fp16" if old(backend) else "model"
    shapes = {"ids": [9], "half": [9]}
    chain = Chain(backend, tmp_path, proto, profiles=[profile], shapes=shapes, precision=precision)
    session = chain.open()
    try:
        feed = {"ids": np.array([-3, 0, 5], integer), "half": np.array([1, 2.5, -4], np.float16)}
        got = {name: array.copy() for name, array in session.run(feed).items()}
    finally:
        session.close()
    assert got["twice"].tolist() == [-6, 0, 10]
    assert got["mask"].tolist() == [False, False, True]
    assert got["double"].tolist() == [2, 5, -8]
    assert {name: str(a.dtype) for name, a in got.items()} == {
        "twice": str(np.dtype(integer)), "mask": "bool", "double": "float16",
    }  # fmt: skip


def test_an_output_whose_size_depends_on_the_data_is_given_in_its_real_size(backend, tmp_path):
    nodes = [helper.make_node("NonZero", ["x"], ["where"], name="nonzero")]
    proto = models.model(nodes, [models.value("x", [16])], [models.value("where", [1, "found"], TensorProto.INT64)])
    try:
        chain = Chain(backend, tmp_path, proto)
    except StageFailed as error:
        # TensorRT-RTX 1.4 parses NonZero, and its builder then has no kernel for it.
        assert backend.name == "tensorrt_rtx"
        assert "cannot be built" in str(error)
        pytest.skip(f"{backend.library.title} has no NonZero")
    session = chain.open()
    try:
        for places in ([1, 5, 15], [0], list(range(16))):
            x = np.zeros(16, np.float32)
            x[places] = 1
            assert session.run({"x": x})["where"].tolist() == [places]
    finally:
        session.close()


def test_each_profile_takes_its_own_shapes(backend, tmp_path):
    small = {"image": {"min": [1, 3, 8, 8], "opt": [1, 3, 8, 8], "max": [2, 3, 8, 8]}}
    large = {"image": {"min": [4, 3, 8, 8], "opt": [8, 3, 8, 8], "max": [8, 3, 8, 8]}}
    chain = Chain(backend, tmp_path, models.conv(), profiles=[small, large], shapes={"image": [2, 3, 8, 8]})
    session = chain.open()
    try:
        assert session.run(image(2))["logits"].shape == (2, 5)
        with pytest.raises(StageFailed, match=r"image: the shape \[8, 3, 8, 8\] lies outside profile 0"):
            session.run(image(8))
    finally:
        session.close()
    allocate = {"shapes": BATCH, "slots": 1, "profile": 1}
    buffers = files.read(chain.stage("allocate", allocate, engine=chain.engine) / Buffers.file, Buffers)
    session = chain.backend.open(chain.plan, chain.manifest, buffers, chain.notes.append)
    try:
        feed = image(8)
        np.testing.assert_allclose(session.run(feed)["logits"], chain.expected(feed)["logits"], rtol=1e-3, atol=1e-4)
    finally:
        session.close()


def test_bad_feeds_are_refused_and_the_session_stays_usable(backend, tmp_path):
    chain = Chain(backend, tmp_path, models.conv(), profiles=[PROFILE], shapes={"image": [4, 3, 8, 8]})
    session = chain.open()
    try:
        for feed, message in (
            ({"other": image(1)["image"]}, "found data for other, expected image"),
            ({"image": image(1)["image"].astype(np.float64)}, "image: found float64, expected float32"),
            ({"image": np.zeros((1, 3, 9, 8), np.float32)}, "found the shape"),
            (image(9), "outside profile 0"),
            (image(8), "the buffers hold"),
        ):
            with pytest.raises(StageFailed, match=message):
                session.run(feed)
        assert session.run(image(4))["logits"].shape == (4, 5)
    finally:
        session.close()


def test_all_device_memory_is_given_back(backend, tmp_path):
    chain = Chain(backend, tmp_path, models.conv(8), shapes=BATCH, host="pinned")
    session = chain.open()
    session.run(image(8))
    session.close()
    before = free_memory()
    for _ in range(5):
        session = chain.open()
        session.run(image(8))
        session.close()
        session.close()
    assert before - free_memory() < 16 << 20
    with pytest.raises(StageFailed, match="the session is closed"):
        session.run(image(8))


def test_buffers_beyond_the_free_memory_are_refused_with_the_numbers(backend, tmp_path):
    chain = Chain(backend, tmp_path, models.conv(8), shapes=BATCH)
    huge = tuple(replace(b, bytes=1 << 50) for b in chain.buffers.bindings)
    before = free_memory()
    with pytest.raises(StageFailed, match="not enough device memory: .* are free"):
        chain.open(bindings=huge)
    assert before - free_memory() < 64 << 20


def test_a_torn_plan_is_refused_without_a_crash(backend, tmp_path):
    chain = Chain(backend, tmp_path, models.conv(8), shapes=BATCH)
    torn = tmp_path / "torn.plan"
    torn.write_bytes(chain.plan.read_bytes()[:2000])
    chain.plan = torn
    with pytest.raises(StageFailed, match=r"truncated|cannot be loaded"):
        chain.open()


def test_every_rejected_node_is_listed(backend, tmp_path):
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["b"], name="odd", domain="mine"),
        helper.make_node("Det", ["x"], ["y"], name="det"),
    ]
    outputs = [models.value("y", None), models.value("b", None)]
    proto = models.model(nodes, [models.value("x", [1, 4, 4])], outputs, domains=("mine",))
    # The last part of the message is what 8.6's support query says of further nodes.
    with pytest.raises(StageFailed, match=r"(?s)rejects 2 nodes.*odd \[Frobnicate\].*det \[Det\]"):
        backend.parse(models.save(proto, tmp_path / "m.onnx"))


def test_a_workspace_that_is_too_small_or_not_is_never_silent(backend, tmp_path):
    """TensorRT may find a kernel that needs none; RTX does not. Either a plan, or the builder's words."""
    try:
        chain = Chain(backend, tmp_path, models.conv(8, side=32), workspace="1B")
    except StageFailed as error:
        assert "says:" in str(error)
        assert "workspace 1 bytes" in str(error)
    else:
        assert chain.plan.stat().st_size


def weights(chain):
    """Give the types of an engine's weights, where the runtime tells them."""
    proven = chain.manifest.precision_proof
    print(proven)
    return {*proven.weight_bytes} if chain.backend.name == "tensorrt" else None


def test_keep_fp32_is_honoured_and_the_rest_is_half(backend, tmp_path):
    chain = Chain(backend, tmp_path, models.conv(8), precision="fp16", keep_fp32=["head"], shapes=BATCH)
    assert weights(chain) in (None, {"float16", "float32"})
    session = chain.open()
    try:
        feed = image(8)
        np.testing.assert_allclose(session.run(feed)["logits"], chain.expected(feed)["logits"], rtol=2e-2, atol=2e-2)
    finally:
        session.close()


def test_an_activation_beyond_float16_is_held_in_float32(backend, tmp_path):
    """The product of 4e6 is divided away again: in float16 it would be infinite."""
    proto = models.overflowing()
    chain = Chain(backend, tmp_path, proto, precision="fp16", shapes={"x": [8, 16]}, profiles=[
        {"x": {"min": [1, 16], "opt": [8, 16], "max": [8, 16]}},
    ])  # fmt: skip
    assert any(note.startswith("stays float32: over [Mul]") for note in chain.notes)
    session = chain.open()
    try:
        feed = {"x": np.random.default_rng(0).uniform(1, 2, (8, 16)).astype(np.float32)}
        np.testing.assert_allclose(session.run(feed)["y"], chain.expected(feed)["y"], rtol=1e-2)
    finally:
        session.close()


def test_a_scale_that_is_held_is_not_folded_into_half_precision(backend, tmp_path):
    """Each folded weight would be off by up to a quarter."""
    shape = [8, 3, 6, 6]
    profile = {"x": {"min": [1, *shape[1:]], "opt": shape, "max": shape}}
    chain = Chain(  # the tolerance is for random inputs, of which next to nothing is left
        backend, tmp_path, models.folding(), precision="fp16", tolerance=1.0, shapes={"x": shape}, profiles=[profile]
    )
    assert any(note.startswith("stays float32: norm [BatchNormalization]") for note in chain.notes)
    assert weights(chain) in (None, {"float16", "float32"})
    session = chain.open()
    try:
        feed = {"x": np.random.default_rng(0).uniform(1e4, 3e4, shape).astype(np.float32)}
        np.testing.assert_allclose(session.run(feed)["y"], chain.expected(feed)["y"], rtol=1e-2)
    finally:
        session.close()


def test_the_timing_cache_makes_builds_equal_and_survives_damage(backend, tmp_path):
    if backend.name != "tensorrt":
        pytest.skip("TensorRT-RTX has no timing cache")
    chain = Chain(backend, tmp_path, models.conv(8, side=32, channels=32), precision="fp16")
    config = files.read(chain.config / Config.file, Config)
    model, shared = chain.config / "model.onnx", tmp_path / "timing"

    def build(name):
        notes = []
        backend.build(model, config, tmp_path / name, shared, notes.append)
        return (tmp_path / name).read_bytes(), notes

    first, notes = build("a.plan")
    assert notes == []
    pinned = tmp_path / "pinned.cache"
    pinned.write_bytes(next(shared.glob("*/timing.cache")).read_bytes())
    (cache,) = shared.glob("*/timing.cache")
    second, notes = build("b.plan")
    assert notes == []
    third, _ = build("c.plan")
    assert second == third
    assert len(first) > 0
    cache.write_bytes(b"torn")
    _, notes = build("d.plan")
    assert notes == ["ignored the timing cache timing.cache: it is torn, or of another TensorRT or GPU"]
    assert cache.stat().st_size > len(b"torn")

    # Pinned: the same plan, and nothing is learnt; torn or lacking a timing it fails.
    def pin(path, **changed):
        plan = tmp_path / "pinned.plan"
        backend.build(model, replace(config, **changed), plan, shared, notes.append, pinned=path, reproducible=True)
        return plan.read_bytes()

    assert pin(pinned) == third
    (tmp_path / "torn.cache").write_bytes(b"torn")
    with pytest.raises(StageFailed, match="torn.cache is torn, or of another TensorRT or GPU"):
        pin(tmp_path / "torn.cache")
    other = Chain(backend, tmp_path / "other", models.conv(4, side=64, channels=16), precision="fp16")
    with pytest.raises(StageFailed, match=r"timed tactics that are not in the timing cache|cannot be built"):
        backend.build(
            other.config / "model.onnx", config, tmp_path / "o.plan", shared, notes.append, pinned=pinned,
            reproducible=True,
        )  # fmt: skip


def test_two_builders_at_once_share_one_timing_cache(backend, tmp_path):
    if backend.name != "tensorrt":
        pytest.skip("TensorRT-RTX has no timing cache")
    chains = [Chain(backend, tmp_path / str(n), models.conv(8, side=16 * n, channels=16)) for n in (1, 2)]
    code = (
        "import sys; from pathlib import Path; from trtpipe import backends\n"
        "from trtpipe.documents import files; from trtpipe.documents.config import Config\n"
        "config, plan, shared = map(Path, sys.argv[1:])\n"
        "made = files.read(config / 'config.json', Config)\n"
        "backends.load('tensorrt').build(config / 'model.onnx', made, plan, shared, print)\n"
    )
    shared = tmp_path / "timing"

    def start(n, name):
        command = [sys.executable, "-c", code, str(chains[n].config), str(tmp_path / name), str(shared)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    for round_number in range(2):
        started = [start(0, f"a{round_number}"), start(1, f"b{round_number}")]
        said = [one.communicate(timeout=300)[0] for one in started]
        assert [one.returncode for one in started] == [0, 0]
        assert not any("ignored" in text for text in said)
    for n, name in enumerate(("a1", "b1")):
        config = files.read(chains[n].config / Config.file, Config)
        (cache,) = shared.glob("*/timing.cache")
        backend.build(
            chains[n].config / "model.onnx", config, tmp_path / f"p{n}", shared, print, pinned=cache, reproducible=True
        )
        assert (tmp_path / f"p{n}").read_bytes() == (tmp_path / name).read_bytes()


def test_an_engine_of_a_model_that_was_to_be_half_is_half(backend, tmp_path):
    if backend.name != "tensorrt":
        pytest.skip("a TensorRT-RTX plan is compiled when it is loaded")
    chain = Chain(backend, tmp_path, models.conv(8), precision="fp16", shapes=BATCH)
    print(chain.manifest.precision_proof)
    assert proof.low_share(chain.manifest.precision_proof) >= 0.5
    config = replace(files.read(chain.config / Config.file, Config), flags=())
    backend.build(chain.config / "model.onnx", config, tmp_path / "fp32.plan", tmp_path / "timing", print)
    with pytest.raises(StageFailed, match=r"(?s)the engine is mostly float32: 0%.*float32 "):
        check_precision(builder._inspected(backend.library, tmp_path / "fp32.plan")[0], config)


def test_no_free_device_memory_is_told_with_the_numbers_and_nothing_stays_allocated(backend, tmp_path):
    from trtpipe.backends.trt.cuda import Runtime

    chain = Chain(backend, tmp_path, models.conv(8), shapes=BATCH, slots=2)
    chain.open().close()
    cuda = Runtime()
    before = free_memory()
    size = sum(b.bytes for b in chain.buffers.bindings)
    taken = []
    try:
        # Leave less than one slot needs, piece by piece: no single piece of all that is free can be had.
        for piece in (1 << 30, 1 << 24, 1 << 21):
            while free_memory() > piece + size:
                try:
                    taken.append(cuda.malloc(piece))
                except StageFailed:
                    break
        huge = tuple(replace(b, bytes=b.bytes + free_memory()) for b in chain.buffers.bindings)
        with pytest.raises(StageFailed, match=r"not enough device memory|(?i:out ?of ?memory)"):
            chain.open(bindings=huge)
    finally:
        for pointer in taken:
            cuda.free(pointer)
    assert before - free_memory() < 64 << 20


def test_a_gpu_that_is_hidden_is_an_exit_code_and_a_sentence(backend, tmp_path):
    models.save(models.conv(2), tmp_path / "m.onnx")
    np.save(tmp_path / "image.npy", image(4)["image"])
    path = project(tmp_path, inference())
    said = trtpipe("run", path, "--backend", backend.name, cwd=tmp_path)
    assert said.returncode == 0, said.stderr + said.stdout
    for hidden in ("", "-1"):
        said = trtpipe(
            "run", path, "--backend", backend.name, "--force", "scores", cwd=tmp_path,
            env={"CUDA_VISIBLE_DEVICES": hidden},
        )  # fmt: skip
        assert said.returncode == 3
        assert "GPU" in said.stderr
    engine = trtpipe("show", path, "engine", "--backend", backend.name, cwd=tmp_path).stdout.strip()
    assert trtpipe("doctor", engine, cwd=tmp_path).returncode == 0
    assert trtpipe("doctor", engine, cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""}).returncode == 3


def test_a_plan_with_one_byte_flipped_never_reaches_tensorrt(backend, tmp_path):
    models.save(models.conv(2), tmp_path / "m.onnx")
    np.save(tmp_path / "image.npy", image(4)["image"])
    path = project(tmp_path, inference())
    assert trtpipe("run", path, "--backend", backend.name, cwd=tmp_path).returncode == 0
    made = Path(trtpipe("show", path, "engine/engine.plan", "--backend", backend.name, cwd=tmp_path).stdout.strip())
    torn = flip_everywhere(tmp_path / "artifacts", made.read_bytes())
    said = trtpipe("run", path, "--backend", backend.name, "--force", "scores", cwd=tmp_path)
    assert said.returncode == 0, said.stderr + said.stdout
    assert "run engine (build): engine.plan: its content was " in said.stdout
    assert all(p.read_bytes() != torn for p in (tmp_path / "artifacts" / "trees").rglob("*") if p.is_file())
