"""One rewrite to half precision, for the tests of the parts that it is made of."""

from __future__ import annotations

import onnx

from tests import onnx_models as models
from trtpipe.models import (
    dtypes,
    onnxfile,
    onnxgraph,
    precision,
    signature,
)


def rewrite(proto, tmp_path, kind="fp16", **more):
    """Rewrite `proto`; give the record and the model that was made."""
    path = models.save(proto, tmp_path / "in" / "model.onnx")
    inputs, _ = signature.of(onnxfile.load(path))
    record = precision.rewrite(path, tmp_path / "model.onnx", kind, inputs=inputs, **more)
    made = onnxfile.load(tmp_path / "model.onnx")
    onnx.checker.check_model(made)
    return record, made


def types(proto):
    """Give the dtype of each initialiser."""
    return {t.name: dtypes.dtype_name(t.data_type) for t in onnxgraph.initializers(proto)}
