"""compare: figures by hand, gates, the worst samples, and the first node that goes wrong."""

from __future__ import annotations

import json

import ml_dtypes
import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests import onnx_models as models
from tests.helpers import run_stage
from trtpipe.data import tensors
from trtpipe.errors import GateFailed, PipelineInvalid, StageFailed
from trtpipe.models import comparing
from trtpipe.models.comparing import Tolerance, mismatches
from trtpipe.stages.compare import CompareParams

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")
RIGHT = np.array([[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]], np.float32)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def compare(tmp_path, candidate, reference=RIGHT, notes=None, extra=None, **params):
    inputs = {"candidate": save(tmp_path / "c.npz", y=candidate), **(extra or {})}
    if reference is not None:
        inputs["reference"] = save(tmp_path / "r.npz", y=reference)
    out = run_stage("compare", params, inputs, tmp_path, notes=notes)
    return json.loads((out / "comparison.json").read_text())


def test_figures_are_what_one_computes_by_hand(tmp_path):
    wrong = RIGHT + np.array([[0, 0, 0], [0, 0, 1]], np.float32)
    found = compare(tmp_path, wrong, top_k=1)["outputs"]["y"]
    assert found["max_abs"] == 1
    assert found["mean_abs"] == pytest.approx(1 / 6)
    assert found["relative_l2"] == pytest.approx(1 / np.sqrt(9 + 25))
    cosine = (9 + 20) / (5 * np.sqrt(9 + 25))
    assert found["cosine_min"] == pytest.approx(cosine)
    assert found["cosine"] == pytest.approx((1 + cosine) / 2)
    assert found["psnr"] == pytest.approx(20 * np.log10(4) - 10 * np.log10(1 / 6))
    assert found["mismatched"] == pytest.approx(1 / 6)
    assert found["nan"] == 0
    assert found["top1_agreement"] == 1


def test_equal_outputs_agree_in_everything(tmp_path):
    found = compare(tmp_path, RIGHT)["metrics"]
    assert found["y.psnr"] == comparing.EQUAL_DB
    assert (found["cosine_min"], found["relative_l2"], found["mismatched"]) == (1, 0, 0)


def ragged(*samples):
    flat = [np.asarray(s, np.float32) for s in samples]
    return {"y.values": np.concatenate(flat), "y.offsets": np.cumsum([0, *(s.size for s in flat)]),
            "y.shapes": np.array([s.shape for s in flat])}  # fmt: skip


def test_the_reference_takes_samples_of_many_lengths(tmp_path):
    path = models.save(models.doubling(["batch", "time"]), tmp_path / "m.onnx")
    folder = tmp_path / "data"
    folder.mkdir()
    tensors.write(folder, {"x": [np.arange(n, dtype=np.float32) for n in (2, 5, 1)]})
    candidate = save(tmp_path / "c.npz", **ragged([0, 2], [0, 2, 4, 6, 8], [0]))
    inputs = {"candidate": candidate, "model": path, "data": folder}
    out = run_stage("compare", {}, inputs, tmp_path)
    found = json.loads((out / "comparison.json").read_text())
    assert (found["samples"], found["metrics"]["shapes"], found["metrics"]["max_abs"]) == (3, 0, 0)


def test_boxes_that_a_model_selects_in_a_fixed_batch_are_split_by_their_column(tmp_path):
    nodes = [helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["y"], name="nms")]
    ends = [models.value("boxes", [2, 2, 4]), models.value("scores", [2, 1, 2])], [models.value("y", ["n", 3], 7)]
    path = models.save(models.model(nodes, *ends, {"most": np.array([1])}), tmp_path / "m.onnx")
    boxes = np.tile(np.array([[0, 0, 1, 1], [5, 5, 6, 6]], np.float32), (2, 1, 1))
    scores = np.array([[[0.9, 0.1]], [[0.1, 0.9]]], np.float32)
    data = save(tmp_path / "d.npz", boxes=boxes, scores=scores)
    candidate = save(tmp_path / "c.npz", y=np.array([[[0, 0, 0]], [[0, 0, 1]]]))
    inputs = {"candidate": candidate, "model": path, "data": data}
    params = {"batch_axis": {"boxes": 0, "scores": 0}}
    with pytest.raises(StageFailed, match="or split_by as in allocate if a column has the sample's number"):
        run_stage("compare", params, inputs, tmp_path)
    with pytest.raises(StageFailed, match="split_by: found z, expected outputs of the reference model; they are y"):
        run_stage("compare", {**params, "split_by": {"tensor": "z", "column": 0}}, inputs, tmp_path)
    params["split_by"] = {"tensor": "y", "column": 0}
    out = run_stage("compare", params, inputs, tmp_path)
    assert json.loads((out / "comparison.json").read_text())["metrics"]["max_abs"] == 0


def test_ragged_outputs_are_compared_sample_by_sample(tmp_path):
    right = save(tmp_path / "r.npz", **ragged([1, 2], [], [3, 4, 0]))
    wrong = save(tmp_path / "c.npz", **ragged([1, 2], [], [3, 5, 0]))
    out = run_stage("compare", {}, {"candidate": wrong, "reference": right}, tmp_path)
    found = json.loads((out / "comparison.json").read_text())
    assert (found["metrics"]["max_abs"], found["metrics"]["shapes"], found["samples"]) == (1, 0, 3)
    assert found["metrics"]["relative_l2"] == pytest.approx(1 / np.sqrt(30))
    assert found["worst"][0]["index"] == 2


def test_samples_of_another_shape_fail_the_run_unless_there_is_a_rule(tmp_path):
    inputs = {
        "candidate": save(tmp_path / "c.npz", **ragged([1, 2], [3])),
        "reference": save(tmp_path / "r.npz", **ragged([1, 2], [3, 4])),
    }
    with pytest.raises(GateFailed, match=r"1 samples have another shape on one side \(most different: sample 1"):
        run_stage("compare", {}, inputs, tmp_path)
    out = run_stage("compare", {"require": {"shapes": "<= 1"}}, inputs, tmp_path)
    found = json.loads((out / "comparison.json").read_text())
    assert (found["metrics"]["shapes"], found["metrics"]["max_abs"]) == (1, 0)
    with pytest.raises(StageFailed, match=r"2 samples of 1 axes, .* 1 samples of 1 axes; expected the same"):
        run_stage("compare", {}, {**inputs, "reference": save(tmp_path / "s.npz", y=RIGHT[:1])}, tmp_path)


def test_the_whole_takes_the_worst_of_its_outputs(tmp_path):
    inputs = {
        "candidate": save(tmp_path / "c.npz", a=RIGHT, b=RIGHT + 1),
        "reference": save(tmp_path / "r.npz", a=RIGHT, b=RIGHT),
    }
    out = run_stage("compare", {"require": {"a.max_abs": "== 0", "max_abs": "<= 1"}}, inputs, tmp_path)
    metrics = json.loads((out / "comparison.json").read_text())["metrics"]
    assert (metrics["max_abs"], metrics["a.max_abs"], metrics["b.max_abs"]) == (1, 0, 1)
    assert metrics["cosine"] == metrics["b.cosine"] < 1


def test_a_broken_rule_fails_the_run_and_names_the_sample_that_differs_most(tmp_path):
    wrong = RIGHT + np.array([[0, 0, 0], [0, 0, 1]], np.float32)
    message = r"relative_l2 = 0.171499, but require says <= 0.1 \(most different: sample 1, output y\)"
    with pytest.raises(GateFailed, match=message):
        compare(tmp_path, wrong, require={"relative_l2": "<= 0.1"})
    (written,) = tmp_path.glob("stage-*/out/comparison.json")
    assert json.loads(written.read_text())["require"]["relative_l2"]["passed"] is False


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_on_one_side_alone_never_passes(tmp_path, bad):
    wrong = RIGHT.copy()
    wrong[0, 1] = bad
    with pytest.raises(GateFailed, match="1 values are NaN or infinite on one side alone"):
        compare(tmp_path, wrong)


def test_infinities_that_the_reference_has_too_are_equal(tmp_path):
    mask = RIGHT.copy()
    mask[0] = [-np.inf, np.nan, 1]
    assert compare(tmp_path, mask, mask)["metrics"]["nan"] == 0


def test_the_samples_that_differ_most_come_first_by_their_ids(tmp_path):
    reference = np.ones((5, 2), np.float32)
    candidate = reference + np.array([[0], [0.3], [0.1], [0.5], [0]], np.float32)
    found = compare(tmp_path, candidate, reference, worst=2)["worst"]
    assert [(e["id"], e["index"]) for e in found] == [("3", 3), ("1", 1)]
    assert found[0]["relative_l2"] == pytest.approx(0.5)


def test_the_two_tolerance_formulas_differ_where_they_say(tmp_path):
    # Off by 1 % of a small value: beyond rtol, within atol.
    reference, candidate = np.array([[0.001, 100]]), np.array([[0.00101, 100]])
    for formula, atol, expected in (("allclose", 0, 0.5), ("both", 1e-4, 0.0), ("both", 1e-6, 0.5)):
        found = compare(tmp_path, candidate, reference, formula=formula, rtol=1e-3, atol=atol)
        assert found["metrics"]["mismatched"] == expected
        assert found["tolerance"]["formula"] == formula


FLOATS = st.floats(-1e6, 1e6, width=32) | st.just(np.nan)


@settings(deadline=None)
@given(
    st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=20),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_mismatches_agree_with_numpys_allclose(pairs, rtol, atol):
    c, r = (np.array([p[i] for p in pairs]) for i in (0, 1))
    beyond = mismatches(c, r, Tolerance(rtol, atol, "allclose"))
    assert (beyond == ~np.isclose(c, r, rtol=rtol, atol=atol, equal_nan=True)).all()


def test_without_a_reference_onnxruntime_runs_the_model_on_the_data(tmp_path):
    from trtpipe.models import ort_cpu

    path = models.save(models.conv(), tmp_path / "model.onnx")
    data = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
    made = ort_cpu.run(path, {"image": data})["logits"]
    inputs = {"model": path, "data": save(tmp_path / "d.npz", image=data),
              "candidate": save(tmp_path / "c.npz", logits=made)}  # fmt: skip
    out = run_stage("compare", {"require": {"relative_l2": "<= 1e-5"}}, inputs, tmp_path)
    assert json.loads((out / "comparison.json").read_text())["samples"] == 5


def fixed(rows, count, seed=0):
    """A model with a fixed batch, and data of some other number of samples."""
    weights = {"m": np.random.default_rng(1).standard_normal((6, 6)).astype(np.float32)}
    node = onnx.helper.make_node("MatMul", ["x", "m"], ["y"], name="m")
    proto = models.model([node], [models.value("x", [rows, 6])], [models.value("y", [rows, 6])], weights)
    return proto, weights["m"], np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)


@pytest.mark.parametrize("count", [4, 8, 10])
def test_a_fixed_batch_that_the_last_samples_do_not_fill_is_no_trouble(tmp_path, count):
    proto, weight, data = fixed(4, count)
    inputs = {"model": models.save(proto, tmp_path / "m.onnx"), "data": save(tmp_path / "d.npz", x=data)}
    found = compare(tmp_path, data @ weight, None, extra=inputs, batch_axis={"x": 0, "y": 0})
    assert found["samples"] == count
    assert found["metrics"]["relative_l2"] < 1e-6


@pytest.mark.parametrize(
    ("count", "said", "message"),
    [
        (8, {}, r"x \[4, 6\] names no batch: if axis 0 is one, write params\.batch_axis: \{x: 0, y: 0\}"),
        (8, {"x": 0}, r"nothing says which axis of y they lie along; expected in params: batch_axis: \{y: 0\}"),
        (4, {}, r"\[1, 4, 6\]; expected the same; batch_axis of the model's tensors must be the same here and in"),
    ],
)
def test_a_fixed_batch_without_a_name_is_asked_for(tmp_path, count, said, message):
    proto, weight, data = fixed(4, count)
    inputs = {"model": models.save(proto, tmp_path / "m.onnx"), "data": save(tmp_path / "d.npz", x=data)}
    with pytest.raises(StageFailed, match=message):
        compare(tmp_path, data @ weight, None, extra=inputs, batch_axis=said)


def test_outputs_that_only_the_reference_has_are_named(tmp_path):
    notes = []
    both = {"candidate": save(tmp_path / "c.npz", y=RIGHT), "reference": save(tmp_path / "r.npz", y=RIGHT, z=RIGHT)}
    run_stage("compare", {}, both, tmp_path, notes=notes)
    assert "not compared: z, which only the reference has" in notes


def test_large_integers_that_differ_by_one_differ(tmp_path):
    right = np.array([[2**53, -(2**63)]], np.int64)
    found = compare(tmp_path, right + np.array([[1, 0]]), right, atol=0.0, rtol=0.0)["metrics"]
    assert (found["mismatched"], found["max_abs"]) == (0.5, 1)


def test_values_whose_squares_are_beyond_float64_are_refused(tmp_path):
    with pytest.raises(StageFailed, match="values of 1e\\+200 are too large"):
        compare(tmp_path, np.full((2, 3), 1e200), np.full((2, 3), 1e199))


def test_outputs_of_nothing_but_nan_are_like_nothing(tmp_path):
    with pytest.raises(GateFailed, match="cosine = 0"):
        compare(tmp_path, RIGHT * np.nan, require={"nan": "<= 100", "cosine": "> 0.9"})


@pytest.mark.parametrize(
    ("candidate", "reference", "message"),
    [
        (RIGHT[:1], RIGHT, r"is \[1, 3\], .* \[2, 3\]; expected the same"),
        (RIGHT[:0], RIGHT[:0], "nothing to compare"),
        (RIGHT, None, "found no input reference, expected it, or model and data"),
    ],
)
def test_what_cannot_be_compared_says_so(tmp_path, candidate, reference, message):
    with pytest.raises(StageFailed, match=message):
        compare(tmp_path, candidate, reference)


def test_outputs_of_other_names_are_paired_by_params(tmp_path):
    inputs = {"candidate": save(tmp_path / "c.npz", a=RIGHT), "reference": save(tmp_path / "r.npz", b=RIGHT)}
    with pytest.raises(StageFailed, match="the reference has no a; it has b"):
        run_stage("compare", {}, inputs, tmp_path)
    run_stage("compare", {"names": {"a": "b"}}, inputs, tmp_path)
    with pytest.raises(StageFailed, match="the candidate has no x; it has a"):
        run_stage("compare", {"names": {"a": "b", "x": "b"}}, inputs, tmp_path)


def test_a_gate_on_a_figure_that_nothing_makes_is_found_before_the_run():
    def found(**params):
        return list(msgspec.convert(params, CompareParams).problems())

    assert found(require={"cosin": "> 1"})[0][1].endswith("did you mean cosine?")
    assert found(require={"top1_agreement": "> 0.9"})[0][0] == "require.top1_agreement"
    assert found(top_k=1, require={"logits.top1_agreement": "> 0.9"}) == []


def test_a_gate_on_an_output_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(PipelineInvalid, match=r"require.logits.max_abs: found logits.max_abs, .* one of .*y.max_abs"):
        compare(tmp_path, RIGHT, require={"logits.max_abs": "<= 1"})


def test_agreement_needs_an_output_with_classes(tmp_path):
    with pytest.raises(StageFailed, match=r"top_k: no output is \[samples, more than 5 classes\]"):
        compare(tmp_path, RIGHT, top_k=5)


# -- bisect ------------------------------------------------------------------------------------------------------


def broken(node="head"):
    """The small classifier with a wrong weight in one place."""
    proto = models.conv()
    weight = {"head": "head", "conv": "w"}[node]
    for tensor in proto.graph.initializer:
        if tensor.name == weight:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), weight))
    return proto


@pytest.mark.parametrize("node", ["head", "conv"])
@pytest.mark.parametrize("with_data", [True, False])
def test_bisect_names_the_first_node_that_goes_wrong(tmp_path, node, with_data):
    given = {
        "model": models.save(models.conv(), tmp_path / "right.onnx"),
        "candidate_model": models.save(broken(node), tmp_path / "wrong.onnx"),
    }
    if with_data:
        rows = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
        given["data"] = save(tmp_path / "d.npz", image=rows)
    notes = []
    found = compare(tmp_path, RIGHT, extra=given, bisect=True, notes=notes)["bisect"]
    assert found["first"]["node"] == node
    assert found["compared"] == 6
    assert any(note.startswith(f"bisect: the first node beyond 0.01 is {node} [") for note in notes)


@pytest.mark.parametrize(("rows", "worst"), [("n", 5), ("n", 0), (4, 5)])
def test_bisect_runs_on_the_samples_that_differ_most(tmp_path, rows, worst):
    """Only the second of eight samples is too large for the factor that the candidate has in place of 1."""

    def scaled(factor):
        weights = {"f": np.array([factor], np.float32), "m": np.eye(6, dtype=np.float32)}
        nodes = [onnx.helper.make_node("Mul", ["x", "f"], ["g"], name="grow"),
                 onnx.helper.make_node("Mul", ["g", "g"], ["s"], name="square"),
                 onnx.helper.make_node("MatMul", ["s", "m"], ["y"], name="last")]  # fmt: skip
        return models.model(nodes, [models.value("x", [rows, 6])], [models.value("y", [rows, 6])], weights)

    data = np.ones((8, 6), np.float32)
    data[1] = 1e15
    given = {
        "model": models.save(scaled(1.0), tmp_path / "right.onnx"), "data": save(tmp_path / "d.npz", x=data),
        "candidate_model": models.save(scaled(1e6), tmp_path / "wrong.onnx"),
    }  # fmt: skip
    with np.errstate(over="ignore"):
        made = (data * np.float32(1e6)) ** 2
    notes = []
    with pytest.raises(GateFailed):
        compare(tmp_path, made, None, extra=given, bisect=True, bound=1e12, worst=worst, notes=notes,
                batch_axis={"x": 0, "y": 0} if rows == 4 else {})  # fmt: skip
    assert any("is square [Mul], 6 values not finite on s" in note for note in notes), notes


def test_bisect_finds_nothing_between_equal_models(tmp_path):
    path = models.save(models.conv(), tmp_path / "right.onnx")
    found = compare(tmp_path, RIGHT, extra={"model": path, "candidate_model": path}, bisect=True)["bisect"]
    assert (found["first"], found["jump"]) == (None, None)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_bisect_reads_rewritten_models(tmp_path, precision):
    from trtpipe.models import onnxfile, signature
    from trtpipe.models.precision import rewrite

    path = models.save(models.conv(), tmp_path / "right.onnx")
    inputs, _ = signature.of(onnxfile.load(path))
    rewrite(path, tmp_path / "half.onnx", precision, inputs=inputs)
    given = {"model": path, "candidate_model": tmp_path / "half.onnx"}
    found = compare(tmp_path, RIGHT, extra=given, bisect=True, bound=1e-9)["bisect"]
    assert found["first"]["node"] == "conv"
    assert found["first"]["relative_l2"] < 0.02


def test_inputs_that_are_asked_for_and_not_given_are_found_before_the_run():
    def missing(ports, **params):
        return [path for path, _ in msgspec.convert(params, CompareParams).missing(ports)]

    assert missing({"candidate", "reference"}) == missing({"candidate", "model", "data"}) == []
    assert missing({"candidate", "model"}) == ["inputs"]
    assert missing({"candidate", "reference", "model"}, bisect=True) == ["params.bisect"]


def test_bisect_without_its_models_or_with_strangers_says_so(tmp_path):
    with pytest.raises(StageFailed, match="bisect needs the inputs model .* and candidate_model"):
        compare(tmp_path, RIGHT, bisect=True)
    path = models.save(models.conv(), tmp_path / "right.onnx")
    other = onnx.ModelProto()
    other.CopyFrom(models.doubling([2, 3]))
    given = {"model": path, "candidate_model": models.save(other, tmp_path / "other.onnx")}
    with pytest.raises(StageFailed, match="share no tensor by name"):
        compare(tmp_path, RIGHT, extra=given, bisect=True)


def test_the_table_fits_a_terminal_by_giving_each_output_a_column(tmp_path):
    name = "an_output_with_a_rather_long_name"
    given = {
        "candidate": save(tmp_path / "c.npz", **{name: RIGHT + np.float32(0.5)}),
        "reference": save(tmp_path / "r.npz", **{name: RIGHT}),
    }
    out = run_stage("compare", {"top_k": 1}, given, tmp_path)
    lines = (out / "table.txt").read_text("utf-8").splitlines()
    assert [line.split() for line in lines[:3]] == [["output", name], ["max_abs", "0.5"], ["mean_abs", "0.5"]]
    assert max(map(len, lines[: lines.index("")])) <= 80


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "int4"])
def test_types_that_numpy_lacks_are_numbers_too(tmp_path, kind):
    dtype = getattr(ml_dtypes, kind)
    folders = []
    for name, last in (("c", 3), ("r", 4)):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        tensors.write(folders[-1], {"y": np.array([[1, 2], [-1, last]]).astype(dtype)})
    out = run_stage("compare", {}, {"candidate": folders[0], "reference": folders[1]}, tmp_path)
    found = json.loads((out / "comparison.json").read_text())["outputs"]["y"]
    assert (found["max_abs"], found["relative_l2"]) == (1, pytest.approx(1 / np.sqrt(22)))
