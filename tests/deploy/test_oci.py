"""`deploy --as oci`: an image layout whose digests hold, from which the bundle comes back as it was."""

from __future__ import annotations

import hashlib
import json

import pytest

import trtpipe
from tests.helpers import within


@pytest.fixture
def layout(ship, tmp_path):
    result = ship("--as", "oci", "--to", str(tmp_path / "layout"))
    assert result.returncode == 0, result.stderr
    return tmp_path / "layout"


def blob(layout, descriptor):
    """Read a blob as a registry's client does: size and digest must hold."""
    kind, _, digest = descriptor["digest"].partition(":")
    content = (layout / "blobs" / kind / digest).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (descriptor["size"], digest)
    return content


def test_every_descriptor_leads_to_a_blob_and_no_blob_is_left_over(layout):
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    waiting, seen = list(json.loads((layout / "index.json").read_text())["manifests"]), set()
    for one in waiting:
        content = blob(layout, one)
        seen.add(one["digest"].partition(":")[2])
        if one["mediaType"].endswith((".manifest.v1+json", ".index.v1+json")):
            inside = json.loads(content)
            waiting += [*inside.get("manifests", ()), *inside.get("layers", ())]
            waiting += [
                inside[part] for part in ("config", "subject") if part in inside and inside[part] not in waiting
            ]
    assert seen == {p.name for p in (layout / "blobs" / "sha256").iterdir()}


def test_the_bundle_comes_back_as_it_was(layout, deployable, tmp_path):
    model, _ = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(layout, model))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert model["annotations"]["org.opencontainers.image.ref.name"] == manifest["annotations"]["io.trtpipe.key"][:12]
    kinds = {one["annotations"]["org.cncf.model.filepath"]: one["mediaType"] for one in manifest["layers"]}
    assert kinds["engine.onnx"] == "application/vnd.cncf.model.weight.v1.raw"
    config = json.loads(blob(layout, manifest["config"]))
    assert config["modelfs"]["diffIds"] == [one["digest"] for one in manifest["layers"]]
    for one in manifest["layers"]:
        path = tmp_path / "pulled" / one["annotations"]["org.opencontainers.image.title"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob(layout, one))
    keys = within("keys", "list", cwd=deployable, env={"XDG_CONFIG_HOME": str(deployable / "config")}).stdout
    with trtpipe.Engine.open(tmp_path / "pulled", trust={"ci": keys.split()[1]}):
        pass


def test_signature_and_attestation_refer_to_the_model_by_the_tag_scheme_too(layout):
    model, tagged = json.loads((layout / "index.json").read_text())["manifests"]
    assert tagged["annotations"]["org.opencontainers.image.ref.name"] == model["digest"].replace(":", "-")
    referrers = json.loads(blob(layout, tagged))["manifests"]
    assert [one["artifactType"] for one in referrers] == [
        "application/vnd.trtpipe.bundle+json",
        "application/vnd.in-toto+json",
    ]
    for one in referrers:
        assert json.loads(blob(layout, one))["subject"]["digest"] == model["digest"]


def test_without_a_key_nothing_refers_to_it_and_the_same_engine_has_the_same_digest(ship, tmp_path):
    for name in "ab":
        assert ship("--as", "oci", "--to", str(tmp_path / name), signed=False).returncode == 0
    first, second = ((tmp_path / name / "index.json").read_bytes() for name in "ab")
    assert first == second
    assert len(json.loads(first)["manifests"]) == 1
