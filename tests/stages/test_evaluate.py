import json

import msgspec
import numpy as np
import pytest

from tests.helpers import run_stage
from trtpipe.data import metric_runs, tensors
from trtpipe.errors import GateFailed, StageFailed
from trtpipe.stages import evaluate


@pytest.fixture
def judge(tmp_path):
    """Run evaluate; gives (metrics.json, notes). `labels` is text, an array or JSON."""

    def run(*metrics, results=None, scores=None, reference=None, labels=None, suffix=None, **params):
        inputs, notes = {}, []
        if results is not None:
            inputs["results"] = folder = tmp_path / "results"
            folder.mkdir(exist_ok=True)
            (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in results), "utf-8")
        for role, arrays in (("tensors", scores), ("reference", reference)):
            if arrays is not None:
                inputs[role] = folder = tmp_path / role
                folder.mkdir(exist_ok=True)
                tensors.write(folder, arrays)
        if isinstance(labels, str):
            inputs["labels"] = tmp_path / f"labels{suffix or '.txt'}"
            inputs["labels"].write_text(labels, "utf-8")
        elif isinstance(labels, np.ndarray):
            inputs["labels"] = tmp_path / "labels.npy"
            np.save(inputs["labels"], labels)
        elif labels is not None:
            inputs["labels"] = tmp_path / "labels.json"
            inputs["labels"].write_text(json.dumps(labels), "utf-8")
        out = run_stage("evaluate", {"metrics": list(metrics), **params}, inputs, tmp_path, notes=notes)
        return json.loads((out / "metrics.json").read_text("utf-8")), notes

    return run


def tries(*classes, **more):
    return [{"class": c, "score": 1 - i / 10, **{k: v[i] for k, v in more.items()}} for i, c in enumerate(classes)]


TOP1 = {"metric": "top_k"}
RESULTS = [{"id": str(i), "top_k": tries(i, i + 1)} for i in range(4)]


def test_top_k_counts_the_right_classes_and_says_the_figure(judge):
    made, notes = judge(
        TOP1, {"metric": "top_k", "k": 2}, results=RESULTS, labels=np.array([0, 1, 3, 9]),
        require={"top1": ">= 0.5", "top2": "> 0.7"},
    )  # fmt: skip
    assert made == {
        "metrics": {"top1": 0.5, "top2": 0.75},
        "counts": {
            "top1": {"passed": 2, "total": 4, "unit": "sample"},
            "top2": {"passed": 3, "total": 4, "unit": "sample"},
        },
        "require": {
            "top1": {"rule": ">= 0.5", "value": 0.5, "passed": True},
            "top2": {"rule": "> 0.7", "value": 0.75, "passed": True},
        },
        "samples": 4,
        "format": 1,
    }
    assert notes == [
        "top1 = 0.5000 (2 of 4; first wrong: 2, found 2, expected 3)",
        "top2 = 0.7500 (3 of 4; first wrong: 3, found 3, 4, expected 9)",
    ]


def test_a_broken_rule_fails_with_the_figure_the_rule_and_the_count(judge):
    with pytest.raises(GateFailed) as caught:
        judge(TOP1, results=RESULTS, labels=np.array([0, 1, 2, 9]), require={"top1": ">= 0.97"})
    assert caught.value.exit_code == 5
    message = "top1 = 0.7500 (3 of 4; first wrong: 3, found 3, expected 9), but require says >= 0.97"
    assert str(caught.value) == message


def test_every_broken_rule_is_said(judge):
    metrics = [TOP1, {"metric": "top_k", "k": 2}]
    with pytest.raises(GateFailed, match=r"top1 = .*; top2 = "):
        judge(*metrics, results=RESULTS, labels=np.array([9] * 4), require={"top1": "> 0", "top2": "> 0"})


def test_a_figure_that_only_looks_as_if_it_kept_the_rule_is_said_exactly(judge):
    one, other = np.array([[1.0, 0.001]]), np.array([[1.0, 0]])
    with pytest.raises(GateFailed, match=r"cosine = 1\.0000 \(.*\) \(exactly 0\.9999995.*\), but require says == 1"):
        judge({"metric": "cosine"}, scores={"e": one}, reference={"e": other}, require={"cosine": "== 1"})


@pytest.mark.parametrize("rule", ["0.97", "=> 1", ">= 97%", ">= ", "!= 1", ">= 1 and < 2", ">= nan"])
def test_what_is_no_rule_is_a_problem_of_the_params(rule):
    assert [p for p, _ in problems(TOP1, require={"top1": rule})] == ["require.top1"]


def problems(*metrics, **params):
    # Not through the pattern of the schema: what problems() itself finds.
    typed = evaluate.EvaluateParams(metrics=tuple(msgspec.convert(m, evaluate.Metric) for m in metrics), **params)
    return list(typed.problems())


def test_a_rule_on_a_figure_that_is_not_made_is_found_before_anything_runs():
    assert problems(TOP1, require={"top_1": "> 0"}) == [
        ("require.top_1", "found top_1, expected one of top1; did you mean top1?")
    ]
    assert problems({"metric": "cosine"}, require={"cosine_min": "> 0"}) == []
    assert problems({"metric": "average_precision", "iou_threshold": 0.75}, require={"ap75": "> 0"}) == []


def test_figures_need_names_of_their_own():
    assert [p for p, _ in problems(TOP1, {**TOP1, "tensor": "x"})] == ["metrics"]
    assert problems(TOP1, {**TOP1, "tensor": "x", "name": "raw"}) == []
    assert [p for p, _ in problems({**TOP1, "tensor": "x", "field": "y"})] == ["metrics[0]"]


def test_labels_by_id_compare_with_the_names_that_a_labels_step_gave(judge):
    results = [{"id": f"page@{d}", "top_k": tries(i, label=[str(d)])} for i, d in enumerate((0, 90, 180, 270))]
    text = "id,label\npage@90,90\npage@0,0\npage@180,180\npage@270,90\n"
    made, notes = judge(TOP1, results=results, labels=text, suffix=".csv")
    assert made["metrics"]["top1"] == 0.75
    assert notes == ["top1 = 0.7500 (3 of 4; first wrong: page@270, found 270, expected 90)"]


def test_numbers_compare_with_classes_where_the_names_are_no_numbers(judge):
    results = [{"id": "a", "top_k": tries(1, label=["dog"])}]
    assert judge(TOP1, results=results, labels={"a": "1"})[0]["metrics"]["top1"] == 1
    assert judge(TOP1, results=results, labels={"a": "dog"})[0]["metrics"]["top1"] == 1
    assert judge(TOP1, results=results, labels={"a": 1})[0]["metrics"]["top1"] == 1
    assert judge({**TOP1, "by": "label"}, results=results, labels={"a": "1"})[0]["metrics"]["top1"] == 0


def test_argmax_and_its_labels_are_tries_too(judge):
    results = [{"id": "a", "argmax": 1, "labels": "dog"}]
    assert judge({**TOP1, "field": "argmax"}, results=results, labels=np.array([1]))[0]["metrics"]["top1"] == 1
    assert judge({**TOP1, "field": "labels"}, results=results, labels="dog\n")[0]["metrics"]["top1"] == 1


def test_top_k_straight_from_a_tensor(judge, monkeypatch):
    scores = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float16)
    truth = scores.argsort(axis=1)[:, -2]
    monkeypatch.setattr(metric_runs, "BATCH_BYTES", 200)
    top = [{"metric": "top_k", "k": k, "tensor": "y"} for k in (1, 2)]
    made, _ = judge(*top, scores={"y": scores}, labels=truth)
    assert made["metrics"] == {"top1": 0, "top2": 1}
    assert made["samples"] == 50


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"results": RESULTS}, r"metrics\[0\] \(top_k\): found no input labels"),
        ({"labels": np.array([1])}, "found no input results"),
        ({"results": RESULTS, "labels": np.array([1])}, "has 1 labels for 4 samples"),
        ({"results": RESULTS, "labels": np.array([1, 2, 3, -1])}, "found -1 for 3, expected a class number"),
        ({"results": RESULTS, "labels": "cat\n1\n2\n3\n"}, "found 'cat' for 0, expected a class number"),
        ({"results": [], "labels": np.array([])}, "has no samples"),
        ({"results": [{"id": "0", "topk": []}], "labels": np.array([0])}, "found no field top_k .* did you mean topk"),
        ({"results": [{"id": "0", "top_k": 0.5}], "labels": np.array([0])}, "found a float, expected what top_k"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(given, message, judge):
    with pytest.raises(StageFailed, match=message):
        judge(TOP1, **given)


def test_fewer_tries_than_k_are_refused(judge):
    with pytest.raises(StageFailed, match="found 2 tries a sample, expected 3"):
        judge({"metric": "top_k", "k": 3}, results=RESULTS, labels=np.array([0, 1, 2, 3]))


def test_labels_that_are_not_in_the_results_are_refused(judge):
    with pytest.raises(StageFailed, match="found no label in the results, first 0; expected a step that makes it"):
        judge({**TOP1, "by": "label"}, results=RESULTS, labels=np.array([0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), [0, 3], "found 3 for 1, expected 0 to 2"),
        (np.array([[0, 1], [np.nan, 0]]), [0, 1], "tensor y: found NaN in row 1"),
        (np.zeros((2, 3, 4)), [0, 1], r"found float64 \[2, 3, 4\], expected numbers \[samples, classes\]"),
        (np.zeros((0, 3)), [], "tensor y has no samples"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(scores, labels, message, judge):
    with pytest.raises(StageFailed, match=message):
        judge({**TOP1, "tensor": "y"}, scores={"y": scores}, labels=np.array(labels, np.int64))


TEXTS = [{"id": "a", "text": "Hello World"}, {"id": "b", "text": "x"}]


def test_exact_match_is_exact_unless_told_otherwise(judge):
    metric = {"metric": "exact_match"}
    made, notes = judge(metric, results=TEXTS, labels="hello  world\nx\n")
    assert made["metrics"] == {"exact_match": 0.5}
    assert notes[0].endswith("(1 of 2; first wrong: a, found 'Hello World', expected 'hello  world')")
    made, _ = judge({**metric, "ignore_case": True, "ignore_space": True}, results=TEXTS, labels="hello  world\nx\n")
    assert made["metrics"] == {"exact_match": 1}
    made, _ = judge({**metric, "field": "n"}, results=[{"id": "a", "n": 3}], labels="3\n")
    assert made["metrics"] == {"exact_match": 1}


def test_exact_match_needs_a_text_or_a_number(judge):
    with pytest.raises(StageFailed, match="field text of a: found a list, expected a text"):
        judge({"metric": "exact_match"}, results=[{"id": "a", "text": []}], labels="x\n")


FACE = {"box": [0, 0, 10, 10], "score": 0.9, "class": 0, "label": "face"}
BOXES = [{"id": "a", "nms": [FACE]}, {"id": "b", "nms": []}]


@pytest.mark.parametrize("kind", [{"class": 0}, {"label": "face"}, {}])
def test_boxes_compare_by_what_the_labels_have(kind, judge):
    labels = {"a": [{"box": [0, 0, 10, 5], **kind}], "b": {"boxes": []}}
    precision = {"metric": "average_precision"}
    metrics = [{"metric": "mean_iou"}, precision, {**precision, "iou_threshold": 0.6}]
    made, notes = judge(*metrics, results=BOXES, labels=labels)
    assert made["metrics"] == {"mean_iou": 0.5, "ap50": 1, "ap60": 0}
    assert notes[0] == "mean_iou = 0.5000 (over 1 box)"


@pytest.mark.parametrize(
    ("results", "labels", "message"),
    [
        (BOXES, {"a": [], "b": []}, "has no boxes, expected some"),
        (BOXES, {"a": [[0, 0, 1, 1]], "b": [{"box": [0, 0, 1, 1], "class": 1}]}, "with and without a class"),
        (BOXES, {"a": 3, "b": []}, r"input labels \(labels\.json\), a: found no list `boxes`"),
        ([{"id": "a", "nms": 3}], {"a": [[0, 0, 1, 1]]}, "field nms of a: expected entries with a box"),
        ([{"id": "a", "nms": [{"box": [0, 0, 1, 1]}]}], {"a": [{"box": [0, 0, 1, 1], "label": "x"}]}, "found no label"),
    ],
)
def test_boxes_that_do_not_fit_are_refused(results, labels, message, judge):
    with pytest.raises(StageFailed, match=message):
        judge({"metric": "mean_iou"}, results=results, labels=labels)


def test_cosine_gives_the_mean_and_the_least(judge):
    one = np.array([[1, 0], [3, 4], [1, 1]], np.float16)
    other = np.array([[2, 0], [3, 4], [1, 0]], np.float32)
    made, notes = judge({"metric": "cosine"}, scores={"e": one}, reference={"other": other})
    assert made["metrics"]["cosine_min"] == pytest.approx(2**-0.5)
    assert made["metrics"]["cosine"] == pytest.approx((2 + 2**-0.5) / 3)
    assert notes[1] == "cosine_min = 0.7071 (over 3 samples; least: 2)"


def test_a_ragged_tensor_is_refused_on_either_side(judge):
    plain, ragged = {"e": np.ones((2, 2))}, {"e": [np.ones(2), np.ones(3)]}
    with pytest.raises(
        StageFailed, match=r"tensors\[e\]: found a ragged tensor \(2 samples.*expected one of fixed shape"
    ):
        judge({"metric": "cosine"}, scores=ragged, reference=plain)
    with pytest.raises(StageFailed, match=r"reference\[e\]: found a ragged tensor"):
        judge({"metric": "cosine"}, scores=plain, reference=ragged)


def test_cosine_of_postprocess_arrays(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    tensors.write(folder, {"e": np.eye(2)})
    (folder / "results.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n')
    np.savez(tmp_path / "ref.npz", e=np.eye(2)[::-1])
    notes = []
    given = {"results": folder, "reference": tmp_path / "ref.npz"}
    run_stage("evaluate", {"metrics": [{"metric": "cosine"}]}, given, tmp_path, notes=notes)
    assert notes[1] == "cosine_min = 0.0000 (over 2 samples; least: a)"


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"e": np.eye(2)}, {"e": np.eye(3)}, r"is \[2, 2\], .* \[3, 3\]; expected one shape"),
        ({"e": np.eye(2), "f": np.eye(2)}, {"e": np.eye(2)}, "found no name, expected a tensor of input tensors: e, f"),
        ({"e": np.eye(2)}, {"a": np.eye(2), "b": np.eye(2)}, "expected a tensor of input reference: a, b"),
        ({"e": np.array([[1], [np.nan]])}, {"e": np.ones((2, 1))}, "has NaN or infinity, first in 1"),
    ],
)
def test_references_that_do_not_fit_are_refused(one, other, message, judge):
    with pytest.raises(StageFailed, match=message):
        judge({"metric": "cosine"}, scores=one, reference=other)
