"""Inputs from outside: files, folders, packages, addresses; and what is refused at the door."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import os
import threading

import numpy as np
import pytest

from tests.helpers import project, python_stage, trtpipe


@contextlib.contextmanager
def served(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def url_project(tmp_path, url, sha256):
    project(tmp_path / "p", python_stage("a", data=f'{{url: "{url}", sha256: "{sha256}"}}'))
    return tmp_path / "p"


@pytest.fixture
def remote(tmp_path):
    folder = tmp_path / "remote"
    folder.mkdir()
    np.savez(folder / "data.npz", x=np.ones((2, 1), np.float32))
    return folder


def test_a_url_is_fetched_once_checked_and_used(tmp_path, remote):
    sha256 = hashlib.sha256((remote / "data.npz").read_bytes()).hexdigest()
    with served(remote) as address:
        folder = url_project(tmp_path, f"{address}/data.npz", sha256)
        result = trtpipe("run", "p.yaml", cwd=folder)
        assert result.returncode == 0, result.stderr
        assert "fetching" in result.stdout
    # The server is gone; what was fetched stays.
    again = trtpipe("run", "p.yaml", "--force", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "fetching" not in again.stdout


def test_a_url_with_another_content_is_exit_4_and_leaves_nothing(tmp_path, remote):
    with served(remote) as address:
        folder = url_project(tmp_path, f"{address}/data.npz", "0" * 64)
        result = trtpipe("run", "p.yaml", cwd=folder)
    assert result.returncode == 4
    assert "wrong content" in result.stderr
    assert not [f for top, _, files in os.walk(folder / "artifacts" / "blobs") for f in files]


def test_a_url_that_does_not_answer_is_exit_4(tmp_path):
    folder = url_project(tmp_path, "http://127.0.0.1:9/data.npz", "0" * 64)
    result = trtpipe("run", "p.yaml", cwd=folder)
    assert result.returncode == 4
    assert "cannot be fetched" in result.stderr


def test_a_file_url_works_too(tmp_path, remote):
    sha256 = hashlib.sha256((remote / "data.npz").read_bytes()).hexdigest()
    folder = url_project(tmp_path, f"file://{remote}/data.npz", sha256)
    assert trtpipe("run", "p.yaml", cwd=folder).returncode == 0


@pytest.mark.parametrize("how", ["..", "absolute", "link"])
def test_a_path_that_leaves_the_folder_is_refused_unless_allowed(tmp_path, how):
    np.savez(tmp_path / "data.npz", x=np.ones((2, 1), np.float32))
    path = {"..": "../data.npz", "absolute": str(tmp_path / "data.npz"), "link": "link.npz"}[how]
    project(tmp_path / "p", python_stage("a", data=f"{{file: {path}}}"))
    if how == "link":
        (tmp_path / "p" / "link.npz").symlink_to(tmp_path / "data.npz")
    result = trtpipe("run", "p.yaml", cwd=tmp_path / "p")
    assert result.returncode == 2
    assert "leads out of the document's folder" in result.stderr
    assert "--allow-outside" in result.stderr
    allowed = trtpipe("run", "p.yaml", "--allow-outside", cwd=tmp_path / "p")
    assert allowed.returncode == 0, allowed.stderr


def test_a_package_that_is_not_installed_is_exit_3_with_the_command(tmp_path):
    project(tmp_path, python_stage("a", data="{package: no_such_package/data.npz}"))
    result = trtpipe("run", "p.yaml", cwd=tmp_path)
    assert result.returncode == 3
    assert "pip install no_such_package" in result.stderr


def test_a_path_with_spaces_and_letters_of_all_kinds_works(tmp_path):
    folder = tmp_path / "a b" / "ünï 数字"
    project(folder, python_stage("a", data="{file: 'my data ✓.npz'}"))
    (folder / "data.npz").rename(folder / "my data ✓.npz")
    result = trtpipe("run", "p.yaml", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert trtpipe("status", folder / "p.yaml", cwd=folder).returncode == 0
