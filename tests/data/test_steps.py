import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trtpipe.data import steps

FEW = settings(max_examples=60, deadline=None)


@FEW
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3), elements=st.floats(-90, 90, width=32)))
def test_softmax_agrees_with_float64(values):
    powers = np.exp(values.astype(np.float64))
    expected = powers / powers.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(steps.softmax(values), expected, rtol=2e-5, atol=1e-30)


def test_softmax_of_float16_neither_overflows_nor_stays_float16():
    values = np.array([[60000, 60000, -60000]], np.float16)
    found = steps.softmax(values)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.5, 0.5, 0]])


def test_softmax_takes_minus_infinity_for_zero_and_refuses_the_rest():
    np.testing.assert_allclose(steps.softmax(np.array([[0.0, -np.inf]])), [[1, 0]])
    for row in ([0.0, np.inf], [-np.inf, -np.inf]):
        with pytest.raises(ValueError, match="expected finite values"):
            steps.softmax(np.array([row]))


def test_softmax_along_another_axis():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_allclose(steps.softmax(values, axis=1).sum(axis=1), np.ones((2, 4)), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, -2, 2, -3])
def test_an_axis_that_is_the_samples_or_is_not_there_is_refused(axis):
    with pytest.raises(ValueError, match=f"found axis {axis}"):
        steps.softmax(np.zeros((2, 3), np.float32), axis=axis)


def test_text_is_no_number():
    with pytest.raises(ValueError, match="expected numbers"):
        steps.softmax(np.array([["a"]]))


@FEW
@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-80, 80, width=32)))
def test_sigmoid_agrees_with_float64(values):
    np.testing.assert_allclose(steps.sigmoid(values), 1 / (1 + np.exp(-values.astype(np.float64))), rtol=2e-6)


def test_sigmoid_of_huge_values_is_0_or_1_without_a_warning():
    found = steps.sigmoid(np.array([-np.inf, -1e30, 0, 1e30, np.inf], np.float32))
    np.testing.assert_array_equal(found, [0, 0, 0.5, 1, 1])


def test_argmax_takes_the_first_of_equals():
    found = steps.argmax(np.array([[1, 3, 3], [2, 2, 2]]))
    assert found.tolist() == [1, 0]
    assert found.dtype == np.int64


def test_argmax_of_nothing_is_refused():
    with pytest.raises(ValueError, match="length 0"):
        steps.argmax(np.zeros((2, 0), np.float32))


@FEW
@given(
    hnp.arrays(st.sampled_from([np.uint8, np.int32, np.float32]), (2, 5), elements=st.integers(0, 9)),
    st.integers(1, 5),
)
def test_top_k_is_the_head_of_a_stable_falling_sort(values, k):
    indices, scores = steps.top_k(values, k)
    for row, found, points in zip(values.tolist(), indices.tolist(), scores.tolist(), strict=True):
        assert found == sorted(range(5), key=lambda i: (-row[i], i))[:k]
        assert points == [row[i] for i in found]


def test_top_k_sorts_the_largest_unsigned_numbers():
    values = np.array([[0, 2**64 - 1, 5]], np.uint64)
    assert steps.top_k(values, 3)[0].tolist() == [[1, 2, 0]]
    assert steps.top_k(np.array([[-(2**63), 2**63 - 1, 0]]), 3)[0].tolist() == [[1, 2, 0]]
    assert steps.top_k(np.array([[False, True, False]]), 3)[0].tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("k", [0, 4])
def test_a_k_that_the_axis_does_not_have_is_refused(k):
    with pytest.raises(ValueError, match=f"found k {k}, expected 1 to 3"):
        steps.top_k(np.zeros((1, 3)), k)


def test_threshold_includes_the_threshold():
    assert steps.threshold(np.array([[0.4, 0.5, 0.6]]), 0.5).tolist() == [[False, True, True]]


def test_labels_name_indices_in_their_nesting():
    assert steps.labels(np.array([[0, 1], [1, 1]]), ["cat", "dog"]) == [["cat", "dog"], ["dog", "dog"]]
    assert steps.labels(np.array([], np.int64), []) == []


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_without_a_name_is_refused(index):
    with pytest.raises(ValueError, match=f"found class {index}, expected 0 to 1"):
        steps.labels(np.array([0, index]), ["cat", "dog"])


def test_indices_must_be_whole_numbers():
    with pytest.raises(ValueError, match="expected whole numbers"):
        steps.labels(np.array([0.0]), ["cat"])


@FEW
@given(hnp.arrays(np.float32, (2, 4), elements=st.floats(-1000, 1000, width=32)))
def test_l2_normalize_makes_length_1_or_leaves_zeros(values):
    for row, found in zip(values, steps.l2_normalize(values), strict=True):
        length = np.linalg.norm(found)
        assert length == (0 if not row.any() else pytest.approx(1, rel=1e-5))


def test_l2_normalize_does_not_overflow_or_vanish():
    for size in (1e30, 1e-30):
        values = np.array([[3, 4]], np.float32) * np.float32(size)
        np.testing.assert_allclose(steps.l2_normalize(values), [[0.6, 0.8]], rtol=1e-6)
    half = steps.l2_normalize(np.array([[300, 400]], np.float16))
    np.testing.assert_allclose(half, [[0.6, 0.8]], rtol=1e-6)


def test_mean_pool_without_a_mask_is_the_mean():
    values = np.arange(12, dtype=np.float16).reshape(2, 3, 2)
    np.testing.assert_allclose(steps.mean_pool(values), values.mean(axis=1))


def test_mean_pool_leaves_out_what_is_masked_even_if_it_is_infinite():
    values = np.array([[[1, 2], [3, 4], [np.inf, np.inf]]], np.float32)
    mask = np.array([[1, 1, 0]], np.int64)
    np.testing.assert_allclose(steps.mean_pool(values, mask), [[2, 3]])
    np.testing.assert_allclose(steps.mean_pool(values, mask * 0), [[0, 0]])


def test_mean_pool_along_the_last_axis():
    values = np.array([[[1, 2, 9], [3, 4, 9]]], np.float32)
    np.testing.assert_allclose(steps.mean_pool(values, np.array([[True, True, False]]), axis=2), [[1.5, 3.5]])


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"found a mask of shape \[1, 2\], expected \[1, 3\]"):
        steps.mean_pool(np.zeros((1, 3, 2)), np.zeros((1, 2)))


def test_box_formats():
    corners = np.array([[1, 2, 5, 8]], np.float32)
    np.testing.assert_array_equal(steps.to_xyxy(corners, "xyxy"), corners)
    np.testing.assert_array_equal(steps.to_xyxy(np.array([[3, 5, 4, 6]]), "cxcywh"), corners)
    np.testing.assert_array_equal(steps.to_xyxy(np.array([[1, 2, 4, 6]]), "xywh"), corners)
    with pytest.raises(ValueError, match="expected 4 numbers"):
        steps.to_xyxy(np.zeros((1, 5)), "xyxy")


def slow_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    areas = [max(0.0, c[2] - c[0]) * max(0.0, c[3] - c[1]) for c in (a, b)]
    union = areas[0] + areas[1] - shared
    return shared / union if union > 0 else 0.0


def slow_nms(boxes, scores, classes, limit, most):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if len(kept) == most:
            break
        rivals = [j for j in kept if classes is None or classes[i] == classes[j]]
        if all(slow_iou(boxes[j], boxes[i]) <= limit for j in rivals):
            kept.append(i)
    return kept


@st.composite
def detections(draw):
    count = draw(st.integers(0, 12))
    # Whole numbers: overlaps, equal boxes and equal scores are common, and both sums are exact.
    boxes = draw(hnp.arrays(np.float32, (count, 4), elements=st.integers(0, 8)))
    scores = draw(hnp.arrays(np.float32, count, elements=st.integers(0, 4)))
    classes = draw(st.none() | hnp.arrays(np.int64, count, elements=st.integers(0, 2)))
    return boxes, scores, classes


@settings(max_examples=300, deadline=None)
@given(detections(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([None, 1, 3]))
def test_nms_agrees_with_a_slow_one_in_plain_python(given_, limit, most):
    boxes, scores, classes = given_
    found = steps.nms(boxes, scores, classes, iou_threshold=limit, max_detections=most)
    names = None if classes is None else classes.tolist()
    assert found.tolist() == slow_nms(boxes.tolist(), scores.tolist(), names, limit, most)


@FEW
@given(detections())
def test_iou_agrees_with_a_slow_one(given_):
    boxes = given_[0]
    found = steps.iou(boxes, boxes)
    for i, j in itertools.product(range(len(boxes)), repeat=2):
        assert found[i, j] == pytest.approx(slow_iou(boxes[i].tolist(), boxes[j].tolist()))


def test_nms_keeps_what_overlaps_just_as_much_as_the_threshold():
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1]], np.float32)  # IoU 1/3
    assert len(steps.nms(boxes, np.array([0.9, 0.8]), iou_threshold=1 / 3)) == 2
    assert len(steps.nms(boxes, np.array([0.9, 0.8]), iou_threshold=0.33)) == 1


@pytest.mark.parametrize(
    ("boxes", "scores", "classes"),
    [((3, 5), (3,), None), ((3, 4), (2,), None), ((3, 4), (3,), (2,)), ((4,), (4,), None)],
)
def test_nms_refuses_shapes_that_do_not_fit(boxes, scores, classes):
    with pytest.raises(ValueError, match="expected"):
        steps.nms(np.zeros(boxes), np.zeros(scores), None if classes is None else np.zeros(classes))


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(0, 9)), elements=st.integers(0, 3)),
    st.integers(0, 3),
)
def test_ctc_decode_agrees_with_a_brute_reading(path, blank):
    names = ["a", "b", "c"]
    table = [*names[:blank], None, *names[blank:]]
    values = np.eye(4, dtype=np.float32)[path]
    for row, (text, score) in zip(path.tolist(), steps.ctc_decode(values, names, blank), strict=True):
        merged = [index for index, _ in itertools.groupby(row)]
        expected = "".join(table[i] for i in merged if i != blank)
        assert text == expected
        assert score == (1.0 if expected else 0.0)


def test_ctc_score_is_the_mean_over_the_steps_that_made_characters():
    values = np.array([[[0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.9, 0.05, 0.05], [0.2, 0.2, 0.6]]], np.float16)
    ((text, score),) = steps.ctc_decode(values, ["a", "b"])
    assert text == "ab"
    assert score == pytest.approx((0.8 + 0.6) / 2, rel=1e-3)


def test_ctc_needs_as_many_characters_as_classes():
    with pytest.raises(ValueError, match="found 5 classes, expected 3: the blank and 2 characters"):
        steps.ctc_decode(np.zeros((1, 2, 5)), ["a", "b"])
    with pytest.raises(ValueError, match="found rank 2, expected 3"):
        steps.ctc_decode(np.zeros((2, 5)), ["a", "b"])
    with pytest.raises(ValueError, match="found blank 3"):
        steps.ctc_decode(np.zeros((1, 2, 3)), ["a", "b"], blank=3)


def test_unusable_names_the_samples_with_nan():
    values = np.array([[0, 1], [np.nan, 1], [0, np.inf], [np.nan, np.nan]], np.float16)
    assert steps.unusable(values).tolist() == [1, 3]
    assert steps.unusable(np.array([1, 2])).tolist() == []
    assert steps.unusable(np.zeros((0, 3))).tolist() == []


def test_no_samples_give_no_results():
    empty = np.zeros((0, 3), np.float32)
    assert steps.softmax(empty).shape == (0, 3)
    assert steps.argmax(empty).shape == (0,)
    assert steps.top_k(empty, 2)[0].shape == (0, 2)
    assert steps.l2_normalize(empty).shape == (0, 3)
    assert steps.ctc_decode(np.zeros((0, 4, 3)), ["a", "b"]) == []
