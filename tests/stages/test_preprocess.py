import json

import msgspec
import numpy as np
import pytest
from PIL import Image

from tests.helpers import as_input, run_stage
from trtpipe.data import tensors
from trtpipe.errors import StageFailed
from trtpipe.stage import Input
from trtpipe.stages import preprocess

PLAIN = {"tensor": "x", "scale": 1}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "pictures"
    path.mkdir()
    return path


def picture(path, width, height, color=(0, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), color).save(path)
    return path


def marked(path, width, height, x, y):
    """A black picture with one white pixel."""
    image = Image.new("RGB", (width, height))
    image.putpixel((x, y), (255, 255, 255))
    image.save(path)


def read(out):
    arrays = {name: source.read() for name, source in tensors.open_input(as_input("made", out)).items()}
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text("utf-8").splitlines()]
    return arrays, samples


def prepare(folder, tmp_path, **params):
    arrays, samples = read(run_stage("preprocess", {**PLAIN, **params}, {"images": folder}, tmp_path))
    return arrays["x"], samples


def problems(**params):
    return list(msgspec.convert({"tensor": "x", **params}, preprocess.PreprocessParams).problems())


def test_a_folder_becomes_one_sample_a_picture_sorted_by_path(folder, tmp_path):
    for name, shade in (("b.png", 2), ("a.jpg", 1), ("sub/c.PNG", 3), ("notes.md", None)):
        if shade:
            picture(folder / name, 4, 3, (shade, shade, shade))
        else:
            (folder / name).write_text("no picture")
    values, samples = prepare(folder, tmp_path)
    assert values.shape == (3, 3, 3, 4)
    assert values.dtype == np.float32
    assert values[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert [s["id"] for s in samples] == ["a", "b", "sub/c"]
    assert [s["source"] for s in samples] == ["a.jpg", "b.png", "sub/c.PNG"]


def test_the_same_pictures_give_the_same_bytes(folder, tmp_path):
    picture(folder / "a.png", 5, 5, (9, 8, 7))
    one, two = (run_stage("preprocess", PLAIN, {"images": folder}, tmp_path) for _ in range(2))
    assert [p.name for p in sorted(one.iterdir())] == ["0-00000.npy", "samples.jsonl", "tensors.json"]
    assert all((two / p.name).read_bytes() == p.read_bytes() for p in one.iterdir())


def test_one_picture_is_enough(tmp_path):
    values, samples = prepare(picture(tmp_path / "page.png", 4, 4), tmp_path)
    assert values.shape == (1, 3, 4, 4)
    assert samples[0]["id"] == "page"


def test_pictures_that_would_share_an_id_keep_their_suffix(folder, tmp_path):
    for name in ("a.png", "a.bmp", "b.png"):
        picture(folder / name, 2, 2)
    assert [s["id"] for s in prepare(folder, tmp_path)[1]] == ["a.bmp", "a.png", "b"]


def test_patterns_choose_by_path_or_name_in_any_case(folder, tmp_path):
    for name in ("a.png", "x/b.PNG", "x/c.bmp"):
        picture(folder / name, 2, 2)
    assert [s["id"] for s in prepare(folder, tmp_path, patterns=["*.png"])[1]] == ["a", "x/b"]
    assert [s["id"] for s in prepare(folder, tmp_path, patterns=["x/*"])[1]] == ["x/b", "x/c"]
    with pytest.raises(StageFailed, match=r"no file that fits \*\.webp; it has a\.png, x/b\.PNG, x/c\.bmp"):
        prepare(folder, tmp_path, patterns=["*.webp"])


def test_only_files_that_the_input_names_are_read(folder, tmp_path):
    picture(folder / "a.png", 2, 2)
    picture(folder / "stranger.png", 2, 2)
    given = Input(name="images", kind="folder", folder=folder, files=("a.png",), label="pictures")
    assert len(prepare(given, tmp_path)[1]) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "b.png\n\n a.png\n"),
        ("list.csv", "b.png,x\n"),
        ("list.csv", "label,file\n2,b.png\n1,a.png\n"),
        ("in/list.txt", "../b.png\n../a.png"),
    ],
)
def test_a_list_in_the_folder_gives_the_order(name, text, folder, tmp_path):
    for each in ("a.png", "b.png", "c.png"):
        picture(folder / each, 2, 2)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text if "file" in text or name.endswith("txt") else "path,y\nb.png,1\na.png,2\n")
    assert [s["id"] for s in prepare(folder, tmp_path, list=name)[1]] == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b.png", r"list\.txt names b\.png, which is not in input images \(pictures\); did you mean a\.png\?"),
        ("../../etc/passwd", r"names \.\./\.\./etc/passwd, which is not in"),
        ("a.png\na.png", r"names a\.png more than once"),
        ("\n", "names no pictures"),
    ],
)
def test_a_list_with_a_mistake_is_refused(text, message, folder, tmp_path):
    picture(folder / "a.png", 2, 2)
    (folder / "list.txt").write_text(text)
    with pytest.raises(StageFailed, match=message):
        prepare(folder, tmp_path, list="list.txt")


def test_a_list_alone_is_refused_because_its_pictures_are_not_in_the_key(tmp_path):
    (tmp_path / "list.txt").write_text("a.png")
    with pytest.raises(StageFailed, match="would not be in the stage's key"):
        prepare(tmp_path / "list.txt", tmp_path)


def test_values_are_scaled_and_normalised_in_the_order_of_the_channels(folder, tmp_path):
    picture(folder / "a.png", 2, 2, (255, 51, 0))
    params = {"scale": "1/255", "mean": [0.5, 0.1, 0], "std": [0.5, 0.1, 2]}
    rgb = prepare(folder, tmp_path, **params)[0][0, :, 0, 0]
    np.testing.assert_allclose(rgb, [1, 1, 0], rtol=1e-6)
    bgr = prepare(folder, tmp_path, color="BGR", **params)[0][0, :, 0, 0]
    np.testing.assert_allclose(bgr, [-1, 1, 0.5], rtol=1e-6)


def test_grey_has_one_channel(folder, tmp_path):
    picture(folder / "a.png", 2, 3, (10, 10, 10))
    values, _ = prepare(folder, tmp_path, color="L", layout="NHWC")
    assert values.shape == (1, 3, 2, 1)
    assert values[0, 0, 0, 0] == 10


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 1), ("float16", "1/255")])
def test_dtypes(dtype, scale, folder, tmp_path):
    picture(folder / "a.png", 2, 2, (255, 128, 0))
    values, _ = prepare(folder, tmp_path, dtype=dtype, scale=scale, layout="NHWC")
    assert values.dtype == dtype
    expected = np.array([255, 128, 0]) / (1 if dtype == "uint8" else 255)
    np.testing.assert_allclose(values[0, 0, 0], expected, rtol=1e-3)


def test_pixels_that_float16_cannot_hold_are_an_error(folder, tmp_path):
    picture(folder / "a.png", 2, 2, (255, 255, 255))
    with pytest.raises(StageFailed, match=r"float16 cannot hold the normalised pixels \(up to 255000\)"):
        prepare(folder, tmp_path, dtype="float16", scale=1000)


def test_letterbox_keeps_the_ratio_and_says_where_the_picture_lies(folder, tmp_path):
    picture(folder / "wide.png", 20, 10, (200, 200, 200))
    values, samples = prepare(folder, tmp_path, resize={"mode": "letterbox", "size": [8, 8], "pad": [7, 8, 9]})
    assert values[0, :, 0, 0].tolist() == [7, 8, 9]
    assert (values[0, 0] == 200).sum() == 8 * 4
    sample = samples[0]
    assert (sample["scale_x"], sample["scale_y"], sample["pad_x"], sample["pad_y"]) == (0.4, 0.4, 0, 2)
    assert (sample["width"], sample["height"], sample["valid_width"], sample["valid_height"]) == (20, 10, 8, 4)
    values, samples = prepare(
        folder, tmp_path, resize={"mode": "letterbox", "size": [8, 8], "align": "top_left"}, layout="NHWC"
    )
    assert samples[0]["pad_y"] == 0
    assert (values[0, :4, :, 0] == 200).all()
    assert (values[0, 4:, :, 0] == 114).all()


def test_shorter_side_then_centre_crop(folder, tmp_path):
    marked(folder / "a.png", 9, 5, 4, 2)
    values, samples = prepare(folder, tmp_path, resize={"mode": "shorter_side", "size": 5}, crop={"size": [3, 3]})
    assert np.argwhere(values[0, 0]).tolist() == [[1, 1]]
    # The white pixel's middle, by the formula that samples.jsonl promises.
    s = samples[0]
    assert (4.5 * s["scale_x"] + s["pad_x"], 2.5 * s["scale_y"] + s["pad_y"]) == (1.5, 1.5)
    assert (s["valid_width"], s["valid_height"]) == (3, 3)


@pytest.mark.parametrize(
    "resize", [{"mode": "exact", "size": [40, 64]}, {"mode": "shorter_side", "size": 50, "multiple_of": 8}]
)
def test_positions_map_into_the_prepared_picture(resize, folder, tmp_path):
    image = Image.new("L", (100, 80))
    image.paste(255, (60, 20, 70, 30))
    image.save(folder / "a.png")
    values, samples = prepare(folder, tmp_path, resize=resize, crop={"size": [36, 60]})
    y, x = np.argwhere(values[0, 0] > 128).mean(axis=0) + 0.5
    s = samples[0]
    assert x == pytest.approx(65 * s["scale_x"] + s["pad_x"], abs=0.6)
    assert y == pytest.approx(25 * s["scale_y"] + s["pad_y"], abs=0.6)


def test_a_picture_that_is_smaller_than_the_crop_is_named(folder, tmp_path):
    picture(folder / "a.png", 9, 9)
    picture(folder / "b.png", 9, 4)
    with pytest.raises(StageFailed, match=r"picture b\.png is 9 x 4 pixels .* less than the crop's 5 x 5"):
        prepare(folder, tmp_path, crop={"size": [5, 5]})


def test_the_first_picture_of_another_shape_is_named(folder, tmp_path):
    for name, width in (("a.png", 4), ("b.png", 4), ("c.png", 5), ("d.png", 6)):
        picture(folder / name, width, 4)
    with pytest.raises(StageFailed, match=r"c\.png is 5 x 4 pixels .* but a\.png is 4 x 4"):
        prepare(folder, tmp_path)


def test_lines_of_text_are_padded_to_the_widest(folder, tmp_path):
    picture(folder / "long.png", 100, 20, (255, 255, 255))
    picture(folder / "short.png", 30, 10, (255, 255, 255))
    resize = {"mode": "height", "size": 10, "multiple_of": 8, "pad": 127.5}
    values, samples = prepare(folder, tmp_path, resize=resize, scale="1/255", mean=0.5, std=0.5)
    assert values.shape == (2, 3, 10, 56)
    assert [s["valid_width"] for s in samples] == [50, 30]
    np.testing.assert_allclose(values[1, 0, 0, 29:31], [1, 0], atol=1e-6)
    values, samples = prepare(folder, tmp_path, resize={**resize, "max_width": 40})
    assert values.shape == (2, 3, 10, 40)
    assert [s["scale_x"] for s in samples] == [0.4, 1]
    values, samples = prepare(folder, tmp_path, resize={**resize, "width": 80})
    assert values.shape == (2, 3, 10, 80)


def test_rotations_make_a_sample_for_each_turn(tmp_path):
    path = tmp_path / "page.png"
    marked(path, 4, 4, 0, 0)
    values, samples = prepare(path, tmp_path, rotations=[0, 90, 180, 270])
    assert [s["id"] for s in samples] == ["page@0", "page@90", "page@180", "page@270"]
    assert [np.argwhere(v[0])[0].tolist() for v in values] == [[0, 0], [0, 3], [3, 3], [3, 0]]
    assert [s["rotation"] for s in samples] == [0, 90, 180, 270]


def test_a_turn_that_changes_the_shape_is_named(tmp_path):
    path = picture(tmp_path / "page.png", 4, 3)
    with pytest.raises(StageFailed, match=r"page\.png turned by 90 is 3 x 4 pixels"):
        prepare(path, tmp_path, rotations=[0, 90])
    _, samples = prepare(path, tmp_path, rotations=[0, 90], resize={"mode": "exact", "size": [6, 6]})
    assert [(s["width"], s["height"]) for s in samples] == [(4, 3), (3, 4)]


def test_a_torn_picture_stops_the_stage_by_its_name(folder, tmp_path):
    Image.effect_noise((64, 64), 50).save(folder / "torn.jpg")
    (folder / "torn.jpg").write_bytes((folder / "torn.jpg").read_bytes()[:700])
    with pytest.raises(StageFailed, match=r"picture torn\.jpg cannot be read"):
        prepare(folder, tmp_path)


def test_too_many_pixels_are_refused(folder, tmp_path):
    picture(folder / "a.png", 20, 10)
    with pytest.raises(StageFailed, match=r"a\.png has 20 x 10 = 200 pixels, more than max_pixels \(199\)"):
        prepare(folder, tmp_path, max_pixels=199)


HOOKS = """
import numpy as np

def invert(image, sample):
    assert image.dtype == np.uint8 and image.shape == (sample["height"], sample["width"], 3)
    return 255 - image

def add(array, sample, by):
    return array + np.float32(by)

def two(array, sample):
    return {"x": array, "size": np.array([sample["height"], sample["width"]], np.int64)}

def shrink(image, sample):
    return image[1:]

def uneven(array, sample):
    return array[:, : 1 + (sample["id"] == "a")]

def none(array, sample):
    return None

def fail(array, sample):
    raise KeyError("oops")
"""


def hook(name, **more):
    return {"entrypoint": f"hooks.py:{name}", **more}


def test_python_steps_run_before_resizing_and_at_the_end(folder, tmp_path):
    (tmp_path / "hooks.py").write_text(HOOKS)
    picture(folder / "a.png", 2, 4, (250, 250, 250))
    steps = [hook("add", args={"by": 0.5}), hook("invert", at="picture"), hook("two")]
    arrays, _ = read(run_stage("preprocess", {**PLAIN, "python": steps}, {"images": folder}, tmp_path))
    assert (arrays["x"] == 5.5).all()
    assert arrays["size"].tolist() == [[4, 2]]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([hook("shrink", at="picture")], r"hooks\.py:shrink gave uint8 \[3, 2, 3\] for a, expected uint8 \[4, 2, 3\]"),
        ([hook("uneven")], r"x of b is float32 \[3, 1, 2\], of a float32 \[3, 2, 2\]"),
        ([hook("none")], r"hooks\.py:none gave a NoneType for a, expected an array of numbers"),
        ([hook("fail")], r"hooks\.py:fail failed on a: KeyError: 'oops'"),
        ([hook("two"), hook("add", args={"by": 1})], "only the last python step may give several tensors"),
        ([hook("add", args={"to": 1})], r"hooks\.py:add failed on a: TypeError"),
    ],
)
def test_what_python_steps_do_wrong_names_the_step_and_the_sample(steps, message, folder, tmp_path):
    (tmp_path / "hooks.py").write_text(HOOKS)
    picture(folder / "a.png", 2, 4)
    picture(folder / "b.png", 2, 4)
    with pytest.raises(StageFailed, match=message):
        prepare(folder, tmp_path, python=steps)


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"mean": [0, 0]}, "mean"),
        ({"color": "L", "std": [1, 1, 1]}, "std"),
        ({"std": [1, 0, 1]}, "std"),
        ({"dtype": "uint8"}, "scale"),
        ({"dtype": "uint8", "scale": 1, "mean": 1}, "mean"),
        ({"dtype": "uint8", "scale": 1, "resize": {"mode": "letterbox", "size": [1, 1], "pad": 0.5}}, "resize.pad"),
        ({"resize": {"mode": "letterbox", "size": [1, 1], "pad": 300}}, "resize.pad"),
        ({"resize": {"mode": "letterbox", "size": [1, 1], "pad": [1, 2]}}, "resize.pad"),
        ({"resize": {"mode": "height", "size": 1, "max_width": 0}}, "resize.max_width"),
        ({"rotations": [90, 90]}, "rotations"),
        ({"list": "list.json"}, "list"),
    ],
)
def test_params_that_contradict_each_other_are_found_before_anything_runs(params, path):
    assert [p for p, _ in problems(**params)] == [path]


def test_defaults_have_no_problems():
    assert problems() == []


def test_the_files_of_python_steps_are_in_the_key():
    params = msgspec.convert(
        {"tensor": "x", "python": [{"entrypoint": "a.py:f", "sources": ["b.txt"]}]}, preprocess.PreprocessParams
    )
    assert list(params.entrypoints()) == ["a.py:f"]
    assert list(params.files()) == ["b.txt"]
