"""What a worker finds in its environment: folders of its own, fixed values, no secrets; and what of it a key holds."""

import fnmatch
import json
from pathlib import Path

import pytest

from tests.helpers import project, python_stage, trtpipe
from trtpipe.run import surroundings

TELL = """\
import os
import numpy as np

def tell(arrays, samples, names):
    return {"twice": [" ".join(repr(os.environ.get(name)) for name in names)] * len(samples)}
"""


def told(tmp_path, *names, params="", **variables):
    document = project(tmp_path, python_stage("a", "tell", names=list(names)), code=TELL)
    if params:
        document.write_text(document.read_text().replace("params: {", "params: {" + params + ", "))
    result = trtpipe("run", "p.yaml", cwd=tmp_path, env=variables)
    assert result.returncode == 0, result.stderr
    shown = trtpipe("show", "p.yaml", "a/results.jsonl", cwd=tmp_path, env=variables)
    return json.loads(Path(shown.stdout.strip()).read_text().splitlines()[0])["twice"]


def test_a_worker_has_a_home_and_a_place_for_temporary_files_that_go_with_it(tmp_path):
    names = list(surroundings.OWN_FOLDERS)
    values = told(tmp_path, *names).split(" ")
    store = str(tmp_path / "artifacts" / "tmp")
    for name, value in zip(names, values, strict=True):
        path = value.strip("'")
        assert path.startswith(store), name
        assert not Path(path).exists()


def test_what_says_nothing_of_a_result_is_the_same_for_every_user(tmp_path):
    said = told(tmp_path, "USER", "TERM", "TZ", "LC_ALL", USER="anna", TERM="xterm", TZ="Asia/Tokyo", LC_ALL="C")
    assert said == "'trtpipe' 'dumb' 'UTC' 'C.UTF-8'"


def test_secrets_stay_here_unless_the_stage_asks_for_them_and_then_the_record_shows_them(tmp_path):
    secrets = {"HF_TOKEN": "hf", "MY_API_KEY": "k", "AWS_SECRET_ACCESS_KEY": "s", "DB_PASSWORD": "p", "PLAIN": "x"}
    assert told(tmp_path, *secrets, **secrets) == "None None None None 'x'"
    assert told(tmp_path / "b", *secrets, params="env: [HF_TOKEN]", **secrets) == "'hf' None None None 'x'"
    for folder, shown in ((tmp_path, {}), (tmp_path / "b", {"HF_TOKEN": "hf"})):
        (record,) = (folder / "artifacts" / "actions").rglob("*.json")
        assert json.loads(record.read_text())["environment"]["variables"] == shown
        assert '"s"' not in record.read_text()


def test_a_variable_that_runtimes_read_natively_is_in_the_key_when_it_is_set(tmp_path):
    project(tmp_path, python_stage("a"))
    assert trtpipe("run", "p.yaml", cwd=tmp_path).returncode == 0
    for name in ("OMP_NUM_THREADS", "TF_ENABLE_ONEDNN_OPTS", "LD_LIBRARY_PATH", "NVIDIA_TF32_OVERRIDE"):
        result = trtpipe("status", "p.yaml", cwd=tmp_path, env={name: "1"})
        assert result.returncode == 10
        assert f"the variable {name} appeared" in result.stdout
    for name in ("CUDA_VISIBLE_DEVICES", "HOME", "TERM", "EDITOR", "PYTHONDONTWRITEBYTECODE"):
        assert trtpipe("status", "p.yaml", cwd=tmp_path, env={name: "/x"}).returncode == 0, name


@pytest.mark.parametrize("name", ["HF_TOKEN", "HF_TOKEN_PATH", "aws_profile", "X_ACCESS_KEY_ID", "PIP_EXTRA_INDEX_URL"])
def test_names_of_secrets_are_known_in_any_spelling(name):
    assert surroundings.is_secret(name)


@pytest.mark.parametrize("name", ["TOKENIZER", "KEYBOARD", "TOKENIZERS_PARALLELISM", "HF_HOME", "PATH"])
def test_other_names_are_no_secrets(name):
    assert not surroundings.is_secret(name)


def test_every_variable_that_is_left_out_of_keys_has_a_reason_and_a_pattern_that_would_have_caught_it():
    for name, reason in surroundings.NOT_KEYED.items():
        assert reason
        plain = name.replace("*", "X")
        assert surroundings._NATIVE.fit(plain), name
        assert surroundings.is_made(plain)


def test_caches_of_models_are_where_the_user_has_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    made = surroundings.of_worker(str(tmp_path / "work"), ())
    assert made["HF_HOME"] == str(tmp_path / ".cache" / "huggingface")
    assert made["TORCH_HOME"] == str(tmp_path / "torch")
    assert made["HOME"] == str(tmp_path / "work" / "home")
    assert surroundings.cache("HOME") is None


def test_patterns_are_told_as_fnmatch_tells_them():
    for table in (surroundings.NATIVE, surroundings.NOT_KEYED, surroundings.SECRETS, ("*", "A*B*", "*_X")):
        fast = surroundings._Patterns(table)
        for pattern in table:
            for text in ("", "A", "_B_", "INDEX_"):
                for name in (pattern.replace("*", text), f"x{pattern}".replace("*", text), pattern[:-1]):
                    assert fast.fit(name) == any(fnmatch.fnmatchcase(name, one) for one in table), name
