"""`trtpipe inspect`: what a file is, what takes it, and where it comes from."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from onnx import helper

from tests import onnx_models
from tests.helpers import PROJECT, trtpipe, within
from tests.test_readme import commands
from trtpipe.cli import main

HEADER = b"vtrt" + bytes(12) + (5000).to_bytes(8, "little") + bytes([1, 7, 1, 116]) + bytes(99)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Build a compared engine in a project with a commit, lock it, push it; give the folder."""
    folder = tmp_path_factory.mktemp("made")
    (folder / ".git").mkdir()
    (folder / ".git/HEAD").write_text(COMMIT + "\n")
    onnx_models.save(onnx_models.conv(), folder / "net.onnx")
    np.savez(folder / "samples.npz", image=np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32))
    env = {"XDG_CONFIG_HOME": str(folder / "config")}
    build = ("build", "net.onnx", "--fp16", "--data", "samples.npz", "--shapes", "image=1..4x3x8x8", "--emit-yaml",
             "p.yaml", "--backend", "onnxruntime")  # fmt: skip
    for command in (build, ("keys", "new"), ("lock", "p.yaml"), ("cache", "push", "p.yaml", "--remote", far(folder))):
        result = within(*command, cwd=folder, env=env)
        assert result.returncode == 0, result.stderr
    return folder


def far(folder):
    return f"file://{folder}/far"


def inspected(folder, *args, **env):
    result = within("inspect", *args, "--json", cwd=folder, env={"XDG_CONFIG_HOME": str(folder / "config"), **env})
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_an_engine_is_told_with_where_it_comes_from(made):
    text = trtpipe("inspect", "artifacts/view/net/engine", cwd=made).stdout
    assert "engine.onnx: an engine of ONNX Runtime" in text
    assert "input   image   float32  [batch, 3, 8, 8]" in text
    assert "profile 0: image=1..4x3x8x8" in text
    assert "precision: fp16 was asked for; " in text
    assert "made by    stage engine (build) of pipeline net, as engine.onnx" in text
    assert f"commit     {COMMIT} (what was not committed is not known)" in text
    assert "signed by  nobody: it was made here" in text
    assert "also in    p.lock: net/engine, key " in text
    assert "not in     no remote store is named" in text
    assert "net/config (error against float32, relative L2): logits 0.0" in text
    assert "net/closeness (comparison): " in text


def test_a_plan_alone_is_found_by_its_content(made, tmp_path):
    shutil.copy(made / "artifacts/view/net/engine/engine.onnx", tmp_path / "renamed.onnx")
    found = inspected(made, str(tmp_path / "renamed.onnx"))
    first = found["origins"][0]
    assert (first["where"], first["pipeline"], first["stage"], first["file"]) == (
        "store",
        "net",
        "engine",
        "engine.onnx",
    )
    assert found["manifest"]["precision"] == "fp16"
    assert {one["kind"] for one in found["figures"]} == {"error against float32, relative L2", "comparison"}


def test_a_file_belongs_to_its_own_project_whatever_the_shells_folder(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts").mkdir()
    stage = {"net.onnx": "network", "artifacts/view/net/engine": "engine"}
    assert {file: inspected(tmp_path, str(made / file))["origins"][0]["stage"] for file in stage} == stage
    named = inspected(tmp_path, str(made / "samples.npz"), "--artifacts", "artifacts")
    assert f"the store in {tmp_path}/artifacts does not have it" in named["asked"]
    assert all(one["where"] != "store" for one in named["origins"])


def test_a_remote_store_says_who_signed(made, tmp_path):
    shutil.copytree(made / "artifacts/view/net/engine", tmp_path / "engine")
    (tmp_path / "artifacts").mkdir()
    found = inspected(tmp_path, "engine", "--remote", far(made), XDG_CONFIG_HOME=str(made / "config"))
    (one,) = found["origins"]
    assert (one["where"], one["stage"], one["signed_by"], one["commit"]) == ("remote store", "engine", "you", COMMIT)
    assert one["fetched_from"] == far(made)


def test_a_record_that_nobody_trusts_is_told_and_not_believed(made, tmp_path):
    shutil.copytree(made / "artifacts/view/net/engine", tmp_path / "engine")
    (tmp_path / "artifacts").mkdir()
    found = inspected(tmp_path, "engine", "--remote", far(made))
    assert found["origins"] == []
    assert any("no signer is trusted here" in one for one in found["asked"])


def test_the_lines_of_the_page_run_and_say_unknown_where_nothing_is_known(made, tmp_path):
    shutil.copy(made / "artifacts/view/net/engine/engine.onnx", tmp_path / "model.onnx")
    (tmp_path / "model.engine").write_bytes(HEADER)
    np.savez(tmp_path / "samples.npz", x=np.zeros(3))
    lines = [line for line in commands(PROJECT / "docs" / "inspect.md") if line[0] == "inspect"]
    shown = [within(*line, cwd=tmp_path) for line in lines]
    assert [result.returncode for result in shown] == [0, 0, 0]
    assert "model.onnx: an ONNX model" in shown[0].stdout
    assert "where it comes from: unknown\n  no store is here\n  no lock file in " in shown[0].stdout


def test_a_lock_file_alone_names_pipeline_and_key(made, tmp_path):
    shutil.copy(made / "artifacts/view/net/engine/engine.onnx", tmp_path / "e.onnx")
    shutil.copy(made / "p.lock", tmp_path / "p.lock")
    text = within("inspect", "e.onnx", cwd=tmp_path).stdout
    assert "where it comes from, as p.lock says:\n  made by    stage engine (build) of pipeline net" in text
    assert "at         unknown" in text


def test_a_model_that_was_only_read_was_not_made_by_the_stage_that_read_it(made):
    text = within("inspect", "net.onnx", cwd=made).stdout
    assert "read by    stage network (parse) of pipeline net, as model.onnx" in text


def test_an_onnx_model_is_told_with_its_operators_and_ranges(made):
    found = inspected(made, "net.onnx")
    assert found["inputs"] == [{"name": "image", "dtype": "float32", "dims": ["batch", 3, 8, 8]}]
    assert found["operators"]["Conv"] == 1
    assert found["parameters"] == 4 * 27 + 4 * 4 + 20
    assert found["suggested_shapes"] == ["image=1..8..16x3x8x8"]
    by = {one["runtime"]: one for one in found["runtimes"]}
    assert by["onnxruntime"]["takes"] is True
    assert by["onnxruntime"]["by"].startswith("its own parser, 1.")


def test_what_a_runtime_would_reject_is_said_by_its_parser_or_by_a_table_with_its_source(tmp_path):
    node = helper.make_node("Det", ["x"], ["y"], name="det")
    model = onnx_models.model([node], [onnx_models.value("x", [2, 2])], [onnx_models.value("y", [])])
    onnx_models.save(model, tmp_path / "m.onnx")
    found = inspected(tmp_path, "m.onnx", CUDA_VISIBLE_DEVICES="")
    rows = {(one["runtime"], one["by"]): one for one in found["runtimes"]}
    table = rows["tensorrt", "onnx-tensorrt's docs/operators.md for TensorRT 10.15"]
    assert (table["takes"], table["rejects"]) == (False, ["1 × Det: not supported"])
    for (runtime, _), one in rows.items():
        if runtime == "onnxruntime":
            assert one["takes"] is True
        elif runtime == "tensorrt_rtx" and one["by"].startswith("its own parser"):
            assert one["takes"] is False
            assert any("Det" in line for line in one["rejects"])


def test_arrays_are_told_with_their_range(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([[1.5, np.nan], [-2, 3]], np.float32), name=np.array(["a"]))
    np.save(tmp_path / "b.npy", np.arange(6, dtype=np.int64).reshape(2, 3))
    text = within("inspect", "a.npz", cwd=tmp_path).stdout
    assert "a.npz: 2 arrays (npz)" in text
    assert "x     float32  [2, 2]  -2 to 3, 1 not finite" in text
    assert "b  int64  [2, 3]  0 to 5" in within("inspect", "b.npy", cwd=tmp_path).stdout


def safetensors(path, header, data=b"\0" * 8):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_safetensors_are_told_from_their_header(tmp_path):
    header = {"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}}
    safetensors(tmp_path / "m.safetensors", header)
    text = within("inspect", "m.safetensors", cwd=tmp_path).stdout
    assert "1 tensors (safetensors)" in text
    assert "w  bfloat16  [2, 2]" in text
    assert "format: pt" in text
    safetensors(tmp_path / "torn.safetensors", header, b"\0" * 3)
    assert (
        "it is torn: its header says 8 bytes of data, found 3"
        in within("inspect", "torn.safetensors", cwd=tmp_path).stdout
    )


def test_a_plan_is_told_by_its_header(tmp_path):
    (tmp_path / "e.engine").write_bytes(
        b"vtrt" + bytes(12) + (5000).to_bytes(8, "little") + bytes([1, 7, 1, 116]) + bytes(99)
    )
    text = within("inspect", "e.engine", cwd=tmp_path).stdout
    assert "e.engine: a plan of TensorRT-RTX 1.7.1.116" in text
    assert "it is torn: its header says 5000 bytes, found 127" in text
    assert "inputs, outputs, profiles, precision: unknown: there is no manifest beside it" in text


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRTPIPE_ARTIFACTS", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.onnx", None, "there is no such file"),
        ("empty.npz", b"", "found an empty file"),
        ("m.onnx", b"no model", "is no ONNX model"),
        ("m.plan", b"no plan at all", "is no plan: it starts with b'no p'"),
        ("a.npz", b"PK\x03\x04torn", "cannot be read as npz"),
        ("a.npy", b"\x93NUMPY\x01\x00", "cannot be read as npy"),
        ("m.safetensors", (3).to_bytes(8, "little") + b"{x}", "its header is not that of safetensors"),
        ("e.bundle", b"anything", "found an archive, expected a file or a folder: unpack it"),
        ("e.tar.gz", b"\x1f\x8b", "found an archive, expected a file or a folder: unpack it"),
        ("p.yaml", b"name: p", "found a document, which has its own commands: trtpipe graph p.yaml"),
    ],
)
def test_other_files_are_refused_with_what_they_are(here, capsys, name, content, problem):
    if content is not None:
        (here / name).write_bytes(content)
    assert main.main(["inspect", name]) == 2
    assert problem in capsys.readouterr().err


def test_a_folder_that_is_no_engine_is_refused(here, capsys):
    assert main.main(["inspect", "."]) == 2
    assert "found a folder without a manifest.json, expected a file or an engine" in capsys.readouterr().err


def test_a_project_that_cannot_be_written_is_inspected_all_the_same(made, tmp_path):
    shutil.copytree(made / "artifacts", tmp_path / "artifacts", symlinks=True)
    shutil.copy(made / "net.onnx", tmp_path / "net.onnx")
    for folder, _, files in os.walk(tmp_path):
        for file in files:
            os.chmod(os.path.join(folder, file), 0o444, follow_symlinks=True)
        os.chmod(folder, 0o555)
    try:
        result = within("inspect", "net.onnx", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "read by    stage network" in result.stdout
    finally:
        for folder, _, _ in os.walk(tmp_path):
            os.chmod(folder, 0o755)
