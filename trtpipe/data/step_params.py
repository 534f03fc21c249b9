"""What a document says of each step of postprocess: one class for each step, with its params.

`step_runs` runs them. This file imports no NumPy, because a document is checked without it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trtpipe.stage import DocumentPath, Entrypoint  # noqa: TC001  msgspec reads the annotations

Axis = Annotated[int, Meta(description="The axis, counted with the samples' axis 0; -1 is the last.")]
Tensor = Annotated[
    str | None, Meta(description="The tensor read; by default what a transform made last, or the only one.")
]
Made = Annotated[str | None, Meta(description="The tensor's new name; by default it keeps its name.")]
Field = Annotated[str | None, Meta(description="The field's name in the results; by default the operation's.")]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class FromMetadata(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names from the model's own metadata."""

    metadata: Annotated[
        str,
        Meta(
            description="The metadata's key. Its text has a name a line, or is a list or a mapping of numbers to "
            "names, in JSON or Python."
        ),
    ]


Names = Annotated[
    tuple[str, ...] | FromMetadata | None,
    Meta(description="The classes' names: a list, or {metadata: key} of the model; by default the input `labels`."),
]


class _Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op"):
    pass


class Softmax(_Step, frozen=True, tag="softmax"):
    """e^v / sum of e^v along an axis, in float32."""

    tensor: Tensor = None
    axis: Axis = -1
    output: Made = None


class Sigmoid(_Step, frozen=True, tag="sigmoid"):
    """1 / (1 + e^-v), in float32."""

    tensor: Tensor = None
    output: Made = None


class L2Normalize(_Step, frozen=True, tag="l2_normalize"):
    """Each vector along an axis gets the length 1; a vector of zeros stays one."""

    tensor: Tensor = None
    axis: Axis = -1
    output: Made = None


class MeanPool(_Step, frozen=True, tag="mean_pool"):
    """The mean along an axis, of what a mask leaves; a sample that is masked whole gives zeros."""

    tensor: Tensor = None
    axis: Axis = 1
    mask: Annotated[
        str | None, Meta(description="A tensor [samples, length of the axis]; what is 0 there is left out.")
    ] = None
    output: Made = None


class Argmax(_Step, frozen=True, tag="argmax"):
    """The index of the largest value along an axis."""

    tensor: Tensor = None
    axis: Axis = -1
    output: Field = None


class TopK(_Step, frozen=True, tag="top_k"):
    """The k largest of [samples, classes], falling, each {class, score}."""

    tensor: Tensor = None
    k: Annotated[int, Meta(ge=1, description="How many.")] = 1
    output: Field = None


class Threshold(_Step, frozen=True, tag="threshold"):
    """What is at least `at`: of [samples, classes] those classes, falling, each {class, score}; else booleans."""

    tensor: Tensor = None
    at: Annotated[float, Meta(description="The least score.")] = 0.5
    output: Field = None


class Labels(_Step, frozen=True, tag="labels"):
    """Names classes: each entry of top_k, threshold or nms gets `label`; argmax's indices give a field of names."""

    field: Annotated[str | None, Meta(description="The field whose classes are named; by default the newest.")] = None
    names: Names = None
    output: Annotated[str | None, Meta(description="The field that argmax's names make; by default `labels`.")] = None


class Nms(_Step, frozen=True, tag="nms"):
    """Non-maximum suppression: of boxes that overlap the best, each {box, score, class}.

    `box` is left, top, right, bottom in pixels of the original picture (as turned), where samples.jsonl says how
    it was prepared; else in those of the prepared one.
    """

    boxes: Annotated[str, Meta(description="Boxes [samples, m, 4], or from a python step a list of [m, 4].")] = "boxes"
    scores: Annotated[str, Meta(description="Scores [samples, m] or [samples, m, classes], or such a list.")] = "scores"
    classes: Annotated[str | None, Meta(description="Classes [samples, m] of scores without a class axis.")] = None
    format: Annotated[
        Literal["xyxy", "cxcywh", "xywh"], Meta(description="Two corners, or the centre or a corner and the size.")
    ] = "xyxy"
    coordinates: Annotated[
        Literal["pixels", "normalized"], Meta(description="Of the prepared picture: its pixels, or 0..1 of its sides.")
    ] = "pixels"
    iou_threshold: Annotated[Fraction, Meta(description="Boxes that overlap a better one by more are dropped.")] = 0.5
    score_threshold: Annotated[float, Meta(description="Boxes with less are dropped.")] = 0.25
    max_detections: Annotated[int, Meta(ge=1, description="At most so many a sample are kept.")] = 100
    class_aware: Annotated[bool, Meta(description="Only boxes of one class suppress each other.")] = True
    multi_label: Annotated[
        bool, Meta(description="Every class over the threshold makes a box, not only the best of each box.")
    ] = False
    map_back: Annotated[
        bool, Meta(description="Give coordinates of the original picture, not of the prepared one.")
    ] = True
    output: Field = None


class CtcDecode(_Step, frozen=True, tag="ctc_decode"):
    """Text of [samples, time, classes]: the best path without repeats and blanks, and the field `…_score`, its mean."""

    tensor: Tensor = None
    names: Names = None
    blank: Annotated[int, Meta(ge=0, description="The blank's class; the characters have the others, in order.")] = 0
    space: Annotated[bool, Meta(description="A space follows the last character.")] = False
    output: Field = None


class PythonStep(_Step, frozen=True, tag="python"):
    """A function of one's own: `f(arrays, samples, **args)` gives {name: array [samples, …] or list with an item each}.

    It is called once a batch. `arrays` are all tensors and fields so far, `samples` the lines of samples.jsonl.
    """

    entrypoint: Entrypoint
    sources: Annotated[
        tuple[DocumentPath, ...], Meta(description="Further files, folders and patterns that the code needs.")
    ] = ()
    args: Annotated[dict[str, Any], Meta(description="Given to the function by name.")] = {}


Step = (
    Softmax | Sigmoid | L2Normalize | MeanPool | Argmax | TopK | Threshold | Labels | Nms | CtcDecode | PythonStep
)  # fmt: skip
TRANSFORMS = (Softmax, Sigmoid, L2Normalize, MeanPool)
