from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.helpers import PROJECT, run_stage
from trtpipe.errors import StageFailed
from trtpipe.models import external_data, onnxfile, onnxgraph

pytest.importorskip("torch")

MODULES = '''
import torch
from torch import nn
import torch.nn.functional as F


class Net(nn.Module):
    """Convolution, batch norm, mean over space (which opset 17 says otherwise), a head."""
    def __init__(self, width=4):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.Linear(width, 5)
    def forward(self, image):
        return self.head(F.mish(self.norm(self.conv(F.pad(image, (1, 1, 1, 1))))).mean((2, 3)))


class Two(nn.Module):
    def forward(self, tokens, mask):
        x = F.one_hot(tokens, 4).float() * mask.unsqueeze(-1)
        return {"sum": x.sum(1), "doubled": torch.cat([x, x], 1)}


class Baked(nn.Module):
    """Its output follows the batch of the trace: len() makes a Python number of it under TorchScript."""
    def forward(self, image):
        return image + torch.zeros(len(image), 1, 1, 1)


class Specialised(nn.Module):
    def forward(self, image):
        return image * (2 if image.shape[0] == 2 else 3)


class Random(nn.Module):
    def forward(self, image):
        return image + torch.rand(image.shape)


class Patches(nn.Module):
    """The width must be a multiple of 4."""
    def forward(self, line):
        b, c, w = line.shape
        return line.reshape(b, c, w // 4, 4).amax(3)


class Unused(nn.Module):
    def forward(self, image, other):
        return image * 2


class Nan(nn.Module):
    def forward(self, image):
        return torch.log(image - 100)


class Flip(nn.Module):
    def forward(self, image):
        return torch.bitwise_not(image)


def nothing():
    return 7


def broken():
    raise RuntimeError("no weights here")
'''


@pytest.fixture
def root(tmp_path):
    (tmp_path / "net.py").write_text(MODULES)
    return tmp_path


def export(root, name="Net", notes=None, **params):
    image = {"image": {"shape": ["batch", 3, 8, 8]}}
    given = {"framework": "torch", "entrypoint": f"net.py:{name}", "inputs": image, "outputs": ["logits"], **params}
    return run_stage("export", given, {}, root, root=root, notes=notes)


def record(out):
    return json.loads((out / "export.json").read_text())


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_an_exported_model_has_the_names_axes_opset_and_values_asked_for(root, exporter):
    out = export(root, exporter=exporter, kwargs={"width": 6})
    model = onnxfile.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert onnxgraph.opsets(model) == {"ai.onnx": 17}
    assert model.ir_version == 8
    found = record(out)
    assert found["inputs"] == [{"name": "image", "dtype": "float32", "dims": ["batch", 3, 8, 8]}]
    assert found["outputs"] == [{"name": "logits", "dtype": "float32", "dims": ["batch", 5]}]
    assert found["checked"]["sizes"] == [{"batch": 2}, {"batch": 3}]
    assert 0 <= found["checked"]["max_abs_error"]["logits"] < 1e-4
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": np.zeros((7, 3, 8, 8), np.float32)})[0].shape == (7, 5)


@pytest.mark.slow
def test_two_processes_export_the_same_bytes_without_any_path_with_both_exporters(root):
    made = []
    for turn in ("one", "two"):
        (root / turn).mkdir()
        code = (
            "import sys; from pathlib import Path; from tests.helpers import run_stage\n"
            "root, out = Path(sys.argv[1]), Path(sys.argv[2])\n"
            "for exporter in ('dynamo', 'legacy'):\n"
            "    run_stage('export', {'framework': 'torch', 'entrypoint': 'net.py:Net', 'exporter': exporter, "
            "'outputs': ['y'], 'inputs': {'image': {'shape': ['n', 3, 8, 8]}}}, {}, out, root=root)\n"
        )
        run = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", code, str(root), str(root / turn)],
            capture_output=True, text=True, cwd=PROJECT, check=True,
        )  # fmt: skip
        assert run.stdout == ""
        assert run.stderr == ""
        folders = sorted((root / turn).glob("stage-*-export/out"))
        made.append({f"{folder.parent.name}/{p.name}": p.read_bytes() for folder in folders for p in folder.iterdir()})
    assert made[0] == made[1]
    assert {name.rpartition("/")[0] for name in made[0]} == {"stage-0-export", "stage-1-export"}
    for name, content in made[0].items():
        assert str(root).encode() not in content, name
        assert str(PROJECT).encode() not in content, name
        assert b"stack_trace" not in content, name


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_several_inputs_are_passed_by_the_names_of_forwards_parameters(root, exporter):
    inputs = {"mask": {"shape": ["batch", "length"]}, "tokens": {"shape": ["batch", "length"], "dtype": "int64"}}
    out = export(root, "Two", inputs=inputs, outputs=["total", "twice"], exporter=exporter)
    found = record(out)
    assert [i["name"] for i in found["inputs"]] == ["tokens", "mask"]
    assert [o["dims"] for o in found["outputs"]] == [["batch", 4], ["batch", "twice_1", 4]]
    assert found["checked"]["sizes"] == [
        {"batch": 2, "length": 2}, {"batch": 3, "length": 2}, {"batch": 2, "length": 3}
    ]  # fmt: skip
    turned = export(root, "Two", inputs=dict(reversed(inputs.items())), outputs=["total", "twice"], exporter=exporter)
    assert (out / "model.onnx").read_bytes() == (turned / "model.onnx").read_bytes()


def test_inputs_of_other_names_need_their_order(root):
    inputs = {"a": {"shape": [2, 3], "dtype": "int64"}, "b": {"shape": [2, 3]}}
    with pytest.raises(StageFailed, match=r"inputs a, b are not forward's parameters \(tokens, mask\).*arguments"):
        export(root, "Two", inputs=inputs, outputs=["s", "d"])
    out = export(root, "Two", inputs=inputs, outputs=["s", "d"], arguments=["a", "b"])
    assert [(i["name"], i["dims"]) for i in record(out)["inputs"]] == [("a", [2, 3]), ("b", [2, 3])]


def test_a_batch_that_tracing_baked_in_fails_here(root):
    with pytest.raises(StageFailed) as caught:
        export(root, "Specialised", exporter="legacy")
    text = str(caught.value)
    assert "does not agree with PyTorch (|onnx - torch| <= 0.0001 + 0.001 * |torch|)" in text
    assert "at batch 3: output logits differs from PyTorch by up to" in text
    assert "at batch 2" not in text


def test_a_batch_that_dynamo_baked_in_is_named(root):
    with pytest.raises(StageFailed, match="axis batch of input image was baked in as 2"):
        export(root, "Specialised")


@pytest.mark.parametrize(
    ("exporter", "message"),
    [("dynamo", "axis batch of input image was baked in as 2"), ("legacy", "at batch 3: onnxruntime fails")],
)
def test_a_length_that_python_took_is_baked_in_and_found_with_both_exporters(root, exporter, message):
    with pytest.raises(StageFailed, match=message):
        export(root, "Baked", exporter=exporter)


@pytest.mark.slow
def test_a_random_module_does_not_agree_with_itself(root):
    with pytest.raises(StageFailed, match="differs from PyTorch by up to"):
        export(root, "Random")


def test_nan_never_agrees(root):
    with pytest.raises(StageFailed, match="differs from PyTorch by up to nan"):
        export(root, "Nan")


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_a_width_with_a_condition_exports_with_sizes_that_meet_it(root, exporter):
    inputs = {"line": {"shape": ["batch", 2, "width"]}}
    with pytest.raises(StageFailed, match=r"the module itself fails on line \[2, 2, 2\].*params\.sizes"):
        export(root, "Patches", inputs=inputs, outputs=["y"], exporter=exporter)
    out = export(root, "Patches", inputs=inputs, outputs=["y"], exporter=exporter, sizes={"width": [8, 16]})
    assert record(out)["inputs"][0]["dims"] == ["batch", 2, "width"]
    assert record(out)["outputs"][0]["dims"][:2] == ["batch", 2]
    assert isinstance(record(out)["outputs"][0]["dims"][2], str)


@pytest.mark.slow
def test_an_input_that_is_not_used_stays_with_dynamo_and_is_named_with_legacy(root):
    inputs = {"image": {"shape": ["batch", 3]}, "other": {"shape": ["batch", 3]}}
    out = export(root, "Unused", inputs=inputs)
    assert [i["name"] for i in record(out)["inputs"]] == ["image", "other"]
    with pytest.raises(StageFailed, match="the module does not use other"):
        export(root, "Unused", inputs=inputs, exporter="legacy")


@pytest.mark.slow
def test_what_opset_17_cannot_say_is_refused_with_the_way_out(root):
    inputs = {"image": {"shape": ["batch", 3], "dtype": "int32"}}
    with pytest.raises(StageFailed) as caught:
        export(root, "Flip", inputs=inputs)
    assert "writes opset 18, and opset 17 was asked for" in str(caught.value)
    assert "(BitwiseNot): the operator came with opset 18" in str(caught.value)
    assert "opset: 18 keeps it" in str(caught.value)
    assert record(export(root, "Flip", inputs=inputs, opset=18, ir_version=9))["opset"] == {"ai.onnx": 18}


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("nothing", {}, r"net\.py:nothing gives a int, expected a torch\.nn\.Module"),
        ("broken", {}, r"net\.py:broken fails: RuntimeError: no weights here"),
        ("absent", {}, r"net\.py has no callable absent"),
        ("Net", {"outputs": ["a", "b"]}, r"found 2 names \(a, b\), but the module gives 1 tensors"),
        ("Net", {"kwargs": {"depth": 3}}, r"net\.py:Net fails: TypeError: .*depth"),
        ("Net", {"inputs": {"image": {"shape": ["batch", 1, 8, 8]}}}, r"the module itself fails on image \[2, 1, 8, 8"),
        ("Two", {"inputs": {"tokens": {"shape": [2, 2], "dtype": "int64"}}}, "forward also needs mask"),
    ],
)
def test_what_cannot_be_exported_says_why(root, name, params, message):
    with pytest.raises(StageFailed, match=message):
        export(root, name, **params)


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"sizes": {"width": [2, 3]}}, "sizes.width"),
        ({"sizes": {"batch": [2, 2]}}, "sizes.batch"),
        ({"outputs": ["a", "a"]}, "outputs"),
        ({"outputs": ["image"]}, "outputs"),
        ({"arguments": ["picture"]}, "arguments"),
        ({"inputs": {"image": {"shape": [1], "range": [1, 0]}}}, "inputs.image.range"),
    ],
)
def test_names_that_clash_are_refused_before_anything_runs(root, params, path):
    with pytest.raises(ValueError, match=path.replace(".", r"\.")):
        export(root, **params)


def test_large_weights_go_to_an_external_file(root, monkeypatch):
    monkeypatch.setattr(onnxfile, "INLINE_LIMIT", 1000)
    out = export(root, kwargs={"width": 300})
    assert sorted(p.name for p in out.iterdir()) == ["export.json", "model.onnx", "model.onnx.data"]
    model = onnxfile.load(out / "model.onnx")
    assert external_data.external_files(model, out, label="model") == ("model.onnx.data",)


@pytest.mark.slow
def test_nothing_of_the_exporters_chatter_reaches_the_terminal(root, capfd, caplog):
    export(root)
    export(root, exporter="legacy")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_fixed_shapes_are_checked_once(root):
    out = export(root, inputs={"image": {"shape": [2, 3, 8, 8]}})
    assert record(out)["checked"]["sizes"] == [{}]
    assert record(out)["outputs"][0]["dims"] == [2, 5]
