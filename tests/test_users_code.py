"""Errors of users' code are told with the place in their file."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from tests.helpers import project, python_stage, trtpipe
from trtpipe.users_code import said


def raised(folder, text, call):
    (folder / "pyproject.toml").touch()
    (folder / "code").mkdir()
    path = folder / "code" / "mine.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("mine", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        call(module)
    except Exception as error:  # noqa: BLE001 — whatever users' code raises
        return said(error)
    pytest.fail("nothing was raised")


def test_the_last_line_of_their_own_is_named_and_not_a_librarys(tmp_path):
    text = "import numpy as np\n\ndef inner(x):\n    return np.reshape(x, (2, 2))\n\ndef f(x):\n    return inner(x)\n"
    found = raised(tmp_path, text, lambda m: m.f(np.zeros(3)))
    assert found.startswith("ValueError: cannot reshape")
    assert found.endswith(" (code/mine.py:4, in inner)")


def test_an_error_while_a_file_is_imported_has_a_line_and_no_function(tmp_path):
    assert raised(tmp_path, "x = 1\ny = x['a']\n", None).endswith(" (code/mine.py:2)")


def test_a_syntax_error_is_where_the_parser_stopped(tmp_path):
    assert raised(tmp_path, "x = 1\ndef f(:\n", None).endswith(" (code/mine.py:2)")


def test_an_error_that_never_was_in_their_code_has_no_place():
    try:
        json.loads("{")
    except ValueError as error:
        # This test's own file is users' code to it, and is the only place.
        assert said(error).endswith("in test_an_error_that_never_was_in_their_code_has_no_place)")
    assert said(ValueError("made, never raised")) == "ValueError: made, never raised"


def test_a_run_names_the_line_of_the_hook_that_failed(tmp_path):
    document = project(tmp_path, python_stage("a", "fail"))
    line = (tmp_path / "step.py").read_text().splitlines().index('    raise ValueError("no such luck")') + 1
    result = trtpipe("run", document.name, cwd=tmp_path)
    assert f"ValueError: no such luck (step.py:{line}, in fail)" in result.stderr
