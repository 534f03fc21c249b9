"""A seeded sample of ONNX's backend tests; `make conformance` runs all of them."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.backends.trt.rtx import needs_no_gpu, needs_rtx
from tests.conformance import suite, through

SEED = 16


@pytest.fixture(scope="module")
def cases():
    return suite.sampled(32, SEED)


def test_what_onnxruntime_computes_right_comes_out_right_or_is_refused(cases, tmp_path):
    passed = [case for case in cases if through.bare(case)]
    outcomes = [through.run(case, tmp_path / str(number)) for number, case in enumerate(passed)]
    bad = [outcome for outcome in outcomes if outcome.came in ("wrong", "raw")]
    assert not bad
    counts = Counter(outcome.came for outcome in outcomes)
    assert counts["right"] >= 0.9 * len(passed) > 15, [o for o in outcomes if o.came != "right"]


@needs_rtx
@needs_no_gpu
def test_what_tensorrt_rtx_builds_by_itself_is_built_for_the_same_shapes_and_values(cases, tmp_path):
    outcomes = []
    for number, case in enumerate(cases[:12]):
        folder = tmp_path / str(number)
        if through.bare_rtx(case, folder):
            outcomes.append(through.run(case, folder, backend="tensorrt_rtx", engine_only=True))
    assert len(outcomes) >= 3
    assert [outcome for outcome in outcomes if outcome.came != "right"] == []
