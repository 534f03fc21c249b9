"""The inspector's JSON, as TensorRT 8.6 and 10 write it, reduced to a table and to what can be compared."""

from __future__ import annotations

import json

import msgspec

from trtpipe.backends.trt import proof
from trtpipe.backends.trt.proof import table
from trtpipe.documents import files
from trtpipe.documents.layers import LayerOutput


def written(document):
    return json.loads(files.encode(document))


def layer(text, **more):
    return {"Name": "l", "Outputs": [{"Name": "o", "Format/Datatype": text}], **more}


def test_layers_are_counted_by_the_type_of_what_they_make():
    proven = table(
        json.dumps(
            {
                "Layers": [
                    layer("Row major linear FP32"),
                    layer("Channel major FP16 format where channel % 8 == 0", Weights={"Type": "Half", "Count": 10}),
                    layer("Two wide channel vectorized row major FP16 format", Bias={"Type": "Float", "Count": 3}),
                    layer("Half"),
                    layer("BFloat16"),
                    layer("Row major Int8 format"),
                    layer("Int64"),
                    {"Name": "empty", "Outputs": []},
                ],
                "Bindings": ["x", "o"],
            }
        )
    )
    assert msgspec.to_builtins(proven) == {
        "status": "proven",
        "source": "the engine inspector",
        "layers": {"bfloat16": 1, "float16": 3, "float32": 1, "int64": 1, "int8": 1, "none": 1},
        "weight_bytes": {"float16": 20, "float32": 12},
    }


def test_names_alone_prove_nothing():
    assert table(json.dumps({"Layers": ["conv + relu", "gemm"], "Bindings": []})).status == "unproven"
    assert "verbosity: detailed" in table(json.dumps({"Layers": []})).why


def io(name, text):
    return {"Name": name, "Location": "Device", "Dimensions": [8, 32, 64, 64], "Format/Datatype": text}


GEMM = "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize64x32x64_stage5_kernel_trt"
EIGHT = "Channel major FP16 format where channel % 8 == 0"
NO_TACTICS = "the plan tells no tactics: configure with verbosity: detailed"


def conv_8(tactic=GEMM, value="0x9cb304e2edbc1221", name="conv1 + relu1", made=EIGHT):
    """A layer as TensorRT 8.6 writes it for a plan of detailed verbosity."""
    return {
        "Name": name, "LayerType": "CaskConvolution", "Inputs": [io("image", "Row major linear FP32")],
        "Outputs": [io("x", made)], "ParameterType": "Convolution", "Kernel": [3, 3],
        "PaddingMode": "kEXPLICIT_ROUND_DOWN", "PrePadding": [1, 1], "PostPadding": [1, 1], "Stride": [1, 1],
        "Dilation": [1, 1], "OutMaps": 32, "Groups": 1, "Weights": {"Type": "Half", "Count": 864},
        "Bias": {"Type": "Half", "Count": 32}, "HasSparseWeights": 0, "HasDynamicFilter": 0, "HasDynamicBias": 0,
        "HasResidual": 0, "ConvXAsActInputIdx": -1, "BiasAsActInputIdx": -1, "ResAsActInputIdx": -1,
        "Activation": "RELU", "HasBias": 1, "HasReLU": 1, "TacticName": tactic, "TacticValue": value, "StreamId": 0,
        "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
    }  # fmt: skip


REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to conv1 + relu1", "LayerType": "Reformat",
    "Inputs": [io("image", "Row major linear FP32")],
    "Outputs": [io("Reformatted Input Tensor 0", "Four wide channel vectorized row major FP32 format")],
    "ParameterType": "Reformat", "Origin": "REFORMAT", "TacticValue": "0x00000000000003e8", "StreamId": 0,
    "Metadata": "",
}  # fmt: skip


def kernel_10(name="__myl_FcAddRelu_myl0_1", tactic="__myl_FcAddRelu_0x3c4f61a0b2d9e87744c1f0a5d3b2e190"):
    """A layer as TensorRT 10 writes it for what Myelin made."""
    return {
        "Name": name, "LayerType": "kgen",
        "Inputs": [{"Name": "__mye45", "Dimensions": [8, 64], "Format/Datatype": "Half"}],
        "Outputs": [{"Name": "logits", "Dimensions": [8, 5], "Format/Datatype": "Float"}],
        "TacticName": tactic, "StreamId": 0, "Metadata": "[ONNX Layer: fc]",
    }  # fmt: skip


def said(*layers, names="Bindings"):
    # The inspector writes control characters as they are, which is no JSON by the book.
    text = json.dumps({"Layers": list(layers), names: ["image", "logits"]})
    return text.replace("\\u001e", "\x1e")


def test_of_each_layer_what_it_is_and_computes_by_is_kept():
    found = written(proof.layers(said(REFORMAT, conv_8())))
    assert found["detail"] == "detailed"
    assert found["layers"] == [
        {
            "name": "Reformatting CopyNode for Input Tensor 0 to conv1 + relu1", "type": "Reformat",
            "tactic_value": "0x00000000000003e8",
            "outputs": [{"type": "float32", "format": "Four wide channel vectorized row major FP32 format"}],
        },
        {
            "name": "conv1 + relu1", "type": "CaskConvolution", "tactic": GEMM,
            "tactic_value": "0x9cb304e2edbc1221",
            "outputs": [{"type": "float16", "format": "Channel major FP16 format where channel % 8 == 0"}],
        },
    ]  # fmt: skip
    ten = written(proof.layers(said(kernel_10(), names="I/O Tensors")))["layers"]
    assert ten == [
        {
            "name": "__myl_FcAddRelu_myl0_1", "type": "kgen",
            "tactic": "__myl_FcAddRelu_0x3c4f61a0b2d9e87744c1f0a5d3b2e190",
            "outputs": [{"type": "float32", "format": "Float"}],
        }
    ]  # fmt: skip
    apart = {"Name": "l", "Outputs": [{"Name": "o", "Format": "Row major linear", "Datatype": "FP16"}]}
    assert proof.layers(said(apart)).layers[0].outputs == (
        LayerOutput(type="float16", format="Row major linear, FP16"),
    )
    assert table(said(apart)).layers == {"float16": 1}


def test_addresses_that_a_process_makes_up_are_no_part_of_a_name():
    made = [
        proof.layers(said(conv_8(name=f"copy of {where} [profile 1]")))
        for where in ("0x7f30a4c01200", "0x55d0c2a3fe40")
    ]
    assert made[0] == made[1]
    assert made[0].layers[0].name == "copy of … [profile 1]"
    assert made[0].layers[0].tactic_value == "0x9cb304e2edbc1221"


def compared(old, new, at_most=5):
    return proof.compared(proof.layers(old), proof.layers(new), at_most)


def test_engines_of_the_same_layers_are_said_to_be():
    assert compared(said(REFORMAT, conv_8()), said(conv_8(), REFORMAT)) == (
        "layers: 2, all with the same tactics, types and formats",
    )


def test_each_layer_with_another_tactic_is_named():
    new = said(REFORMAT, conv_8("sm80_other_kernel", "0x1111111111111111"), kernel_10(tactic="b"))
    assert compared(said(REFORMAT, conv_8(), kernel_10(tactic="a")), new) == (
        "layers: 3, 2 with another tactic",
        f"layer conv1 + relu1: tactic {GEMM} (0x9cb304e2edbc1221) → sm80_other_kernel (0x1111111111111111)",
        "layer __myl_FcAddRelu_myl0_1: tactic a → b",
    )
    other = {**REFORMAT, "TacticValue": "0x0000000000000000"}
    assert compared(said(REFORMAT), said(other))[1].endswith(": tactic 0x00000000000003e8 → 0x0000000000000000")


def test_other_types_formats_and_fusions_are_named_and_the_list_ends():
    old = said(conv_8(), conv_8(name="conv2"), conv_8(name="conv3 + add"))
    new = said(conv_8(made="Row major linear FP32"), conv_8(name="conv2"), conv_8("a", "0x01", name="conv3"), REFORMAT)
    lines = compared(old, new, at_most=2)
    assert lines == (
        "layers: 3, 1 with other types or formats, 1 in the stored plan only, 2 in the rebuilt plan only",
        f"layer conv1 + relu1: makes float16 ({EIGHT}) → float32 (Row major linear FP32)",
        f"layer conv3 + add: in the stored plan only, by tactic {GEMM} (0x9cb304e2edbc1221)",
        "and 2 more",
    )
    assert compared(old, new)[3] == "layer conv3: in the rebuilt plan only, by tactic a (0x01)"
    long = conv_8(name="{ForeignNode[" + "x" * 500 + "...end]}")
    (line,) = compared(said(long), said({**long, "TacticName": "y"}))[1:]
    assert line.startswith("layer {ForeignNode[xxx")
    assert "...end]}: tactic sm80" in line
    assert len(line) < 300


def test_layers_of_one_name_are_matched_in_their_order():
    old = said(conv_8("a", "0x01"), conv_8("b", "0x02"))
    assert compared(old, said(conv_8("a", "0x01"), conv_8("c", "0x03")))[:1] == ("layers: 2, 1 with another tactic",)


def test_a_plan_of_names_only_tells_no_tactics_and_that_is_said():
    old, new = said("conv1 + relu1", "fc"), said("conv1 + relu1", "fc")
    assert written(proof.layers(old)) == {
        "format": 1, "detail": "names_only", "layers": [{"name": "conv1 + relu1"}, {"name": "fc"}],
    }  # fmt: skip
    assert compared(old, new) == (f"layers: 2, the same names; {NO_TACTICS}",)
    assert compared(old, said("conv1", "relu1", "fc")) == (
        f"layers: 2, by name, 1 in the stored plan only, 2 in the rebuilt plan only; {NO_TACTICS}",
        "layer conv1 + relu1: in the stored plan only",
        "layer conv1: in the rebuilt plan only",
        "layer relu1: in the rebuilt plan only",
    )
    assert compared(said(), said()) == (
        "layers: not compared: the plan tells none; configure with verbosity: detailed",
    )
