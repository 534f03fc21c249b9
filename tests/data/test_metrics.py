import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trtpipe.data import metrics
from trtpipe.data.metrics import Boxes

FEW = settings(max_examples=80, deadline=None)


def test_counting_names_the_first_that_is_wrong():
    figure = metrics.counted("top1", [True, False, False], ["a", "b", "c"], lambda i: f"found {i}")
    assert str(figure) == "top1 = 0.3333 (1 of 3; first wrong: b, found 1)"
    assert str(metrics.counted("top1", [True, True], ["a", "b"])) == "top1 = 1.0000 (2 of 2)"


@FEW
@given(*[hnp.arrays(np.float32, (3, 2, 2), elements=st.floats(-100, 100, width=32))] * 2)
def test_cosine_agrees_with_float64(one, other):
    for a, b, found in zip(one.astype(np.float64), other.astype(np.float64), metrics.cosine(one, other), strict=True):
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        expected = (a * b).sum() / lengths if lengths else float(not a.any() and not b.any())
        assert found == pytest.approx(expected, abs=1e-9)


def test_cosine_at_the_ends_of_the_numbers():
    rows = np.array([[1, 1], [1, 0], [0, 0], [0, 0]], np.float64)
    other = np.array([[1e300, 1e300], [0, 1e-300], [0, 0], [1, 0]])
    assert metrics.cosine(rows, other).tolist() == pytest.approx([1, 0, 1, 0])
    assert metrics.cosine(np.array([[1, 1]], np.float16), np.array([[1, 1]], np.float16)) == pytest.approx([1])


def test_nan_and_infinity_have_no_cosine():
    rows = np.array([[np.nan, 1], [np.inf, 1], [1, 1], [0, 0]])
    found = metrics.cosine(rows, np.array([[1, 1], [1, 1], [1, np.nan], [np.nan, 0]]))
    assert np.isnan(found).all()


def boxes(corners, classes, scores=None):
    return Boxes(
        np.asarray(corners, np.float64).reshape(-1, 4), classes, None if scores is None else np.asarray(scores, float)
    )


A, B = [0, 0, 10, 10], [20, 20, 30, 30]
HALF_A = [0, 0, 10, 5]


def test_each_true_box_is_matched_once_by_the_best_score():
    found = boxes([HALF_A, A, A], [0, 0, 0], [0.5, 0.9, 0.6])
    assert metrics.match(found, boxes([A, B], [0, 0]), 0.5) == [(-1, 0.0), (0, 1.0), (-1, 0.0)]
    assert metrics.match(boxes([HALF_A], [0], [1]), boxes([A], [0]), 0.5) == [(0, 0.5)]
    assert metrics.match(boxes([HALF_A], [0], [1]), boxes([A], [0]), 0.51) == [(-1, 0.0)]


def test_classes_do_not_match_each_other():
    assert metrics.match(boxes([A], ["cat"], [1]), boxes([A], ["dog"]), 0.0) == [(-1, 0.0)]


def test_mean_iou_counts_what_was_not_found_as_0():
    value, total = metrics.mean_iou([boxes([HALF_A], [0], [1]), boxes([], [], [])], [boxes([A], [0]), boxes([B], [0])])
    assert (value, total) == (0.25, 2)
    assert math.isnan(metrics.mean_iou([boxes([], [], [])], [boxes([], [])])[0])


def test_average_precision_of_a_known_list():
    # By falling score: right, wrong, right; 3 true boxes. Precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3.
    far = [90, 90, 99, 99]
    found = [boxes([A, far], [0, 0], [0.9, 0.8]), boxes([B], [0], [0.7])]
    truth = [boxes([A], [0]), boxes([B, far], [0, 0])]
    value, total = metrics.average_precision(found, truth, 0.5)
    assert total == 3
    assert value == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)


def test_average_precision_is_the_mean_over_the_true_classes():
    found = [boxes([A, B, B], ["cat", "dog", "bird"], [0.9, 0.8, 0.7])]
    truth = [boxes([A, A], ["cat", "fish"])]
    assert metrics.average_precision(found, truth, 0.5)[0] == 0.5


def slow_average_precision(right, there):
    """Area under the non-rising precision, by its definition: at each recall the best precision from there on."""
    points = [(sum(right[: i + 1]) / there, sum(right[: i + 1]) / (i + 1)) for i in range(len(right))]
    return sum(max(p for r, p in points if r >= level / there) / there for level in range(1, sum(right) + 1))


@FEW
@given(st.lists(st.booleans(), max_size=12), st.integers(0, 3))
def test_average_precision_agrees_with_its_definition(right, missed):
    truth = [boxes([A], [0]) if ok else boxes([], []) for ok in right] + [boxes([A], [0])] * missed
    found = [boxes([A], [0], [1 - i / 100]) for i in range(len(right))] + [boxes([], [], [])] * missed
    there = sum(right) + missed
    value, total = metrics.average_precision(found, truth, 0.5)
    assert total == there
    if there:
        assert value == pytest.approx(slow_average_precision(right, there))
    else:
        assert math.isnan(value)
