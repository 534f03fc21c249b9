"""The parser: what it takes, what it refuses, what its help says."""

from __future__ import annotations

import argparse
import inspect
import re

import pytest

from tests.helpers import trtpipe
from trtpipe.cli import main, options


def test_help_names_every_command_and_exit_code(tmp_path):
    text = trtpipe("--help", cwd=tmp_path).stdout
    for word in ("run", "status", "explain", "validate", "graph", "show", "stages", "schema", "doctor", "completion"):
        assert re.search(rf"^    {word}\b", text, re.MULTILINE)
    for code in ("0 done", "1 a stage failed", "70 a bug in trtpipe", "130 interrupted"):
        assert code in text


@pytest.mark.parametrize(
    "args", [[], ["nonsense"], ["run"], ["run", "p.yaml", "--jobs", "0"], ["run", "p.yaml", "--backend", "cuda"]]
)
def test_a_wrong_command_line_is_exit_2(tmp_path, args):
    result = trtpipe(*args, cwd=tmp_path)
    assert result.returncode == 2
    assert "usage:" in result.stderr


def commands(parser):
    """Give the parser of every command, those below `cache` and `keys` too."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for group in below:
        for one in group.choices.values():
            yield from commands(one)
    if not below:
        yield parser


@pytest.mark.parametrize("one", list(commands(options.parser())), ids=lambda one: one.prog)
def test_every_command_has_a_function_and_a_description(one):
    assert list(inspect.signature(main.command(one.get_default("function"))).parameters) == ["args"]
    assert one.description.endswith(".")


@pytest.mark.parametrize(("given", "expected"), [("0", 0), ("20GiB", 20 * 2**30), ("1.5 KiB", 1536), ("7B", 7)])
def test_a_size_is_bytes(given, expected):
    assert options.parser().parse_args(["cache", "gc", "--max-size", given]).max_size == expected


@pytest.mark.parametrize(("given", "expected"), [("90s", 90.0), ("1.5h", 5400.0), ("30d", 2592000.0)])
def test_an_age_is_seconds(given, expected):
    assert options.parser().parse_args(["cache", "gc", "--max-age", given]).max_age == expected


@pytest.mark.parametrize(
    ("option", "given", "problem"),
    [
        ("--max-size", "20", "found 20, expected a size such as 20GiB"),
        ("--max-age", "30", "found 30, expected an age such as 12h, 30d or 8w"),
        ("--min-free", "-1GiB", "expected one argument"),
    ],
)
def test_a_size_or_an_age_without_a_unit_is_refused(capsys, option, given, problem):
    with pytest.raises(SystemExit, match="2"):
        options.parser().parse_args(["cache", "gc", option, given])
    assert problem in capsys.readouterr().err
