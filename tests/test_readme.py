"""What README and docs say: commands parse, those of the README run, files that they name exist, examples work."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import shutil
import sys

import msgspec
import numpy as np
import pytest
import yaml

from tests.helpers import PROJECT, run_stage, trtpipe
from trtpipe import stages
from trtpipe.cli import options

PAGES = [PROJECT / "README.md", PROJECT / "artifacts" / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLDERS = ("pipelines", "docs", "bench", "tests", "trtpipe", "schemas", ".ci")
PLACEHOLDERS = {"TYPE": "build"}


def name(path):
    return str(path.relative_to(PROJECT))


def prose(path):
    return FENCE.sub("", path.read_text("utf-8"))


def blocks(path, language):
    return [body for found, body in FENCE.findall(path.read_text("utf-8")) if found == language]


def commands(path):
    """Give every `trtpipe …` of a page as arguments: lines of shell blocks, and code within sentences."""
    lines = [line for body in blocks(path, "sh") for line in body.splitlines()]
    lines += re.findall(r"`(trtpipe [^`]+)`", prose(path).replace("\n", " "))
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("trtpipe ")]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_command_on_a_page_parses(path, capsys):
    for arguments in commands(path):
        if "," in arguments[0] or "--help" in arguments:
            continue
        try:
            options.parser().parse_args([PLACEHOLDERS.get(a, a) for a in arguments])
        except SystemExit:
            pytest.fail(f"trtpipe {shlex.join(arguments)}: {capsys.readouterr().err}")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_file_that_a_page_names_is_there(path):
    text = prose(path)
    links = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t and t[0] != "#"]
    assert [target for target in links if not (path.parent / target).exists()] == []
    words = [w for code in re.findall(r"`([^`]+)`", text) for w in code.split()]
    words += [w for body in blocks(path, "sh") for w in body.split()]
    named = [w for w in words if w.split("/")[0] in FOLDERS and "/" in w and not re.search(r"[<>*…]", w)]
    examples = {"trtpipe/stages/scale.py", "tests/stages/test_scale.py"}
    assert [w for w in named if w not in examples and not (PROJECT / w).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_stage_on_a_page_has_params_and_inputs_that_its_type_takes(path):
    for body in blocks(path, "yaml"):
        found = yaml.safe_load(body)
        found = found.get("stages", found) if isinstance(found, dict) and "…" not in body and "${" not in body else {}
        for one in found.values():
            if isinstance(one, dict) and one.get("type") in stages.NAMES:
                stage_type = stages.get(one["type"])
                msgspec.convert(one.get("params", {}), stage_type.Params)
                assert set(one.get("inputs", {})) <= set(stage_type.inputs), body


def test_the_readme_names_the_targets_that_make_has():
    makefile = (PROJECT / "Makefile").read_text("utf-8")
    for path in PAGES:
        for target in re.findall(r"(?:^|`)make (\w+)", path.read_text("utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name(path)}: make {target}"


def leaves(parser, before=()):
    """Give the words of every command: `("run",)`, `("cache", "gc")`."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for group in below:
        for word, one in group.choices.items():
            yield from leaves(one, (*before, word))
    if not below:
        yield before


def test_every_command_is_on_the_page_of_commands():
    text = (PROJECT / "docs" / "command.md").read_text("utf-8")
    missing = [
        " ".join(words)
        for words in leaves(options.parser())
        if not re.search(rf"`(trtpipe )?{' '.join(words)}\b", text)
    ]
    assert missing == []


def test_every_stage_type_and_kind_of_artifact_is_on_the_page_of_concepts():
    rows = re.findall(
        r"^\| \[(\w+)\]\(.*?\) \| .*? \| `(\w+)` \|",
        (PROJECT / "docs" / "concepts.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert dict(rows) == {name: stage_type.output for name, stage_type in stages.table().items()}


def test_the_readmes_pipeline_is_valid(tmp_path):
    (body,) = blocks(PROJECT / "README.md", "yaml")
    shutil.copytree(PROJECT / "pipelines" / "digits", tmp_path / "digits")
    (tmp_path / "short.yaml").write_text(body)
    result = trtpipe("validate", "short.yaml", cwd=tmp_path)
    assert result.stdout == "short.yaml: valid, 7 stages\n", result.stderr


@pytest.mark.slow
def test_the_readmes_commands_run(recipe_artifacts):
    if missing := [p for p in ("torch", "onnxscript") if importlib.util.find_spec(p) is None]:
        pytest.skip(f"exports from PyTorch, and {', '.join(missing)} is not installed: pip install 'trtpipe[torch]'")
    seen = commands(PROJECT / "README.md")
    assert ["run", "pipelines/digits.yaml"] in seen
    for arguments in seen:
        if "tensorrt_rtx" in arguments and importlib.util.find_spec("tensorrt_rtx_bindings") is None:
            continue
        result = trtpipe(*arguments, cwd=PROJECT, env={"TRTPIPE_ARTIFACTS": str(recipe_artifacts)})
        assert result.returncode == 0, f"trtpipe {shlex.join(arguments)}\n{result.stdout}{result.stderr}"


def test_the_example_stage_of_the_docs_works(tmp_path, monkeypatch):
    (body,) = blocks(PROJECT / "docs" / "adding-a-stage.md", "python")
    (tmp_path / "scale.py").write_text(body)
    spec = importlib.util.spec_from_file_location("scale", tmp_path / "scale.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scale", module)  # msgspec finds a class' annotations through it
    spec.loader.exec_module(module)
    monkeypatch.setattr(stages, "get", lambda _: module.STAGE)
    np.savez(tmp_path / "data.npz", x=np.arange(6, dtype=np.float32).reshape(3, 2))
    out = run_stage("scale", {"factor": 2}, {"tensors": tmp_path / "data.npz"}, tmp_path)
    assert np.load(out / "0-00000.npy").tolist() == [[0, 2], [4, 6], [8, 10]]
    with pytest.raises(ValueError, match="expected another number"):
        run_stage("scale", {"factor": 1}, {"tensors": tmp_path / "data.npz"}, tmp_path)


def test_the_table_of_environments_in_the_docs_is_what_the_stages_say():
    text = (PROJECT / "docs" / "keys-and-cache.md").read_text("utf-8")
    for stage_type in stages.table().values():
        rows = re.findall(rf"^\| {stage_type.name} \| (.*) \|$", text, re.MULTILINE)
        assert len(rows) == 1, f"docs/keys-and-cache.md has {len(rows)} rows for {stage_type.name}, expected one"
        row = rows[0]
        assert [p for p in stage_type.packages if p not in row] == []
        assert ("runtime and its full version" in row) is stage_type.backend
        assert ("GPU's name" in row) is bool(stage_type.gpu_on)
