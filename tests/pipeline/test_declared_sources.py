"""Declared sources are files, folders and patterns; what they stand for is in the key, and nothing is left out."""

import json

import pytest

from tests.helpers import further, project, python_stage, trtpipe


def stage(*sources):
    text = python_stage("a")
    return text.replace('"args": {}', f'"args": {{}}, "sources": {json.dumps(sources)}')


def run(folder, *args, expected=0):
    result = trtpipe("run", "p.yaml", *args, cwd=folder)
    assert result.returncode == expected, result.stdout + result.stderr
    return result.stdout + result.stderr


def put(path, text="1"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("source", "counts", "does_not"),
    [
        ("conf", ["conf/new.json", "conf/deep/er.txt"], ["conf/.hidden", "conf/__pycache__/x.pyc", "other/a.json"]),
        *further(
            ("conf/*.json", ["conf/new.json"], ["conf/deep/new.json", "conf/a.txt"]),
            ("conf/**/*.json", ["conf/deep/er/new.json"], ["conf/deep/a.txt"]),
        ),
    ],
)
def test_what_is_added_to_a_declared_folder_or_pattern_counts(tmp_path, source, counts, does_not):
    put(tmp_path / "conf" / "a.json")
    project(tmp_path, stage(source))
    run(tmp_path)
    for name in does_not:
        put(tmp_path / name)
    assert "1 hit" in run(tmp_path)
    for name in counts:
        put(tmp_path / name)
    said = run(tmp_path)
    assert all(f"source {name} is new" in said for name in counts)
    for name in counts:
        (tmp_path / name).unlink()
    assert "1 hit" in run(tmp_path)


@pytest.mark.slow
def test_the_whole_project_may_be_a_source_without_the_store_in_it(tmp_path):
    project(tmp_path, stage("."))
    run(tmp_path)
    (tmp_path / "artifacts" / "view" / "gone").symlink_to("nowhere")
    assert "1 hit" in run(tmp_path)
    put(tmp_path / "more.txt")
    assert "1 ran" in run(tmp_path)
    assert "1 hit" in run(tmp_path)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    put(tmp_path / "a[1].json")
    put(tmp_path / "a1.json")
    project(tmp_path, stage("a[1].json"))
    run(tmp_path)
    put(tmp_path / "a1.json", "22")
    assert "1 hit" in run(tmp_path)
    put(tmp_path / "a[1].json", "22")
    assert "1 ran" in run(tmp_path)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("conf/*.yaml", "no file fits the pattern conf/*.yaml"),
        ("empty", "no file is in the folder empty"),
        ("links", "links/out leads out of the project through a link; allow it with --allow-outside"),
        ("confg", 'there is no file confg beside the document, did you mean "conf"?'),
    ],
)
def test_a_source_that_stands_for_nothing_or_leads_out_is_refused_by_its_name(tmp_path, source, told):
    put(tmp_path / "p" / "conf" / "a.json")
    put(tmp_path / "outside")
    (tmp_path / "p" / "empty").mkdir()
    (tmp_path / "p" / "links").mkdir()
    (tmp_path / "p" / "links" / "out").symlink_to(tmp_path / "outside")
    put(tmp_path / "p" / "trtpipe.toml", "")
    project(tmp_path / "p", stage(source))
    assert told in run(tmp_path / "p", expected=2)


def test_a_lock_holds_what_a_pattern_stood_for(tmp_path):
    put(tmp_path / "conf" / "a.json")
    project(tmp_path, stage("conf/*.json"))
    run(tmp_path)
    assert trtpipe("lock", "p.yaml", cwd=tmp_path).returncode == 0
    put(tmp_path / "conf" / "b.json")
    assert "conf/b.json" in run(tmp_path, "--frozen", expected=5)
    (tmp_path / "conf" / "b.json").unlink()
    (tmp_path / "conf" / "a.json").unlink()
    run(tmp_path, "--frozen")  # what is not here is taken as locked
