"""Headers of hand-made plans; headers of real ones are read in tests/backends/test_trt.py."""

from __future__ import annotations

import pytest

from trtpipe.backends import plan_header
from trtpipe.errors import StageFailed


def write(path, flavour=b"vtrt", version=(1, 7, 1, 116), size=64, length=64):
    head = flavour + bytes(12) + size.to_bytes(8, "little") + bytes(version)
    path.write_bytes(head + bytes(length - len(head)))
    return path


def test_a_header_says_flavour_version_and_size(tmp_path):
    assert plan_header.read_header(write(tmp_path / "p")) == plan_header.Header("tensorrt_rtx", "1.7.1.116", 64)
    assert plan_header.read_header(write(tmp_path / "p", b"ftrt", (8, 6, 0, 12))).version == "8.6.0.12"
    assert plan_header.read_header(write(tmp_path / "p", b"ftrt", (8, 6, 0, 12))).flavour == "tensorrt"


def test_what_is_no_plan_is_said_to_be_none(tmp_path):
    (tmp_path / "p").write_bytes(b"")
    with pytest.raises(StageFailed, match="p is no TensorRT plan: it is empty"):
        plan_header.read_header(tmp_path / "p")
    (tmp_path / "p").write_bytes(b"ONNX" * 20)
    with pytest.raises(StageFailed, match=r"starts with b'ONNX', expected 'ftrt' \(TensorRT\) or 'vtrt'"):
        plan_header.read_header(tmp_path / "p")
    (tmp_path / "p").write_bytes(b"vtrt")
    with pytest.raises(StageFailed, match="no TensorRT plan"):
        plan_header.read_header(tmp_path / "p")


def test_a_plan_that_fits_passes(tmp_path):
    plan_header.check(write(tmp_path / "p"), "tensorrt_rtx", "1.7.1.116")
    plan_header.check(write(tmp_path / "p", b"ftrt", (8, 6, 0, 12)), "tensorrt", "8.6.0")


def test_another_flavour_is_refused_with_the_backend_that_fits(tmp_path):
    with pytest.raises(StageFailed, match=r"tensorrt_rtx 1\.7\.1\.116, and tensorrt 8\.6\.0 .*--backend tensorrt_rtx"):
        plan_header.check(write(tmp_path / "p"), "tensorrt", "8.6.0")


def test_another_version_is_refused_unless_the_plan_is_version_compatible(tmp_path):
    plan = write(tmp_path / "p", b"ftrt", (10, 3, 0, 26))
    with pytest.raises(StageFailed, match=r"built by tensorrt 10\.3\.0\.26, and 10\.16\.1\.11 is installed"):
        plan_header.check(plan, "tensorrt", "10.16.1.11")
    plan_header.check(plan, "tensorrt", "10.16.1.11", version_compatible=True)


def test_a_truncated_plan_is_refused_with_both_sizes(tmp_path):
    with pytest.raises(StageFailed, match="truncated: 64 bytes, its header says 100"):
        plan_header.check(write(tmp_path / "p", size=100), "tensorrt_rtx", "1.7.1.116")
