import json

import msgspec
import numpy as np
import pytest
from PIL import Image

from tests import made
from tests.helpers import run_stage
from trtpipe.data import pictures, tensors
from trtpipe.errors import StageFailed
from trtpipe.stages import postprocess

TOP = {"op": "top_k"}


@pytest.fixture
def post(tmp_path):
    """Run postprocess on arrays by name; gives the artifact's folder."""

    def run(values, *steps, samples=None, data=None, notes=None, inputs=None, **params):
        inputs = {"tensors": artifact(tmp_path, "scores", values, samples), **(inputs or {})}
        if data:
            inputs["data"] = artifact(tmp_path, "data", data, None)
        return run_stage("postprocess", {"steps": list(steps), **params}, inputs, tmp_path, notes=notes)

    return run


def artifact(tmp_path, name, arrays, samples):
    folder = tmp_path / name
    number = 0
    while folder.exists():
        number += 1
        folder = tmp_path / f"{name}{number}"
    folder.mkdir()
    tensors.write(folder, {n: np.asarray(a) for n, a in arrays.items()})
    if samples is not None:
        (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    return folder


def records(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]


def problems(*steps, **params):
    typed = msgspec.convert({"steps": list(steps), **params}, postprocess.PostprocessParams)
    return list(typed.problems())


LOGITS = np.array([[0, 1, 2], [5, 1, 2]], np.float16)


def test_softmax_and_top_k_make_a_line_a_sample_and_a_table(post):
    out = post({"logits": LOGITS}, {"op": "softmax"}, {"op": "top_k", "k": 2})
    assert sorted(p.name for p in out.iterdir()) == ["results.jsonl", "table.txt"]
    first, second = records(out)
    assert (first["id"], [e["class"] for e in first["top_k"]]) == ("0", [2, 1])
    assert first["top_k"][0]["score"] == pytest.approx(np.e**2 / (1 + np.e + np.e**2), rel=1e-6)
    assert second["top_k"][0]["class"] == 0
    assert (out / "table.txt").read_text("utf-8").splitlines() == [
        "id  top_k",
        "--  -------------------",
        "0   2 0.6652, 1 0.2447",
        "1   0 0.9362, 2 0.04661",
    ]


def test_samples_are_called_as_preprocess_called_them(post):
    out = post({"logits": LOGITS}, TOP, samples=[{"id": "cat/1"}, {"id": "dog"}])
    assert [r["id"] for r in records(out)] == ["cat/1", "dog"]


def test_an_npz_from_outside_is_read_too(tmp_path):
    np.savez(tmp_path / "a.npz", logits=LOGITS)
    out = run_stage("postprocess", {"steps": [TOP]}, {"tensors": tmp_path / "a.npz"}, tmp_path)
    assert [r["top_k"][0]["class"] for r in records(out)] == [2, 0]


def test_the_results_do_not_depend_on_how_many_samples_are_in_memory(post, monkeypatch):
    values = np.random.default_rng(0).normal(size=(23, 7)).astype(np.float32)
    steps = [{"op": "softmax", "output": "p"}, {"op": "top_k", "k": 3}, {"op": "argmax"}]
    one = post({"x": values}, *steps, arrays=["p"])
    monkeypatch.setattr(postprocess, "BATCH_BYTES", 4 * 7 * 4)
    two = post({"x": values}, *steps, arrays=["p"])
    assert all((two / p.name).read_bytes() == p.read_bytes() for p in one.iterdir())


def test_transforms_chain_and_decisions_leave_the_tensor_as_it_is(post):
    out = post({"a": LOGITS}, {"op": "softmax", "output": "p"}, TOP, {"op": "threshold", "at": 0.2}, {"op": "argmax"})
    assert records(out)[0]["argmax"] == 2
    assert [e["class"] for e in records(out)[0]["threshold"]] == [2, 1]


def test_several_tensors_must_be_told_apart(post):
    with pytest.raises(StageFailed, match=r"steps\[0\] \(top_k\): found 2 tensors \(a, b\), expected `tensor`"):
        post({"a": LOGITS, "b": LOGITS}, TOP)
    out = post({"a": LOGITS, "b": -LOGITS}, {"op": "argmax", "tensor": "b"})
    assert [r["argmax"] for r in records(out)] == [0, 1]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"op": "softmax", "tensor": "logit"}, r"found no tensor logit, .* did you mean logits"),
        ({"op": "softmax", "axis": 2}, r"tensor logits \(float16 \[n, 3\]\): found axis 2, expected one from -2 to 1"),
        ({"op": "softmax", "axis": -2}, r"found axis -2, which is the sample axis"),
        ({"op": "top_k", "k": 4}, r"\(top_k\): tensor logits \(float16 \[n, 3\]\): found k 4, expected 1 to 3"),
        ({"op": "ctc_decode", "names": ["a"]}, r"tensor logits \(float16 \[n, 3\]\): found rank 2, expected 3"),
        ({"op": "mean_pool", "mask": "logits"}, r"found a mask of shape \[2, 3\], expected"),
        ({"op": "labels", "names": ["a"]}, "found no classes yet"),
        ({"op": "nms"}, "found no tensor boxes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_the_step_the_tensor_and_what_was_expected(step, message, post):
    values = {"logits": LOGITS} if "mask" not in step else {"logits": LOGITS, "h": np.zeros((2, 4, 2))}
    step = {"tensor": "h", **step} if "mask" in step else step
    with pytest.raises(StageFailed, match=message):
        post(values, step, keep=["logits"])


def test_top_k_of_more_than_classes_is_refused(post):
    with pytest.raises(StageFailed, match=r"found rank 3, expected 2"):
        post({"x": np.zeros((1, 2, 3))}, TOP)


def test_nan_is_refused_with_the_first_sample_that_has_it(post):
    values = LOGITS.copy()
    values[1, 2] = np.nan
    with pytest.raises(StageFailed, match=r"steps\[0\] \(top_k\): tensor logits has NaN in 1 of the 2 .* first in b;"):
        post({"logits": values}, TOP, samples=[{"id": "a"}, {"id": "b"}])


def test_no_samples_are_refused(post):
    with pytest.raises(StageFailed, match=r"has shape \[0, 3\], expected at least one sample"):
        post({"logits": LOGITS[:0]}, TOP)


def test_samples_must_be_as_many_as_the_tensors_have(post):
    with pytest.raises(StageFailed, match=r"samples\.jsonl has 1 lines for 2 samples"):
        post({"logits": LOGITS}, TOP, samples=[{"id": "a"}])


def test_labels_from_a_file_name_the_entries(post, tmp_path):
    (tmp_path / "names.txt").write_text("cat\r\ndog\nfish\n", "utf-8")
    out = post({"x": LOGITS}, TOP, {"op": "labels"}, inputs={"labels": tmp_path / "names.txt"})
    assert records(out)[0]["top_k"] == [{"class": 2, "score": 2, "label": "fish"}]


def test_labels_of_argmax_are_a_field_of_their_own(post):
    out = post({"x": LOGITS}, {"op": "argmax"}, {"op": "labels", "names": ["cat", "dog", "fish"]}, exclude=["argmax"])
    assert records(out) == [{"id": "0", "labels": "fish"}, {"id": "1", "labels": "cat"}]


def test_fewer_names_than_classes_are_refused(post):
    with pytest.raises(StageFailed, match=r"steps\[1\] \(labels\): found class 2, expected 0 to 1 because"):
        post({"x": LOGITS}, TOP, {"op": "labels", "names": ["cat", "dog"]})


def test_names_that_nothing_gives_are_refused(post, tmp_path):
    with pytest.raises(StageFailed, match="expected `names` in the step, or the input `labels`"):
        post({"x": LOGITS}, TOP, {"op": "labels"})
    with pytest.raises(StageFailed, match="need the input `network`"):
        post({"x": LOGITS}, TOP, {"op": "labels", "names": {"metadata": "names"}})
    network = network_with(tmp_path, author="me")
    with pytest.raises(StageFailed, match="metadata has no 'names'; it has author"):
        post({"x": LOGITS}, TOP, {"op": "labels", "names": {"metadata": "names"}}, inputs={"network": network})


def network_with(tmp_path, **metadata):
    return made.put(tmp_path / "network", made.network(metadata=metadata))


def test_ctc_reads_the_characters_in_the_models_metadata(post, tmp_path):
    path = [[1, 1, 0, 1, 4, 2, 3]]
    values = np.eye(5, dtype=np.float32)[path] * 0.5
    step = {"op": "ctc_decode", "names": {"metadata": "character"}, "space": True, "output": "text"}
    # U+0085 ends a line for str.splitlines, here it is a character.
    out = post({"y": values}, step, inputs={"network": network_with(tmp_path, character="a\nb\n\x85")})
    assert records(out) == [{"id": "0", "text": "aa b\x85", "text_score": 0.5}]


def test_threshold_gives_booleans_where_there_are_no_classes(post):
    out = post({"x": np.array([0.5, 0.4])}, {"op": "threshold"})
    assert [r["threshold"] for r in records(out)] == [True, False]


def test_embeddings_are_pooled_normalised_and_written_as_an_array(post):
    hidden = np.arange(2 * 3 * 100, dtype=np.float32).reshape(2, 3, 100)
    steps = [
        {"op": "mean_pool", "tensor": "hidden", "mask": "attention_mask", "output": "embedding"},
        {"op": "l2_normalize"},
    ]
    out = post(
        {"hidden": hidden, "other": hidden}, *steps,
        data={"attention_mask": np.array([[1, 1, 0], [1, 0, 0]]), "ids": np.zeros((2, 3))}, arrays=["embedding"],
    )  # fmt: skip
    assert records(out) == [{"id": "0"}, {"id": "1"}]
    index = json.loads((out / "tensors.json").read_text())
    assert [(t["name"], t["dtype"], t["shape"]) for t in index["tensors"]] == [("embedding", "float32", [2, 100])]
    expected = np.stack([hidden[0, :2].mean(axis=0), hidden[1, 0]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(out / "0-00000.npy"), expected, rtol=1e-5)


def test_samples_of_shapes_of_their_own_are_decided_one_by_one(post, tmp_path):
    folder = tmp_path / "ragged"
    folder.mkdir()
    sounds = [np.array(values, np.float32) for values in ([0, 3, 1], [5, 2], [1, 1, 1, 9])]
    tensors.write(folder, {"x": LOGITS[:2].repeat(2, axis=0)[:3], "sound": sounds})
    steps = [{"op": "argmax", "tensor": "sound", "axis": 1, "output": "loudest"},
             {"op": "argmax", "tensor": "x", "axis": 1, "output": "best"}]  # fmt: skip
    out = post({}, *steps, inputs={"tensors": folder}, arrays=["sound"])
    assert [r["loudest"]["class"] if isinstance(r["loudest"], dict) else r["loudest"] for r in records(out)] == [
        1,
        0,
        3,
    ]
    best = LOGITS[:2].repeat(2, axis=0)[:3].argmax(axis=1).tolist()
    assert [r["best"]["class"] if isinstance(r["best"], dict) else r["best"] for r in records(out)] == best
    index = json.loads((out / "tensors.json").read_text())["tensors"]
    assert [(t["name"], t["form"], t["shape"]) for t in index] == [("sound", "ragged", [3, None])]
    np.testing.assert_array_equal(np.load(out / "0-values-00000.npy"), np.concatenate(sounds))


def test_a_step_that_cannot_decide_a_sample_says_which_shape_it_has(post, tmp_path):
    folder = tmp_path / "ragged"
    folder.mkdir()
    tensors.write(folder, {"sound": [np.ones(2, np.float32), np.ones(0, np.float32)]})
    with pytest.raises(StageFailed, match=r"steps\[0\] \(argmax\)"):
        post({}, {"op": "argmax", "tensor": "sound", "axis": 1}, inputs={"tensors": folder})


def test_a_name_in_both_inputs_is_refused(post):
    with pytest.raises(StageFailed, match="tensor x is in the inputs tensors and data"):
        post({"x": LOGITS}, TOP, data={"x": LOGITS})


BOXES = np.array(
    [
        [[10, 10, 50, 50], [12, 10, 52, 50], [60, 60, 90, 90], [12, 12, 52, 52]],
        [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]],
    ],
    np.float32,
)
SCORES = np.array([[0.9, 0.8, 0.7, 0.1], [0.5, 0.6, 0.6, 0.2]], np.float32)


def test_nms_keeps_the_best_of_what_overlaps_in_each_sample(post):
    first, second = records(post({"boxes": BOXES, "scores": SCORES}, {"op": "nms"}))
    assert first["nms"] == [
        {"box": [10, 10, 50, 50], "score": 0.9, "class": 0},
        {"box": [60, 60, 90, 90], "score": 0.7, "class": 0},
    ]
    assert second["nms"] == [{"box": [0, 0, 10, 10], "score": 0.6, "class": 0}]


def test_nms_knows_classes(post):
    classes = np.array([[0, 1, 0, 0], [0, 1, 1, 1]])
    arrays = {"boxes": BOXES, "scores": SCORES, "classes": classes}
    found = [len(r["nms"]) for r in records(post(arrays, {"op": "nms", "classes": "classes"}))]
    assert found == [3, 2]
    step = {"op": "nms", "classes": "classes", "class_aware": False}
    assert [len(r["nms"]) for r in records(post(arrays, step))] == [2, 1]


def test_scores_with_a_class_axis_give_the_best_class_or_all(post):
    scores = np.zeros((2, 4, 3), np.float32)
    scores[0, 0] = [0.3, 0.9, 0]
    best, none = records(post({"boxes": BOXES, "scores": scores}, {"op": "nms"}))
    assert [(e["class"], e["score"]) for e in best["nms"]] == [(1, 0.9)]
    assert none["nms"] == []
    every = records(post({"boxes": BOXES, "scores": scores}, {"op": "nms", "multi_label": True}))[0]
    assert [(e["class"], e["score"]) for e in every["nms"]] == [(1, 0.9), (0, 0.3)]


@pytest.mark.parametrize(("form", "first"), [("cxcywh", [30, 30, 40, 40]), ("xywh", [10, 10, 40, 40])])
def test_nms_reads_other_formats(form, first, post):
    boxes = np.array([[first]], np.float32)
    out = post({"boxes": boxes, "scores": np.ones((1, 1))}, {"op": "nms", "format": form})
    assert records(out)[0]["nms"][0]["box"] == [10, 10, 50, 50]


SAMPLE = {
    "id": "a", "source": "a.png", "width": 200, "height": 100, "scale_x": 0.5, "scale_y": 0.5, "pad_x": 0, "pad_y": 25,
    "input_width": 100, "input_height": 100,
}  # fmt: skip


def test_boxes_come_back_in_pixels_of_the_original_picture(post):
    boxes = np.array([[[10, 30, 20, 60], [0, 0, 100, 100]]], np.float32)
    arrays = {"boxes": boxes, "scores": np.array([[0.9, 0.8]])}
    (record,) = records(post(arrays, {"op": "nms"}, samples=[SAMPLE]))
    assert [e["box"] for e in record["nms"]] == [[20, 10, 40, 70], [0, 0, 200, 100]]
    (record,) = records(post(arrays, {"op": "nms", "map_back": False}, samples=[SAMPLE]))
    assert record["nms"][0]["box"] == [10, 30, 20, 60]
    arrays["boxes"] = boxes / 100
    (record,) = records(post(arrays, {"op": "nms", "coordinates": "normalized"}, samples=[SAMPLE]))
    assert record["nms"][0]["box"] == pytest.approx([20, 10, 40, 70])


def test_normalized_boxes_need_to_know_the_size(post):
    with pytest.raises(StageFailed, match=r"boxes and scores of 0: found no input_width in samples\.jsonl"):
        post({"boxes": BOXES, "scores": SCORES}, {"op": "nms", "coordinates": "normalized"})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"boxes": BOXES[..., :3], "scores": SCORES}, r"found boxes \[4, 3\] and scores \[4\]"),
        ({"boxes": BOXES, "scores": SCORES[:, :3]}, r"found boxes \[4, 4\] and scores \[3\]"),
        ({"boxes": np.where(BOXES > 50, np.inf, BOXES), "scores": SCORES}, "found boxes with infinity"),
    ],
)
def test_boxes_and_scores_that_do_not_fit_are_refused(arrays, message, post):
    with pytest.raises(StageFailed, match=message):
        post(arrays, {"op": "nms"})


PYTHON = """
import numpy as np

def decode(arrays, samples, scale=1):
    x = arrays["x"]
    boxes = [row[row[:, 4] > 0][:, :4] * scale for row in x]
    return {"boxes": boxes, "scores": [row[row[:, 4] > 0][:, 4] for row in x], "n": np.array([len(b) for b in boxes])}

def name(arrays, samples):
    return {"name": [s["id"].upper() for s in samples], "big": np.zeros((len(samples), 65))}

def short(arrays, samples):
    return {"n": [1]}

def none(arrays, samples):
    return None

def nan(arrays, samples):
    return {"score": np.array([np.nan] * len(samples))}

def scalar(arrays, samples):
    return {"n": 3}

def fail(arrays, samples):
    return arrays["y"]
"""


@pytest.fixture
def code(tmp_path):
    (tmp_path / "own.py").write_text(PYTHON)
    return lambda name, **args: {"op": "python", "entrypoint": f"own.py:{name}", "args": args}


def test_a_python_step_decodes_what_belongs_to_one_model(post, code):
    x = np.zeros((2, 3, 5), np.float32)
    x[0, 1] = [1, 2, 3, 4, 0.5]
    notes = []
    out = post({"x": x}, code("decode", scale=2), {"op": "nms"}, notes=notes)
    first, second = records(out)
    assert first == {"id": "0", "n": 1, "nms": [{"box": [2, 4, 6, 8], "score": 0.5, "class": 0}]}
    assert second == {"id": "1", "n": 0, "nms": []}
    assert notes == ["not in results.jsonl, because of their size: boxes, scores (see params keep and arrays)"]


def test_large_arrays_become_fields_only_if_asked_for(post, code):
    notes = []
    (record,) = records(post({"x": LOGITS[:1]}, code("name"), notes=notes))
    assert record == {"id": "0", "name": "0"}
    assert notes == ["not in results.jsonl, because of their size: big (see params keep and arrays)"]
    (record,) = records(post({"x": LOGITS[:1]}, code("name"), keep=["big", "x"]))
    assert record == {"id": "0", "big": [0] * 65, "x": [0, 1, 2]}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", r"steps\[0\] \(python\): own\.py:short gave 1 rows for n, expected 2"),
        ("none", r"own\.py:none gave a NoneType, expected a mapping"),
        ("scalar", r"own\.py:scalar gave a int for n, expected an array or a list"),
        ("nan", r"field score of 0: found NaN"),
        ("fail", r"own\.py:fail failed on 0 … 1: KeyError: 'y'"),
    ],
)
def test_what_a_python_step_does_wrong_names_it(name, message, post, code):
    with pytest.raises(StageFailed, match=message):
        post({"x": LOGITS}, code(name))


def test_names_that_are_kept_or_left_out_must_be_there(post):
    for params in ({"keep": ["top"]}, {"exclude": ["top"]}, {"arrays": ["top"]}):
        with pytest.raises(StageFailed, match=r"found no tensor top, expected one of x, top_k; did you mean top_k"):
            post({"x": LOGITS}, TOP, **params)


def test_id_is_the_samples_own(post):
    with pytest.raises(StageFailed, match="found a field called id"):
        post({"x": LOGITS}, {"op": "argmax", "output": "id"})


def test_decisions_are_no_arrays(post):
    with pytest.raises(StageFailed, match="arrays: top_k is no tensor of numbers"):
        post({"x": LOGITS}, TOP, arrays=["top_k"])


def test_the_table_is_short_and_says_so(post):
    out = post({"x": np.zeros((9, 2), np.float32)}, TOP, table_rows=2)
    assert (out / "table.txt").read_text("utf-8").splitlines()[-1] == "… and 7 more"


def test_boxes_are_drawn_on_the_picture_that_they_are_about(post, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (400, 300)).save(folder / "a.png")
    sample = {**SAMPLE, "width": 400, "height": 300, "scale_x": 1, "scale_y": 1, "pad_y": 0}
    arrays = {"boxes": np.array([[[100, 120, 200, 220]]], np.float32), "scores": np.array([[0.9]])}
    steps = [{"op": "nms"}, {"op": "labels", "names": ["face"]}]
    out = post(arrays, *steps, samples=[sample], inputs={"images": folder})
    drawn = np.asarray(pictures.read(out / "pictures" / "a.png", "a.png"))
    assert drawn.shape == (300, 400, 3)
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert (rows.max(), columns.max(), columns.min()) == (220, 200, 100)


def test_decisions_stand_below_the_picture_as_it_was_turned(post, tmp_path):
    path = tmp_path / "page.png"
    Image.new("RGB", (400, 300)).save(path)
    samples = [{"id": f"x/page@{turn}", "source": "page.png", "rotation": turn} for turn in (0, 90)]
    notes = []
    out = post({"x": LOGITS}, TOP, samples=samples, inputs={"images": path}, notes=notes)
    sizes = [pictures.size(out / "pictures" / "x" / f"page@{turn}.png", "page") for turn in (0, 90)]
    assert [s[0] for s in sizes] == [400, 300]
    assert sizes[0][1] > 300
    assert sizes[1][1] > 400
    out = post({"x": LOGITS}, TOP, samples=samples, inputs={"images": path}, notes=notes, pictures=1)
    assert len(list((out / "pictures").rglob("*.png"))) == 1
    assert notes == ["1 of 2 pictures drawn (param pictures)"]


def test_ids_that_are_no_safe_file_names_become_numbers(post, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    samples = [{"id": name, "source": "a.png"} for name in ("../../out", "/etc/x")]
    out = post({"x": LOGITS}, TOP, samples=samples, inputs={"images": tmp_path / "a.png"})
    assert sorted(p.name for p in (out / "pictures").iterdir()) == ["sample-0.png", "sample-1.png"]


def test_a_picture_that_is_not_there_is_named(post, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    given = {"images": tmp_path / "a.png"}
    with pytest.raises(StageFailed, match=r"input images \(a\.png\) has no b\.png, of which sample b was made"):
        post({"x": LOGITS}, TOP, samples=[{"id": "b", "source": "b.png"}, {"id": "c"}], inputs=given)
    with pytest.raises(StageFailed, match="nothing says which picture a sample is"):
        post({"x": LOGITS}, TOP, inputs=given)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (([{"op": "softmax", "axis": 0}, TOP], {}), "steps[0].axis"),
        (([{"op": "softmax"}], {}), "steps"),
        (([], {}), "steps"),
        (([TOP], {"keep": ["top_k"], "exclude": ["top_k"]}), "exclude"),
    ],
)
def test_params_that_make_no_sense_are_found_before_anything_runs(given, path):
    steps, params = given
    assert [p for p, _ in problems(*steps, **params)] == [path]


def test_tensors_can_be_kept_without_a_decision(post):
    assert problems({"op": "softmax"}, keep=["x"]) == []
    (record,) = records(post({"x": np.zeros((1, 2))}, {"op": "softmax"}, keep=["x"]))
    assert record == {"id": "0", "x": [0.5, 0.5]}


def test_the_files_of_python_steps_are_in_the_key():
    typed = msgspec.convert(
        {"steps": [{"op": "python", "entrypoint": "a.py:f", "sources": ["b.txt"]}]}, postprocess.PostprocessParams
    )
    assert (list(typed.entrypoints()), list(typed.files())) == (["a.py:f"], ["b.txt"])
