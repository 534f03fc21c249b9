import pytest

from tests import made
from tests.helpers import as_input
from trtpipe.data.class_names import class_names, of_metadata
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


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("person\nbicycle\n", ["person", "bicycle"]),
        ("{0: 'person', 1: 'bicycle'}", ["person", "bicycle"]),
        ('{"1": "bicycle", "0": "person"}', ["person", "bicycle"]),
        (' ["a", "b"]\n', ["a", "b"]),
        ("('a', 'b')", ["('a', 'b')"]),
        ("{}", []),
    ],
)
def test_names_in_metadata_are_read_as_exporters_write_them(text, names):
    assert of_metadata(text, "names") == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{0: 'a'", "expected a name a line, a list, or a mapping"), ("[1, 2]", "expected a name a line"),
        ("{0: 'a', 2: 'b'}", "found the class numbers 0, 2, expected 0 to 1"), ("[['a']]", "expected a name a line"),
        ("{'a': 0}", "found the class numbers 'a', expected 0 to 0"),
        ("{0: 'a', '0': 'b'}", "expected 0 to 1, each once"), ("[f()]", "expected a name a line"),
    ],
)  # fmt: skip
def test_metadata_that_is_no_list_of_names_is_refused(text, said):
    with pytest.raises(StageFailed) as told:
        of_metadata(text, "names")
    assert said in str(told.value)
