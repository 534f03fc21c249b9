import pytest

from tests.helpers import as_input
from trtpipe.data.samples import Line, ids_of, lines_of
from trtpipe.documents.samples import Sample
from trtpipe.errors import StageFailed


def test_samples_are_called_by_their_lines_and_else_by_their_numbers(tmp_path):
    assert ids_of(as_input("tensors", tmp_path), 2) == ["0", "1"]
    (tmp_path / "samples.jsonl").write_text('{"id": "a"}\n{"id": "b", "width": 3}\n', "utf-8")
    assert ids_of(as_input("tensors", tmp_path), 2) == ["a", "b"]


def test_what_trtpipe_does_not_know_of_a_sample_is_kept_for_users_code(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"id": "b", "width": 3, "camera": "left"}\n', "utf-8")
    (line,) = lines_of(as_input("tensors", tmp_path), 1)
    assert line == Line(Sample(id="b", width=3.0), {"id": "b", "width": 3, "camera": "left"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"width": 3}', r'line 2: the document: missing key "id"'),
        ('{"id": 7}', r"line 2: id: found 7, expected a text"),
        ('{"id": "b", "pad_x": "no"}', r'line 2: pad_x: found "no", expected a number'),
        ("", "line 2 is no JSON"),
        ("[]", "line 2: found an empty list, expected a mapping"),
    ],
)
def test_a_line_that_says_nothing_of_a_sample_is_named(tmp_path, line, message):
    (tmp_path / "samples.jsonl").write_text(f'{{"id": "a"}}\n{line}\n', "utf-8")
    with pytest.raises(StageFailed, match=message):
        ids_of(as_input("tensors", tmp_path), 2)


def test_there_must_be_as_many_lines_as_samples(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"id": "a"}\n', "utf-8")
    with pytest.raises(StageFailed, match=r"samples.jsonl has 1 lines for 2 samples"):
        ids_of(as_input("tensors", tmp_path), 2)
