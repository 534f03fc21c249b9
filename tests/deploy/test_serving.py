"""`trtpipe serve-check`: a bundle answers as recorded, in time, or the command says so with exit 5."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import onnx_models
from tests.helpers import PROJECT, within
from tests.test_readme import commands


@pytest.fixture
def bundle(ship, tmp_path):
    assert ship("--to", str(tmp_path / "there")).returncode == 0
    return tmp_path / "there"


def test_a_bundle_that_answers_as_recorded_passes_with_its_figures(bundle):
    result = within("serve-check", str(bundle), "--calls", "5", cwd=bundle)
    assert result.returncode == 0, result.stderr
    assert "out/engine, key " in result.stdout
    assert "logits  relative L2 " in result.stdout
    assert "a call of 4 samples: median " in result.stdout
    found = json.loads(within("serve-check", str(bundle / "1"), "--json", cwd=bundle).stdout)
    assert found["relative_l2"]["logits"] <= found["bound"]
    assert 0 < found["median_ms"] <= found["p99_ms"]
    assert (found["samples"], found["calls"], found["problems"]) == (4, 50, [])


def test_a_bundle_that_answers_otherwise_or_too_late_exits_5(bundle, tmp_path):
    late = within("serve-check", str(bundle), "--latency", "1e-9", cwd=tmp_path)
    assert late.returncode == 5
    assert "a call takes " in late.stderr
    assert "at most 1e-09 ms are allowed" in late.stderr
    strict = within("serve-check", str(bundle), "--bound", "0", cwd=tmp_path)
    assert strict.returncode in (0, 5)  # the same kernels may give the same bits


def test_recorded_answers_that_are_others_are_found_and_a_changed_file_before_that(bundle, tmp_path):
    version = bundle / "1"
    with np.load(version / "expected.npz") as wanted:
        other = {name: array + 1 for name, array in wanted.items()}
    np.savez(version / "expected.npz", **other)
    changed = within("serve-check", str(bundle), cwd=tmp_path)
    assert changed.returncode == 5
    assert "is not the bundle that was deployed" in changed.stderr
    import hashlib

    said = json.loads((version / "bundle.json").read_text())
    content = (version / "expected.npz").read_bytes()
    said["files"]["expected.npz"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (version / "bundle.json").write_text(json.dumps(said))
    wrong = within("serve-check", str(bundle), cwd=tmp_path)
    assert wrong.returncode == 5
    assert "logits: relative L2 difference" in wrong.stderr
    assert "✗" in wrong.stdout


@pytest.mark.parametrize(
    ("args", "code", "problem"),
    [
        (["none"], 1, "found nothing without a bundle.json, expected a bundle"),
        (["."], 1, "found a folder without a bundle.json, expected a bundle"),
        (["there", "--calls", "0"], 2, "--calls"),
        (["there", "--trust", "ci"], 2, "expected a name and a public key"),
        (["there", "--trust", "ci=ed25519:" + "A" * 43 + "="], 5, "which is not trusted here"),
    ],
)
def test_what_is_no_bundle_is_refused(bundle, args, code, problem):
    result = within("serve-check", *args, cwd=bundle.parent)
    assert (result.returncode, problem in result.stderr) == (code, True), result.stderr


def test_a_bundle_without_samples_is_refused(ship, deployable, tmp_path):
    head = (deployable / "out.yaml").read_text().partition("  buffers:")[0]
    (deployable / "short.yaml").write_text(head)
    made = ship("--to", str(tmp_path / "there"), document="short.yaml")
    assert "no samples are recorded: no stage infer runs this engine" in made.stdout
    result = within("serve-check", str(tmp_path / "there"), cwd=tmp_path)
    assert (result.returncode, "found no recorded samples" in result.stderr) == (1, True)


def test_the_lines_of_the_page_run(deployable, tmp_path):
    (deployable / "model.yaml").write_text((deployable / "out.yaml").read_text())
    for line in [
        one for one in commands(PROJECT / "docs" / "deploy.md") if one[0] in ("deploy", "serve-check", "inspect")
    ]:
        words = [str(tmp_path / word) if word in ("release", "models/classifier", "layout") else word for word in line]
        result = within(*words, cwd=deployable)
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    assert (tmp_path / "models/classifier/config.pbtxt").is_file()


def test_inspect_tells_what_the_bundle_says_and_who_signed_it(bundle, deployable, tmp_path):
    env = {"XDG_CONFIG_HOME": str(deployable / "config")}
    args = ("inspect", str(bundle), "--artifacts", str(tmp_path / "no-store"))
    text = within(*args, cwd=tmp_path, env=env).stdout
    assert f"where it comes from, as {bundle}/current/bundle.json says:" in text
    assert "made by    stage engine (build) of pipeline out, as engine.onnx" in text
    assert "signed by  you" in text
    assert "out/close (required, as the bundle says): cosine_min " in text
    stranger = within(*args, cwd=tmp_path, env={"XDG_CONFIG_HOME": str(tmp_path)}).stdout
    assert "signed by  nobody whom you trust" in stranger
    onnx_models.save(onnx_models.conv(3), bundle / "1" / "engine.onnx")
    changed = within(*args, cwd=tmp_path, env=env).stdout
    assert "where it comes from: unknown" in changed
    assert "bundle.json does not have it: the file is not the one that was deployed" in changed
