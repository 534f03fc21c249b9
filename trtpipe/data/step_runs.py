"""Run the steps of postprocess on the working set of one batch. The arithmetic is in `steps`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data import steps
from trtpipe.data.class_names import class_names
from trtpipe.data.step_params import (
    TRANSFORMS,
    Argmax,
    CtcDecode,
    L2Normalize,
    Labels,
    MeanPool,
    Nms,
    PythonStep,
    Sigmoid,
    Softmax,
    Threshold,
    TopK,
)
from trtpipe.documents.samples import Sample
from trtpipe.errors import StageFailed, TrtpipeError
from trtpipe.users_code import said

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trtpipe.data.step_params import Step
    from trtpipe.data.working_set import WorkingSet
    from trtpipe.stage import Input


def runner(
    step: Step, inputs: Mapping[str, Input], load: Callable[[str], Callable[..., Any]]
) -> Callable[[WorkingSet], None]:
    """Give a function that runs one step on a batch.

    It is called once for each batch, and raises ValueError or StageFailed. What the step needs beside the batch, the
    classes' names or a function of the user's, is read here, once: from the stage's `inputs`, and by `load`, which
    imports what an entrypoint names. Raises StageFailed where that is not there.
    """
    if isinstance(step, PythonStep):
        users_own = load(step.entrypoint)
        return lambda work: _python(step, work, users_own)
    if isinstance(step, Labels | CtcDecode):
        names = class_names(step.names, inputs)
        if isinstance(step, Labels):
            return lambda work: _labels(step, work, names)
        return lambda work: _ctc_decode(step, work, names)
    if isinstance(step, TRANSFORMS):
        return lambda work: _transform(step, work)
    plain: dict[type, Callable[[Any, WorkingSet], None]] = {
        Argmax: _argmax,
        TopK: _top_k,
        Threshold: _threshold,
        Nms: _nms,
    }
    return lambda work: plain[type(step)](step, work)


def _transform(step: Softmax | Sigmoid | L2Normalize | MeanPool, work: WorkingSet) -> None:
    name, value = work.tensor(step.tensor)
    with work.about(name, value):
        if isinstance(step, Softmax):
            made = steps.softmax(value, step.axis)
        elif isinstance(step, Sigmoid):
            made = steps.sigmoid(value)
        elif isinstance(step, L2Normalize):
            made = steps.l2_normalize(value, step.axis)
        else:
            made = steps.mean_pool(value, work.tensor(step.mask)[1] if step.mask else None, step.axis)
    work.transform(step.output or name, made)


def _argmax(step: Argmax, work: WorkingSet) -> None:
    name, value = work.tensor(step.tensor)
    with work.about(name, value):
        work.decide(step.output or "argmax", steps.argmax(value, step.axis), classes=True)


def _top_k(step: TopK, work: WorkingSet) -> None:
    name, value = work.tensor(step.tensor)
    with work.about(name, value):
        if value.ndim != 2:
            raise ValueError(f"found rank {value.ndim}, expected 2: [samples, classes]")
        best = steps.top_k(value, step.k)
    found = [
        [{"class": int(c), "score": s} for c, s in zip(classes, scores, strict=True)]
        for classes, scores in zip(*best, strict=True)
    ]
    work.decide(step.output or "top_k", found, classes=True)


def _threshold(step: Threshold, work: WorkingSet) -> None:
    value = work.tensor(step.tensor)[1]
    over = steps.threshold(value, step.at)
    if value.ndim != 2 or not value.shape[1]:
        work.decide(step.output or "threshold", over)
        return
    order = steps.top_k(value, value.shape[1])[0]
    found = [
        [{"class": int(c), "score": scores[c]} for c in classes if here[c]]
        for classes, scores, here in zip(order, value, over, strict=True)
    ]
    work.decide(step.output or "threshold", found, classes=True)


def _labels(step: Labels, work: WorkingSet, names: Sequence[str]) -> None:
    field = step.field or work.decided
    if field is None:
        raise ValueError("found no classes yet, expected a step such as top_k, argmax or nms before it")
    value = work.get(field)
    if isinstance(value, np.ndarray):
        work.decide(step.output or "labels", steps.labels(value, names))
        return
    if not all(isinstance(e, dict) and "class" in e for entries in value for e in entries):
        raise ValueError(f"field {field}: found entries without a class, expected those of top_k, threshold or nms")
    named = []
    for entries in value:
        found = steps.labels(np.asarray([e["class"] for e in entries], np.int64), names)
        named.append([{**e, "label": label} for e, label in zip(entries, found, strict=True)])
    work.decide(field, named, classes=True)


def _nms(step: Nms, work: WorkingSet) -> None:
    boxes, scores = work.rows(step.boxes), work.rows(step.scores)
    classes = work.rows(step.classes) if step.classes else [None] * len(boxes)
    found = []
    for sample, b, s, c in zip(work.samples, boxes, scores, classes, strict=True):
        try:
            found.append(_detections(step, sample, b, s, c))
        except ValueError as error:
            raise ValueError(f"{step.boxes} and {step.scores} of {sample.id}: {error}") from error
    work.decide(step.output or "nms", found, classes=True)


def _detections(step: Nms, sample: Sample, boxes: Any, scores: Any, classes: Any) -> list[dict[str, Any]]:
    """Give one sample's entries: boxes [m, 4], scores [m] or [m, classes], classes [m] or None."""
    count = len(boxes)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    shapes = f"found boxes {list(boxes.shape)} and scores {list(scores.shape)}"
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.ndim not in (1, 2) or len(scores) != count:
        raise ValueError(f"{shapes}, expected [m, 4] and [m] or [m, classes] with one m")
    if scores.ndim == 2 and classes is not None:
        raise ValueError(f"{shapes} and a tensor of classes, expected scores [m]: these have a class axis of their own")
    if classes is not None and classes.shape != (count,):
        raise ValueError(f"found classes {list(classes.shape)}, expected {[count]}")
    where = np.arange(count)
    if scores.ndim == 2 and step.multi_label:
        where, classes = np.nonzero(scores >= step.score_threshold)
        scores = scores[where, classes]
    elif scores.ndim == 2:
        classes = scores.argmax(axis=1) if scores.shape[1] else np.zeros(count, np.int64)
        scores = scores.max(axis=1, initial=-np.inf)
    classes = np.zeros(count, np.int64) if classes is None else classes.astype(np.int64)
    enough = scores >= step.score_threshold
    where, scores, classes = where[enough], scores[enough], classes[enough]
    corners = steps.to_xyxy(boxes[where], step.format)
    if not np.isfinite(corners).all():
        raise ValueError("found boxes with infinity, expected finite coordinates")
    if step.coordinates == "normalized":
        corners *= _known(sample, "input_width", "input_height", "input_width", "input_height")
    kept = steps.nms(
        corners,
        scores,
        classes if step.class_aware else None,
        iou_threshold=step.iou_threshold,
        max_detections=step.max_detections,
    )
    corners = corners[kept]
    if step.map_back and sample.scale_x is not None:
        corners -= _known(sample, "pad_x", "pad_y", "pad_x", "pad_y")
        corners /= _known(sample, "scale_x", "scale_y", "scale_x", "scale_y")
        corners = np.clip(corners, 0, _known(sample, "width", "height", "width", "height"))
    return [
        {"box": box, "score": score, "class": int(c)}
        for box, score, c in zip(corners.astype(np.float32), scores[kept], classes[kept], strict=True)
    ]


def _known(sample: Sample, *names: str) -> Any:
    values = [getattr(sample, name) for name in names]
    if missing := [name for name, value in zip(names, values, strict=True) if value is None]:
        raise ValueError(f"found no {missing[0]} in {Sample.file}, expected tensors that preprocess made")
    return np.asarray(values, np.float64)


def _ctc_decode(step: CtcDecode, work: WorkingSet, names: Sequence[str]) -> None:
    name, value = work.tensor(step.tensor)
    with work.about(name, value):
        found = steps.ctc_decode(value, [*names, " "] if step.space else names, step.blank)
    output = step.output or "ctc_decode"
    work.decide(output, [text for text, _ in found])
    work.decide(f"{output}_score", np.asarray([score for _, score in found], np.float32))


def _python(step: PythonStep, work: WorkingSet, function: Callable[..., Any]) -> None:
    try:
        made = function(dict(work.values), [dict(line) for line in work.lines], **step.args)
    except TrtpipeError:
        raise
    except Exception as error:
        first, last = work.samples[0].id, work.samples[-1].id
        raise StageFailed(f"{step.entrypoint} failed on {first} … {last}: {said(error)}") from error
    try:
        work.adopt(made)
    except StageFailed as error:
        raise StageFailed(f"{step.entrypoint} {error}") from error
