"""The C++ checker of bundles, compiled with all warnings as errors, and run on real bundles."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess

import msgspec
import pytest

from tests import made
from tests.helpers import PROJECT
from trtpipe.deploy import writing
from trtpipe.documents import files
from trtpipe.documents.bundle import Bundle, BundledFile
from trtpipe.documents.config import Shapes
from trtpipe.documents.manifest import Manifest, Target

CPP = PROJECT / "cpp"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
PROFILE = {"image": Shapes(min=(1, 3, 8, 8), opt=(2, 3, 8, 8), max=(4, 3, 8, 8))}


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """Compile the example; give a function that runs it."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++: apt-get install g++")
    program = tmp_path_factory.mktemp("cpp") / "check"
    command = [compiler, "-std=c++17", *WARNINGS, "-I", CPP / "include", CPP / "example" / "check.cpp", "-o", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def run(*words):
        done = subprocess.run([program, *map(str, words)], capture_output=True, check=False)
        # Not as a text: that would make other line ends of \r.
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


def put(folder, manifest=None, **contents):
    """Write a bundle of a plan that is no plan, as `deploy` writes it; give its folder."""
    manifest = manifest or trt()
    contents = {"engine.plan": b"ftrt" + bytes(60), "manifest.json": files.encode(manifest).encode(), **contents}
    listed = {
        name: BundledFile(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for name, content in contents.items()
    }
    bundle = Bundle(pipeline="p", stage="engine", key=manifest.key, artifact="0" * 64, files=listed)
    ready = writing.Ready(bundle, manifest, {**contents, Bundle.file: files.encode(bundle).encode()}, ())
    return writing.to_folder(ready, str(folder))[0]


def trt(**changed):
    """Make the manifest of an engine of TensorRT 10.16 for compute capability 8.9."""
    bindings = (made.binding("image", "input", ["batch", 3, 8, 8]), made.binding("logits", "output", ["batch", 5]))
    target = Target(gpu="a GPU", compute_capability="8.9", hardware_compatibility="none")
    return made.manifest(**{"runtime": "tensorrt", "runtime_version": "10.16.1.11", "plan": "engine.plan",
                            "bindings": bindings, "profiles": (PROFILE,), "target": target, **changed})  # fmt: skip


def test_a_bundle_that_deploy_wrote_fits_the_runtime_that_built_it(check, ship, tmp_path):
    assert ship("--to", str(tmp_path / "there")).returncode == 0
    said = files.read(tmp_path / "there/current/manifest.json", Manifest)
    result = check(tmp_path / "there", "onnxruntime", said.runtime_version)
    assert result.returncode == 0, result.stderr
    first, second, third = result.stdout.splitlines()
    size = (tmp_path / "there/1/engine.onnx").stat().st_size
    assert first == f"plan {size} bytes, key {said.key}"
    assert second == "input image float32 [-1x3x8x8] [1x3x8x8]..[4x3x8x8]"
    assert third == "output logits float32 [-1x5]"


@pytest.mark.parametrize("version", ["10.16.1.11", "10.16.1", "10.16"])
def test_a_version_is_compared_as_far_as_it_is_known(check, tmp_path, version):
    assert check(put(tmp_path / "b"), "tensorrt", version, 89).returncode == 0


@pytest.mark.parametrize(
    ("changed", "words", "problem"),
    [
        ({}, ("tensorrt_rtx", "1.7"), "found an engine of tensorrt, expected one of tensorrt_rtx"),
        ({}, ("tensorrt", "10.15"), "found an engine of tensorrt 10.16.1.11, expected one that 10.15 loads"),
        ({}, ("tensorrt", "10.16.1.12"), "expected one that 10.16.1.12 loads"),
        ({"version_compatible": True}, ("tensorrt", "11.0"), "expected one that 11.0 loads"),
        ({"version_compatible": True}, ("tensorrt", "10.9"), "expected one that 10.9 loads"),
        ({}, ("tensorrt", "10.16", 90), "found an engine for compute capability 8.9, expected one for 9.0"),
        ({"target": Target(compute_capabilities=(80, 120))}, ("tensorrt", "10.16", 89), "compute capability 80, 120"),
        ({"target": Target(compute_capabilities="8.0+")}, ("tensorrt", "10.16", 75), "8.0+, expected one for 7.5"),
    ],
)  # fmt: skip
def test_a_bundle_that_does_not_fit_is_refused_with_found_and_expected(check, tmp_path, changed, words, problem):
    result = check(put(tmp_path / "b", trt(**changed)), *words)
    assert result.returncode == 1
    assert problem in result.stderr


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"version_compatible": True}, ("tensorrt", "10.17.0.0")),
        ({"target": Target(compute_capability="8.0", hardware_compatibility="ampere+")}, ("tensorrt", "10.16", 90)),
        ({"target": Target(compute_capabilities=(89,))}, ("tensorrt", "10.16", 89)),
        ({"target": Target(compute_capabilities="8.0+")}, ("tensorrt", "10.16", 120)),
    ],
)
def test_what_the_manifest_says_fits_more_is_taken(check, tmp_path, changed, words):
    result = check(put(tmp_path / "b", trt(**changed)), *words)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["engine.plan", "manifest.json", "more.bin"])
def test_one_changed_byte_is_found(check, tmp_path, name):
    folder = put(tmp_path / "b", **{"more.bin": b"x" * 100})
    content = bytearray((tmp_path / "b/1" / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / "b/1" / name).write_bytes(content)
    result = check(folder, "tensorrt", "10.16")
    assert (result.returncode, f"{name}: found SHA-256 " in result.stderr) == (1, True)


def test_digests_are_right_at_every_length_round_the_blocks(check, tmp_path):
    lengths = [*range(54, 67), 0, 1, 119, 120, 127, 128, 129, 1000, 2**20 + 1]
    folder = put(tmp_path / "b", **{f"f{n}": bytes(range(256)) * (n // 256) + bytes(n % 256) for n in lengths})
    result = check(folder, "tensorrt", "10.16")
    assert result.returncode == 0, result.stderr


def test_names_are_read_as_json_has_them(check, tmp_path):
    name = 'a"\\/\b\f\n\r\tü€😀\x01'
    manifest = trt(bindings=(made.binding(name, "input", [1]),), profiles=())
    folder = put(tmp_path / "b", manifest)
    assert f"input {name} float32 [1]\n" in check(folder, "tensorrt", "10.16").stdout
    escaped = json.dumps(msgspec.to_builtins(manifest), ensure_ascii=True).encode()
    folder = put(tmp_path / "c", manifest, **{"manifest.json": escaped})
    assert f"input {name} float32 [1]\n" in check(folder, "tensorrt", "10.16").stdout


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "bundle.json: found no JSON at byte 0, expected a value"),
        ("{", "expected a text"),
        ('{"a": 1, "a": 2}', "expected each name once"),
        ('{"a": "\\ud800"}', "expected both halves of a character"),
        ('{"format": 2}', "bundle.json: found format 2, expected 1"),
        ('{"format": 1}', "bundle.json: found no files, expected an object"),
        ('{"format": 1, "files": {}}', "found no manifest.json among the files"),
        ("[" * 1000, "expected at most 100 levels"),
    ],
)
def test_a_document_that_is_wrong_is_refused(check, tmp_path, text, problem):
    (tmp_path / "bundle.json").write_text(text)
    result = check(tmp_path, "tensorrt", "10.16")
    assert (result.returncode, problem in result.stderr) == (1, True), result.stderr


def test_a_name_that_leads_out_of_the_bundle_is_refused(check, tmp_path):
    folder = put(tmp_path / "b")
    path = tmp_path / "b/1/bundle.json"
    value = json.loads(path.read_text())
    value["files"]["../../x"] = value["files"]["engine.plan"]
    path.write_text(json.dumps(value))
    assert "../../x: found a path that leads out of the bundle" in check(folder, "tensorrt", "10.16").stderr
    assert "cannot be read, expected a bundle" in check(tmp_path / "none", "tensorrt", "10.16").stderr


def test_a_library_of_plugins_must_be_among_the_files(check, tmp_path):
    folder = put(tmp_path / "b", trt(plugins=("lib.so",)))
    assert "found no lib.so among the files, and that is a plugin" in check(folder, "tensorrt", "10.16").stderr
    folder = put(tmp_path / "c", trt(plugins=("lib.so",)), **{"lib.so": b"ELF"})
    assert check(folder, "tensorrt", "10.16").returncode == 0


def test_an_error_shows_no_control_characters_of_names(check, tmp_path):
    said = {"format": 1, "files": {"manifest.json": {"sha256": "\x1b[2J"}}}
    (tmp_path / "bundle.json").write_text(json.dumps(said))
    (tmp_path / "manifest.json").write_text("{}")
    assert "expected ?[2J" in check(tmp_path, "tensorrt", "10.16").stderr


@pytest.mark.slow
def test_cmake_finds_the_installed_package(tmp_path, ship):
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake: apt-get install cmake")
    user = tmp_path / "user"
    user.mkdir()
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.14)\nproject(user LANGUAGES CXX)\nfind_package(trtpipe 0.1 REQUIRED)\n"
        f"add_executable(user {CPP}/example/check.cpp)\ntarget_link_libraries(user PRIVATE trtpipe::bundle)\n"
    )
    prefix = tmp_path / "prefix"
    for command in (
        ["cmake", "-S", CPP, "-B", tmp_path / "build", f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DTRTPIPE_EXAMPLE=ON"],
        ["cmake", "--build", tmp_path / "build"],
        ["cmake", "--install", tmp_path / "build"],
        ["cmake", "-S", user, "-B", user / "build", f"-DCMAKE_PREFIX_PATH={prefix}"],
        ["cmake", "--build", user / "build"],
    ):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert ship("--to", str(tmp_path / "there")).returncode == 0
    version = files.read(tmp_path / "there/1/manifest.json", Manifest).runtime_version
    done = subprocess.run([user / "build" / "user", tmp_path / "there", "onnxruntime", version], check=False)
    assert done.returncode == 0
