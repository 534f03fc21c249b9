"""postprocess: tensors → decisions, as JSON lines, a table and pictures."""

from __future__ import annotations

import itertools
import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trtpipe.errors import StageFailed, TrtpipeError
from trtpipe.stage import Context, Entrypoint, Params, Port, SourcePath, StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from trtpipe.data.tensors import Source
    from trtpipe.data.working_set import Work

BATCH_BYTES = 1 << 26
"""So many bytes of tensors are in memory at a time (at least one sample)."""
RESULTS, TABLE = "results.jsonl", "table.txt"

Axis = Annotated[int, Meta(description="The axis, counted with the samples' axis 0; -1 is the last.")]
Tensor = Annotated[
    str | None, Meta(description="The tensor read; by default what a transform made last, or the only one.")
]
Made = Annotated[str | None, Meta(description="The tensor's new name; by default it keeps its name.")]
Field = Annotated[str | None, Meta(description="The field's name in the results; by default the operation's.")]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class FromMetadata(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names from the model's own metadata."""

    metadata: Annotated[str, Meta(description="The metadata's key; its text has a name a line.")]


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
    sources: Annotated[tuple[SourcePath, ...], Meta(description="Further files that the code needs.")] = ()
    args: Annotated[dict[str, Any], Meta(description="Given to the function by name.")] = {}


Step = (
    Softmax | Sigmoid | L2Normalize | MeanPool | Argmax | TopK | Threshold | Labels | Nms | CtcDecode | PythonStep
)  # fmt: skip
TRANSFORMS = (Softmax, Sigmoid, L2Normalize, MeanPool)


class PostprocessParams(Params, frozen=True):
    """What is done to the tensors, and what of it becomes results."""

    steps: Annotated[tuple[Step, ...], Meta(description="Run in order on tensors and fields by name.")] = ()
    keep: Annotated[
        tuple[str, ...],
        Meta(
            description="Exactly these become fields of the results; by default what the deciding and the python "
            "steps made, but not arrays of more than 64 numbers a sample."
        ),
    ] = ()
    exclude: Annotated[tuple[str, ...], Meta(description="These do not become fields.")] = ()
    arrays: Annotated[
        tuple[str, ...], Meta(description="These tensors are written whole, as .npy files beside the results.")
    ] = ()
    table_rows: Annotated[int, Meta(ge=1, description="At most so many samples are in the readable table.")] = 50
    pictures: Annotated[
        int, Meta(ge=0, description="At most so many pictures are drawn; needs the input `images`.")
    ] = 100

    def problems(self) -> Iterable[tuple[str, str]]:
        """Find what the schema cannot say."""
        for index, step in enumerate(self.steps):
            if getattr(step, "axis", None) == 0:
                yield f"steps[{index}].axis", "found 0, which is the samples' axis; expected 1 or more, or -1"
        if both := [name for name in self.keep if name in self.exclude]:
            yield "exclude", f"found {both[0]}, which keep names too; expected it in one of them"
        if not self.keep and not self.arrays and all(isinstance(step, TRANSFORMS) for step in self.steps):
            yield (
                "steps",
                (
                    "found no step that decides anything; expected top_k, argmax, threshold, nms, ctc_decode or "
                    "python, or the names of tensors in keep or arrays"
                ),
            )

    def entrypoints(self) -> Iterable[str]:
        """Give the python steps' entrypoints."""
        return [step.entrypoint for step in self.steps if isinstance(step, PythonStep)]

    def files(self) -> Iterable[str]:
        """Give the python steps' sources."""
        return [source for step in self.steps if isinstance(step, PythonStep) for source in step.sources]

    def tensors(self) -> set[str] | None:
        """Name the tensors that the params mention; None if a python step may read any."""
        if any(isinstance(step, PythonStep) for step in self.steps):
            return None
        roles = ("tensor", "mask", "boxes", "scores", "classes")
        named = {getattr(step, role, None) for step in self.steps for role in roles}
        return {name for name in named if name} | {*self.keep, *self.arrays}


def label_names(ctx: Context, given: tuple[str, ...] | FromMetadata | None) -> list[str]:
    """Give the classes' names. Raises StageFailed if they are neither in the params nor in an input."""
    if isinstance(given, tuple):
        return list(given)
    if isinstance(given, FromMetadata):
        if "network" not in ctx.inputs:
            raise StageFailed("names from metadata need the input `network` (a network or config)")
        metadata = ctx.inputs["network"].json("network.json")["metadata"]
        if given.metadata not in metadata:
            raise StageFailed(
                f"the model's metadata has no {given.metadata!r}; it has {', '.join(metadata) or 'nothing'}"
            )
        return lines_of(metadata[given.metadata])
    if "labels" not in ctx.inputs:
        raise StageFailed("found no names, expected `names` in the step, or the input `labels`: a text file")
    source = ctx.inputs["labels"]
    try:
        return lines_of(source.path(source.files[0]).read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise StageFailed(f"input labels ({source.label}) is not UTF-8: byte {error.start}") from error


def lines_of(text: str) -> list[str]:
    """Split at newlines only: str.splitlines would split at characters that are themselves names in some models."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines


def _transform(step: Softmax | Sigmoid | L2Normalize | MeanPool, work: Work) -> None:
    from trtpipe.data import steps

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


def _argmax(step: Argmax, work: Work) -> None:
    from trtpipe.data import steps

    name, value = work.tensor(step.tensor)
    with work.about(name, value):
        work.decide(step.output or "argmax", steps.argmax(value, step.axis), classes=True)


def _top_k(step: TopK, work: Work) -> None:
    from trtpipe.data import steps

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


def _threshold(step: Threshold, work: Work) -> None:
    from trtpipe.data import steps

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


def _labels(step: Labels, work: Work, names: Sequence[str]) -> None:
    import numpy as np

    from trtpipe.data import steps

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


def _nms(step: Nms, work: Work) -> None:
    boxes, scores = work.rows(step.boxes), work.rows(step.scores)
    classes = work.rows(step.classes) if step.classes else [None] * len(boxes)
    found = []
    for sample, b, s, c in zip(work.samples, boxes, scores, classes, strict=True):
        try:
            found.append(_detections(step, sample, b, s, c))
        except ValueError as error:
            raise ValueError(f"{step.boxes} and {step.scores} of {sample['id']}: {error}") from error
    work.decide(step.output or "nms", found, classes=True)


def _detections(step: Nms, sample: dict[str, Any], boxes: Any, scores: Any, classes: Any) -> list[dict[str, Any]]:
    """Give one sample's entries: boxes [m, 4], scores [m] or [m, classes], classes [m] or None."""
    import numpy as np

    from trtpipe.data import steps

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
    if step.map_back and "scale_x" in sample:
        corners -= _known(sample, "pad_x", "pad_y", "pad_x", "pad_y")
        corners /= _known(sample, "scale_x", "scale_y", "scale_x", "scale_y")
        corners = np.clip(corners, 0, _known(sample, "width", "height", "width", "height"))
    return [
        {"box": box, "score": score, "class": int(c)}
        for box, score, c in zip(corners.astype(np.float32), scores[kept], classes[kept], strict=True)
    ]


def _known(sample: dict[str, Any], *names: str) -> Any:
    import numpy as np

    if missing := [name for name in names if name not in sample]:
        raise ValueError(f"found no {missing[0]} in samples.jsonl, expected tensors that preprocess made")
    return np.asarray([sample[name] for name in names], np.float64)


def _ctc_decode(step: CtcDecode, work: Work, names: Sequence[str]) -> None:
    import numpy as np

    from trtpipe.data import steps

    name, value = work.tensor(step.tensor)
    with work.about(name, value):
        found = steps.ctc_decode(value, [*names, " "] if step.space else names, step.blank)
    output = step.output or "ctc_decode"
    work.decide(output, [text for text, _ in found])
    work.decide(f"{output}_score", np.asarray([score for _, score in found], np.float32))


def _python(step: PythonStep, work: Work, function: Callable[..., Any]) -> None:
    try:
        made = function(dict(work.values), [dict(sample) for sample in work.samples], **step.args)
    except TrtpipeError:
        raise
    except Exception as error:
        first, last = work.samples[0]["id"], work.samples[-1]["id"]
        raise StageFailed(f"{step.entrypoint} failed on {first} … {last}: {type(error).__name__}: {error}") from error
    try:
        work.adopt(made)
    except StageFailed as error:
        raise StageFailed(f"{step.entrypoint} {error}") from error


def _runner(ctx: Context, step: Step) -> Callable[[Work], None]:
    """Bind a step to what it needs from the context."""
    if isinstance(step, PythonStep):
        function = ctx.load(step.entrypoint)
        return lambda work: _python(step, work, function)
    if isinstance(step, Labels | CtcDecode):
        names = label_names(ctx, step.names)
        if isinstance(step, Labels):
            return lambda work: _labels(step, work, names)
        return lambda work: _ctc_decode(step, work, names)
    if isinstance(step, TRANSFORMS):
        return lambda work: _transform(step, work)
    plain: dict[type, Callable[[Any, Work], None]] = {Argmax: _argmax, TopK: _top_k, Threshold: _threshold, Nms: _nms}
    return lambda work: plain[type(step)](step, work)


def _sources(ctx: Context) -> tuple[dict[str, Source], list[str]]:
    """Give the arrays to read by name, and the names of all in the input `tensors`."""
    from trtpipe.data import tensors

    main = tensors.open_input(ctx.inputs["tensors"])
    extra = tensors.open_input(ctx.inputs["data"]) if "data" in ctx.inputs else {}
    asked = ctx.params.tensors()
    wanted = {*main, *extra} if asked is None else asked | (set(main) if len(main) == 1 else set())
    if both := sorted(main.keys() & extra.keys() & wanted):
        raise StageFailed(f"tensor {both[0]} is in the inputs tensors and data, expected different names")
    sources = {name: source for name, source in {**main, **extra}.items() if name in wanted}
    # Where the steps name nothing that is there, they are to say so themselves: the message has the step.
    sources = sources or dict(itertools.islice(main.items(), 1))
    for source in sources.values():
        if not source.shape or not source.shape[0]:
            raise StageFailed(f"{source.label} has shape {list(source.shape)}, expected at least one sample on axis 0")
    return sources, list(main)


def _fields(work: Work, params: PostprocessParams) -> tuple[list[str], list[str]]:
    """Choose what becomes fields, as (chosen, left out for their size)."""
    for name in (*params.keep, *params.exclude, *params.arrays):
        work.get(name)
    chosen = list(params.keep) or [name for name in work.fields if name not in params.exclude]
    if "id" in chosen:
        raise StageFailed("found a field called id, which is the sample's own; expected another `output`")
    large = [] if params.keep else [name for name in chosen if not work.is_small(name)]
    return [name for name in chosen if name not in large], large


def _records(work: Work, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    from trtpipe.data.readable import json_value

    for index, sample in enumerate(work.samples):
        record = {"id": sample["id"]}
        for name in fields:
            try:
                record[name] = json_value(work.values[name][index])
            except (ValueError, TypeError) as error:
                raise StageFailed(f"field {name} of {sample['id']}: {error}") from error
        yield record


def run(ctx: Context) -> None:
    """Run the steps batch by batch; write results.jsonl, table.txt, the arrays asked for and the pictures."""
    from trtpipe.data import readable, tensors
    from trtpipe.data.working_set import Work, samples_of

    params: PostprocessParams = ctx.params
    sources, given = _sources(ctx)
    total = next(iter(sources.values())).shape[0]
    samples = samples_of(ctx.inputs["tensors"], total)
    runners = [(f"steps[{i}] ({_op(step)})", _runner(ctx, step)) for i, step in enumerate(params.steps)]
    size = max(1, BATCH_BYTES // max(1, sum(source.row_bytes for source in sources.values())))
    painter = _Painter(ctx) if "images" in ctx.inputs and params.pictures else None
    shown: list[dict[str, Any]] = []
    done = 0
    with (
        (ctx.out / RESULTS).open("w", encoding="utf-8", newline="\n") as lines,
        tensors.Writer(ctx.out) if params.arrays else nullcontext() as writer,
    ):
        arrays: dict[str, tensors.ArrayWriter] = {}
        for batch in tensors.batches(sources, size):
            count = len(next(iter(batch.values())))
            work = Work(batch, list(itertools.islice(samples, count)), given)
            for where, step in runners:
                try:
                    step(work)
                except (ValueError, StageFailed) as error:
                    raise StageFailed(f"{where}: {error}") from error
            fields, large = _fields(work, params)
            if large and not done:
                ctx.note(f"not in {RESULTS}, because of their size: {', '.join(large)} (see params keep and arrays)")
            for name in params.arrays:
                _append(arrays, writer, name, work.get(name), total)
            for sample, record in zip(work.samples, _records(work, fields), strict=True):
                lines.write(readable.json_line(record))
                if len(shown) < params.table_rows:
                    shown.append(record)
                if painter and done < params.pictures:
                    painter.draw(sample, record, done)
                done += 1
            ctx.progress(done, total, "samples")
    (ctx.out / TABLE).write_text(readable.table(shown, total=total), "utf-8")
    if painter and total > params.pictures:
        ctx.note(f"{params.pictures} of {total} pictures drawn (param pictures)")


def _op(step: Step) -> str:
    return str(step.__struct_config__.tag)


def _append(arrays: dict[str, Any], writer: Any, name: str, value: Any, total: int) -> None:
    import numpy as np

    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise StageFailed(f"arrays: {name} is no tensor of numbers, expected one with the samples on axis 0")
    if name not in arrays:
        arrays[name] = writer.add(name, value.dtype, (total, *value.shape[1:]))
    if value.dtype != arrays[name].dtype or value.shape[1:] != arrays[name].shape[1:]:
        raise StageFailed(
            f"arrays: {name} changes from {arrays[name].dtype} {list(arrays[name].shape[1:])} a sample "
            f"to {value.dtype} {list(value.shape[1:])}, expected one shape"
        )
    arrays[name].write(np.ascontiguousarray(value))


class _Painter:
    """Draws records on the pictures that they are about."""

    def __init__(self, ctx: Context) -> None:
        self._images = ctx.inputs["images"]
        self._folder = ctx.out / "pictures"
        self._open = ("", None)

    def draw(self, sample: dict[str, Any], record: dict[str, Any], index: int) -> None:
        """Write `pictures/<id>.png`. Raises StageFailed if the sample's picture is not in the input."""
        from trtpipe.data import draw, pictures, readable

        name = sample.get("source")
        if name is None:
            raise StageFailed("input images: nothing says which picture a sample is; expected tensors from preprocess")
        if name not in self._images.files:
            raise StageFailed(
                f"input images ({self._images.label}) has no {name}, of which sample {sample['id']} was made; "
                f"expected the input of preprocess"
            )
        if self._open[0] != name:
            # No limit: preprocess has read it, under its own.
            self._open = (name, pictures.read(self._images.path(name), name, max_pixels=1 << 40))
        image = pictures.turned(self._open[1], sample.get("rotation", 0))
        boxes, captions = [], []
        for field, value in record.items():
            if isinstance(value, list) and value and isinstance(value[0], dict) and "box" in value[0]:
                for entry in value:
                    label = readable.entry({k: v for k, v in entry.items() if k != "box"})
                    boxes.append(draw.Box(tuple(entry["box"]), label, int(entry.get("class", 0))))
            elif field != "id":
                captions.append(f"{field}: {readable.text(value)}")
        path = self._folder / f"{_file_name(sample['id'], index)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw.annotated(image, boxes, captions).save(path)


def _file_name(identity: str, index: int) -> str:
    """Give an id as a path below a folder, or a number if it is none that every system can hold."""
    parts = identity.split("/")
    if all(re.fullmatch(r"[^\\:*?\"<>|\x00-\x1f]{1,200}", part) and part.strip(". ") for part in parts):
        return identity
    return f"sample-{index}"


STAGE = StageType(
    name="postprocess",
    version=1,
    Params=PostprocessParams,
    inputs={
        "tensors": Port(kinds=("tensors",), doc="What the steps read: a model's outputs.", outside=True),
        "data": Port(
            kinds=("tensors",),
            doc="More tensors of the same samples, such as the model's inputs (an attention mask).",
            required=False,
            outside=True,
        ),
        "images": Port(kinds=(), doc="The pictures that preprocess read, to draw on.", required=False, outside=True),
        "labels": Port(kinds=(), doc="A text file with a class name a line.", required=False, outside=True),
        "network": Port(kinds=("network", "config"), doc="The model, for names from its metadata.", required=False),
    },
    output="results",
    doc="Turns tensors into decisions: JSON lines, a readable table, and pictures with the result drawn on them.",
    run=run,
    packages=("numpy", "pillow"),
)
