import pytest

from tests.helpers import as_input
from trtpipe.data.samples import samples_of
from trtpipe.errors import StageFailed


def test_samples_are_called_by_their_lines_and_else_by_their_numbers(tmp_path):
    assert list(samples_of(as_input("tensors", tmp_path), 2)) == [{"id": "0"}, {"id": "1"}]
    (tmp_path / "samples.jsonl").write_text('{"id": "a"}\n{"id": "b", "width": 3}\n', "utf-8")
    assert list(samples_of(as_input("tensors", tmp_path), 2)) == [{"id": "a"}, {"id": "b", "width": 3}]


def test_there_must_be_as_many_lines_as_samples(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"id": "a"}\n', "utf-8")
    with pytest.raises(StageFailed, match=r"samples.jsonl has 1 lines for 2 samples"):
        list(samples_of(as_input("tensors", tmp_path), 2))
