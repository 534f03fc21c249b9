"""What real stages write fits the published schemas, and is read again as it was written."""

import json

import jsonschema
import numpy as np
import pytest

from tests import onnx_models as models
from tests.backends.trt.test_proof import conv_8, said
from tests.helpers import as_input, run_stage
from trtpipe.backends.trt import proof
from trtpipe.documents import files, schemas
from trtpipe.documents.bundle import Bundle
from trtpipe.stage import Input

MODULE = """\
import torch

class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.inner(x)
"""
IMAGE = {"image": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}}
KINDS = [kind for kind in (*schemas.DOCUMENTS, *schemas.LINES) if kind is not Bundle]
"""All but what `deploy` writes."""
EVERY = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.file)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Run every stage type once; give the folders of what they made."""
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'trtpipe[torch]'")
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'trtpipe[vision]'")
    top = tmp_path_factory.mktemp("stages")
    (top / "line.py").write_text(MODULE)
    (top / "pictures").mkdir()
    for name in "ab":
        pixels = np.random.default_rng(ord(name)).integers(0, 255, (8, 8, 3), np.uint8)
        pillow.fromarray(pixels).save(top / "pictures" / f"{name}.png")
    (top / "right.txt").write_text("0\n1\n")
    model = models.save(models.conv(), top / "model.onnx")
    made = {}

    def run(stage, inputs, params=None, kind=None):
        made[stage] = run_stage(stage, params or {}, inputs, top)
        if kind is None:
            return made[stage]
        given = as_input(stage, made[stage])
        return Input(name=stage, kind=kind, folder=given.folder, files=given.files, label=stage)

    module = {"framework": "torch", "entrypoint": "line.py:Line", "inputs": {"x": {"shape": ["n", 3]}}}
    run("export", {}, {**module, "outputs": ["y"]})
    cleaned = run("optimize", {"model": model})
    exact = {"tensor": "image", "resize": {"mode": "exact", "size": [8, 8]}}
    images = run("preprocess", {"images": top / "pictures"}, exact)
    run("quantize", {"model": model, "calibration": images})
    network = run("parse", {"model": cleaned})
    config = run("configure", {"network": network}, {"precision": "fp16", "profiles": [IMAGE]})
    engine = run("build", {"config": config}, kind="engine")
    buffers = run("allocate", {"engine": engine}, {"shapes": {"image": [2, 3, 8, 8]}})
    scores = run("infer", {"engine": engine, "buffers": buffers, "data": images})
    results = run("postprocess", {"tensors": scores}, {"steps": [{"op": "top_k", "k": 1}]})
    right = {"results": results, "labels": top / "right.txt"}
    accuracy = run("evaluate", right, {"metrics": [{"metric": "top_k"}], "require": {"top1": ">= 0"}}, kind="metrics")
    short = {"duration": 0.01, "warm_up": 0, "profile": True}
    speed = run("benchmark", {"engine": engine, "buffers": buffers}, short, kind="benchmark")
    compared = {"candidate": scores, "reference": scores, "model": model, "candidate_model": config, "data": images}
    run("compare", compared, {"bisect": True, "require": {"cosine": "> 0.9"}})
    variants = {"engines[engine]": engine, "metrics[speed]": speed, "metrics[accuracy]": accuracy}
    run("select", variants, {"objective": "min latency_p50_ms", "where": {"top1": ">= 0"}})
    # An inspector needs a GPU: this is what TensorRT 8.6 told on one.
    made["layers"] = top / "layers"
    made["layers"].mkdir()
    files.write(made["layers"] / "layers.json", proof.layers(said(conv_8())))
    return list(made.values())


@EVERY
def test_what_a_stage_writes_fits_its_schema_and_is_read_again(folders, kind):
    written = [folder / kind.file for folder in folders if (folder / kind.file).exists()]
    assert written, f"no stage made a {kind.file}"
    validator = jsonschema.Draft202012Validator(schemas.of(kind))
    for path in written:
        if kind in schemas.LINES:
            lines = path.read_text("utf-8").splitlines()
            for line in lines:
                validator.validate(json.loads(line))
            assert [value for _, value in files.read_lines(path, kind)] == [json.loads(line) for line in lines]
        else:
            value = json.loads(path.read_text("utf-8"))
            validator.validate(value)
            assert json.loads(files.encode(files.read(path, kind))) == value


def test_every_json_that_a_stage_writes_is_a_document_or_of_a_form_that_trtexec_made(folders):
    known = {kind.file for kind in KINDS} | {"times.json", "profile.json"}
    found = {path.name for folder in folders for path in folder.rglob("*.json*")}
    assert found == known
