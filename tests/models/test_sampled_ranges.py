"""A profile from samples: the lengths of the data, rounded outward, so that more of the same data fits."""

from __future__ import annotations

import numpy as np
import pytest

from tests import made
from tests import onnx_models as models
from tests.helpers import as_input, run_stage
from trtpipe.data import tensors
from trtpipe.documents.network import Tensor
from trtpipe.errors import StageFailed
from trtpipe.models import sampled_ranges
from trtpipe.models.sampled_ranges import Sizes

X = Tensor(name="x", dtype="float32", dims=("batch", "time", 2))
MASK = Tensor(name="mask", dtype="float32", dims=("batch", "time"))
BATCH = {"batch": Sizes(1, 4, 8)}


def data(tmp_path, **arrays):
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    tensors.write(folder, arrays)
    return as_input("samples", folder)


def sounds(*lengths):
    return [np.zeros((length, 2), np.float32) for length in lengths]


def measured(given, inputs=(X,), *, names=None, axes=BATCH, multiple_of=None):
    found = sampled_ranges.profile(
        given, inputs, names=names or {}, batch_axis={}, axes=axes, multiple_of=multiple_of
    )  # fmt: skip
    return {name: (list(one.min), list(one.opt), list(one.max)) for name, one in found.profile.items()}, found.told


@pytest.mark.parametrize(
    ("lengths", "multiple_of", "rounded"),
    [
        ((19, 50, 117, 40, 33), None, (16, 64, 128)),
        ((19, 50, 117, 40, 33), 16, (16, 48, 128)),
        ((5, 7), 16, (1, 16, 16)),
        ((16, 16), None, (16, 16, 16)),
        ((1,), None, (1, 1, 1)),
        ((0, 3), None, (0, 4, 4)),
    ],
)
def test_lengths_are_rounded_outward_to_powers_of_two_or_to_multiples(tmp_path, lengths, multiple_of, rounded):
    low, best, high = rounded
    given = data(tmp_path, x=sounds(*lengths))
    found, _ = measured(given, multiple_of=multiple_of)
    assert found == {"x": ([1, low, 2], [4, best, 2], [8, high, 2])}


def test_what_was_measured_is_told(tmp_path):
    _, told = measured(data(tmp_path, x=sounds(19, 50, 117)))
    assert told == "profile from data: time 16 to 128, best 64 (lengths 19 to 117)"


def test_an_input_that_the_data_has_not_takes_the_sizes_of_axes_of_the_same_name(tmp_path):
    found, _ = measured(data(tmp_path, sound=sounds(3, 9)), (X, MASK), names={"x": "sound"})
    assert found["mask"] == ([1, 2], [4, 16], [8, 16])


def test_one_axis_in_two_inputs_has_the_lengths_of_both(tmp_path):
    y = Tensor(name="y", dtype="float32", dims=("batch", "time"))
    found, _ = measured(data(tmp_path, x=sounds(3, 9), y=[np.zeros(2, np.float32), np.zeros(40, np.float32)]), (X, y))
    assert found["x"] == ([1, 2, 2], [4, 16, 2], [8, 64, 2])


def test_arrays_of_one_shape_give_that_shape_rounded(tmp_path):
    found, _ = measured(data(tmp_path, x=np.zeros((3, 5, 2), np.float32)))
    assert found == {"x": ([1, 4, 2], [4, 8, 2], [8, 8, 2])}


@pytest.mark.parametrize(
    ("arrays", "how", "message"),
    [
        ({"x": sounds(3)}, {"axes": {}}, r"does not say how long batch is \(how many.*axes: \{batch: \{min: 1, opt: 8"),
        ({"z": sounds(3)}, {}, r"data \(z\) does not say how long time is; expected in profiles"),
        ({"x": [np.zeros((3, 5), "f4"), np.zeros((4, 2), "f4")]}, {}, r"samples with 2 axes.*\[samples, time, 2\]"),
        ({"x": np.zeros((4, 3), "f4")}, {}, r"found shape \[4, 3\], expected \[samples, time, 2\]"),
        ({"x": np.zeros((0, 3, 2), "f4")}, {}, "data: found no samples, expected at least one"),
        ({"x": sounds(3)}, {"axes": {**BATCH, "tmie": Sizes(1, 1, 1)}}, "found tmie, expected dynamic axes; they"),
        ({"x": sounds(3)}, {"axes": {"batch": Sizes(4, 1, 1)}}, r"axes\.batch: found min 4, opt 1, max 1; expe"),
        ({"x": sounds(3)}, {"names": {"y": "x"}}, r"params\.names\.y: the model's inputs are x"),
    ],
)  # fmt: skip
def test_what_says_no_profile_is_refused_with_the_line_to_write(tmp_path, arrays, how, message):
    with pytest.raises(StageFailed, match=message):
        measured(data(tmp_path, **arrays), **how)


def test_more_data_of_the_same_kind_makes_the_same_config(tmp_path):
    """So the engine of the first data is a hit: the key of a build has what its config holds."""
    proto = models.doubling(["batch", "time"])
    folder = tmp_path / "network"
    models.save(proto, folder / "model.onnx")
    network = made.put(folder, made.described(proto))
    configs = []
    for lengths in ((5, 9, 14), (5, 6, 7, 9, 10, 11, 16)):
        given = data(tmp_path, x=[np.zeros(length, np.float32) for length in lengths])
        params = {"profiles": {"from": "samples", "axes": {"batch": {"min": 1, "opt": 2, "max": 2}}}}
        out = run_stage("configure", params, {"network": network, "samples": given}, tmp_path)
        configs.append((out / "config.json").read_bytes())
    assert configs[0] == configs[1]
    with pytest.raises(StageFailed, match="found from: samples, expected the input samples"):
        run_stage("configure", params, {"network": network}, tmp_path)
    params["profiles"]["values"] = {"x": {"min": [1], "opt": [1], "max": [1]}}
    with pytest.raises(StageFailed, match=r"profiles\.values: found x, expected inputs whose values are sizes"):
        run_stage("configure", params, {"network": network, "samples": given}, tmp_path)
