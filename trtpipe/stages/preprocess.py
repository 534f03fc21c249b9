"""preprocess: pictures → tensors, one sample a picture and turn."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trtpipe.data.resizing import Channels, Crop, Fit, FixedHeight, KeepSize, Letterbox, Resize, fit
from trtpipe.documents.samples import Sample
from trtpipe.errors import StageFailed, TrtpipeError
from trtpipe.stage import Context, DocumentPath, Entrypoint, Env, InnerPath, Network, Params, Port, StageType
from trtpipe.users_code import said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from trtpipe.stage import Input

    Hook = Callable[..., Any]


class ArrayHook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function of one's own: `f(array, sample, **args)` gives the array that goes on.

    At `picture` it gets and gives uint8 [height, width, 3] RGB of one size, before resizing. At `array` it gets the
    finished tensor of one sample, without the sample axis; the last one may give several, {name: array}.
    """

    entrypoint: Entrypoint
    sources: Annotated[tuple[DocumentPath, ...], Meta(description="Further files that the code needs.")] = ()
    args: Annotated[dict[str, Any], Meta(description="Given to the function by name.")] = {}
    at: Annotated[Literal["picture", "array"], Meta(description="Before resizing, or at the end.")] = "array"


class PreprocessParams(Params, frozen=True):
    """How pictures become tensors: value = (pixel * scale - mean) / std."""

    tensor: Annotated[str, Meta(min_length=1, description="The name of the tensor made: the model's input.")]
    env: Env = ()
    network: Network = False
    patterns: Annotated[
        tuple[str, ...],
        Meta(description="Which files of the folder, such as `*.png`; by default all with a picture's suffix."),
    ] = ()
    list: Annotated[
        InnerPath | None,
        Meta(
            description="A .txt (a path a line) or .csv (with a header; column path, file or image, else the first) "
            "inside the folder: its paths, relative to it, are the pictures, in its order."
        ),
    ] = None
    rotations: Annotated[
        tuple[Literal[0, 90, 180, 270], ...],
        Meta(min_length=1, description="Clockwise turns in degrees; each picture gives a sample `id@turn` for each."),
    ] = (0,)
    resize: Annotated[Resize, Meta(description="How all get one size.")] = KeepSize()
    crop: Annotated[Crop | None, Meta(description="What is cut out after resizing.")] = None
    color: Annotated[Literal["RGB", "BGR", "L"], Meta(description="The channels and their order; L is grey.")] = "RGB"
    scale: Annotated[
        float | Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?/[0-9]*[1-9][0-9]*$")],
        Meta(description="What pixels (0..255) are multiplied with: a number or a fraction such as 1/255."),
    ] = "1/255"
    mean: Annotated[Channels, Meta(description="Taken off after scaling: a number, or one a channel.")] = 0.0
    std: Annotated[Channels, Meta(description="Divided by after that: a number, or one a channel.")] = 1.0
    layout: Annotated[Literal["NCHW", "NHWC"], Meta(description="The order of the tensor's axes.")] = "NCHW"
    dtype: Annotated[
        Literal["float32", "float16", "uint8"], Meta(description="The tensor's type; uint8 are the pixels themselves.")
    ] = "float32"
    max_pixels: Annotated[
        int, Meta(ge=1, description="Pictures with more pixels are refused, before they are decoded.")
    ] = 89_478_485
    python: Annotated[tuple[ArrayHook, ...], Meta(description="Functions of one's own, in their order.")] = ()

    def problems(self) -> Iterable[tuple[str, str]]:
        """Find what the schema cannot say."""
        count = 1 if self.color == "L" else 3
        channels = {"mean": self.mean, "std": self.std}
        if isinstance(self.resize, FixedHeight):
            for name, width in (("width", self.resize.width), ("max_width", self.resize.max_width)):
                if width is not None and width < 1:
                    yield f"resize.{name}", f"found {width}, expected at least 1"
        if isinstance(self.resize, Letterbox | FixedHeight):
            channels["resize.pad"] = self.resize.pad
        for path, value in channels.items():
            if isinstance(value, tuple) and len(value) != count:
                yield path, f"found {len(value)} numbers, expected 1 or {count} because color is {self.color}"
        if 0 in _tuple(self.std):
            yield "std", "found 0, expected a number to divide by"
        pad = _tuple(channels.get("resize.pad", 0.0))
        if not all(0 <= v <= 255 for v in pad):
            yield "resize.pad", f"found {list(pad)}, expected pixel values from 0 to 255"
        if self.dtype == "uint8":
            if _number(self.scale) != 1:
                yield "scale", f"found {self.scale} with dtype uint8, expected scale: 1"
            if {*_tuple(self.mean)} != {0.0} or {*_tuple(self.std)} != {1.0}:
                yield "mean", "found a mean or std with dtype uint8, expected none: the tensor holds the pixels"
            if not all(v.is_integer() for v in pad):
                yield "resize.pad", f"found {list(pad)} with dtype uint8, expected whole numbers"
        if len(set(self.rotations)) != len(self.rotations):
            yield "rotations", f"found {list(self.rotations)}, expected each turn once"
        if self.list is not None and not self.list.endswith((".txt", ".csv")):
            yield "list", f"found {self.list}, expected a .txt or .csv file"


def _tuple(value: Channels) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _number(scale: float | str) -> float:
    return float(Fraction(scale.partition("/")[0]) / int(scale.partition("/")[2])) if isinstance(scale, str) else scale


def run(ctx: Context) -> None:
    """Write the tensors and samples.jsonl, one picture in memory at a time."""
    from trtpipe.data import picture_files, readable, tensors

    source = ctx.inputs["images"]
    names = picture_files.names(source, listed=ctx.params.list, patterns=ctx.params.patterns)
    places = _places(source, names, ctx.params)
    ids = dict(zip(names, picture_files.identities(names), strict=True))
    arrays: dict[str, tensors.ArrayWriter] = {}
    first = ""
    with (
        tensors.Writer(ctx.out) as writer,
        (ctx.out / Sample.file).open("w", encoding="utf-8", newline="\n") as lines,
    ):
        for done, (sample, made) in enumerate(_samples(ctx, places, ids), 1):
            if not arrays:
                first = sample.id
                arrays = {name: writer.add(name, a.dtype, (len(places), *a.shape)) for name, a in made.items()}
            _check_alike(arrays, made, first, sample.id)
            for name, array in made.items():
                arrays[name].write(array[None])
            lines.write(msgspec.json.encode(sample).decode() + "\n")
            ctx.progress(done, len(places), "samples")
    shapes = "; ".join(f"{name} {a.dtype} {list(a.shape)}" for name, a in arrays.items())
    ctx.note(f"{readable.count(len(places), 'sample')} from {readable.count(len(names), 'picture')}: {shapes}")


def _places(source: Input, names: Sequence[str], params: PreprocessParams) -> list[tuple[str, int, Fit]]:
    """Find from the files' headers alone where each sample will lie, as (file, turn, fit); all get one shape."""
    from trtpipe.data import pictures

    places: list[tuple[str, int, Fit]] = []
    for name in names:
        size = pictures.size(source.path(name), name, max_pixels=params.max_pixels)
        for turn in params.rotations:
            width, height = size if turn in (0, 180) else size[::-1]
            try:
                places.append((name, turn, fit(width, height, params.resize, params.crop)))
            except ValueError as error:
                raise StageFailed(f"picture {name} {error}") from error
    if isinstance(params.resize, FixedHeight) and not params.crop:
        step = params.resize.multiple_of
        widest = math.ceil((params.resize.width or max(f.canvas[0] for _, _, f in places)) / step) * step
        return [(name, turn, f._replace(canvas=(widest, f.canvas[1]))) for name, turn, f in places]
    first_name, first_turn, first = places[0]
    for other_name, other_turn, other in places:
        if other.canvas != first.canvas:
            raise StageFailed(
                f"all samples must have one shape: {_called(other_name, other_turn)} is {other.canvas[0]} x "
                f"{other.canvas[1]} pixels (width x height) after resizing and cropping, but "
                f"{_called(first_name, first_turn)} is {first.canvas[0]} x {first.canvas[1]}; "
                f"use resize exact, letterbox or height, or a crop"
            )
    return places


def _called(name: str, turn: int) -> str:
    return f"{name} turned by {turn}" if turn else name


def _call(entrypoint: str, function: Hook, args: dict[str, Any], value: Any, sample: Sample) -> Any:
    try:
        return function(value, msgspec.to_builtins(sample), **args)
    except TrtpipeError:
        raise
    except Exception as error:
        raise StageFailed(f"{entrypoint} failed on {sample.id}: {said(error)}") from error


def _samples(
    ctx: Context, places: Sequence[tuple[str, int, Fit]], ids: dict[str, str]
) -> Iterator[tuple[Sample, dict[str, NDArray[Any]]]]:
    """Give each sample's line and its tensors by name."""
    import numpy as np

    from trtpipe.data import pictures

    params: PreprocessParams = ctx.params
    hooks = [(hook, ctx.load(hook.entrypoint)) for hook in params.python]
    marked = params.rotations != (0,)
    current, upright = "", None
    for name, turn, place in places:
        if name != current:
            upright = pictures.read(ctx.inputs["images"].path(name), name, max_pixels=params.max_pixels)
            current = name
        image = pictures.turned(upright, turn)
        sample = place.sample(f"{ids[name]}@{turn}" if marked else ids[name], name, turn)
        for hook, function in hooks:
            if hook.at == "picture":
                before = np.asarray(image)
                after = _call(hook.entrypoint, function, hook.args, before.copy(), sample)
                if not isinstance(after, np.ndarray) or after.shape != before.shape or after.dtype != np.uint8:
                    raise StageFailed(
                        f"{hook.entrypoint} gave {_described(after)} for {sample.id}, "
                        f"expected uint8 {list(before.shape)}: at picture, the size must stay"
                    )
                image = pictures.pillow().fromarray(np.ascontiguousarray(after))
        value: Any = _prepare(image, place, params)
        for hook, function in hooks:
            if hook.at == "array":
                if not isinstance(value, np.ndarray):
                    raise StageFailed(f"only the last python step may give several tensors; {hook.entrypoint} follows")
                value = _call(hook.entrypoint, function, hook.args, value, sample)
                if not _are_arrays(value):
                    raise StageFailed(
                        f"{hook.entrypoint} gave {_described(value)} for {sample.id}, "
                        f"expected an array of numbers, or a mapping of names to such arrays"
                    )
        yield sample, value if isinstance(value, dict) else {params.tensor: value}


def _prepare(image: Any, place: Fit, params: PreprocessParams) -> NDArray[Any]:
    from trtpipe.data import pixels

    values = pixels.placed(image, place, params.resize, params.color)
    if params.dtype != "uint8":
        pixels.normalize(values, scale=_number(params.scale), mean=params.mean, std=params.std)
    return pixels.as_sample(values, params.layout, params.dtype)


def _are_arrays(value: Any) -> bool:
    import numpy as np

    values = value.values() if isinstance(value, dict) and value else [value]
    return all(isinstance(v, np.ndarray) and v.dtype.kind in "biuf" for v in values)


def _described(value: Any) -> str:
    import numpy as np

    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _check_alike(arrays: dict[str, Any], made: dict[str, NDArray[Any]], first: str, identity: str) -> None:
    """Hold a sample that went through users' code against the first one."""
    if made.keys() != arrays.keys():
        raise StageFailed(f"{identity} has the tensors {', '.join(made)}, but {first} has {', '.join(arrays)}")
    for name, array in made.items():
        wanted = arrays[name]
        if array.shape != wanted.shape[1:] or array.dtype != wanted.dtype:
            raise StageFailed(
                f"all samples must have one shape: {name} of {identity} is {_described(array)}, "
                f"of {first} {wanted.dtype} {list(wanted.shape[1:])}"
            )


STAGE = StageType(
    name="preprocess",
    version=3,
    Params=PreprocessParams,
    inputs={
        "images": Port(kinds=(), doc="A picture, or a folder of them.", outside=True),
    },
    output="tensors",
    doc="Decodes, turns, resizes and normalises pictures into tensors, a sample each.",
    run=run,
    packages=("numpy", "pillow"),
)
