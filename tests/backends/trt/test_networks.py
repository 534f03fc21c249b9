"""What layers are asked for, on a network that the real TensorRT-RTX has parsed."""

from __future__ import annotations

import pytest

from tests import onnx_models as models
from tests.backends.trt.rtx import needs_rtx
from trtpipe.backends.trt import networks
from trtpipe.errors import StageFailed


class Weak:
    """A parsed network whose layers take a precision, as those of weakly typed networks do."""

    def __init__(self, network):
        self.layers = [Layer(network.get_layer(i)) for i in range(network.num_layers)]
        self.num_layers = len(self.layers)

    def get_layer(self, index):
        return self.layers[index]


class Layer:
    def __init__(self, real):
        self.real, self.precision, self.types = real, None, {}

    def __getattr__(self, name):
        return getattr(self.real, name)

    def set_output_type(self, index, dtype):
        self.types[index] = dtype


@needs_rtx
@pytest.mark.parametrize(("held", "conv", "last"), [([], "half", "half"), (["conv", "norm"], "single", "half")])
def test_products_are_asked_to_be_half_and_what_is_held_to_be_float32(rtx, tmp_path, held, conv, last):
    from polygraphy.backend.trt import network_from_onnx_path

    trt = rtx.library.trt
    parts = network_from_onnx_path(str(models.save(models.folding(), tmp_path / "m.onnx")), strongly_typed=True)
    network = Weak(parts[1])
    networks.ask_for_half(rtx.library, network, "fp16", obeyed=bool(held))
    networks.keep_fp32(rtx.library, network, [], held)
    types = {"half": trt.float16, "single": trt.float32}
    found = {layer.name: layer for layer in network.layers}
    assert (found["conv"].precision, found["last"].precision) == (types[conv], types[last])
    assert found["relu"].precision is None
    assert found["conv"].types == ({0: trt.float32} if held else {})
    with pytest.raises(StageFailed, match="no layer could be kept in float32 for the nodes nobody"):
        networks.keep_fp32(rtx.library, network, ["nobody"])
