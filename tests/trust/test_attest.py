"""Provenance: what an artifact was made of, in the words of in-toto and SLSA."""

from __future__ import annotations

import base64
import hashlib
import json

import numpy as np
import pytest

from tests.helpers import copied, project, trtpipe
from tests.remote.test_sharing import STAGES
from trtpipe.errors import GateFailed, PipelineInvalid
from trtpipe.remote import signing
from trtpipe.trust import attest


@pytest.fixture(scope="module")
def built_once(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("built")
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    project(tmp_path, STAGES)
    np.save(tmp_path / "labels.npy", np.arange(4) * 2)
    assert trtpipe("keys", "new", cwd=tmp_path, env=env).returncode == 0
    assert trtpipe("run", "p.yaml", cwd=tmp_path, env=env).returncode == 0
    return tmp_path


@pytest.fixture
def built(built_once, tmp_path):
    """A pipeline of two stages that has run, and somebody with a key."""
    env = {"XDG_CONFIG_HOME": str(copied(built_once, tmp_path) / "config")}

    def command(*args):
        return trtpipe(*args, cwd=tmp_path, env=env)

    command.folder = tmp_path
    return command


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_statement_names_the_artifact_and_all_it_was_made_of(built):
    result = built("attest", "p.yaml", "b", "--builder", "https://ci.example.org/builders/1")
    assert result.returncode == 0, result.stderr
    envelope = json.loads(result.stdout)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    said = json.loads(base64.b64decode(envelope["payload"]))
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    tree = built.folder / "artifacts" / "view" / "p" / "b"
    assert said["subject"] == [{"name": "metrics.json", "digest": {"sha256": sha256(tree / "metrics.json")}}]
    build = said["predicate"]["buildDefinition"]
    assert build["externalParameters"]["stage"] == "b"
    assert build["externalParameters"]["stages"]["b"]["inputs"] == {"labels": {"file": "labels.npy"}, "results": "a"}
    assert build["externalParameters"]["stages"]["a"]["params"]["steps"][0]["entrypoint"] == "step.py:double"
    materials = {(m["annotations"]["role"], m["name"]): m for m in build["resolvedDependencies"]}
    for role, name in (("document", "p.yaml"), ("input", "data.npz"), ("input", "labels.npy"), ("source", "step.py")):
        assert materials[role, name]["digest"] == {"sha256": sha256(built.folder / name)}
    assert materials["package", "numpy"]["uri"] == f"pkg:pypi/numpy@{np.__version__}"
    details = said["predicate"]["runDetails"]
    assert details["builder"]["id"] == "https://ci.example.org/builders/1"
    assert details["metadata"]["startedOn"] <= details["metadata"]["finishedOn"]
    assert details["metadata"]["finishedOn"].endswith("Z")


def test_the_same_artifact_is_attested_in_the_same_words(built):
    assert built("attest", "p.yaml", "a").stdout == built("attest", "p.yaml", "a").stdout


def test_what_was_attested_is_verified(built):
    assert built("attest", "p.yaml", "b", "-o", "b.json").returncode == 0
    result = built("verify", "p.yaml", "b", "--attestation", "b.json")
    assert (result.returncode, result.stdout) == (0, "b is what you attested\n"), result.stderr


def test_another_artifact_input_or_param_is_not_what_was_attested(built):
    assert built("attest", "p.yaml", "b", "-o", "b.json").returncode == 0
    np.save(built.folder / "labels.npy", np.arange(4))
    assert built("run", "p.yaml").returncode == 0
    result = built("verify", "p.yaml", "b", "--attestation", "b.json")
    assert result.returncode == 5
    assert "file metrics.json: attested " in result.stderr
    assert "material input labels.npy: attested " in result.stderr
    other = built("verify", "p.yaml", "a", "--attestation", "b.json")
    assert other.returncode == 5
    assert "stage: attested" in other.stderr


def test_a_statement_by_a_stranger_is_refused(built, tmp_path_factory):
    assert built("attest", "p.yaml", "b", "-o", "b.json").returncode == 0
    elsewhere = {"XDG_CONFIG_HOME": str(tmp_path_factory.mktemp("config"))}
    command = ("verify", "p.yaml", "b", "--attestation", "b.json")
    result = trtpipe(*command, cwd=built.folder, env=elsewhere)
    assert result.returncode == 5
    assert "no signer is trusted" in result.stderr


def test_what_is_not_built_is_not_attested(built):
    result = built("attest", "p.yaml", "b", "--set", "stages.a.params.steps[0].args={}", "--artifacts", "other")
    assert result.returncode == 1
    assert "a is not built" in result.stderr


def test_a_signed_statement_of_another_kind_is_refused(tmp_path):
    signer = signing.Signer("ed25519-private:" + base64.b64encode(b"c" * 32).decode())
    path = tmp_path / "s.json"
    for said in ({}, [], {"_type": attest.STATEMENT, "predicateType": "https://example.org/v1", "subject": []}):
        path.write_text(json.dumps(signer.sign(attest.PAYLOAD_TYPE, json.dumps(said).encode())))
        with pytest.raises(GateFailed, match="something else"):
            attest.read(str(path), {"ci": signer.public})
    with pytest.raises(PipelineInvalid, match="cannot be read"):
        attest.read(str(tmp_path / "none"), {"ci": signer.public})
