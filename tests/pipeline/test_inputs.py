"""Inputs from outside: files, folders, packages, addresses; and what is refused at the door."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import project, python_stage, trtpipe
from trtpipe.errors import StoreError
from trtpipe.pipeline import inputs
from trtpipe.pipeline.graph import Source
from trtpipe.store.state import State
from trtpipe.store.store import Store


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
def test_a_path_that_leaves_the_project_is_refused_unless_allowed(tmp_path, how):
    np.savez(tmp_path / "data.npz", x=np.ones((2, 1), np.float32))
    path = {"..": "../data.npz", "absolute": str(tmp_path / "data.npz"), "link": "link.npz"}[how]
    project(tmp_path / "p", python_stage("a", data=f"{{file: {path}}}"))
    if how == "link":
        (tmp_path / "p" / "link.npz").symlink_to(tmp_path / "data.npz")
    result = trtpipe("run", "p.yaml", cwd=tmp_path / "p")
    assert result.returncode == 2
    assert "leads out of the project" in result.stderr
    assert "--allow-outside" in result.stderr
    allowed = trtpipe("run", "p.yaml", "--allow-outside", cwd=tmp_path / "p")
    assert allowed.returncode == 0, allowed.stderr


def test_a_document_may_name_any_file_of_its_project_and_records_name_it_from_the_root(tmp_path):
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "test.npz", x=np.ones((2, 1), np.float32))
    project(tmp_path / "pipelines", python_stage("a", data="{file: ../data/test.npz}"))
    result = trtpipe("run", "p.yaml", cwd=tmp_path / "pipelines")
    assert result.returncode == 0, result.stderr
    shown = trtpipe("show", "p.yaml", "a", "--record", cwd=tmp_path / "pipelines")
    record = json.loads(Path(shown.stdout.strip()).read_text())
    assert record["inputs"]["tensors"]["label"] == "data/test.npz"
    assert list(record["key"]["sources"]) == ["pipelines/step.py"]
    np.savez(tmp_path / "data" / "test.npz", x=np.zeros((2, 1), np.float32))
    said = trtpipe("explain", "p.yaml", "a", cwd=tmp_path / "pipelines").stdout
    assert "input tensors: data/test.npz changed" in said


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


# --- files that change under us


@pytest.fixture
def state(tmp_path):
    (tmp_path / "artifacts").mkdir()
    with State(str(tmp_path / "artifacts")) as one:
        yield one


def found(path, state):
    source = Source(file=path.name, package=None, url=None, sha256=None, place="here", model=path.suffix == ".onnx")
    state.seen = {}
    artifact = inputs.find(source, str(path.parent), Store(str(path.parent / "artifacts"), state)).artifact
    return artifact.digest, dict(state.seen)


def test_every_change_in_a_folder_gives_another_digest(tmp_path, state):
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(b"1")
    (folder / "sub" / "b").write_bytes(b"2")
    seen = [found(folder, state)[0]]
    (folder / "c").write_bytes(b"")
    seen.append(found(folder, state)[0])
    (folder / "a").rename(folder / "z")
    seen.append(found(folder, state)[0])
    (folder / "sub" / "b").write_bytes(b"3")
    seen.append(found(folder, state)[0])
    (folder / "c").unlink()
    seen.append(found(folder, state)[0])
    assert len(set(seen)) == len(seen)


def test_external_data_counts_and_its_change_is_seen_even_with_its_time_put_back(tmp_path, state, monkeypatch):
    import trtpipe.store.state
    from tests.onnx_models import conv, with_external

    monkeypatch.setattr(trtpipe.store.state, "_RACY_NS", -1)
    model = with_external(tmp_path / "m.onnx", conv())
    first, stamps = found(model, state)
    assert {os.path.basename(p) for p in stamps} == {"m.onnx", "weights.bin"}
    data = tmp_path / "weights.bin"
    status = data.stat()
    with data.open("r+b") as stream:
        stream.write(b"\x7f")
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert found(model, state)[0] != first


def test_what_was_changed_and_changed_back_has_the_same_digest_and_another_stamp(tmp_path, state):
    path = tmp_path / "data.bin"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    first = found(path, state)
    path.write_bytes(b"two")
    path.write_bytes(b"one")
    again = found(path, state)
    assert first[0] == again[0]
    assert first[1] != again[1]


def test_a_file_that_changes_while_it_is_digested_is_an_error_and_not_remembered(tmp_path, state, monkeypatch):
    from trtpipe import key

    path = tmp_path / "data.bin"
    path.write_bytes(b"one")
    real = key.digest_file

    def slow(name):
        digest = real(name)
        path.write_bytes(b"two, longer")
        return digest

    monkeypatch.setattr(key, "digest_file", slow)
    with pytest.raises(StoreError, match="changed while it was read"):
        found(path, state)
    monkeypatch.undo()
    assert found(path, state)[0]


def test_a_package_path_does_not_lead_out_of_the_package(tmp_path):
    for path in ("../../etc/passwd", "numpy/../../x", "numpy/.."):
        project(tmp_path, python_stage("a", data=f"{{package: {path}}}"))
        result = trtpipe("validate", "p.yaml", cwd=tmp_path)
        assert result.returncode == 2
        assert f'found "{path}", expected a file that a Python package ships' in result.stderr


def test_a_misspelt_file_is_told_as_it_should_stand_in_the_document(tmp_path):
    project(tmp_path, python_stage("a", data="{file: data/tset.npz}"))
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "test.npz", x=np.ones((2, 1), np.float32))
    result = trtpipe("run", "p.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert 'there is no file data/tset.npz beside the document, did you mean "data/test.npz"?' in result.stderr


def test_a_file_name_that_is_not_utf_8_is_named_and_refused(tmp_path):
    project(tmp_path, python_stage("a", data="{file: folder}"))
    (tmp_path / "folder").mkdir()
    with open(os.path.join(os.fsencode(tmp_path / "folder"), b"a\xff.npy"), "wb"):
        pass
    result = trtpipe("status", "p.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert "folder: found a file called b'a\\xff.npy', expected names in UTF-8" in result.stderr


def test_a_store_inside_an_input_folder_is_no_part_of_it(tmp_path):
    code = "def f(arrays, samples):\n    return {'twice': arrays['x']}\n"
    project(tmp_path / "p", python_stage("a", "f", data="{file: .}"), code=code)
    (tmp_path / "p" / "data.npz").unlink()
    np.save(tmp_path / "p" / "x.npy", np.ones((2, 1), np.float32))
    assert trtpipe("run", "p.yaml", cwd=tmp_path / "p").returncode == 0
    assert trtpipe("status", "p.yaml", cwd=tmp_path / "p").returncode == 0


def test_an_address_with_a_password_is_refused_since_records_hold_addresses(tmp_path):
    folder = url_project(tmp_path, "https://me:secret@127.0.0.1/x.npz", "a" * 64)
    result = trtpipe("validate", "p.yaml", cwd=folder)
    assert result.returncode == 2
    assert "expected an address such as https://… or s3://…, without a password" in result.stderr


def test_a_document_in_the_root_folder_may_name_files(tmp_path):
    (tmp_path / "x").write_text("x")
    assert inputs.file_problems("/", str(tmp_path / "x").lstrip("/"), "p", "/") == []
    assert inputs.file_problems(str(tmp_path), "../x", "p", str(tmp_path)) != []


def test_a_pipe_or_a_device_is_no_input_and_is_not_read(tmp_path):
    project(tmp_path, python_stage("a", data="{file: pipe.npz}"))
    os.mkfifo(tmp_path / "pipe.npz")
    result = trtpipe("status", "p.yaml", cwd=tmp_path, timeout=20)
    assert result.returncode == 2
    assert "pipe.npz is neither a file nor a folder" in result.stderr


def test_a_link_to_nothing_is_called_that(tmp_path):
    (tmp_path / "m.onnx").symlink_to("gone.onnx")
    (said,) = inputs.file_problems(str(tmp_path), "m.onnx", "p.yaml:1", str(tmp_path))
    assert said == "p.yaml:1: m.onnx is a link to a file that does not exist"


LINKS = "name: p\nstages:\n  a: {type: preprocess, inputs: {images: {file: pics}}, params: {tensor: x, scale: 1}}\n"


@pytest.fixture
def pictures(tmp_path):
    """A project with a folder of one picture, and pictures elsewhere in it and outside of it."""
    from PIL import Image

    for where in ("p/pics", "p/more/deep", "cache"):
        (tmp_path / where).mkdir(parents=True)
    for number, where in enumerate(("p/pics/0", "p/more/1", "p/more/deep/2", "cache/3")):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / f"{where}.png")
    (tmp_path / "p" / "p.yaml").write_text(LINKS)
    return tmp_path / "p"


def _samples(folder):
    return (folder / "artifacts/view/p/a/samples.jsonl").read_text().splitlines()


def test_links_in_a_folder_are_read(pictures):
    (pictures / "pics" / "1.png").symlink_to("../more/1.png")
    (pictures / "pics" / "deep").symlink_to("../more/deep")
    result = trtpipe("run", "p.yaml", cwd=pictures)
    assert result.returncode == 0, result.stderr
    assert len(_samples(pictures)) == 3


def test_a_link_in_a_folder_that_leads_out_of_the_project_is_read_only_where_that_is_allowed(pictures):
    (pictures / "pics" / "3.png").symlink_to("../../cache/3.png")
    result = trtpipe("run", "p.yaml", cwd=pictures)
    assert result.returncode == 2
    assert "pics/3.png leads out of the project through a link; allow it with --allow-outside" in result.stderr
    allowed = trtpipe("run", "p.yaml", "--allow-outside", cwd=pictures)
    assert allowed.returncode == 0, allowed.stderr
    assert len(_samples(pictures)) == 2


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda pics: (pics / "gone.png").symlink_to("nothing"), "gone.png is a link to a file that does not exist"),
        (lambda pics: (pics / "again").symlink_to("."), "again is a link to a folder in which it lies"),
        (lambda pics: (pics / "up").symlink_to(".."), "up is a link to a folder in which it lies"),
        (lambda pics: os.mkfifo(pics / "pipe.png"), "pipe.png is neither a file nor a folder"),
    ],
)
def test_what_cannot_be_read_in_a_folder_is_named_and_not_left_out(pictures, make, why):
    make(pictures / "pics")
    result = trtpipe("run", "p.yaml", cwd=pictures)
    assert result.returncode == 2
    assert f"pics/{why}" in result.stderr


def test_links_that_go_round_in_a_circle_of_two_are_found(pictures):
    (pictures / "pics" / "b").mkdir()
    (pictures / "pics" / "a").mkdir()
    (pictures / "pics" / "a" / "x").symlink_to("../b")
    (pictures / "pics" / "b" / "y").symlink_to("../a")
    result = trtpipe("run", "p.yaml", cwd=pictures)
    assert result.returncode == 2
    assert "is a link to a folder in which it lies" in result.stderr
