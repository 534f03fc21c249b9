"""Documents that trtpipe writes: each text is read again as what was meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.models.outline import Side
from trtpipe.pipeline import document, drafting, loading, ranges, variables


def read_again(text):
    return variables.substitute(document.parse(text, "p.yaml")).value


@pytest.mark.parametrize(
    "name",
    ["input.1", "gpu_0/data_0", "x:0", "a b", "true", "No", "~", "null", "1", "1e3", "- a", "#", "ü", '"', "\\", "a,b",
     "{", "${vars.x}", "$${", "\x1b[31m", "\n", "😀", "\u2028", "a: b", ""],
)  # fmt: skip
def test_a_text_is_read_again_as_it_was(name):
    assert read_again(f"a: {drafting.flow({name or 'e': name})}\n") == {"a": {name or "e": name}}


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
def test_any_text_is_read_again_as_it_was(text):
    assert read_again(f"a: [{drafting.scalar(text)}]\n") == {"a": [text]}


def wish(**changed):
    sides = [Side("image", "float32", ("batch", 3, 8, 8))]
    settled = ranges.settle(sides, ranges.read(["image=1..4..8x3x8x8"]))
    given = {"name": "m", "model": "m.onnx", "backend": "onnxruntime", "ranges": settled,
             "params": {"precision": "fp16"}}  # fmt: skip
    return drafting.Wish(**{**given, **changed})


def resolved(one):
    text = drafting.text(one.name, one.backend, drafting.stages(one), ["a comment"])
    return text, loading.load("p.yaml", (), None, text)


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        ({}, ["network", "config", "engine"]),
        ({"int8": "data.npz"}, ["quantized", "network", "config", "engine"]),
        ({"data": "data.npz"}, ["network", "config", "engine"]),
        ({"data": "data.npz", "runs": True}, ["network", "config", "engine", "buffers", "outputs", "closeness"]),
        ({"measured": {"image": (2, 3, 8, 8)}}, ["network", "config", "engine", "buffers"]),
        ({"plugins": ("lib/own.so",)}, ["network", "config", "engine"]),
        ({"check": True}, ["network", "config", "engine"]),
        ({"optimize": {"opset": 17}}, ["optimized", "network", "config", "engine"]),
    ],
)
def test_every_kind_of_build_is_a_valid_document(changed, stages):
    text, pipeline = resolved(wish(**changed))
    assert list(pipeline.stages) == stages
    assert text.startswith("# a comment\nname: m\n")


def test_a_profile_is_the_range_of_each_dynamic_input():
    _, pipeline = resolved(wish())
    assert pipeline.stages["config"].params["profiles"] == [
        {"image": {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [8, 3, 8, 8]}}
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/b.onnx", "b"), ("my model (1).onnx", "my-model-1"), ("模型.onnx", "model"), (".onnx", "onnx")],
)
def test_a_pipeline_is_named_after_its_model(path, name):
    assert drafting.name_of(path) == name


def test_a_path_in_a_document_starts_from_its_folder(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "docs")
    assert drafting.relative(str(tmp_path / "m.onnx"), str(tmp_path / "link")) == "../m.onnx"
