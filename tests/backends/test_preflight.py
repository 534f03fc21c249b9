"""Preflight: a plan's header and manifest against what is here, without TensorRT."""

from __future__ import annotations

import json
import sys

import pytest

from tests import made
from tests.helpers import run_stage, trtpipe
from trtpipe import environment
from trtpipe.backends import preflight
from trtpipe.documents.manifest import Target
from trtpipe.environment import Gpu
from trtpipe.errors import EnvironmentMissing, StageFailed

H100 = Gpu(0, "NVIDIA H100", "9.0", 80 << 30, "GPU-1")
ADA = Gpu(0, "NVIDIA L4", "8.9", 24 << 30, "GPU-2")


def plan(folder, flavour="vtrt", version=(1, 4, 0, 76), size=100, claims=None):
    head = bytearray(32)
    head[:4] = flavour.encode()
    head[16:24] = (size if claims is None else claims).to_bytes(8, "little")
    head[24:28] = bytes(version)
    path = folder / "engine.plan"
    path.write_bytes(bytes(head) + bytes(size - 32))
    return path


def manifest(folder, **changed):
    usual = {"runtime": "tensorrt_rtx", "plan": "engine.plan", "target": Target(compute_capabilities="8.0+")}
    record = made.manifest(runtime_version="1.4.0.76", **{**usual, **changed})
    made.put(folder, record)
    return record


@pytest.fixture
def here(monkeypatch):
    def set_up(*, gpus=(H100,), **versions):
        monkeypatch.setattr(environment, "gpus", lambda: gpus)
        monkeypatch.setattr(environment, "runtime_version", versions.get)

    return set_up


def bad(path, record):
    return {c.what: c.found for c in preflight.check(path, record) if c.good is False}


def test_a_plan_of_this_runtime_and_gpu_can_load(tmp_path, here):
    here(tensorrt_rtx="1.4.0.76")
    record = manifest(tmp_path)
    assert bad(plan(tmp_path), record) == {}
    preflight.require(tmp_path / "engine.plan", record)


def test_everything_that_is_wrong_is_said_at_once_with_what_helps(tmp_path, here):
    here(gpus=(), tensorrt_rtx="1.7.1.116")
    path = plan(tmp_path, size=100)
    record = manifest(tmp_path, plan_bytes=200)
    with pytest.raises(StageFailed) as caught:
        preflight.require(path, record)
    text = str(caught.value)
    assert "100 bytes, expected 200: it is torn; build again" in text
    assert "was built by tensorrt_rtx 1.4.0.76, and 1.7.1.116 is installed" in text
    assert "pip install 'tensorrt_rtx_cu13==1.4.0.*', or build again" in text
    assert "GPU: there is none here" in text


def test_another_flavour_is_named(tmp_path, here):
    here(tensorrt_rtx="1.4.0.76")
    path = plan(tmp_path, "ftrt", (8, 6, 0, 12))
    assert bad(path, None) == {"runtime": "TensorRT is not installed"}
    assert "manifest" in bad(path, manifest(tmp_path))


def test_a_gpu_that_the_runtime_or_the_plan_does_not_serve_is_named(tmp_path, here):
    here(tensorrt_rtx="1.7.1.116")
    path = plan(tmp_path, version=(1, 7, 1, 116))
    assert "does not run on it" in bad(path, manifest(tmp_path))["GPU"]
    here(gpus=(ADA,), tensorrt_rtx="1.7.1.116")
    assert bad(path, manifest(tmp_path)) == {}
    assert "built for [86]" in bad(path, manifest(tmp_path, target=Target(compute_capabilities=(86,))))["GPU"]


@pytest.mark.parametrize(("gpu", "precision", "said"), [
    (H100, "fp32", "multiplies float32 in TF32"), (H100, "model", "multiplies float32 in TF32"),
    (H100, "fp16", "multiplies what stays float32 in TF32"), (H100, "tf32", None), (ADA, "fp32", None),
])  # fmt: skip
def test_float32_that_is_none_is_told_of(tmp_path, here, gpu, precision, said):
    here(gpus=(gpu,), tensorrt_rtx="1.4.0.76")
    checks = preflight.check(plan(tmp_path), manifest(tmp_path, precision=precision))
    found = [c.found for c in checks if "in TF32" in c.found]
    assert len(found) == (said is not None)
    assert all(said in one for one in found)


@pytest.mark.parametrize(
    ("level", "gpu", "fits"),
    [("none", H100, False), ("ampere+", H100, True), ("same_compute_capability", H100, False), ("none", ADA, True)],
)
def test_a_tensorrt_plan_belongs_to_the_gpu_it_was_built_on(tmp_path, here, level, gpu, fits):
    here(gpus=(gpu,), tensorrt="8.6.0")
    path = plan(tmp_path, "ftrt", (8, 6, 0, 12))
    target = Target(gpu=ADA.name, compute_capability="8.9", hardware_compatibility=level)
    assert ("GPU" not in bad(path, manifest(tmp_path, runtime="tensorrt", target=target))) == fits


def test_a_gpu_that_is_hidden_is_told_as_such(tmp_path, here, monkeypatch):
    here(gpus=(), tensorrt_rtx="1.4.0.76")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert bad(plan(tmp_path), manifest(tmp_path)) == {"GPU": "there is none here (CUDA_VISIBLE_DEVICES hides it)"}
    with pytest.raises(EnvironmentMissing, match="run it on a machine with an NVIDIA GPU"):
        preflight.require(tmp_path / "engine.plan", manifest(tmp_path))


def test_doctor_examines_a_plan_and_imports_no_tensorrt(tmp_path):
    plan(tmp_path, version=(9, 9, 9, 9))
    manifest(tmp_path)
    code = "import sys, trtpipe.cli.main as c; code = c.main(sys.argv[1:]); print(sorted({m.split('.')[0] for m in sys.modules} & {'tensorrt', 'tensorrt_rtx', 'tensorrt_rtx_bindings', 'polygraphy', 'numpy', 'cuda'})); sys.exit(code)"  # noqa: E501
    import subprocess

    said = subprocess.run(
        [sys.executable, "-c", code, "doctor", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 3
    assert said.stdout.splitlines()[-2:] == ["engine.plan cannot load here", "[]"]
    assert "9.9.9.9" in said.stdout
    as_json = json.loads(trtpipe("doctor", tmp_path / "engine.plan", "--json", cwd=tmp_path).stdout)
    assert as_json["loads"] is False
    assert {c["what"] for c in as_json["checks"]} >= {"plan", "size", "runtime", "GPU"}


def test_doctor_says_what_is_no_plan(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"hello")
    said = trtpipe("doctor", "x.bin", cwd=tmp_path)
    assert said.returncode == 1
    assert "x.bin is no TensorRT plan: it starts with b'hell'" in said.stderr
    assert "there is no plan" in trtpipe("doctor", "nothing.plan", cwd=tmp_path).stderr


def test_a_plan_of_onnxruntime_can_load_wherever_that_is(tmp_path):
    from tests import onnx_models as models

    model = models.save(models.conv(2), tmp_path / "m.onnx")
    network = run_stage("parse", {}, {"model": model}, tmp_path)
    engine = run_stage("build", {}, {"config": run_stage("configure", {}, {"network": network}, tmp_path)}, tmp_path)
    said = trtpipe("doctor", engine, cwd=tmp_path)
    assert said.returncode == 0
    assert said.stdout.splitlines()[-1] == "engine.onnx can load here"
