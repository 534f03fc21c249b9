"""The inspector's JSON, as TensorRT 8.6 and 10 write it, reduced to a table."""

from __future__ import annotations

import json

from trtpipe.backends.trtproof import table


def layer(text, **more):
    return {"Name": "l", "Outputs": [{"Name": "o", "Format/Datatype": text}], **more}


def test_layers_are_counted_by_the_type_of_what_they_make():
    made = table(
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
    assert made == {
        "status": "proven",
        "source": "the engine inspector",
        "layers": {"bfloat16": 1, "float16": 3, "float32": 1, "int64": 1, "int8": 1, "none": 1},
        "weight_bytes": {"float16": 20, "float32": 12},
    }


def test_names_alone_prove_nothing():
    assert table(json.dumps({"Layers": ["conv + relu", "gemm"], "Bindings": []}))["status"] == "unproven"
    assert "verbosity: detailed" in table(json.dumps({"Layers": []}))["why"]
