"""The first document of a project: commented, with a check that fails the run, and what its task adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe.errors import PipelineInvalid
from trtpipe.escaping import inline
from trtpipe.pipeline.drafting import flow, quoted, scalar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.models.outline import Side

TASKS = ("none", "classify", "detect", "segment", "embed", "asr")
_COSINE = {"fp16": "0.998", "bf16": "0.98"}
"""The least cosine of outputs with the model's own: what configure lets pass; other precisions are nearer."""
_SCHEMA = ".trtpipe/pipeline.schema.json"

YOLO = '''\
"""Turns the output of a YOLO model into boxes and scores for the step nms."""

import numpy as np


def decode(arrays, samples, tensor, layout):
    """Give boxes [samples, n, 4] as centre and size, and scores [samples, n, classes]."""
    found = np.asarray(arrays[tensor], np.float32)
    if layout == "columns":  # [samples, 4 + classes, n], as YOLOv8 and later have it
        found = found.transpose(0, 2, 1)
        return {"boxes": found[..., :4], "scores": found[..., 4:]}
    # [samples, n, 5 + classes], as YOLOv5 has it: the fifth number says whether there is anything at all
    return {"boxes": found[..., :4], "scores": found[..., 4:5] * found[..., 5:]}
'''


class Plan(NamedTuple):
    """What a first document is made of. Files are named from the document's folder.

    `model` is the input of the first stage: a file, or the name of the stage `model`, whose params are `export`.
    `check` are the shapes that the samples have. `files` are further files that the task needs, by name.
    """

    name: str
    model: str
    data: str
    params: dict[str, Any]
    dims: dict[str, list[int | str]]
    profiles: list[dict[str, dict[str, list[int]]]]
    run_shapes: dict[str, list[int]]
    inputs: Sequence[Side]
    outputs: Sequence[Side]
    task: str = "none"
    export: dict[str, Any] | None = None
    bench: dict[str, Any] | None = None
    plugins: tuple[str, ...] = ()
    batch_axis: dict[str, int] = {}  # noqa: RUF012 — nobody changes a plan's fields
    told: Sequence[str] = ()
    run_profile: int = 0


class Step(NamedTuple):
    """The stage that a task adds: comments, inputs beside `tensors`, params, and files that it reads, by name."""

    stage: str
    comments: list[str]
    inputs: dict[str, Any]
    params: dict[str, Any]
    files: dict[str, str]
    top_k: int | None = None


def document(plan: Plan) -> tuple[str, dict[str, str]]:
    """Give the document's text, and the texts of further files, by name.

    Raises PipelineInvalid if the model's outputs are not those of the task.
    """
    task = _task(plan)
    top_k = task.top_k if task is not None else None
    precision = plan.params.get("precision", "model")
    model: Any = "model" if plan.export is not None else {"file": plan.model}
    batch = {"batch_axis": plan.batch_axis} if plan.batch_axis else {}
    parsed = {name: value for name, value in (("dims", plan.dims), ("plugins", list(plan.plugins))) if value}
    own = {name: axis for name, axis in plan.batch_axis.items() if name in {one.name for one in plan.inputs}}
    lines = [
        f"# yaml-language-server: $schema={_SCHEMA}",
        f"# {inline(plan.name)}: from a model to a checked engine. Run it:  trtpipe run {inline(plan.name)}.yaml",
        f"name: {scalar(plan.name)}",
        "backend: auto    # TensorRT where there is a GPU for it, else ONNX Runtime; or name one of them",
        "stages:",
    ]
    if plan.export is not None:
        lines += _stage("model", "export", {}, plan.export, [
            "PyTorch's module as an ONNX model, compared with PyTorch.",
        ])  # fmt: skip
    lines += _stage("network", "parse", {"model": model}, parsed, [
        "The model, as the runtime's own parser reads it.",
    ])  # fmt: skip
    half = precision in ("fp16", "bf16")
    lines += _stage(
        "config", "configure",
        {"network": "network", **({"calibration": {"file": plan.data}} if half else {})},
        {"precision": precision, **{k: v for k, v in plan.params.items() if k != "precision"},
         **({"meet_tolerance": True} if half else {}), **({"batch_axis": own} if half and own else {}),
         **({"profiles": plan.profiles} if plan.profiles else {})},
        ["How the engine is built. Other values of precision: fp32, tf32, fp16, bf16.",
         *(f"{one}." for one in plan.told)],
    )  # fmt: skip
    lines += _stage(
        "engine", "build", {"config": "config"}, {}, ["The engine: a plan, and a manifest that describes it."]
    )
    lines += _stage("buffers", "allocate", {"engine": "engine"},
                    {**({"shapes": plan.run_shapes} if plan.run_shapes else {}), **batch,
                     **({"profile": plan.run_profile} if plan.run_profile else {})},
                    ["The shapes of a run.", *_batch_comment(plan)])  # fmt: skip
    lines += _stage(
        "outputs", "infer", {"engine": "engine", "buffers": "buffers", "data": {"file": plan.data}}, {},
        [f"{plan.data} has made-up samples, an array for each input. Put your own into it."],
    )  # fmt: skip
    require: dict[str, str] = {"cosine": f">= {_COSINE.get(precision, '0.9999')}"}
    lines += _stage(
        "closeness", "compare", {"candidate": "outputs", "model": model, "data": {"file": plan.data}},
        {**({"top_k": top_k} if top_k else {}), "require": require, **batch},
        ["The gate: the run fails if the engine's outputs are too far from the model's own, in ONNX Runtime.",
         *(['With your own samples, require top1_agreement: ">= 0.99" too.'] if top_k else [])],
    )  # fmt: skip
    if task is not None:
        lines += _stage(task.stage, "postprocess", {"tensors": "outputs", **task.inputs}, task.params, task.comments)
        lines += _truth(plan.task, task.stage)
    if plan.bench is not None:
        lines += _stage("speed", "benchmark", {"engine": "engine", "buffers": "buffers"}, plan.bench,
                        ["How fast it is, by trtexec's definitions."])  # fmt: skip
    return "\n".join(lines) + "\n", task.files if task is not None else {}


def _stage(
    name: str, kind: str, inputs: Mapping[str, Any], params: Mapping[str, Any], comments: Sequence[str]
) -> list[str]:
    lines = ["", *(f"  # {inline(line)}" for line in comments), f"  {quoted(name)}:", f"    type: {kind}"]
    if inputs:
        lines.append(f"    inputs: {flow(inputs)}")
    if params:
        lines.append("    params:")
        lines += [f"      {quoted(key)}: {flow(value)}" for key, value in params.items()]
    return lines


def _batch_comment(plan: Plan) -> list[str]:
    if not plan.batch_axis:
        return []
    return [
        "Which axes are the batch is not in the model's names. A trial showed it: reversed samples came out reversed."
    ]


def _truth(task: str, stage: str) -> list[str]:
    """Give a stage that measures against what is right, commented out, because nobody knows yet what is right."""
    metric = {"classify": "{metric: top_k, k: 1}", "detect": "{metric: average_precision}",
              "asr": "{metric: exact_match}"}.get(task)  # fmt: skip
    if metric is None:
        return []
    figure = {"classify": "top1", "detect": "ap50", "asr": "exact_match"}[task]
    return [
        "",
        "  # With labels of your samples, a second gate:",
        "  # accuracy:",
        "  #   type: evaluate",
        f"  #   inputs: {{results: {stage}, labels: {{file: labels.{'json' if task == 'detect' else 'txt'}}}}}",
        f'  #   params: {{metrics: [{metric}], require: {{{figure}: ">= 0.9"}}}}',
    ]


# --- tasks


def _task(plan: Plan) -> Step | None:
    make = {"classify": _classify, "detect": _detect, "segment": _segment, "embed": _embed, "asr": _asr}.get(plan.task)
    return None if make is None else make(plan)


def _output(plan: Plan, ranks: tuple[int, ...], what: str) -> Side:
    """Give the first output with one of these ranks. An output of unknown rank counts."""
    for one in plan.outputs:
        if one.dims is None or len(one.dims) in ranks:
            return one
    have = ", ".join(f"{one.name} {one.text}" for one in plan.outputs)
    raise PipelineInvalid(f"--task {plan.task}: found the outputs {have}, expected {what}; use another task, or none")


def _classify(plan: Plan) -> Step:
    one = _output(plan, (2,), "scores [samples, classes]")
    return Step("labels", ["The best class of each sample. A step labels gives it a name."], {},
                {"steps": [{"op": "top_k", "tensor": one.name, "k": 1}]}, {}, top_k=1)  # fmt: skip


def _segment(plan: Plan) -> Step:
    one = _output(plan, (4,), "scores [samples, classes, height, width]")
    return Step("masks", ["The best class of each pixel."], {},
                {"steps": [{"op": "argmax", "tensor": one.name, "axis": 1}]}, {})  # fmt: skip


def _embed(plan: Plan) -> Step:
    one = _output(plan, (2, 3), "vectors [samples, size] or [samples, length, size]")
    steps: list[dict[str, Any]] = []
    inputs: dict[str, Any] = {}
    if one.dims is not None and len(one.dims) == 3:
        mask = next((side.name for side in plan.inputs if "mask" in side.name.lower()), None)
        pool = {"op": "mean_pool", "tensor": one.name, "axis": 1, "output": "embedding"}
        if mask is not None:
            pool["mask"] = mask
            inputs["data"] = {"file": plan.data}
        steps.append(pool)
    steps.append({"op": "l2_normalize", "tensor": "embedding" if steps else one.name, "output": "embedding"})
    params = {"steps": steps, "arrays": ["embedding"]}
    return Step("embeddings", ["A vector of length 1 for each sample."], inputs, params, {})


def _asr(plan: Plan) -> Step:
    one = _output(plan, (3,), "scores [samples, time, characters]")
    count = one.dims[2] if one.dims is not None and isinstance(one.dims[2], int) else None
    if count is None:
        raise PipelineInvalid(
            f"--task asr: {one.name} is {one.text}, expected a fixed number of characters as its last axis"
        )
    names = "".join(f"<{number}>\n" for number in range(1, count))
    return Step(
        "texts", ["The best path through the characters. characters.txt has one a line; 0 is the blank."],
        {"labels": {"file": "characters.txt"}},
        {"steps": [{"op": "ctc_decode", "tensor": one.name, "blank": 0, "output": "text"}]},
        {"characters.txt": names},
    )  # fmt: skip


def _detect(plan: Plan) -> Step:
    sides = {one.name: one.dims for one in plan.outputs if one.dims is not None and len(one.dims) == 3}
    boxes = next((name for name, dims in sides.items() if dims[2] == 4), None)
    scores = next((name for name, dims in sides.items() if name != boxes and dims[2] != 4), None)
    if boxes is not None and scores is not None:
        return Step("boxes", ["The boxes that are left of those that overlap. Say how they are given: format."],
                    {}, {"steps": [{"op": "nms", "boxes": boxes, "scores": scores}]}, {})  # fmt: skip
    if len(plan.outputs) == 1 and sides:
        ((name, dims),) = sides.items()
        rows, columns = dims[1], dims[2]
        layout = "rows" if isinstance(columns, int) and (not isinstance(rows, int) or columns < rows) else "columns"
        args = {"tensor": name, "layout": layout}
        return Step(
            "boxes", ["YOLO's output as boxes, and those that are left of what overlaps."], {},
            {"steps": [{"op": "python", "entrypoint": "decode.py:decode", "args": args},
                       {"op": "nms", "boxes": "boxes", "scores": "scores", "format": "cxcywh"}],
             "keep": ["nms"]},
            {"decode.py": YOLO},
        )  # fmt: skip
    have = ", ".join(f"{one.name} {one.text}" for one in plan.outputs)
    raise PipelineInvalid(
        f"--task detect: found the outputs {have}, expected boxes [samples, n, 4] with scores [samples, n, classes], "
        "or one of YOLO; use --task none, and decode them in a step python, as docs/recipes.md shows for faces"
    )
