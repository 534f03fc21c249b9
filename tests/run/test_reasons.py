"""Two records of a stage become sentences that name what differs."""

from trtpipe.run import reasons
from trtpipe.run.record import Record

BASE = {"type": "t", "params": {}, "inputs": {}, "sources": {}, "environment": {}}


def said(before, after):
    old, new = (Record({**BASE, "reads": held}, {}, {}) for held in (before, after))
    return reasons.between(old, new)


def test_what_code_looked_at_is_told_by_name():
    before = {
        "files": {"minilm/model.safetensors": "1", "gone.json": "1", "override.json": None, "same": "1"},
        "folders": {"data": "1"},
        "packages": {"transformers": "5.24.0 aa", "mylib": "1.0 aa", "lost": "2.0 aa"},
        "variables": {"TOKENIZER": "1", "HF_TOKEN": None},
    }
    after = {
        "files": {"minilm/model.safetensors": "2", "gone.json": None, "override.json": "1", "same": "1"},
        "folders": {"data": "2"},
        "packages": {"transformers": "5.25.1 bb", "mylib": "1.0 bb", "lost": None},
        "variables": {"TOKENIZER": "2", "HF_TOKEN": "1"},
    }
    assert said(before, after) == (
        "gone.json is gone",
        "minilm/model.safetensors changed",
        "override.json appeared",
        "the list of files in data changed",
        "lost 2.0 → none",
        "mylib 1.0 has other files than before",
        "transformers 5.24.0 → 5.25.1",
        "the variable HF_TOKEN appeared",
        "the variable TOKENIZER changed",
    )


def test_two_runs_that_looked_elsewhere_are_told_apart():
    assert said({"files": {"a.json": "1"}}, {"files": {"b.json": None}}) == (
        "a.json is no longer read",
        "b.json is now read",
    )
    assert said({}, {"variables": {"X": None}}) == ("the variable X is now read",)
