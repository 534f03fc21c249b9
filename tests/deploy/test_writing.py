"""`trtpipe deploy`: what a bundle holds, versions, and when nothing is deployed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest

import trtpipe
from tests.helpers import PATHS, surroundings, within
from trtpipe.deploy import writing
from trtpipe.documents import files
from trtpipe.documents.bundle import Bundle


@pytest.fixture
def bundle(ship, tmp_path):
    """Deploy to a folder; give its first version."""
    result = ship("--to", str(tmp_path / "there"))
    assert result.returncode == 0, result.stderr
    return tmp_path / "there" / "1"


def public(folder, deployable):
    return dict(line.split() for line in within("keys", "list", cwd=deployable, env={
        "XDG_CONFIG_HOME": str(deployable / "config")}).stdout.splitlines())["you"]  # fmt: skip


def test_a_folder_holds_the_engine_and_all_that_is_known_of_it(bundle):
    said = files.read(bundle / "bundle.json", Bundle)
    there = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert there == {*said.files, "bundle.json", "bundle.json.sig"}
    assert {"engine.onnx", "manifest.json", "samples.npz", "expected.npz", "attestation.json", "pipeline.lock"} <= there
    assert said.left_out == ("parsed/model.onnx",)
    assert [(one.stage, one.figure, one.rule, one.passed) for one in said.requirements] == [
        ("close", "cosine_min", ">= 0.999", True)
    ]
    assert (said.samples, said.unmet) == (4, ())
    assert oct((bundle / "engine.onnx").stat().st_mode)[-3:] == "644"
    assert (bundle / "engine.onnx").stat().st_nlink == 1  # nothing here can change the store


def test_the_engine_opens_on_a_host_that_has_nothing_else_of_the_project(bundle, tmp_path):
    far = tmp_path / "far"
    shutil.copytree(bundle, far)
    code = (
        "import sys, numpy as np, trtpipe\n"
        "with np.load('samples.npz') as given, trtpipe.Engine.open('.') as engine:\n"
        "    np.savez(sys.stdout.buffer, **engine(dict(given)))\n"
    )
    env = {**surroundings(), "PYTHONPATH": PATHS, "HOME": str(tmp_path)}
    made = subprocess.run([sys.executable, "-c", code], cwd=far, env=env, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr.decode()
    (far / "made.npz").write_bytes(made.stdout)
    with np.load(far / "made.npz") as found, np.load(far / "expected.npz") as wanted:
        np.testing.assert_allclose(found["logits"], wanted["logits"], rtol=1e-5, atol=1e-6)


def test_versions_are_whole_folders_and_current_leads_to_the_newest(ship, tmp_path):
    to = tmp_path / "there"
    assert ship("--to", str(to)).stdout.splitlines()[-1].startswith(f"{to}/1  ")
    again = ship("--to", str(to))
    assert "is the same bundle already; nothing was written" in again.stdout
    (tmp_path / "LICENCE").write_text("mine")
    assert ship("--to", str(to), "--licence", str(tmp_path / "LICENCE")).returncode == 0
    assert sorted(os.listdir(to)) == ["1", "2", "current"]
    assert os.readlink(to / "current") == "2"
    assert (to / "current" / "licences" / "LICENCE").read_text() == "mine"
    with trtpipe.Engine.open(to) as engine:
        assert engine.manifest.runtime == "onnxruntime"


def test_a_version_that_somebody_has_changed_is_not_taken_for_the_same_bundle(ship, tmp_path):
    to = tmp_path / "there"
    assert ship("--to", str(to)).returncode == 0
    plan = to / "1" / "engine.onnx"
    plan.write_bytes(plan.read_bytes()[:-1] + b"!")
    again = ship("--to", str(to))
    assert "note: the bundle is written again: " in again.stdout
    assert "engine.onnx: found SHA-256 " in again.stdout
    assert os.readlink(to / "current") == "2"
    assert "nothing was written" in ship("--to", str(to)).stdout


def test_two_licences_of_one_name_are_refused(ship, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "LICENCE").write_text(folder)
    both = [word for folder in ("a", "b") for word in ("--licence", str(tmp_path / folder / "LICENCE"))]
    result = ship("--to", str(tmp_path / "there"), *both)
    assert result.returncode == 2
    assert "expected licences of different names" in result.stderr
    assert not (tmp_path / "there").exists()


def test_a_byte_that_was_changed_is_found_before_anything_is_loaded(bundle):
    plan = bundle / "engine.onnx"
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    with pytest.raises(trtpipe.GateFailed, match=r"engine\.onnx: found SHA-256 \w{12}…, expected \w{12}…"):
        trtpipe.Engine.open(bundle)
    (bundle / "samples.npz").unlink()
    with pytest.raises(trtpipe.GateFailed, match=r"samples\.npz: it is not there"):
        trtpipe.Engine.open(bundle)


def test_a_name_in_bundle_json_may_not_lead_out_of_it(bundle):
    value = json.loads((bundle / "bundle.json").read_text())
    value["files"]["../../x"] = value["files"]["engine.onnx"]
    (bundle / "bundle.json").write_text(json.dumps(value))
    with pytest.raises(trtpipe.GateFailed, match=r"\.\./\.\./x: found a path that leads out of the bundle"):
        trtpipe.Engine.open(bundle)


@pytest.mark.parametrize("name", ["engine.onnx", "manifest.json"])
def test_what_bundle_json_does_not_name_is_not_loaded(bundle, name):
    value = json.loads((bundle / "bundle.json").read_text())
    del value["files"][name]
    (bundle / "bundle.json").write_text(json.dumps(value))
    with pytest.raises(trtpipe.GateFailed, match=rf"{name}: bundle\.json does not name it"):
        trtpipe.Engine.open(bundle)


def test_a_signature_is_asked_for_where_trust_says_so(bundle, deployable, ship, tmp_path):
    key = public(bundle, deployable)
    with trtpipe.Engine.open(bundle, trust={"ci": key}):
        pass
    other = "ed25519:" + "A" * 43 + "="
    with pytest.raises(trtpipe.GateFailed, match="which is not trusted here"):
        trtpipe.Engine.open(bundle, trust={"ci": other})
    text = (bundle / "bundle.json").read_text()
    (bundle / "bundle.json").write_text(text.replace('"pipeline": "out"', '"pipeline": "oud"'))
    with pytest.raises(trtpipe.GateFailed, match=r"found a bundle\.json that is not the one that ci signed"):
        trtpipe.Engine.open(bundle, trust={"ci": key})
    unsigned = ship("--to", str(tmp_path / "unsigned"), signed=False)
    assert "it is not signed: there is no signing key here" in unsigned.stdout
    with pytest.raises(trtpipe.GateFailed, match=r"it is not signed: there is no bundle\.json\.sig"):
        trtpipe.Engine.open(tmp_path / "unsigned", trust={"ci": key})
    with pytest.raises(trtpipe.StageFailed, match="found verify=False beside it"):
        trtpipe.Engine.open(bundle, verify=False, trust={"ci": key})


def test_a_bundle_of_a_later_format_is_refused(bundle):
    value = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**value, "format": 2}))
    with pytest.raises(trtpipe.StageFailed, match="format"):
        trtpipe.Engine.open(bundle)


def test_a_requirement_without_a_fresh_figure_stops_it_unless_that_is_allowed(ship, deployable, tmp_path):
    text = (deployable / "out.yaml").read_text().replace(">= 0.999", ">= 0.9991")
    (deployable / "strict.yaml").write_text(text)
    refused = ship("--to", str(tmp_path / "there"), document="strict.yaml")
    assert refused.returncode == 5
    assert "close (compare) has no figures for this engine: " in refused.stderr
    assert "--allow-failed" in refused.stderr
    assert not (tmp_path / "there").exists()
    allowed = ship("--to", str(tmp_path / "there"), "--allow-failed", document="strict.yaml")
    assert allowed.returncode == 0
    assert files.read(tmp_path / "there/1/bundle.json", Bundle).unmet[0].startswith("close (compare) has no figures")


def test_a_dry_run_says_all_and_writes_nothing(ship, tmp_path):
    result = ship("--to", str(tmp_path / "there"), "--dry-run")
    assert "close: cosine_min " in result.stdout
    assert "engine.onnx  " in result.stdout
    assert "nothing was written; this would be 8 files, " in result.stdout
    assert not (tmp_path / "there").exists()


def test_links_lead_into_the_store_only_if_they_are_asked_for(ship, tmp_path):
    assert ship("--to", str(tmp_path / "there"), "--link").returncode == 0
    assert (tmp_path / "there/1/engine.onnx").stat().st_nlink > 1
    with trtpipe.Engine.open(tmp_path / "there"):
        pass


def test_a_tar_file_is_the_same_bytes_each_time_and_is_never_overwritten(ship, tmp_path):
    for name in ("a.tar", "b.tar"):
        assert ship("--as", "tar", "--to", str(tmp_path / name), signed=False).returncode == 0
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.extractall(tmp_path / "out", filter="data")
    with trtpipe.Engine.open(tmp_path / "out"):
        pass
    again = ship("--as", "tar", "--to", str(tmp_path / "a.tar"))
    assert (again.returncode, "is there already, and is not overwritten" in again.stderr) == (4, True)


@pytest.mark.parametrize(
    ("args", "code", "problem"),
    [
        (["out.yaml", "network", "--to", "x"], 2, "network makes an artifact of kind network, expected an engine"),
        (["out.yaml", "egnine", "--to", "x"], 2, "unknown stage egnine"),
        (["out.yaml", "engine", "--to", "."], 4, "expected an empty folder, or one that deploy has written"),
        (["out.yaml", "engine", "--to", "m.onnx"], 4, "cannot be written"),
        (["out.yaml", "engine", "--as", "tar", "--link", "--to", "x"], 2, "found --link with --as tar"),
        (["out.yaml", "engine", "--licence", "none", "--to", "x"], 2, "--licence: none: there is no such file"),
        (["out.yaml", "engine"], 2, "--to"),
        (["out.yaml", "engine", "--to", ""], 2, "--to: found nothing, expected a path"),
    ],
)
def test_bad_input_is_refused_with_what_would_be_right(deployable, args, code, problem):
    result = within("deploy", *args, cwd=deployable)
    assert result.returncode == code
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


def test_an_engine_that_is_not_built_is_refused(deployable, tmp_path):
    result = within("deploy", "out.yaml", "engine", "--to", "x", "--artifacts", str(tmp_path), cwd=deployable)
    assert (result.returncode, "engine is not built (network: never built); run it: " in result.stderr) == (1, True)


def test_two_deploys_at_the_same_time_are_two_versions(ship, tmp_path, monkeypatch):
    to = tmp_path / "there"
    assert ship("--to", str(to)).returncode == 0
    (tmp_path / "LICENCE").write_text("mine")
    listed = os.listdir
    # The other one's version appears after this one has looked.
    monkeypatch.setattr(writing.os, "listdir", lambda path: [n for n in listed(path) if n != "1"])
    assert ship("--to", str(to), "--licence", str(tmp_path / "LICENCE")).returncode == 0
    monkeypatch.undo()
    assert sorted(os.listdir(to)) == ["1", "2", "current"]
    assert os.readlink(to / "current") == "2"


def test_a_disk_that_is_full_leaves_nothing_behind(ship, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.copying, "copy", full)
    for form, to in (("folder", tmp_path / "there"), ("triton", tmp_path / "models" / "m")):
        result = ship("--as", form, "--to", str(to))
        assert (result.returncode, "No space left on device" in result.stderr) == (4, True)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
