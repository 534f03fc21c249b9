import pytest

from tests import made
from tests.helpers import as_input
from trtpipe.data.class_names import class_names
from trtpipe.data.step_params import FromMetadata
from trtpipe.errors import StageFailed


def test_names_come_from_the_document_the_metadata_or_a_file(tmp_path):
    made.put(tmp_path, made.network(metadata={"names": "a\r\nb\u2028c\n"}))
    (tmp_path / "names.txt").write_text("cat\n\ndog", "utf-8")
    inputs = {"network": as_input("network", tmp_path), "labels": as_input("labels", tmp_path / "names.txt")}
    assert class_names(("x", "y"), {}) == ["x", "y"]
    assert class_names(FromMetadata(metadata="names"), inputs) == ["a", "b\u2028c"]
    assert class_names(None, inputs) == ["cat", "", "dog"]
    with pytest.raises(StageFailed, match="has no 'name'; it has names"):
        class_names(FromMetadata(metadata="name"), inputs)


def test_names_that_nothing_gives_are_refused():
    with pytest.raises(StageFailed, match="expected `names` in the step, or the input `labels`"):
        class_names(None, {})
    with pytest.raises(StageFailed, match="need the input `network`"):
        class_names(FromMetadata(metadata="names"), {})
