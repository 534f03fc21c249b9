"""Which folder is a document's project, and how files are named from there."""

import os

import pytest

from trtpipe import project


@pytest.fixture(autouse=True)
def anew():
    project._root.cache_clear()
    yield
    project._root.cache_clear()


def made(tmp_path, *files):
    folder = tmp_path / "team" / "vision" / "pipelines" / "digits"
    folder.mkdir(parents=True)
    for file in files:
        path = tmp_path / "team" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if file.endswith(".git") else path.write_text("")
    return folder


@pytest.mark.parametrize(
    ("files", "root"),
    [
        ((), "team/vision/pipelines/digits"),
        (("vision/.git",), "team/vision"),
        (("vision/.git", "vision/pipelines/pyproject.toml"), "team/vision/pipelines"),
        (("vision/.git", "pyproject.toml"), "team"),
        (("pyproject.toml", "vision/pyproject.toml"), "team/vision"),
        (("trtpipe.toml", "vision/pyproject.toml", "vision/pipelines/digits/.git"), "team"),
        (("trtpipe.toml", "vision/pipelines/digits/trtpipe.toml"), "team/vision/pipelines/digits"),
    ],
)
def test_the_nearest_marker_of_the_strongest_kind_makes_the_root(tmp_path, files, root):
    assert project.root(str(made(tmp_path, *files))) == str(tmp_path / root)


def test_neither_the_home_folder_nor_the_top_of_the_disk_is_a_project(tmp_path, monkeypatch):
    folder = made(tmp_path, "trtpipe.toml", "vision/.git")
    monkeypatch.setenv("HOME", str(tmp_path / "team"))
    assert project.root(str(folder)) == str(tmp_path / "team" / "vision")
    assert project.root("/") == "/"  # a document there has nothing but its own folder


def test_a_folder_is_found_through_a_link(tmp_path):
    folder = made(tmp_path, "vision/pyproject.toml")
    (tmp_path / "link").symlink_to(folder)
    assert project.root(str(tmp_path / "link")) == str(tmp_path / "team" / "vision")


def test_what_the_current_folder_is_may_change_while_a_program_runs(tmp_path, monkeypatch):
    first, second = made(tmp_path / "a", "pyproject.toml"), made(tmp_path / "b", "vision/trtpipe.toml")
    monkeypatch.chdir(first)
    assert project.root(".") == str(tmp_path / "a" / "team")
    monkeypatch.chdir(second)
    assert project.root(".") == str(tmp_path / "b" / "team" / "vision")


def test_names_start_at_the_root_and_are_never_absolute(tmp_path):
    top = str(tmp_path / "a")
    assert project.name(str(tmp_path / "a" / "b" / "c.npz"), top) == "b/c.npz"
    assert project.name(str(tmp_path / "x" / "c.npz"), top) == "../x/c.npz"
    assert not os.path.isabs(project.name("/etc/hostname", top))


def test_what_a_link_leads_to_decides_whether_it_lies_in_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "out").symlink_to(tmp_path)
    assert project.holds(str(tmp_path / "a"), str(tmp_path / "a" / "new"))
    assert project.holds(str(tmp_path / "a"), str(tmp_path / "a"))
    assert not project.holds(str(tmp_path / "a"), str(tmp_path / "a" / "out" / "x"))
    assert not project.holds(str(tmp_path / "a"), str(tmp_path / "ab"))


OID, OTHER = "a" * 40, "b" * 40


def test_the_commit_is_read_from_a_branch_from_packed_refs_and_from_a_worktree(tmp_path):
    git = tmp_path / "repo/.git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert project.commit(str(tmp_path / "repo")) is None
    (git / "packed-refs").write_text(f"# pack-refs\n{OTHER} refs/heads/main\n")
    assert project.commit(str(tmp_path / "repo")) == OTHER
    (git / "refs/heads/main").write_text(OID + "\n")
    (tmp_path / "repo/deep").mkdir()
    assert project.commit(str(tmp_path / "repo/deep")) == OID
    (git / "worktrees/w").mkdir(parents=True)
    (git / "worktrees/w/HEAD").write_text("ref: refs/heads/main\n")
    (git / "worktrees/w/commondir").write_text("../..\n")
    (tmp_path / "w").mkdir()
    (tmp_path / "w/.git").write_text(f"gitdir: {git}/worktrees/w\n")
    assert project.commit(str(tmp_path / "w")) == OID
    (git / "worktrees/w/HEAD").write_text(OTHER)
    assert project.commit(str(tmp_path / "w")) == OTHER


def test_without_a_repository_or_with_a_damaged_one_there_is_no_commit(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_bytes(b"\xff\xfe")
    assert project.commit(str(tmp_path)) is None
    (tmp_path / ".git/HEAD").write_text("nonsense")
    assert project.commit(str(tmp_path)) is None
