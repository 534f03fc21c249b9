"""Names that others have chosen reach no terminal as they are, by whatever command."""

from __future__ import annotations

import json
import os
import re

import pytest

from trtpipe.cli import main

ESCAPE = "\x1b]0;pwned\x07"
NAME = f"x{ESCAPE}\u202e.npz"
CODE = f"""\
def f(arrays, samples):
    print({ESCAPE!r})
    return {{"twice": arrays["x"][:, 0] * 2, {ESCAPE!r}: arrays["x"][:, 0]}}

def g(arrays, samples):
    raise ValueError({ESCAPE!r} + "\\nerror: all is well")
"""
STAGES = f"""\
name: p
backend: onnxruntime
stages:
  good:
    type: postprocess
    inputs: {{tensors: {{file: {json.dumps(NAME)}}}}}
    params: {{steps: [{{op: python, entrypoint: "step.py:f"}}]}}
  bad:
    type: postprocess
    inputs: {{tensors: {{file: {json.dumps(NAME)}}}}}
    params: {{steps: [{{op: python, entrypoint: "step.py:g"}}]}}
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Give a folder with a pipeline in which every name that may be is hostile; its stages have run."""
    import numpy as np

    folder = tmp_path_factory.mktemp("hostile")
    np.savez(folder / "x.npz", x=np.arange(3, dtype=np.float32).reshape(3, 1))
    (folder / "x.npz").rename(folder / NAME)
    (folder / "step.py").write_text(CODE)
    (folder / "p.yaml").write_text(STAGES)
    (folder / "keys.yaml").write_text(f'name: p\n"{NAME[:1]}\\e]0;pwned\\a": 1\nstages: {{s: {{type: "\\e[2J"}}}}\n')
    (folder / "names.yaml").write_text(
        'name: "\\e]0;pwned\\a"\nstages: {"\\e[2J": {type: parse, inputs: {"\\e": a}}}\n'
    )
    named = {"sha256": "0" * 64, "bytes": 1}
    bundle = {"format": 1, "pipeline": ESCAPE, "stage": ESCAPE, "key": ESCAPE, "artifact": ESCAPE,
              "files": {ESCAPE: named, f"/{ESCAPE}": named}}  # fmt: skip
    for folder_name, value in (("bundle", bundle), ("bundle2", {ESCAPE: 1, "format": 1, "stage": [ESCAPE]})):
        (folder / folder_name).mkdir()
        (folder / folder_name / "bundle.json").write_text(json.dumps(value))
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main.main(["run", "p.yaml"]) == 1
    finally:
        os.chdir(before)
    return folder


COMMANDS = [
    "run p.yaml --target good", "run p.yaml", "run p.yaml --json", "run p.yaml --quiet", "status p.yaml",
    "explain p.yaml good", "explain p.yaml bad", "explain p.yaml good --history", "explain p.yaml E",
    "explain p.yaml good --against E", "validate p.yaml", "validate keys.yaml", "validate names.yaml", "validate E",
    "graph p.yaml", "graph p.yaml --format mermaid", "graph p.yaml --format dot", "graph p.yaml --json",
    "show p.yaml good", "show p.yaml good --log", "show p.yaml good/E", "show p.yaml bad", "show p.yaml E",
    "lock p.yaml --target good", "lock p.yaml --check", "verify p.yaml good --attestation E", "verify p.yaml E",
    "attest p.yaml E", "cache ls", "cache du", "cache verify", "cache gc --dry-run", "cache gc --max-age E",
    "cache pin p.yaml good", "cache unpin p.yaml E", "cache push p.yaml --remote E", "cache pull p.yaml --remote E",
    "cache ls --artifacts E", "keys trust E E", "stages E", "schema --check --folder E", "doctor E", "bench p.yaml",
    "bench p.yaml --target E", "run p.yaml --set E=1", "run p.yaml --set vars.a=E", "run p.yaml --target E", "E",
    "inspect E", "inspect p.yaml", "inspect NAME", "inspect step.py",
    "init E", "init E.py:load", "init p.yaml --shapes E", "init --from E", "build --from E",
    "build E", "build p.yaml --int8 E", "build p.yaml --precision E", "build p.yaml --emit-yaml E", "run p.yaml --E",
    "run p.yaml --jobs E", "completion E", "notes p.yaml",
    "deploy p.yaml E --to x", "deploy p.yaml good --to E", "deploy p.yaml good --to x --licence E", "serve-check E",
    "serve-check bundle", "serve-check bundle2", "serve-check bundle --trust E", "serve-check bundle --bound E",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_shows_a_name_as_it_is(hostile, command, monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(hostile)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    main.main([NAME if word == "NAME" else word.replace("E", ESCAPE) for word in command.split()])
    shown = "".join(capfd.readouterr())
    assert shown
    assert re.findall(r"[^\n -~→←·…–└├─✓✗≥≤]", shown) == []
    assert not any(line.startswith("error: all is well") for line in shown.splitlines())


def test_the_record_for_programs_has_the_name_itself(hostile, monkeypatch, capfd):
    monkeypatch.chdir(hostile)
    main.main(["graph", "p.yaml", "--json"])
    assert NAME in {edge["from"] for edge in json.loads(capfd.readouterr().out)["edges"]}
