"""Fold constants and BatchNormalizations with onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.models import onnxfile, onnxgraph, ort_cpu

if TYPE_CHECKING:
    from pathlib import Path

    import onnx


def fold(model: onnx.ModelProto, scratch: Path, *, batch_norms: bool = True) -> tuple[onnx.ModelProto, str | None]:
    """Fold constants and BatchNormalizations with onnxruntime's basic level, which stays within ONNX's operators.

    Gives (folded model, None), or (the same model, why it was not folded). Files go to `scratch`, a folder.
    """
    module = ort_cpu.onnxruntime()
    source, target = scratch / "folding.onnx", scratch / "folded.onnx"
    plain = onnxgraph.copied(model)
    onnxgraph.constants_are_no_inputs(plain)  # as inputs they could be overridden, and would not be folded
    onnxfile.save(plain, source)
    options = module.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = module.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    ort_cpu.register(options)
    disabled = [] if batch_norms else ["ConvBNFusion", "ConvMulFusion", "ConvAddFusion"]
    try:
        module.InferenceSession(str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
        folded = onnxfile.whole(target)
    except Exception as error:  # noqa: BLE001  the check that follows reports a model that cannot be loaded
        return model, " ".join(str(error).split())
    before = {(n.domain or "ai.onnx", n.op_type) for n in (f.node for f in onnxgraph.walk(model))}
    domains = {domain for domain, _ in before}
    foreign = sorted({f.node.op_type for f in onnxgraph.walk(folded) if (f.node.domain or "ai.onnx") not in domains})
    if foreign:
        return model, f"folding would bring in {', '.join(foreign)}, which only onnxruntime knows"
    used = {f.node.domain or "" for f in onnxgraph.walk(folded)} | {""}
    imports = [i for i in folded.opset_import if (i.domain if i.domain != "ai.onnx" else "") in used]
    folded.ClearField("opset_import")
    folded.opset_import.extend(imports)
    folded.ir_version = model.ir_version
    onnxgraph.restore(folded, model)
    return folded, None
