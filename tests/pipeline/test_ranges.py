"""Ranges of shapes: as people write them, and as they are guessed and told."""

from __future__ import annotations

import pytest

from trtpipe.errors import PipelineInvalid
from trtpipe.models.outline import Side
from trtpipe.pipeline import ranges
from trtpipe.pipeline.ranges import Range


def side(name, *dims, dtype="float32"):
    return Side(name, dtype, dims)


IMAGE = side("image", "batch", 3, "height", "width")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=1..8..16x3", {"x": (Range(1, 8, 16), Range(3, 3, 3))}),
        ("x=1..16x3", {"x": (Range(1, 16, 16), Range(3, 3, 3))}),
        ("gpu_0/data_0=1x3x2", {"gpu_0/data_0": (Range(1, 1, 1), Range(3, 3, 3), Range(2, 2, 2))}),
        ("a=1x2,b:0=3", {"a": (Range(1, 1, 1), Range(2, 2, 2)), "b:0": (Range(3, 3, 3),)}),
        ("my input=4", {"my input": (Range(4, 4, 4),)}),
    ],
)
def test_shapes_are_read_as_people_write_them(text, expected):
    assert ranges.read([text]) == expected


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["image"], "found image, expected an input and its shape, such as images=1..8..16x3x640x640"),
        (["=1x3"], "found =1x3, expected an input"),
        (["x=1xax3"], "found x=1xax3, expected an input"),
        (["x=1xx3"], "x: found nothing in 1xx3, expected a size such as 3, 1..16 or 1..8..16"),
        (["x=1...3"], "found 1...3 in 1...3, expected a size"),
        (["x=16..1"], "found 16..1, expected the smallest size first: min ≤ opt ≤ max"),
        (["x=1..16..8"], "found 1..16..8, expected the smallest size first"),
        (["x=1", "x=2"], "found x twice, expected each input once"),
        (["x=1,x=2"], "found x twice"),
    ],
)
def test_what_is_no_shape_is_refused_with_an_example(texts, problem):
    with pytest.raises(PipelineInvalid) as caught:
        ranges.read(texts)
    assert problem in str(caught.value)


def test_given_ranges_are_the_profile_and_nothing_is_told():
    made = ranges.settle([IMAGE], ranges.read(["image=1..8..16x3x640x640"]))
    assert made.shapes("opt") == {"image": [8, 3, 640, 640]}
    assert made.shapes("min") == {"image": [1, 3, 640, 640]}
    assert made.told == ()


def test_an_axis_with_a_known_name_needs_no_guess_in_other_inputs():
    ids, mask = side("ids", "b", "s", dtype="int64"), side("mask", "b", "s", dtype="int64")
    made = ranges.settle([ids, mask], ranges.read(["ids=1..4x8..32"]))
    assert made.profile["mask"] == (Range(1, 4, 4), Range(8, 32, 32))
    assert made.told == ()


def test_a_model_without_dynamic_axes_needs_no_profile():
    assert ranges.settle([side("x", 1, 3)], {}).profile == {}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("imag=1x3x8x8", 'the model has no input imag, did you mean "image"?'),
        ("image=1x3x8", "image: found 1x3x8 with 3 axes, expected 4: it is [batch, 3, height, width]"),
        ("image=1x4x8x8", "image: axis 1: found 4; the model fixes it at 3"),
        ("image=1x1..3x8x8", "image: axis 1: found 1..3; the model fixes it at 3"),
    ],
)
def test_shapes_that_do_not_fit_the_model_are_refused(given, problem):
    with pytest.raises(PipelineInvalid) as caught:
        ranges.settle([IMAGE], ranges.read([given]))
    assert problem in str(caught.value)


def test_all_that_does_not_fit_is_told_at_once():
    with pytest.raises(PipelineInvalid) as caught:
        ranges.settle([side("a", 1), side("b", 2), side("c", dtype="int64")._replace(dims=None)],
                      ranges.read(["a=2,b=3,d=1"]))  # fmt: skip
    assert len(caught.value.problems) == 4


def test_axes_of_one_name_must_have_one_range():
    ids, mask = side("ids", "b", "s"), side("mask", "b", "s")
    with pytest.raises(PipelineInvalid, match=r"mask: axis 1 is s with 8, and s is 4 elsewhere"):
        ranges.settle([ids, mask], ranges.read(["ids=1x4,mask=1x8"]))


@pytest.mark.parametrize(
    ("one", "axis", "what"),
    [
        (side("x", "N", 4), 0, "a batch of 1..8..16"),
        (side("x", 1, 3, "h", 224), 2, "a picture's side of 32..224..640"),
        (side("x", 1, "h", 224, 3), 1, "a picture's side of 32..224..640"),
        (side("ids", 1, "s", dtype="int64"), 1, "a length of 1..128..512"),
        (side("x", 1, 80, "frames"), 2, "a length of 1..128..512"),
        (side("x", 1, 7, "points"), 2, "an axis of 1..16..64"),
    ],
)
def test_what_is_guessed_is_told_with_the_axis_it_is_for(one, axis, what):
    made = ranges.settle([one], {})
    assert made.told == (f"{one.name} axis {axis} ({one.dims[axis]}) is taken for {what}; --shapes says otherwise",)


def test_a_guess_that_does_not_run_gives_way_to_one_that_does():
    tried = []

    def runs(shapes):
        tried.append(shapes["image"])
        return shapes["image"][2] == 48  # as in a reader of lines, whose pictures have one height

    made = ranges.settle([IMAGE], {}, runs=runs)
    assert made.profile["image"][2:] == (Range(48, 48, 48), Range(32, 224, 640))
    assert all(shape[0] == 1 for shape in tried), "a batch need not be tried"


def test_a_model_that_runs_with_no_guess_is_refused_with_the_line_to_write():
    with pytest.raises(PipelineInvalid, match="--shapes image=batchx3xheightxwidth"):
        ranges.settle([IMAGE], {}, runs=lambda _: False)


def test_without_a_trial_the_first_guess_is_taken():
    made = ranges.settle([IMAGE], {}, runs=lambda _: None)
    assert made.profile["image"][3] == Range(32, 224, 640)


def test_an_axis_whose_name_says_nothing_gets_one_of_its_own():
    made = ranges.settle([side("x", "n", 3, "?", "?")], {})
    assert made.dims == {"x": ["n", 3, "x_2", "x_3"]}
    assert "x: axes 2, 3 are all called '?' in the model" in made.told[0]


def test_axes_that_share_a_name_and_are_given_two_sizes_are_two_axes():
    made = ranges.settle([side("x", "s", 3, "s")], ranges.read(["x=1x3x8..16"]))
    assert made.dims == {"x": ["x_0", 3, "x_2"]}
    assert made.shapes("max") == {"x": [1, 3, 16]}


def test_an_axis_that_is_a_sum_of_others_has_the_sum_of_their_ranges():
    past, mask = side("past", "batch", 8, "past_length"), side("mask", "batch", "past_length + 1", dtype="int64")
    made = ranges.settle([past, mask], ranges.read(["past=1x8x4..16"]))
    assert made.profile["mask"] == (Range(1, 1, 1), Range(5, 17, 17))
