import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import as_input
from trtpipe.data import results
from trtpipe.data.samples import Line
from trtpipe.data.working_set import WorkingSet
from trtpipe.documents.samples import Sample
from trtpipe.errors import StageFailed


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_is_written_so_that_it_reads_back_as_the_same(value):
    found = json.loads(json.dumps(results.json_value(np.float32(value))))
    assert np.float32(found) == np.float32(value)


def test_float32_is_written_shortly():
    assert json.dumps(results.json_value(np.array([0.1, 1 / 3], np.float32))) == "[0.1, 0.33333334]"
    assert json.dumps(results.json_value(np.array([[0.1]], np.float16))) == "[[0.1]]"
    assert json.dumps(results.json_value(np.float32(1e-20))) == "1e-20"


def test_nested_values_become_plain():
    value = {"a": (np.int64(3), [np.bool_(True), None, "x", 1.5]), "b": np.array(["t"])}
    assert results.json_value(value) == {"a": [3, [True, None, "x", 1.5]], "b": ["t"]}


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), [np.array([1, np.nan])]])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        results.json_value(value)


@pytest.mark.parametrize("value", [object(), {1: 2}, np.array([None]), {"a": {1, 2}}, b"x"])
def test_what_is_no_result_is_refused(value):
    with pytest.raises(TypeError, match="expected"):
        results.json_value(value)


@given(st.text())
def test_a_record_is_one_line_for_every_reader(value):
    line = results.json_line({"t": value})
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {"t": value}


def test_records_are_read_back_as_they_were_written(tmp_path):
    lines = [Line(Sample(id=name), {"id": name}) for name in "xy"]
    work = WorkingSet({"n": np.array([3, 4]), "t": ["a", "b"]}, lines, ["n"])
    (tmp_path / results.RESULTS).write_text("".join(map(results.json_line, results.records(work, ["n", "t"]))), "utf-8")
    records = results.read(as_input("results", tmp_path))
    assert records == [{"id": "x", "n": 3, "t": "a"}, {"id": "y", "n": 4, "t": "b"}]
    assert results.column(records, "t") == (["x", "y"], ["a", "b"])
    with pytest.raises(StageFailed, match=r"found no field tt in the results, expected one of id, n, t"):
        results.column(records, "tt")


def test_a_record_without_an_id_is_refused(tmp_path):
    (tmp_path / results.RESULTS).write_text('{"id": "x"}\n{"n": 3}\n', "utf-8")
    with pytest.raises(StageFailed, match=r'results.jsonl, line 2: the document: missing key "id"'):
        results.read(as_input("results", tmp_path))


def test_results_without_samples_are_refused(tmp_path):
    (tmp_path / results.RESULTS).touch()
    with pytest.raises(StageFailed, match=r"input results \(.*\) has no samples"):
        results.read(as_input("results", tmp_path))
