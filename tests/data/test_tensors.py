"""Batches of several tensors, and what is refused where a tensor must have one shape."""

import numpy as np
import pytest

from tests.helpers import as_input
from trtpipe.data import tensors
from trtpipe.errors import StageFailed


def test_batches_stay_valid_for_as_many_turns_as_copies(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.arange(6, dtype=np.float32))
    source = tensors.open_input(as_input("data", tmp_path / "d.npz"))["x"]
    held = []
    for batch in tensors.batches({"x": source}, 1, copies=3):
        held = [*held, batch["x"]][-3:]
    assert [float(h[0]) for h in held] == [3, 4, 5]


def test_different_numbers_of_rows_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.ones(3), y=np.ones(4))
    found = tensors.open_input(as_input("data", tmp_path / "d.npz"))
    with pytest.raises(StageFailed, match="x 3, y 4"):
        next(tensors.batches(found, 2))


def test_a_ragged_tensor_is_refused_where_one_of_fixed_shape_is_wanted(tmp_path):
    tensors.write(tmp_path, {"x": np.ones(2), "boxes": [np.ones((1, 4)), np.ones((2, 4))]})
    found = tensors.open_input(as_input("data", tmp_path))
    assert tensors.fixed(found["x"]) is found["x"]
    with pytest.raises(StageFailed) as caught:
        tensors.fixed(found["boxes"])
    assert str(caught.value) == (
        f"{tmp_path.name}[boxes]: found a ragged tensor (2 samples, each of a shape of its own), expected one of fixed "
        "shape; pad its samples to one shape and stack them, or leave the tensor out"
    )
