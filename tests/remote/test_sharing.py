"""Runs that share: what a team's people and CI see."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import s3
from tests.helpers import PROJECT, events, further, project, python_stage, trtpipe
from tests.test_startup import imported_by

SECRET = "ed25519-private:" + base64.b64encode(b"c" * 32).decode()


# b reads what a makes.
STAGES = python_stage("a") + (
    "  b: {type: evaluate, inputs: {results: a, labels: {file: labels.npy}}, "
    "params: {metrics: [{metric: exact_match, field: twice}]}}\n"
)


class Team:
    """CI, which has a key, and people, who trust it by the document; each in a folder of their own."""

    def __init__(self, folder, url, **more):
        self.folder, self.url, self.more = folder, url, more
        self.env = {"XDG_CONFIG_HOME": str(folder / "config"), "TRTPIPE_REMOTE": ""}
        result = trtpipe("keys", "new", cwd=folder, env=self.in_("ci"))
        self.public = result.stdout.strip()
        assert self.public.startswith("ed25519:"), result.stderr

    def in_(self, who):
        return {**self.env, "XDG_CONFIG_HOME": str(self.folder / who / "config")}

    def clone(self, who, trust=True):
        document = project(self.folder / who, STAGES)
        np.save(self.folder / who / "labels.npy", np.arange(4) * 2)
        remote = {"url": self.url, **self.more, **({"trust": {"ci": self.public}} if trust else {})}
        document.write_text(document.read_text() + f"remote: {json.dumps(remote)}\n")
        return document

    def run(self, who, *args, command=("run",), **env):
        where = self.folder / who
        return trtpipe(*command, "p.yaml", *args, cwd=where, env={**self.in_(who), **env})

    def ci_pushes(self):
        self.clone("ci")
        result = self.run("ci", "--set", "remote.mode=write")
        assert result.returncode == 0, result.stderr
        return result

    def files(self, kind):
        top = self.folder / "share" / "v1" / kind
        return sorted(p for p in top.rglob("*") if p.is_file())


@pytest.fixture
def team(tmp_path):
    return Team(tmp_path, f"file://{tmp_path / 'share'}")


def test_a_push_and_a_pull_need_only_the_variable_that_names_the_store(tmp_path):
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "TRTPIPE_REMOTE": f"file://{tmp_path / 'share'}"}
    for who in ("ci", "dev"):
        project(tmp_path / who, python_stage("a"))
        (tmp_path / who / ".git").mkdir()
    assert trtpipe("keys", "new", cwd=tmp_path, env=env).returncode == 0
    nothing = trtpipe("cache", "push", "p.yaml", cwd=tmp_path / "ci", env=env)
    assert (nothing.returncode, nothing.stdout.split()[1:4]) == (10, ["not", "built", "a"]), nothing.stderr
    assert trtpipe("run", "p.yaml", cwd=tmp_path / "ci", env={**env, "TRTPIPE_REMOTE": "off"}).returncode == 0
    pushed = trtpipe("cache", "push", "p.yaml", cwd=tmp_path / "ci", env=env)
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.startswith(f"file://{tmp_path / 'share'}\npushed")
    assert list((tmp_path / "share").rglob("*.json"))
    pulled = trtpipe("run", "p.yaml", "--json", cwd=tmp_path / "dev", env=env)
    assert how(pulled) == {"a": "hit"}, pulled.stdout + pulled.stderr


def how(result):
    """Give what became of each stage: cached or built."""
    names = {"StageCached": "hit", "StageFinished": "ran", "StageFailed": "failed"}
    return {e["stage"]: names[e["event"]] for e in events(result) if e["event"] in names}


def warnings(result):
    return [e["message"] for e in events(result) if e["event"] == "Warned"]


def test_what_ci_built_people_fetch_and_do_not_build(team):
    assert "a: to file://" in team.ci_pushes().stdout
    team.clone("me")
    result = team.run("me")
    assert result.returncode == 0, result.stderr
    assert f"a: from {team.url}: " in result.stdout
    assert "signed by ci" in result.stdout
    assert "2 hit, 0 ran" in result.stdout
    assert os.path.exists(team.folder / "me" / "artifacts" / "view" / "p" / "a" / "results.jsonl")


def test_people_do_not_push(team):
    team.clone("me")
    assert team.run("me").returncode == 0
    assert not (team.folder / "share").exists()


def test_who_is_not_trusted_is_not_believed_and_the_run_builds_for_itself(team):
    team.ci_pushes()
    team.clone("me", trust=False)
    result = team.run("me", "--json")
    assert result.returncode == 0
    assert how(result) == {"a": "ran", "b": "ran"}
    assert "no signer is trusted here" in warnings(result)[0]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["blobs", *further("actions")])
def test_one_tampered_byte_is_refused_said_and_built_instead(team, kind):
    team.ci_pushes()
    for path in team.files(kind):
        flip(path)
    team.clone("me")
    result = team.run("me", "--json")
    assert result.returncode == 0
    assert how(result) == {"a": "ran", "b": "ran"}
    assert any(word in warnings(result)[0] for word in ("is not used", "is not", "it was changed"))
    pull = trtpipe("cache", "pull", "p.yaml", "--artifacts", "elsewhere", cwd=team.folder / "me", env=team.in_("me"))
    assert pull.returncode == {"blobs": 4, "actions": 5}[kind], pull.stderr


def test_pull_fetches_and_says_what_came(team):
    team.ci_pushes()
    team.clone("me")
    result = team.run("me", command=("cache", "pull"))
    assert result.returncode == 0, result.stderr
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [[team.url], ["fetched", "a"], ["fetched", "b"]]
    again = team.run("me", "--json", command=("cache", "pull"))
    assert [line["how"] for line in json.loads(again.stdout)["stages"]] == ["here already", "here already"]
    assert "2 hit, 0 ran" in team.run("me", "--remote", "off").stdout


def test_what_is_not_there_is_exit_10(team):
    team.clone("me")
    result = team.run("me", command=("cache", "pull"))
    assert result.returncode == 10
    assert "not there" in result.stdout


def test_push_needs_a_key_a_place_to_write_and_something_built(team):
    team.clone("ci")
    write = ("--set", "remote.mode=write")
    refused = team.run("ci", command=("cache", "push"))
    assert refused.returncode == 5
    assert "--set remote.mode=write" in refused.stderr
    assert team.run("ci", *write, command=("cache", "push")).returncode == 10
    assert team.run("ci").returncode == 0
    pushed = team.run("ci", *write, command=("cache", "push"))
    assert pushed.returncode == 0, pushed.stderr
    assert "pushed  a" in pushed.stdout
    assert "there already  a" in team.run("ci", *write, command=("cache", "push")).stdout
    team.clone("me")
    assert team.run("me").returncode == 0
    keyless = team.run("me", *write, command=("cache", "push"))
    assert keyless.returncode == 3
    assert "trtpipe keys new" in keyless.stderr


@pytest.mark.slow
def test_ci_may_have_its_key_in_the_environment_and_no_stage_sees_it(team):
    code = (
        "import os\nimport numpy as np\n"
        "def double(arrays, samples):\n"
        "    assert 'TRTPIPE_SIGNING_KEY' not in os.environ\n"
        "    return {'twice': (arrays['x'][:, 0] * 2).astype(np.int64)}\n"
    )
    team.clone("two")
    (team.folder / "two" / "step.py").write_text(code)
    result = team.run("two", "--set", "remote.mode=write", TRTPIPE_SIGNING_KEY=SECRET)
    assert result.returncode == 0, result.stderr
    assert "a: to file://" in result.stdout
    assert SECRET not in result.stdout + result.stderr
    stored = [p.read_bytes() for p in (team.folder / "two" / "artifacts").rglob("*") if p.is_file()]
    assert not any(SECRET.partition(":")[2].encode() in content for content in stored)


@pytest.mark.slow
def test_a_stage_after_one_that_was_rebuilt_to_the_same_is_fetched(team):
    team.ci_pushes()
    team.clone("me")
    result = team.run("me", "--force", "a", "--json")
    assert how(result) == {"a": "ran", "b": "hit"}


@pytest.mark.slow
def test_what_is_damaged_here_is_fetched_again(team):
    team.ci_pushes()
    team.clone("me")
    team.run("me")
    blobs = [p for p in (team.folder / "me" / "artifacts" / "blobs").rglob("*") if p.is_file()]
    for path in blobs:
        flip(path)
    result = team.run("me")
    assert result.returncode == 0, result.stderr
    assert "2 hit, 0 ran" in result.stdout
    assert "it was fetched again" in result.stdout


def test_an_all_cached_run_of_a_document_with_a_remote_imports_nothing_for_it(team, monkeypatch):
    team.clone("me")
    team.run("me")
    monkeypatch.setenv("XDG_CONFIG_HOME", team.in_("me")["XDG_CONFIG_HOME"])
    names = imported_by(team.folder / "me", "run", "p.yaml")
    assert not names & {
        "fsspec",
        "trtpipe.remote.signed_store",
        "trtpipe.remote.signing",
        "cryptography",
        "yaml",
        "concurrent.futures",
    }


@pytest.mark.slow
def test_a_server_that_is_down_costs_one_warning(tmp_path):
    (port,) = s3.free_ports(1)
    team = Team(tmp_path, "s3://engines/x", endpoint=f"http://127.0.0.1:{port}", region="us-east-1")
    team.clone("me")
    result = team.run("me", **s3.READER)
    assert result.returncode == 0
    assert result.stderr.count("warning") == 1
    assert "cannot be reached" in result.stderr
    assert "2 ran" in result.stdout
    pull = team.run("me", "--artifacts", "other", command=("cache", "pull"), **s3.READER)
    assert pull.returncode == 4
    assert "reader-secret" not in result.stderr + pull.stderr


def test_ctrl_c_does_not_wait_for_a_server_that_stalls(tmp_path):
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and never answers
    team = Team(tmp_path, "s3://engines/x", endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", region="us-east-1")
    team.clone("me")
    process = subprocess.Popen(
        [sys.executable, "-m", "trtpipe", "cache", "pull", "p.yaml"], cwd=tmp_path / "me", stderr=subprocess.PIPE,
        env={**os.environ, **team.in_("me"), **s3.READER, "PYTHONPATH": str(PROJECT)}, text=True,
    )  # fmt: skip
    silent.settimeout(60)
    connection, _ = silent.accept()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, error = process.communicate(timeout=60)
    connection.close()
    silent.close()
    assert process.returncode == 130
    assert "Traceback" not in error
    assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    ("remote", "problem"),
    [
        ("{url: s3://me:secret@bucket}", "remote.url"), ("{url: s3://b, options: {key: x}}", "remote.options"),
        ("{url: s3://b, trust: {ci: ed25519-private:x}}", "remote.trust.ci"), ("{mode: read}", "remote"),
        ("{url: s3://b, mode: both}", "remote.mode"), ('{url: "http://h/x?token=abc"}', "remote.url"),
    ],
)  # fmt: skip
def test_a_document_has_no_credentials_and_no_mistakes_in_it(tmp_path, remote, problem):
    document = project(tmp_path, python_stage("a"))
    document.write_text(document.read_text() + f"remote: {remote}\n")
    result = trtpipe("validate", "p.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert f" {problem}: " in result.stderr


def test_keys_are_made_trusted_and_listed(tmp_path):
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert trtpipe("keys", "list", cwd=tmp_path, env=env).stdout == "no key is trusted\n"
    public = trtpipe("keys", "new", cwd=tmp_path, env=env).stdout.strip()
    assert trtpipe("keys", "new", cwd=tmp_path, env=env).returncode == 4
    shutil.rmtree(tmp_path / "trtpipe")
    assert trtpipe("keys", "trust", "ci", public, cwd=tmp_path, env=env).stdout == "ci is trusted\n"
    assert trtpipe("keys", "list", cwd=tmp_path, env=env).stdout == f"ci {public}\n"
    assert trtpipe("keys", "trust", "ci", "abc", cwd=tmp_path, env=env).returncode == 2


def test_without_a_remote_the_commands_say_how_to_name_one(tmp_path):
    project(tmp_path, python_stage("a"))
    result = trtpipe("cache", "pull", "p.yaml", cwd=tmp_path, env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert result.returncode == 2
    assert "--remote URL" in result.stderr
