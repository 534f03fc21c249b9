import json

import numpy as np
import pytest

from tests.helpers import as_input
from trtpipe.data import ground_truth
from trtpipe.errors import StageFailed


@pytest.fixture
def read(tmp_path):
    def run(name, content, ids):
        path = tmp_path / name
        if isinstance(content, str):
            path.write_text(content, "utf-8")
        elif name.endswith(".npz"):
            np.savez(path, **content)
        elif name.endswith(".npy"):
            np.save(path, content)
        else:
            path.write_text(json.dumps(content), "utf-8")
        return ground_truth.read(as_input("labels", path), ids)

    return run


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.npy", np.array([7, 8], np.uint8), [7, 8]),
        ("a.npz", {"y": np.array([7, 8])}, [7, 8]),
        ("a.txt", "cat\r\n two words \n", ["cat", " two words "]),
        ("a.txt", "cat\ndog", ["cat", "dog"]),
        ("a.csv", "id,label\nb,dog\na,cat\n", ["cat", "dog"]),
        ("a.csv", 'file,class,id\nx,"3",a\ny,4,b\n', ["3", "4"]),
        ("a.json", {"b": 4, "a": 3}, [3, 4]),
        ("a.json", [{"id": "b", "label": 4}, {"id": "a"}], [{"id": "a"}, {"id": "b", "label": 4}]),
        ("a.jsonl", '{"id": "b"}\n\n{"id": "a", "text": "x"}\n', [{"id": "a", "text": "x"}, {"id": "b"}]),
    ],
)
def test_labels_come_in_the_order_of_the_samples(name, content, expected, read):
    assert read(name, content, ["a", "b"]) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.array([1, 2, 3]), r"input labels \(a\.npy\) has 3 labels for 2 samples"),
        ("a.npy", np.array([1.0, 2.0]), r"found float64 \[2\], expected whole numbers"),
        ("a.npy", np.array([[1], [2]]), r"found int64 \[2, 1\], expected whole numbers"),
        ("a.npz", {"x": np.array([1]), "y": np.array([2])}, "found 2 arrays, expected one"),
        ("a.txt", "cat\n", "has 1 labels for 2 samples"),
        ("a.csv", "name,label\na,1\n", "found the columns name, label, expected id and one of label, text, class"),
        ("a.csv", "id,label\na\n", r"\(a\.csv\):2: found a short line"),
        ("a.csv", "id,label\na,1\nbb,2\n", r"has no label for 1 of 2 samples, first b; did you mean bb\?"),
        ("a.csv", "id,label\na,1\nb,2\nc,3\n", "has labels for 1 ids that no sample has, first c"),
        ("a.csv", "id,label\na,1\nb,2\na,3\n", "has the id a twice"),
        ("a.json", "{", "is no json"),
        ("a.json", [{"id": 1}], "expected objects, each with an `id`"),
        ("a.jsonl", "[]\n", "expected objects, each with an `id`"),
        ("a.json", "[" * 100_000, "is nested too deeply"),
        ("a.md", "x", r"expected one file of \.npy"),
    ],
)
def test_labels_that_do_not_fit_are_refused(name, content, message, read):
    with pytest.raises(StageFailed, match=message):
        read(name, content, ["a", "b"])


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(StageFailed, match="is not UTF-8: byte 3"):
        ground_truth.read(as_input("labels", tmp_path / "a.txt"), ["a"])


def test_one_label_of_a_sample():
    assert ground_truth.label(3, ["class"]) == 3
    assert ground_truth.label({"class": 3, "label": "cat"}, ["label", "class"]) == "cat"
    for value in ({"text": "x"}, 1.5, True, None, {"class": [1]}):
        with pytest.raises(ValueError, match="expected"):
            ground_truth.label(value, ["class", "label"])


def test_boxes_of_a_sample():
    corners = [1, 2, 3, 4]
    assert ground_truth.boxes({"boxes": [{"box": corners, "label": "cat"}]}) == ([[1, 2, 3, 4]], ["cat"], "label")
    assert ground_truth.boxes([{"box": corners, "class": 2}]) == ([[1, 2, 3, 4]], [2], "class")
    assert ground_truth.boxes([corners]) == ([[1, 2, 3, 4]], [0], None)
    assert ground_truth.boxes({"boxes": []}) == ([], [], None)


@pytest.mark.parametrize(
    "value", [3, {}, [[1, 2, 3]], [["1", 2, 3, 4]], [[3, 2, 1, 4]], [[1, 2, 3, 4], {"box": [1, 2, 3, 4], "class": 1}]]
)
def test_what_are_no_boxes_is_refused(value):
    with pytest.raises(ValueError, match="expected"):
        ground_truth.boxes(value)
