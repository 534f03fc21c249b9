import pytest

from trtpipe.data.resizing import Crop, ExactSize, FixedHeight, KeepSize, Letterbox, ShorterSide, fit


@pytest.mark.parametrize(
    ("resize", "crop", "resized", "canvas", "place"),
    [
        (KeepSize(), None, (200, 100), (200, 100), (0, 0)),
        (ExactSize(size=(30, 40)), None, (40, 30), (40, 30), (0, 0)),
        (Letterbox(size=(100, 100)), None, (100, 50), (100, 100), (0, 25)),
        (Letterbox(size=(100, 100), align="top_left"), None, (100, 50), (100, 100), (0, 0)),
        (ShorterSide(size=50), Crop(size=(40, 40)), (100, 50), (40, 40), (-30, -5)),
        (ShorterSide(size=50, multiple_of=32), None, (96, 64), (96, 64), (0, 0)),
        (FixedHeight(size=20, max_width=30), None, (30, 20), (30, 20), (0, 0)),
    ],
)
def test_a_picture_of_200_x_100_lies_where_its_mode_says(resize, crop, resized, canvas, place):
    found = fit(200, 100, resize, crop)
    assert (found.resized, found.canvas, (found.left, found.top)) == (resized, canvas, place)


def test_a_picture_smaller_than_the_crop_is_refused():
    with pytest.raises(ValueError, match=r"is 200 x 100 pixels .* less than the crop's 300 x 50"):
        fit(200, 100, KeepSize(), Crop(size=(50, 300)))


def test_a_samples_line_says_how_positions_map_and_how_much_is_seen():
    sample = fit(200, 100, Letterbox(size=(100, 100)), None).sample("a", "a.png", 0)
    assert (sample.scale_x, sample.scale_y, sample.pad_x, sample.pad_y) == (0.5, 0.5, 0, 25)
    assert (sample.valid_width, sample.valid_height, sample.input_width, sample.input_height) == (100, 50, 100, 100)
