import numpy as np
from PIL import Image, ImageFont

from trtpipe.data import draw


def blank(width=400, height=300):
    return Image.new("RGB", (width, height), "black")


def changed(image, width, height):
    return np.argwhere(np.asarray(image)[:height, :width].any(axis=2))


def test_a_box_is_drawn_where_it_lies_and_the_given_picture_stays():
    given = blank()
    found = draw.annotated(given, [draw.Box((100, 120, 200, 220), "")])
    assert found.size == (400, 300)
    (top, left), (bottom, right) = changed(found, 400, 300).min(axis=0), changed(found, 400, 300).max(axis=0)
    assert (left, top, right, bottom) == (100, 120, 200, 220)
    assert not np.asarray(given).any()
    assert not np.asarray(found)[150, 150].any()


def test_a_boxs_text_is_above_it_or_inside_where_there_is_no_room():
    for top, row in ((100, 99), (0, 1)):
        found = np.asarray(draw.annotated(blank(), [draw.Box((50, top, 200, 200), "face 0.98")]))
        assert (found[row, 60] != 0).any()


def test_classes_have_colours_of_their_own():
    boxes = [draw.Box((10, 10, 50, 50), "", 0), draw.Box((100, 10, 150, 50), "", 11)]
    found = draw.annotated(blank(), boxes)
    assert found.getpixel((10, 30)) != found.getpixel((100, 30))


def test_captions_stand_below_the_picture():
    one, two = (draw.annotated(blank(), captions=lines) for lines in (["a"], ["a", "b: 0.5"]))
    assert 300 < one.size[1] < two.size[1]
    assert not np.asarray(two)[:300].any()
    assert (np.asarray(two)[300:] < 128).any()


def test_small_pictures_are_enlarged_with_their_boxes():
    found = draw.annotated(blank(8, 8), [draw.Box((2, 2, 6, 6), "")])
    assert found.size == (240, 240)
    assert changed(found, 240, 240).min(axis=0).tolist() == [60, 60]


def test_boxes_outside_and_turned_inside_out_do_not_break():
    boxes = [draw.Box((-1e12, -5, 1e12, 900), "x" * 500), draw.Box((90, 90, 10, 10), "")]
    assert draw.annotated(blank(), boxes).size == (400, 300)


def test_text_outside_latin_and_line_breaks_do_not_break():
    found = draw.annotated(blank(), [draw.Box((9, 90, 99, 99), "\u4f60\n")], ["\u4f60\u597d\r\n\x00" * 99])
    assert found.size[0] == 400


def test_the_bitmap_font_of_a_pillow_without_freetype_works_too(monkeypatch):
    if hasattr(ImageFont, "load_default_imagefont"):  # else load_default is that font, without a size
        monkeypatch.setattr(ImageFont, "load_default", ImageFont.load_default_imagefont)
    assert draw.annotated(blank(), captions=["\u4f60 abc"]).size[1] > 300


def test_the_same_results_give_the_same_pixels():
    one, two = (draw.annotated(blank(), [draw.Box((10, 20, 100, 200), "cat 0.5")], ["cat"]) for _ in range(2))
    assert one.tobytes() == two.tobytes()
