import warnings

import numpy as np
import pytest
from PIL import Image

from trtpipe.data import pictures
from trtpipe.errors import StageFailed


@pytest.fixture
def corner():
    """A 3 x 2 picture that is red in its upper left corner and black elsewhere."""
    image = Image.new("RGB", (3, 2))
    image.putpixel((0, 0), (255, 0, 0))
    return image


def red(image):
    found = np.argwhere(np.asarray(image)[:, :, 0] > 128)
    assert len(found) == 1
    y, x = found[0].tolist()
    return x, y


def test_turns_are_clockwise(corner):
    assert red(pictures.turned(corner, 0)) == (0, 0)
    assert red(pictures.turned(corner, 90)) == (1, 0)
    assert pictures.turned(corner, 90).size == (2, 3)
    assert red(pictures.turned(corner, 180)) == (2, 1)
    assert red(pictures.turned(corner, 270)) == (0, 2)


def test_the_exif_orientation_is_applied_to_the_picture_and_to_its_size(corner, tmp_path):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6  # to be turned clockwise by 90
    path = tmp_path / "a.png"
    corner.save(path, exif=exif)
    assert pictures.size(path, "a.png") == (2, 3)
    found = pictures.read(path, "a.png")
    assert found.size == (2, 3)
    assert red(found) == (1, 0)


def test_what_is_transparent_lies_on_white(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (1, 1), (0, 0, 0, 0)).save(path)
    assert pictures.read(path, "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_a_palette_with_a_transparent_colour_lies_on_white(tmp_path):
    path = tmp_path / "a.gif"
    Image.new("P", (2, 1), 0).save(path, transparency=0)
    assert pictures.read(path, "a.gif").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_every_usual_mode_becomes_rgb(mode, tmp_path):
    path = tmp_path / "a.tiff"
    Image.new("RGB", (16, 8), (255, 255, 255)).convert(mode).save(path)
    found = pictures.read(path, "a.tiff")
    assert (found.mode, found.size) == ("RGB", (16, 8))
    assert min(found.getpixel((0, 0))) > 250


def test_16_bit_greys_are_scaled_to_8(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16)).save(path)
    assert np.asarray(pictures.read(path, "a.png"))[0, :, 0].tolist() == [0, 128, 255]


def test_pixels_without_a_known_range_are_refused(tmp_path):
    path = tmp_path / "a.tiff"
    Image.fromarray(np.zeros((2, 2), np.float32)).save(path)
    with pytest.raises(StageFailed, match=r"picture a\.tiff has floating-point pixels"):
        pictures.read(path, "a.tiff")
    Image.fromarray(np.full((2, 2), -1, np.int32)).save(path)
    with pytest.raises(StageFailed, match=r"picture a\.tiff has 32-bit pixels"):
        pictures.read(path, "a.tiff")


def test_a_bomb_is_refused_before_it_is_decoded_and_without_a_warning(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for function in (pictures.size, pictures.read):
            with pytest.raises(StageFailed, match=r"picture bomb\.png has 20000 x 20000 = 400000000 pixels"):
                function(path, "bomb.png")


def test_a_torn_picture_is_refused_by_its_name(tmp_path):
    path = tmp_path / "torn.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:700])
    assert pictures.size(path, "torn.jpg") == (64, 64)
    with pytest.raises(StageFailed, match=r"picture torn\.jpg cannot be read: \w"):
        pictures.read(path, "torn.jpg")


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89PNG"])
def test_what_is_no_picture_is_refused_by_its_name(content, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(StageFailed, match=r"picture a\.png cannot be read"):
        pictures.size(path, "a.png")


def test_pillows_own_limit_is_left_as_it_was(corner, tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    path = tmp_path / "a.png"
    corner.save(path)
    pictures.read(path, "a.png")
    assert before == Image.MAX_IMAGE_PIXELS
