"""`configure`: settings are checked against network and runtime; on RTX the precision is really set."""

from __future__ import annotations

import importlib.util
import json
import re

import msgspec
import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper

from tests import made
from tests import onnx_models as models
from tests.helpers import PROJECT, apart, run_stage, trtpipe
from tests.made import shapes
from trtpipe import backends
from trtpipe.backends.trt import rules
from trtpipe.documents.network import Tensor
from trtpipe.errors import EnvironmentMissing, GateFailed, PipelineInvalid, StageFailed
from trtpipe.models import dtypes, external_data, onnxfile
from trtpipe.stages.configure import ConfigureParams, Range, check_profiles

RTX = any(importlib.util.find_spec(m) for m in ("tensorrt_rtx", "tensorrt_rtx_bindings"))
needs_rtx = pytest.mark.skipif(not RTX, reason="TensorRT-RTX is not installed: pip install 'trtpipe[rtx]'")
BACKENDS = ["onnxruntime", pytest.param("tensorrt_rtx", marks=needs_rtx)]
IMAGE = {"image": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}}


def network(tmp_path, proto=None, external=False):
    folder = tmp_path / "network"
    proto = proto or models.conv()
    path = folder / "model.onnx"
    if external:
        models.with_external(path, proto)
    else:
        models.save(proto, path)
    return made.put(folder, made.described(onnxfile.load(path)))


def configure(tmp_path, *, backend="tensorrt_rtx", proto=None, external=False, notes=None, **params):
    folder = network(tmp_path, proto, external)
    out = run_stage("configure", params, {"network": folder}, tmp_path, backend=backend, notes=notes)
    return out, json.loads((out / "config.json").read_text())


def problems(**params):
    return list(msgspec.convert(params, ConfigureParams).problems())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_config_names_the_runtime_that_it_was_checked_for(tmp_path, backend):
    out, config = configure(tmp_path, backend=backend, profiles=[IMAGE], workspace="64MiB")
    assert config["runtime"] == backend
    assert config["workspace"] == 64 << 20
    assert config["profiles"] == [IMAGE]
    assert config["rewrite"] is None
    assert (out / "model.onnx").read_bytes() == (tmp_path / "network" / "model.onnx").read_bytes()
    assert json.loads((out / "network.json").read_text())["inputs"][0]["name"] == "image"


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_of_a_shape_input_are_written_as_shapes_are_on_every_runtime(tmp_path, backend):
    document = tmp_path / "p.yaml"
    models.save(models.reading("rows"), tmp_path / "m.onnx")
    page = (PROJECT / "docs" / "engines.md").read_text("utf-8")
    config = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["config"]
    (profile,) = config["params"]["profiles"]
    profile["n"]["min"] = [-3]
    stages = {
        "network": {"type": "parse", "inputs": {"model": {"file": "m.onnx"}}},
        "config": config,
        "engine": {"type": "build", "inputs": {"config": "config"}},
    }
    document.write_text(json.dumps({"name": "p", "backend": backend, "stages": stages}))
    done = trtpipe("run", document, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "artifacts/view/p/engine/manifest.json").read_text())
    assert manifest["profiles"] == [{"cache": profile["cache"]}]
    assert manifest["profile_values"] == [{"n": {"min": [-3], "opt": [5], "max": [64]}}]
    assert [b["name"] for b in manifest["bindings"] if b.get("shape_input")] == ["n"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"min": [1, 1], "opt": [5, 5], "max": [9, 9]},
            r"n: found min \[1, 1\].*expected 1 values: the values",
        ),
        ({"min": [6], "opt": [5], "max": [9]}, r"n: value 0: found min 6, opt 5, max 9; expected min ≤ opt ≤ max"),
    ],
)
def test_values_that_cannot_be_are_refused(given, message):
    described = made.network(inputs=(Tensor(name="n", dtype="int64", dims=(1,), shape_input=True),))
    assert re.search(message, "\n".join(check_profiles([{"n": Range(**given)}], described)))


def test_a_negative_size_is_refused():
    described = made.network(inputs=(Tensor(name="x", dtype="int64", dims=("n",)),))
    found = check_profiles([{"x": Range(min=(-1,), opt=(2,), max=(3,))}], described)
    assert found == ["profiles[0].x: axis 0: found min -1, opt 2, max 3; expected sizes from 0 on"]


@needs_rtx
def test_fp16_rewrites_the_model_and_says_what_it_did(tmp_path):
    notes = []
    out, config = configure(tmp_path, precision="fp16", profiles=[IMAGE], keep_fp32=["head"], notes=notes)
    assert config["strongly_typed"] is True
    assert config["flags"] == []
    assert config["keep_fp32"] == ["head"]
    assert [k["node"] for k in config["rewrite"]["kept"]] == ["head"]
    assert config["rewrite"]["check"]["outputs"]["logits"]["relative_l2"] < 0.01
    assert notes == ["stays float32: head [MatMul], keep_fp32: head"]
    kinds = {t.name: dtypes.dtype_name(t.data_type) for t in onnxfile.load(out / "model.onnx").graph.initializer}
    assert kinds["w"] == "float16"
    assert kinds["head"] == "float32"


@needs_rtx
def test_the_same_params_give_the_same_bytes(tmp_path):
    outs = [configure(tmp_path / str(n), precision="fp16", profiles=[IMAGE])[0] for n in (1, 2)]
    for name in ("config.json", "network.json", "model.onnx"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_external_data_comes_along(tmp_path, backend):
    out, _ = configure(tmp_path, backend=backend, profiles=[IMAGE], external=True)
    assert (out / "weights.bin").read_bytes() == (tmp_path / "network" / "weights.bin").read_bytes()
    assert external_data.external_files(onnxfile.load(out / "model.onnx"), out, label="m") == ("weights.bin",)


@needs_rtx
def test_the_input_files_are_left_alone(tmp_path):
    before = network(tmp_path / "x", models.conv()) / "model.onnx"
    configure(tmp_path, precision="fp16", profiles=[IMAGE])
    assert (tmp_path / "network" / "model.onnx").read_bytes() == before.read_bytes()


@needs_rtx
def test_settings_without_meaning_on_a_runtime_are_noted(tmp_path):
    notes = []
    _, config = configure(tmp_path, profiles=[IMAGE], optimization_level=3, notes=notes)
    assert config["not_applicable"] == ["optimization_level", "timing_cache"]
    assert len(notes) == 1
    assert notes[0].startswith("optimization_level has no meaning on tensorrt_rtx")


def test_many_kept_nodes_are_told_in_one_sentence(tmp_path):
    pytest.importorskip("onnxruntime")
    notes = []
    configure(tmp_path, backend="onnxruntime", precision="fp16", keep_fp32=["*"], notes=notes)
    assert len(notes) == 7
    assert notes[-2:] == [
        "1 further nodes stay float32; config.json lists all, with the reasons",
        "0.0% of the weights are left to fp16",
    ]


def test_settings_that_nobody_asked_for_are_not_noted(tmp_path):
    pytest.importorskip("onnxruntime")
    notes = []
    configure(tmp_path, backend="onnxruntime", notes=notes)
    assert notes == []


@needs_rtx
def test_what_the_runtime_cannot_honour_is_refused_by_name(tmp_path):
    with pytest.raises(StageFailed, match=r"TensorRT-RTX .* cannot honour version_compatible: .*Instead: "):
        configure(tmp_path, profiles=[IMAGE], version_compatible=True)


@needs_rtx
def test_a_dynamic_input_without_a_profile_is_refused(tmp_path):
    with pytest.raises(StageFailed, match=r"needs a profile for dynamic inputs.*image \[batch, 3, 8, 8\]"):
        configure(tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_profiles_are_checked_on_every_runtime(tmp_path, backend):
    wrong = {"image": {"min": [4, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}}
    with pytest.raises(StageFailed, match=r"axis 0: found min 4, opt 2, max 4; expected min ≤ opt ≤ max"):
        configure(tmp_path, backend=backend, profiles=[wrong])


@needs_rtx
def test_nodes_without_a_name_are_kept_by_their_op(tmp_path):
    proto = models.conv()
    for node in proto.graph.node:
        node.name = ""
    _, config = configure(tmp_path, backend="onnxruntime", proto=proto, precision="fp16", keep_fp32=["MatMul"])
    assert [k["op"] for k in config["rewrite"]["kept"]] == ["MatMul"]
    assert config["keep_fp32"] == [config["rewrite"]["kept"][0]["node"]]


def test_what_bodies_compute_is_said_to_be_unchecked(tmp_path):
    notes = []
    configure(tmp_path, backend="onnxruntime", proto=models.branching(), precision="fp16", notes=notes)
    assert "stays float32: branch [If], its bodies stay float32" in notes


def test_labels_that_half_precision_changes_are_told(tmp_path):
    weights = {"w": np.random.default_rng(0).standard_normal((6, 6)).astype("f4"), "far": np.full(6, 30000, "f4")}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "far"], ["s"])]
    nodes += [helper.make_node("ArgMax", ["s"], ["y"], axis=1, keepdims=0)]
    proto = models.model(nodes, [models.value("x", ["n", 6])], [models.value("y", ["n"], TensorProto.INT64)], weights)
    notes = []
    configure(tmp_path, backend="onnxruntime", proto=proto, precision="fp16", notes=notes)
    assert any(re.fullmatch(r"y: .*% of its values are others than the original's.*", note) for note in notes)


def test_keep_fp32_that_fits_nothing_fails_here(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(PipelineInvalid, match="keep_fp32: 'nowhere' fits no node's name or op"):
        configure(tmp_path, precision="fp16", profiles=[IMAGE], keep_fp32=["nowhere"], backend="tensorrt_rtx")


# -- profiles ----------------------------------------------------------------------------------------------------

TWO = made.network(
    inputs=(
        Tensor(name="ids", dtype="int64", dims=("batch", "tokens")),
        Tensor(name="mask", dtype="int64", dims=("batch", "tokens")),
        Tensor(name="fixed", dtype="float32", dims=(3,)),
    )
)


def test_good_profiles_have_no_problems():
    whole = shapes([1, 1], [2, 8], [4, 16])
    assert check_profiles([{"ids": whole, "mask": whole}], TWO) == []
    assert check_profiles([{"ids": whole, "mask": whole, "fixed": shapes([3], [3], [3])}], TWO) == []
    assert check_profiles([], TWO) == []


def test_every_problem_of_every_profile_is_told_at_once_with_its_numbers():
    found = check_profiles(
        [
            {"ids": shapes([1, 1], [2, 8], [4, 16]), "mask": shapes([1, 1], [2, 8], [8, 16])},
            {"ids": shapes([1], [2, 8], [4, 16]), "fixed": shapes([1], [2], [3])},
            {"idz": shapes([1], [1], [1])},
        ],
        TWO,
    )
    assert found == [
        (
            "profiles[0].mask: axis 0 is batch, found min 1, opt 2, max 8; "
            "ids axis 0 has the same batch with min 1, opt 2, max 4"
        ),
        "profiles[1].ids: found min [1], expected 2 axes: the model has [batch, tokens]",
        "profiles[1].fixed: axis 0: found min 1, opt 2, max 3; the model fixes it at 3",
        "profiles[1]: the dynamic input mask [batch, tokens] is missing",
        "profiles[2].idz: the network has no such input; it has ids, mask, fixed",
        "profiles[2]: the dynamic input ids [batch, tokens] is missing",
        "profiles[2]: the dynamic input mask [batch, tokens] is missing",
    ]


def test_an_input_of_unknown_rank_cannot_have_a_profile():
    unknown = made.network(inputs=(Tensor(name="x", dtype="float32", dims=None),))
    assert "does not say how many axes" in check_profiles([{"x": shapes([1], [1], [1])}], unknown)[0]


# -- params ------------------------------------------------------------------------------------------------------


def test_keep_fp32_and_tolerance_need_half_precision():
    assert [p for p, _ in problems(keep_fp32=["a"], tolerance=0.1)] == ["keep_fp32", "tolerance"]
    assert problems(keep_fp32=["a"], tolerance=0.1, precision="bf16") == []


def test_profiles_must_name_the_same_inputs():
    one = {"x": {"min": [1], "opt": [1], "max": [1]}}
    assert problems(profiles=[one, {**one, "z": one["x"]}]) == [
        ("profiles[1]", "found the inputs x, z, expected x as in profiles[0]")
    ]


@pytest.mark.parametrize(
    "params",
    [
        {"precision": "int8"}, {"workspace": "1GB"}, {"workspace": 5}, {"optimization_level": 6}, {"tolerance": 0.0},
        {"profiles": [{}]}, {"profiles": [{"x": {"min": [1], "opt": [1]}}]}, {"compute_capabilities": []},
        {"hardware_compatibility": "all"}, {"verbosity": "loud"}, {"keep_fp32": [""]}, {"precsion": "fp16"},
    ],
)  # fmt: skip
def test_what_the_schema_forbids_is_refused(params):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(params, ConfigureParams)


def test_onnxruntime_is_in_the_key_only_where_it_rewrites():
    assert msgspec.convert({"precision": "fp16"}, ConfigureParams).packages() == ("onnx", "onnxruntime")
    assert msgspec.convert({}, ConfigureParams).packages() == ("onnx",)


# -- calibration -------------------------------------------------------------------------------------------------


def calibrated(tmp_path, data, *, proto=None, notes=None, **params):
    import numpy as np

    np.savez(tmp_path / "data.npz", **data)
    given = {"network": network(tmp_path, proto), "calibration": tmp_path / "data.npz"}
    out = run_stage("configure", {"precision": "fp16", **params}, given, tmp_path, notes=notes)
    return json.loads((out / "config.json").read_text())["rewrite"]


def rows(scale=1.0, count=4):
    import numpy as np

    return (np.random.default_rng(0).standard_normal((count, 3, 8, 8)) * scale).astype(np.float32)


def test_activations_that_only_the_data_drives_out_of_range_keep_their_nodes_in_fp32(tmp_path):
    quiet = calibrated(tmp_path, {"image": rows()})
    assert quiet["kept"] == []
    notes = []
    loud = calibrated(tmp_path, {"image": rows(2e4)}, notes=notes)
    assert "conv" in {entry["node"] for entry in loud["kept"]}
    assert all("on calibration data, float16 ends at 65504" in entry["why"] for entry in loud["kept"])
    assert any(note.startswith("stays float32: conv [Conv], c reaches") for note in notes)
    assert "4 runs of data.npz" in loud["check"]["how"]


def test_a_tolerance_that_plain_fp16_misses_is_met_by_keeping_nodes(tmp_path):
    plain = calibrated(tmp_path, {"image": rows()})["check"]["outputs"]["logits"]["relative_l2"]
    with pytest.raises(GateFailed, match="set meet_tolerance"):
        calibrated(tmp_path, {"image": rows()}, tolerance=plain / 3)
    met = calibrated(tmp_path, {"image": rows()}, tolerance=plain / 3, meet_tolerance=True)
    assert met["check"]["outputs"]["logits"]["relative_l2"] <= plain / 3
    assert 0 < len(met["kept"]) <= 6
    assert {entry["why"] for entry in met["kept"]} == {f"so that outputs stay within tolerance {plain / 3:g}"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:0], "holds no samples"),
        (lambda a: a * float("nan"), "are NaN or infinite in calibration run 0"),
        (lambda a: a * 0 + 1, "every value of image is 1"),
    ],
)
def test_calibration_data_that_says_nothing_is_refused(tmp_path, change, message):
    with pytest.raises(PipelineInvalid, match=message):
        calibrated(tmp_path, {"image": change(rows())})


def test_what_belongs_to_a_rewrite_alone_is_refused_elsewhere():
    found = problems(precision="fp32", tolerance=0.1, meet_tolerance=True, method="autocast")
    assert [where for where, _ in found] == ["tolerance", "meet_tolerance", "method"]


MODELOPT = importlib.util.find_spec("modelopt") is not None


@pytest.mark.skipif(MODELOPT, reason="modelopt is installed here")
def test_autocast_without_modelopt_names_the_command(tmp_path):
    with pytest.raises(EnvironmentMissing, match=r"pip install 'trtpipe\[modelopt\]'"):
        calibrated(tmp_path, {"image": rows()}, method="autocast")


@pytest.mark.skipif(not MODELOPT, reason="modelopt is not installed: pip install 'trtpipe[modelopt]'")
def test_autocast_rewrites_and_is_checked_alike(tmp_path):
    found = apart(calibrated, tmp_path, {"image": rows()}, method="autocast", keep_fp32=["head"])
    assert found["method"] == "autocast"
    assert found["check"]["outputs"]["logits"]["relative_l2"] < 0.05
    assert {"node": "head", "op": "MatMul", "why": "keep_fp32: head"} in found["kept"]


class Weak:
    """The rules of TensorRT 8.6, which needs a GPU to be loaded: it picks types by flags."""

    name, version = "tensorrt", "8.6.0"

    def configure(self, asked, network, hold=None):
        return rules.settle(self.name, self.version, asked, network, hold=hold)


@pytest.fixture
def weak(monkeypatch):
    monkeypatch.setattr(backends, "load", lambda _name: Weak())


@pytest.mark.usefixtures("weak")
def test_where_types_are_picked_by_flags_what_overflows_is_held_in_float32(tmp_path):
    notes = []
    shapes = {"x": {"min": [1, 16], "opt": [2, 16], "max": [4, 16]}}
    out, config = configure(
        tmp_path, backend="tensorrt", proto=models.overflowing(), precision="fp16", profiles=[shapes], notes=notes
    )
    assert config["rewrite"] is None
    assert config["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    assert [entry["node"] for entry in config["hold"]["kept"]] == ["down", "over", "up"]
    assert any(note.startswith("stays float32: over [Mul], u reaches") for note in notes)
    assert (out / "model.onnx").read_bytes() == (tmp_path / "network" / "model.onnx").read_bytes()


@pytest.mark.usefixtures("weak")
def test_where_nothing_overflows_the_builder_is_free_and_the_model_as_it_was(tmp_path):
    out, config = configure(tmp_path, backend="tensorrt", precision="fp16", profiles=[IMAGE])
    assert (config["flags"], config["hold"]["kept"]) == (["FP16"], [])
    assert (out / "model.onnx").read_bytes() == (tmp_path / "network" / "model.onnx").read_bytes()


@pytest.mark.usefixtures("weak")
def test_a_tolerance_that_half_precision_misses_fails_before_the_build_there_too(tmp_path):
    with pytest.raises(GateFailed, match="changes the model's results too much"):
        configure(tmp_path, backend="tensorrt", precision="fp16", profiles=[IMAGE], tolerance=1e-7)
    notes = []
    out, config = configure(
        tmp_path / "met", backend="tensorrt", precision="fp16", profiles=[IMAGE], tolerance=1e-7, meet_tolerance=True,
        notes=notes,
    )  # fmt: skip
    assert len(config["hold"]["kept"]) == 6
    assert notes[-1] == "0.0% of the weights are left to fp16"
    assert (out / "model.onnx").is_file()
