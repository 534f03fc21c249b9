"""Samples are matched with a model's inputs, and random inputs find shapes that run."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests import onnx_models as models
from tests.helpers import as_input
from trtpipe.documents.network import Tensor
from trtpipe.errors import StageFailed
from trtpipe.models import feeding, signature

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'trtpipe[cpu]'")


def entry(name, dims, dtype="float32"):
    return Tensor(name=name, dtype=dtype, dims=tuple(dims))


def samples(tmp_path, inputs, arrays, **more):
    np.savez(tmp_path / "d.npz", **arrays)
    return feeding.samples(as_input("data", tmp_path / "d.npz"), inputs, **more)


def numbers(count):
    return np.arange(count * 2, dtype=np.float32).reshape(count, 2)


def test_samples_are_chosen_evenly_from_first_to_last(tmp_path):
    found = samples(tmp_path, [entry("x", ["n", 2])], {"x": numbers(9)}, most=3)
    assert [feed["x"].tolist() for feed in found] == [[[0, 1]], [[8, 9]], [[16, 17]]]
    assert (found.total, found.count, found.runs) == (9, 3, 3)


def test_samples_of_many_lengths_are_fed_one_by_one(tmp_path):
    arrays = {"x.values": numbers(2)[0], "x.offsets": np.array([0, 2, 2]), "x.shapes": np.array([[2], [0]])}
    found = samples(tmp_path, [entry("x", ["n", "time"])], arrays)
    assert [feed["x"].tolist() for feed in found] == [[[0, 1]], [[]]]


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (["n", 2], r"d\.npz\[x\]: found shape \[0\] for sample 1, expected \[samples, 2\]"),
        (["n", "time", 2], r"d\.npz\[x\]: found samples with 1 axes, expected \[samples, time, 2\]"),
        ([4, "time"], r"found a ragged tensor, whose samples are fed one by one.*the model's batch is fixed at 4"),
    ],
)
def test_samples_of_many_lengths_that_do_not_fit_are_refused(tmp_path, dims, message):
    arrays = {"x.values": numbers(2)[0], "x.offsets": np.array([0, 2, 2]), "x.shapes": np.array([[2], [0]])}
    with pytest.raises(StageFailed, match=message):
        samples(tmp_path, [entry("x", dims)], arrays, batch_axis={"x": 0})


def test_a_fixed_batch_gathers_samples_and_drops_the_rest(tmp_path):
    found = samples(tmp_path, [entry("x", [4, 2])], {"x": numbers(10)}, batch_axis={"x": 0})
    assert [feed["x"].shape for feed in found] == [(4, 2), (4, 2)]


def test_one_fixed_batch_is_its_samples(tmp_path):
    found = samples(tmp_path, [entry("x", [4, 2])], {"x": numbers(4)})
    assert [feed["x"].shape for feed in found] == [(4, 2)]


def test_one_fixed_batch_beside_a_constant_is_its_samples(tmp_path):
    inputs = [entry("x", [4, 2]), entry("y", [4, 2]), entry("k", [7])]
    found = samples(tmp_path, inputs, {"x": numbers(4), "y": numbers(4), "k": np.ones(7, "f4")})
    assert [{n: a.shape for n, a in feed.items()} for feed in found] == [{"x": (4, 2), "y": (4, 2), "k": (7,)}]


def test_a_state_beside_the_samples_is_fed_whole_and_a_scalar_stays(tmp_path):
    inputs = [entry("x", ["n", 2]), entry("state", [2, "n", 3]), entry("rate", [], "int64")]
    arrays = {"x": numbers(3)[:, None], "state": np.zeros((3, 2, 1, 3), np.float32), "rate": np.array(16000)}
    feeds = list(samples(tmp_path, inputs, arrays))
    assert [f["x"].shape for f in feeds] == [(1, 2)] * 3
    assert [f["state"].shape for f in feeds] == [(2, 1, 3)] * 3
    assert {int(f["rate"]) for f in feeds} == {16000}


def test_a_scalar_a_sample_is_fed_as_an_array_without_axes(tmp_path):
    found = samples(tmp_path, [entry("x", ["n", 2]), entry("k", [])], {"x": numbers(3), "k": np.ones(3, "f4")})
    assert [(type(feed["k"]), feed["k"].shape) for feed in found] == [(np.ndarray, ())] * 3


def test_a_name_of_no_input_is_an_error(tmp_path):
    with pytest.raises(StageFailed, match=r"params.names.nosuch: the model's inputs are x"):
        samples(tmp_path, [entry("x", ["n", 2])], {"x": numbers(3)}, names={"nosuch": "x"})


def test_samples_are_picked_by_their_place(tmp_path):
    found = samples(tmp_path, [entry("x", ["n", 2])], {"x": numbers(9)}).pick([7, 2, 99])
    assert [feed["x"][0, 0] for feed in found] == [4, 14]


@pytest.mark.parametrize(
    ("inputs", "arrays", "message"),
    [
        ([entry("x", ["n", 2])], {"y": numbers(2)}, r"has no x for the input x; it has y. params.names says"),
        ([entry("x", ["n", 2])], {"x": numbers(2).astype(np.float16)}, "found float16, expected float32"),
        ([entry("x", ["n", 3])], {"x": numbers(2)}, r"found shape \[2, 2\], expected \[samples, 3\]"),
        ([entry("x", ["n", 2]), entry("z", ["n", 2])], {"x": numbers(2), "z": numbers(3)}, "differ in their number"),
        ([entry("x", [4, 2]), entry("z", [4, 2])], {"x": numbers(20), "z": numbers(4)}, "x.* 20, .*z.* 4"),
        ([entry("x", [4, 2])], {"x": numbers(3)}, "found 3 samples, expected at least 4: the model's batch is fixed"),
    ],
)
def test_data_that_does_not_fit_says_what_was_found_and_expected(tmp_path, inputs, arrays, message):
    said = {one.name: 0 for one in inputs if one.dims[0] == 4}
    with pytest.raises(StageFailed, match=message):
        samples(tmp_path, inputs, arrays, batch_axis=said)


def test_a_fixed_axis_without_a_name_is_no_batch_of_itself(tmp_path):
    with pytest.raises(
        StageFailed, match=r"x \[4, 2\] names no batch: if axis 0 is one, write params\.batch_axis: \{x: 0\}"
    ):
        samples(tmp_path, [entry("x", [4, 2])], {"x": numbers(8)})


def test_samples_come_first_wherever_the_network_has_its_batch(tmp_path):
    inputs = [entry("x", ["time", "batch", 2]), entry("h", [3, "batch", 2])]
    arrays = {"x": np.arange(20, dtype="f4").reshape(2, 5, 2), "h": np.zeros((2, 3, 2), "f4")}
    feeds = list(samples(tmp_path, inputs, arrays))
    assert [(f["x"].shape, f["h"].shape) for f in feeds] == [((5, 1, 2), (3, 1, 2))] * 2
    np.testing.assert_array_equal(feeds[1]["x"][:, 0], arrays["x"][1])


def test_one_value_for_all_samples_is_fed_to_each(tmp_path):
    inputs = [entry("x", ["batch", 2]), entry("h", [3, "batch", 2])]
    feeds = list(samples(tmp_path, inputs, {"x": numbers(2), "h": np.ones((3, 1, 2), "f4")}))
    assert [f["h"].shape for f in feeds] == [(3, 1, 2)] * 2


def test_sizes_that_nobody_says_are_guessed_until_one_runs(tmp_path):
    weights = {"w": np.ones((64, 2), np.float32)}
    proto = models.model([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], [models.value("x", ["n", "k"])],
                         [models.value("y", ["n", 2])], weights)  # fmt: skip
    inputs, _ = signature.of(proto)
    assert feeding.random_feeds(proto, inputs)[0]["x"].shape == (1, 64)


def test_made_up_ids_are_rows_of_their_table_and_masks_are_ones(tmp_path):
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="look"),
        helper.make_node("Unsqueeze", ["attention_mask", "last"], ["wide"], name="wide"),
        helper.make_node("Mul", ["rows", "wide"], ["y"], name="mask"),
    ]
    ends = [models.value("ids", ["n", 50], 7), models.value("attention_mask", ["n", 50])]
    weights = {"table": np.ones((30, 2), np.float32), "last": np.array([2])}
    proto = models.model(nodes, ends, [models.value("y", ["n", 50, 2])], weights)
    inputs, _ = signature.of(proto)
    for feed in feeding.random_feeds(proto, inputs):
        assert feed["attention_mask"].min() == feed["attention_mask"].max() == 1
        assert 15 < feed["ids"].max() < 30
    assert feeding.told(proto, inputs) == "seeded random inputs (attention_mask of ones, ids below 30)"
