import numpy as np
import pytest

from trtpipe.errors import StageFailed
from trtpipe.models import torch_module
from trtpipe.models.torch_module import NamedModule, TensorSpec

IMAGE = TensorSpec(shape=["batch", 3])
MASK = TensorSpec(shape=["batch", "length"], dtype="bool")


def test_axes_are_named_in_the_order_of_the_inputs_names():
    assert torch_module.axes({"b": TensorSpec(shape=["x", "y"]), "a": TensorSpec(shape=["z", 2, "y"])}) == [
        "z",
        "y",
        "x",
    ]


def test_random_values_depend_on_seed_name_and_shape_alone():
    sizes = {"batch": 2, "length": 5}
    alone = torch_module.random_arrays({"image": IMAGE}, sizes, 7)
    both = torch_module.random_arrays({"mask": MASK, "image": IMAGE}, sizes, 7)
    other = torch_module.random_arrays({"image": IMAGE}, sizes, 8)
    assert np.array_equal(alone["image"], both["image"])
    assert not np.array_equal(alone["image"], other["image"])
    assert {n: (a.dtype.name, a.shape) for n, a in both.items()} == {
        "image": ("float32", (2, 3)),
        "mask": ("bool", (2, 5)),
    }


def test_the_dims_of_outputs_follow_from_what_the_sizes_change():
    trials = [{"batch": 2, "length": 2}, {"batch": 3, "length": 2}, {"batch": 2, "length": 3}]
    results = [{"y": np.empty((t["batch"], 4, t["length"], 2 * t["length"]))} for t in trials]
    assert torch_module.output_dims(trials, results) == {"y": ["batch", 4, "length", "y_3"]}
    with pytest.raises(StageFailed, match="output y changes its rank"):
        torch_module.output_dims(trials[:2], [{"y": np.empty(2)}, {"y": np.empty((3, 1))}])


def test_inputs_are_passed_in_the_order_of_forward_and_the_outputs_come_by_name():
    torch = pytest.importorskip("torch")

    class Both(torch.nn.Module):
        def forward(self, mask, image):
            return {"sum": image.sum(), "parts": [image, mask]}

    named = NamedModule.of(Both(), {"image": IMAGE, "mask": MASK}, ["total", "first", "second"], [])
    assert (named.order, named.by_name) == (["mask", "image"], False)
    image, mask = np.ones((2, 3), np.float32), np.zeros((2, 5), bool)
    found = named.run({"image": image, "mask": mask})
    assert found["total"] == 6
    assert np.array_equal(found["first"], image)
    assert np.array_equal(found["second"], mask)
    with pytest.raises(StageFailed, match="found 1 names .* but the module gives 3 tensors"):
        NamedModule.of(Both(), {"image": IMAGE, "mask": MASK}, ["y"], []).run({"image": image, "mask": mask})


def test_a_module_whose_train_forgets_to_return_self_is_in_eval_mode():
    torch = pytest.importorskip("torch")

    class Frozen(torch.nn.Module):
        def train(self, mode=True):
            super().train(mode)

        def forward(self, image):
            return image * (2 if self.training else 1)

    named = NamedModule.of(Frozen(), {"image": IMAGE}, ["y"], [])
    image = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(named.run({"image": image})["y"], image)
