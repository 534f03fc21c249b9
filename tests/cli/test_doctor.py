"""What `doctor` says."""

from __future__ import annotations

import json

from tests.helpers import trtpipe


def test_doctor_says_what_this_machine_can_do(tmp_path):
    result = trtpipe("doctor", cwd=tmp_path)
    assert result.returncode == 0
    assert "onnxruntime" in result.stdout
    found = json.loads(trtpipe("doctor", "--json", cwd=tmp_path).stdout)
    assert found["runtimes"]["onnxruntime"]["can"] == ["parse", "build", "run"]
    assert not (tmp_path / "artifacts").exists()
