"""What failed is kept to look at, a little of it, and never taken for a result."""

from __future__ import annotations

import os
from pathlib import Path

from tests.helpers import events, project, trtpipe
from trtpipe.store import quarantine

MEASURE = """\
  twice: {type: postprocess, inputs: {tensors: {file: data.npz}},
          params: {steps: [{op: python, entrypoint: "step.py:double"}]}}
  accuracy: {type: evaluate, inputs: {results: twice, labels: {file: right.npy}},
             params: {metrics: [{metric: exact_match, field: twice}], require: {exact_match: ">= 0.9"}}}
"""


def test_a_metric_that_misses_its_gate_is_kept_for_inspection_and_is_no_hit_the_next_time(tmp_path):
    import numpy as np

    document = project(tmp_path, MEASURE)
    np.save(tmp_path / "right.npy", np.array([9, 9, 9, 9]))
    for _ in range(2):
        result = trtpipe("run", document, "--json", cwd=tmp_path)
        assert result.returncode == 5
        kept = list((tmp_path / "artifacts" / "quarantine" / "stages").iterdir())
        assert len(kept) == 1
        assert kept[0].name.startswith("accuracy-")
        assert sorted(p.name for p in kept[0].iterdir()) == ["metrics.json", "why.txt"]
        assert "exact_match = 0.0000" in (kept[0] / "why.txt").read_text()
        assert any(str(kept[0].name) in str(e) for e in events(result))
        assert any(e.get("stage") == "accuracy" and "StageFailed" in str(e) for e in events(result))


def test_only_the_newest_are_kept(tmp_path):
    for number in range(quarantine.MOST + 3):
        out = tmp_path / f"out{number}"
        out.mkdir()
        (out / "model.onnx").write_text(str(number))
        where = quarantine.keep(str(tmp_path), f"s{number}", "ab" * 32, str(out), "why")
        os.utime(where, ns=(number, number))
    kept = {p.name.partition("-")[0] for p in (tmp_path / "quarantine" / "stages").iterdir()}
    assert kept == {f"s{n}" for n in range(3, quarantine.MOST + 3)}


def test_a_file_that_belongs_to_the_store_is_copied_not_shared(tmp_path):
    blob = tmp_path / "blob"
    blob.write_text("bytes")
    out = tmp_path / "out"
    out.mkdir()
    os.link(blob, out / "model.onnx")
    where = quarantine.keep(str(tmp_path), "config", "cd" * 32, str(out), "why")
    kept = os.path.join(where, "model.onnx")
    assert os.stat(kept).st_ino != blob.stat().st_ino
    assert Path(kept).read_text() == "bytes"


def test_a_stage_that_made_nothing_leaves_nothing(tmp_path):
    (tmp_path / "out").mkdir()
    assert quarantine.keep(str(tmp_path), "s", "ef" * 32, str(tmp_path / "out"), "why") is None
    assert not (tmp_path / "quarantine").exists()
