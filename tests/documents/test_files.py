"""Documents are written the same each time, and read checked: what is wrong is said with its place."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.documents.strategies import documents, simplest
from trtpipe.documents import files
from trtpipe.documents.buffers import Buffers
from trtpipe.documents.manifest import Manifest
from trtpipe.documents.metrics import Metrics
from trtpipe.documents.schemas import DOCUMENTS
from trtpipe.documents.tensors import Tensors
from trtpipe.errors import StageFailed

EVERY = pytest.mark.parametrize("kind", DOCUMENTS, ids=lambda kind: kind.file)
ARRAY = {"name": "x", "form": "fixed", "file": "0", "dtype": "float32", "shape": [2, 3], "rows_per_part": 4096}
TENSORS = {"format": 2, "batch": 2, "tensors": [ARRAY]}


def refused(value, kind=Tensors):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(StageFailed) as caught:
        files.decode(data, kind, f"scores/{kind.file}")
    return str(caught.value)


@EVERY
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_again(kind, data):
    document = data.draw(documents(kind))
    assert files.decode(files.encode(document).encode(), kind, kind.file) == document


@EVERY
def test_a_document_has_the_name_of_its_file_and_its_format_number(kind):
    assert kind.file.endswith(".json")
    assert json.loads(files.encode(simplest(kind)))["format"] == (2 if kind is Tensors else 1)


def test_the_text_has_sorted_names_and_ends_with_a_newline(tmp_path):
    files.write(tmp_path / "tensors.json", files.decode(json.dumps(TENSORS).encode(), Tensors, "x"))
    assert (tmp_path / "tensors.json").read_text() == json.dumps(TENSORS, indent=1, sort_keys=True) + "\n"


def test_a_name_of_any_language_is_written_as_it_is(tmp_path):
    document = Metrics(metrics={"größe": 1.0}, counts={}, require={}, samples=1)
    files.write(tmp_path / "metrics.json", document)
    assert "größe" in (tmp_path / "metrics.json").read_text("utf-8")
    assert files.read(tmp_path / "metrics.json", Metrics) == document


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_figure_that_is_no_number_is_not_written_and_its_place_is_named(value):
    with pytest.raises(StageFailed) as caught:
        files.encode(Metrics(metrics={"top1": 1.0, "top5": value}, counts={}, require={}, samples=1))
    assert str(caught.value) == f"metrics.json: metrics.top5 is {value}, expected a finite number"


def test_nan_is_not_read():
    text = b'{"format": 1, "metrics": {"top1": NaN}, "counts": {}, "require": {}, "samples": 1}'
    assert refused(text, Metrics).startswith("scores/metrics.json is no JSON: ")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch": "2"}, 'batch: found "2", expected a whole number'),
        ({"batch": 2.0}, "batch: found 2.0, expected a whole number"),
        ({"batch": -1}, "batch: found -1, expected at least 0"),
        ({"tensors": {}}, "tensors: found an empty mapping, expected a list"),
        ({"tensors": [{**TENSORS["tensors"][0], "shape": [2, "n"]}]},
         'tensors[0].shape[1]: found "n", expected a whole number or nothing'),
        ({"tensors": [{**TENSORS["tensors"][0], "name": None, "dtype": 4}]},
         "tensors[0].name: found nothing, expected a text; tensors[0].dtype: found 4, expected a text"),
    ],
)  # fmt: skip
def test_a_value_of_a_wrong_type_is_named_with_its_place(changed, message):
    assert refused({**TENSORS, **changed}) == f"scores/tensors.json: {message}"


def test_a_field_that_is_missing_is_named_with_what_it_is():
    entry = {name: value for name, value in TENSORS["tensors"][0].items() if name != "file"}
    assert refused({**TENSORS, "tensors": [entry]}) == (
        'scores/tensors.json: tensors[0]: missing key "file": What the names of its files begin with.'
    )


def test_a_place_inside_a_mapping_is_named_too():
    manifest = json.loads(files.encode(simplest(Manifest)))
    manifest["profiles"] = [{"image": {"min": [1], "opt": [1], "max": ["b"]}}]
    assert refused(manifest, Manifest) == (
        'scores/manifest.json: profiles[0].image.max[0]: found "b", expected a whole number'
    )


def test_a_word_that_is_none_of_those_known_is_told_with_them():
    manifest = json.loads(files.encode(simplest(Manifest)))
    assert refused({**manifest, "precision": "fp61"}, Manifest) == (
        'scores/manifest.json: precision: found "fp61", expected one of bf16, fp16, fp32, model, tf32, '
        'did you mean "fp16"?'
    )


def test_many_mistakes_are_counted():
    entries = [{**TENSORS["tensors"][0], "name": number} for number in range(8)]
    assert refused({**TENSORS, "tensors": entries}).endswith("tensors[4].name: found 4, expected a text; and 3 more")


@pytest.mark.parametrize(
    ("format_", "found"),
    [
        ({"format": 3}, "format 3"),
        ({"format": "2"}, 'format "2"'),
        ({"format": None}, "format nothing"),
        ({}, "no format number"),
    ],
)
def test_another_format_number_is_told_with_the_one_that_is_known_and_what_to_do(format_, found):
    rest = {name: value for name, value in TENSORS.items() if name != "format"}
    assert refused({**rest, **format_}) == (
        f"scores/tensors.json: found {found}, and this trtpipe knows format 2: run the stage that makes it again"
    )


def test_a_format_that_only_python_takes_for_the_number_is_refused():
    value = json.dumps({**json.loads(files.encode(simplest(Buffers))), "format": True}).encode()
    assert refused(value, Buffers) == "scores/buffers.json: format: found true, expected 1"


def test_what_a_later_version_adds_under_the_same_number_is_passed_over():
    more = {**TENSORS, "made_by": "a later version", "tensors": [{**TENSORS["tensors"][0], "layout": "rows"}]}
    assert files.decode(json.dumps(more).encode(), Tensors, "x") == files.decode(
        json.dumps(TENSORS).encode(), Tensors, "x"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", " is no JSON: "),
        (b'{"format": 1', " is no JSON: "),
        (b"\xff\xfe", " is no JSON: "),
        (b"[" * 100_000, " is no JSON: "),
        (b"[]", ": found an empty list, expected a mapping"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused(data, message):
    assert refused(data, Buffers).startswith(f"scores/buffers.json{message}")


def test_a_file_that_is_not_there_is_a_failure_of_the_stage(tmp_path):
    with pytest.raises(StageFailed, match="buffers.json cannot be read: No such file"):
        files.read(tmp_path / "buffers.json", Buffers)
