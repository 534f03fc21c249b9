"""A model's outline: its inputs and outputs, learnt once for a content."""

from __future__ import annotations

import pytest

from tests import onnx_models
from trtpipe.errors import PipelineInvalid
from trtpipe.models import outline
from trtpipe.store.state import State


@pytest.fixture
def state(tmp_path):
    with State(str(tmp_path)) as opened:
        yield opened


def test_an_outline_has_inputs_and_outputs_with_their_dims(tmp_path, state):
    path = onnx_models.save(onnx_models.conv(), tmp_path / "m.onnx")
    found = outline.read(str(path), state)
    assert [(one.name, one.dtype, one.text, one.dynamic) for one in (*found.inputs, *found.outputs)] == [
        ("image", "float32", "[batch, 3, 8, 8]", True),
        ("logits", "float32", "[batch, 5]", True),
    ]


def test_a_model_that_was_seen_is_not_read_again(tmp_path, state, monkeypatch):
    path = onnx_models.save(onnx_models.conv(), tmp_path / "m.onnx")
    first = outline.read(str(path), state)
    monkeypatch.setattr(outline, "_look", lambda path: pytest.fail(f"{path} was read again"))
    assert outline.read(str(path), state) == first


def refused(path, state):
    with pytest.raises(PipelineInvalid) as caught:
        outline.read(str(path), state)
    return str(caught.value)


def test_a_misspelt_name_is_refused_with_the_file_that_is_there(tmp_path, state):
    onnx_models.save(onnx_models.conv(), tmp_path / "model.onnx")
    assert refused(tmp_path / "modell.onnx", state).endswith(
        f'there is no such file, did you mean "{tmp_path}/model.onnx"?'
    )
    assert refused(tmp_path / "no" / "m.onnx", state).endswith("there is no such file")


def test_a_folder_is_refused(tmp_path, state):
    assert "found a folder, expected an ONNX file" in refused(tmp_path, state)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("m.onnx", ""), ("m.yaml", "trtpipe run "), ("m.pt", "a stage `export`"), ("m.plan", "trtpipe inspect ")],
)
def test_what_is_no_onnx_model_is_refused_with_what_it_looks_like(tmp_path, state, name, hint):
    (tmp_path / name).write_bytes(b"name: m\n")
    text = refused(tmp_path / name, state)
    assert "is no ONNX model" in text
    assert hint in text


def test_a_file_beyond_what_protobuf_reads_is_refused_without_reading_it(tmp_path, state):
    with (tmp_path / "m.onnx").open("wb") as stream:
        stream.truncate(2**31 + 2**28)  # a file with a hole: it takes no space
    text = refused(tmp_path / "m.onnx", state)
    assert "found 2.2 GiB, and an ONNX file holds at most 2 GiB" in text
    assert "save_as_external_data=True" in text
