"""Ranges of shapes and of values, as the real builder of TensorRT-RTX gets them."""

from __future__ import annotations

import msgspec
import pytest
from onnx import TensorProto, helper

from tests import made
from tests import onnx_models as models
from tests.backends.trt.rtx import config_for, needs_rtx
from trtpipe.backends.trt import profiles
from trtpipe.documents.config import Values
from trtpipe.errors import StageFailed
from trtpipe.models import signature

pytestmark = needs_rtx


def network(rtx, proto, tmp_path):
    path = models.save(proto, tmp_path / "m.onnx")
    seen = rtx.parse(path)
    described = signature.describe(proto, layers={}, runtime=rtx.name, runtime_version=rtx.version)
    kinds = {b.name: b.shape_input for b in seen.side("input")}
    inputs = tuple(msgspec.structs.replace(one, shape_input=kinds[one.name]) for one in described.inputs)
    return path, msgspec.structs.replace(described, inputs=inputs)


def build(rtx, path, name, shapes, values):
    tmp_path = path.parent
    settings = config_for(rtx, [shapes])
    ranges = {n: Values(min=tuple(low), opt=tuple(best), max=tuple(high)) for n, (low, best, high) in values.items()}
    config = msgspec.structs.replace(settings, profile_values=(ranges,) if ranges else ())
    rtx.build(path, config, tmp_path / name, tmp_path, lambda _: None)
    return (tmp_path / name).read_bytes()


def test_the_parser_says_which_inputs_are_shape_inputs(rtx, tmp_path):
    path = models.save(models.reading(), tmp_path / "m.onnx")
    assert {b.name: b.shape_input for b in rtx.parse(path).side("input")} == {"cache": False, "n": True}


def test_the_builder_gets_the_values_as_they_were_given(rtx, tmp_path, monkeypatch):
    made_profiles, make = [], rtx.library.trt.Builder.create_optimization_profile

    def keep(builder):
        made_profiles.append(make(builder))
        return made_profiles[-1]

    monkeypatch.setattr(rtx.library.trt.Builder, "create_optimization_profile", keep)
    path, _ = network(rtx, models.reading(), tmp_path)
    build(rtx, path, "a.plan", {}, {"n": ([1], [5], [64])})
    assert [list(values) for values in made_profiles[0].get_shape_input("n")] == [[1], [5], [64]]


def test_an_engine_for_other_values_is_another_engine(rtx, tmp_path):
    path, _ = network(rtx, models.reading(), tmp_path)
    one = build(rtx, path, "one.plan", {}, {"n": ([1], [1], [1])})
    assert one != build(rtx, path, "five.plan", {}, {"n": ([5], [5], [5])})


def test_a_shape_input_without_values_is_refused_with_the_line_to_write(rtx, tmp_path):
    _, described = network(rtx, models.reading(), tmp_path)
    with pytest.raises(StageFailed) as told:
        rtx.configure(made.asked(), described)
    assert "takes the values of n [1] for sizes" in str(told.value)
    assert "profiles: [{n: {min: [1], opt: [8], max: [64]}}]" in str(told.value)


def test_a_shape_input_of_unknown_length_is_refused_with_the_way_to_fix_it(rtx, tmp_path):
    proto = models.model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [models.value("x", [4, 4]), models.value("shape", ["count"], TensorProto.INT64)],
        [models.value("y", None)],
    )
    described = made.described(proto)
    marked = [msgspec.structs.replace(one, shape_input=one.name == "shape") for one in described.inputs]
    asked = made.asked(profiles=({},))
    with pytest.raises(StageFailed, match=r"how many there are; fix that in parse: params: \{dims: \{shape: \[2\]\}\}"):
        profiles.check(rtx.library.title, asked, msgspec.structs.replace(described, inputs=tuple(marked)))


@pytest.mark.parametrize("name", ["x[0]", "x*", "x?", "[abc]"])
def test_a_name_with_a_wildcard_in_it_is_a_name(rtx, tmp_path, name):
    proto = models.model(
        [helper.make_node("Add", [name, "xx"], ["y"])],
        [models.value(name, ["n", 4]), models.value("xx", ["m", 4])],
        [models.value("y", ["n", 4])],
    )
    path, _ = network(rtx, proto, tmp_path)
    shapes = {name: {"min": [1, 4], "opt": [2, 4], "max": [4, 4]}, "xx": {"min": [1, 4], "opt": [1, 4], "max": [1, 4]}}
    assert build(rtx, path, "a.plan", shapes, {})
