"""preprocess: pictures → tensors, one sample a picture and turn."""

from __future__ import annotations

import csv
import difflib
import io
import math
import posixpath
from collections import Counter
from fnmatch import fnmatch
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from trtpipe.errors import StageFailed, TrtpipeError
from trtpipe.stage import Context, Entrypoint, Params, Port, SourcePath, StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np

    from trtpipe.stage import Input

    Hook = Callable[..., Any]

Positive = Annotated[int, Meta(ge=1)]
HeightWidth = Annotated[tuple[Positive, Positive], Meta(description="Height and width in pixels.")]
Interpolation = Annotated[
    Literal["nearest", "bilinear", "bicubic", "lanczos", "box"],
    Meta(description="How pixels are resampled; all but nearest are widened when shrinking, against aliasing."),
]
Channels = float | tuple[float, ...]
Pad = Annotated[
    Channels,
    Meta(description="What fills the border, in pixel values 0..255: a number, or one a channel in `color`'s order."),
]
Multiple = Annotated[int, Meta(ge=1, description="Sides are made multiples of this many pixels.")]


class _Resize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="mode"):
    pass


class KeepSize(_Resize, frozen=True, tag="keep"):
    """Pictures keep their size, which must be one for all."""


class ExactSize(_Resize, frozen=True, tag="exact"):
    """Stretched or squeezed to a size."""

    size: HeightWidth
    interpolation: Interpolation = "bilinear"


class Letterbox(_Resize, frozen=True, tag="letterbox"):
    """Made as large as fits into a size with the sides' ratio kept; the rest is a border."""

    size: HeightWidth
    pad: Pad = 114.0
    align: Annotated[Literal["center", "top_left"], Meta(description="Where the picture lies in the size.")] = "center"
    interpolation: Interpolation = "bilinear"


class ShorterSide(_Resize, frozen=True, tag="shorter_side"):
    """The shorter side gets a length, the other follows; each is rounded to the nearest multiple of `multiple_of`."""

    size: Annotated[int, Meta(ge=1, description="The length of the shorter side in pixels.")]
    multiple_of: Multiple = 1
    interpolation: Interpolation = "bilinear"


class FixedHeight(_Resize, frozen=True, tag="height"):
    """Lines of text: one height, the width follows; padded on the right to one width for all."""

    size: Annotated[int, Meta(ge=1, description="The height in pixels.")]
    multiple_of: Annotated[int, Meta(ge=1, description="The common width is rounded up to a multiple of this.")] = 1
    width: Annotated[
        int | None, Meta(description="The common width, by default the widest picture's; wider ones are squeezed.")
    ] = None
    max_width: Annotated[int | None, Meta(description="Wider pictures are squeezed to this width.")] = None
    pad: Pad = 0.0
    interpolation: Interpolation = "bilinear"


Resize = KeepSize | ExactSize | Letterbox | ShorterSide | FixedHeight


class Crop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is cut out after resizing."""

    size: HeightWidth
    mode: Annotated[Literal["center"], Meta(description="From where.")] = "center"


class ArrayHook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function of one's own: `f(array, sample, **args)` gives the array that goes on.

    At `picture` it gets and gives uint8 [height, width, 3] RGB of one size, before resizing. At `array` it gets the
    finished tensor of one sample, without the sample axis; the last one may give several, {name: array}.
    """

    entrypoint: Entrypoint
    sources: Annotated[tuple[SourcePath, ...], Meta(description="Further files that the code needs.")] = ()
    args: Annotated[dict[str, Any], Meta(description="Given to the function by name.")] = {}
    at: Annotated[Literal["picture", "array"], Meta(description="Before resizing, or at the end.")] = "array"


class PreprocessParams(Params, frozen=True):
    """How pictures become tensors: value = (pixel * scale - mean) / std."""

    tensor: Annotated[str, Meta(min_length=1, description="The name of the tensor made: the model's input.")]
    patterns: Annotated[
        tuple[str, ...],
        Meta(description="Which files of the folder, such as `*.png`; by default all with a picture's suffix."),
    ] = ()
    list: Annotated[
        str | None,
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

    def entrypoints(self) -> Iterable[str]:
        """Give the hooks' entrypoints."""
        return [hook.entrypoint for hook in self.python]

    def files(self) -> Iterable[str]:
        """Give the hooks' sources."""
        return [source for hook in self.python for source in hook.sources]


def _tuple(value: Channels) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _number(scale: float | str) -> float:
    return float(Fraction(scale.partition("/")[0]) / int(scale.partition("/")[2])) if isinstance(scale, str) else scale


class Fit(NamedTuple):
    """Where a picture of width x height lies in the prepared one: resized, then put at (left, top) of the canvas."""

    width: int
    height: int
    resized: tuple[int, int]  # (width, height)
    canvas: tuple[int, int]  # (width, height)
    left: int
    top: int

    def sample(self, identity: str, source: str, turn: int) -> dict[str, Any]:
        """Give the line of samples.jsonl: prepared_xy = original_xy * scale + pad."""
        seen = [
            max(0, min(place + size, room) - max(place, 0))
            for place, size, room in zip((self.left, self.top), self.resized, self.canvas, strict=True)
        ]
        return {
            "id": identity,
            "source": source,
            "width": self.width,
            "height": self.height,
            "rotation": turn,
            "scale_x": self.resized[0] / self.width,
            "scale_y": self.resized[1] / self.height,
            "pad_x": self.left,
            "pad_y": self.top,
            "input_width": self.canvas[0],
            "input_height": self.canvas[1],
            "valid_width": seen[0],
            "valid_height": seen[1],
        }


def fit(width: int, height: int, resize: Resize, crop: Crop | None) -> Fit:
    """Find where a picture comes to lie. Raises ValueError if it is smaller than the crop."""
    left = top = 0
    resized = (width, height)
    canvas = None
    if isinstance(resize, ExactSize):
        resized = (resize.size[1], resize.size[0])
    elif isinstance(resize, Letterbox):
        room_height, room_width = resize.size
        ratio = min(room_width / width, room_height / height)
        resized = (
            min(room_width, max(1, round(width * ratio))),
            min(room_height, max(1, round(height * ratio))),
        )
        canvas = (room_width, room_height)
        if resize.align == "center":
            left, top = (room_width - resized[0]) // 2, (room_height - resized[1]) // 2
    elif isinstance(resize, ShorterSide):
        ratio, step = resize.size / min(width, height), resize.multiple_of
        resized = (max(1, round(width * ratio / step)) * step, max(1, round(height * ratio / step)) * step)
    elif isinstance(resize, FixedHeight):
        wide = math.ceil(width * resize.size / height)
        resized = (min(wide, resize.max_width or wide, resize.width or wide), resize.size)
    canvas = canvas or resized
    if crop:
        crop_height, crop_width = crop.size
        if crop_width > canvas[0] or crop_height > canvas[1]:
            raise ValueError(
                f"is {canvas[0]} x {canvas[1]} pixels (width x height) after resizing, "
                f"less than the crop's {crop_width} x {crop_height}"
            )
        left -= (canvas[0] - crop_width) // 2
        top -= (canvas[1] - crop_height) // 2
        canvas = (crop_width, crop_height)
    return Fit(width, height, resized, canvas, left, top)


def _pictures(source: Input, params: PreprocessParams) -> list[str]:
    """Name the pictures among the input's files, in the order of the samples."""
    if params.list is not None:
        return _listed(source, params.list)
    if source.kind == "file" and source.files[0].endswith((".txt", ".csv")):
        raise StageFailed(
            f"input images ({source.label}) is a list; the pictures that it names would not be in the stage's key. "
            f"Give the folder as the input, and the list's path in it as params.list"
        )
    from trtpipe.data.pictures import SUFFIXES

    patterns = [p.lower() for p in params.patterns] or [f"*{suffix}" for suffix in SUFFIXES]
    found = [f for f in source.files if any(_matches(f.lower(), p) for p in patterns)]
    if not found:
        some = ", ".join(source.files[:5]) + (", …" if len(source.files) > 5 else "")
        raise StageFailed(
            f"input images ({source.label}) has no file that fits {', '.join(patterns)}; it has {some or 'no files'}"
        )
    return found


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(posixpath.basename(name), pattern)


def _listed(source: Input, name: str) -> list[str]:
    try:
        text = source.path(name).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageFailed(f"{name} is not UTF-8: byte {error.start}") from error
    if name.endswith(".csv"):
        rows = csv.DictReader(io.StringIO(text, newline=""))
        columns = rows.fieldnames or [""]
        column = next((c for c in ("path", "file", "image") if c in columns), columns[0])
        lines = [row[column] or "" for row in rows]
    else:
        lines = text.splitlines()
    found = []
    for line in filter(None, map(str.strip, lines)):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), line))
        if path not in source.files:
            near = difflib.get_close_matches(path, source.files, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise StageFailed(f"{name} names {line}, which is not in input images ({source.label}){hint}")
        found.append(path)
    if not found:
        raise StageFailed(f"{name} names no pictures")
    if twice := [path for path, count in Counter(found).items() if count > 1]:
        raise StageFailed(f"{name} names {twice[0]} more than once")
    return found


def _identities(names: Sequence[str]) -> list[str]:
    """Give each picture's id: its path without the suffix, or with it where two would be one."""
    stems = [posixpath.splitext(name)[0] for name in names]
    count = Counter(stems)
    return [stem if count[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]


def _plan(source: Input, names: Sequence[str], params: PreprocessParams) -> list[tuple[str, int, Fit]]:
    """Find from the files' headers alone where each sample will lie, as (file, turn, fit); all get one shape."""
    from trtpipe.data import pictures

    plan: list[tuple[str, int, Fit]] = []
    for name in names:
        size = pictures.size(source.path(name), name, max_pixels=params.max_pixels)
        for turn in params.rotations:
            width, height = size if turn in (0, 180) else size[::-1]
            try:
                plan.append((name, turn, fit(width, height, params.resize, params.crop)))
            except ValueError as error:
                raise StageFailed(f"picture {name} {error}") from error
    if isinstance(params.resize, FixedHeight) and not params.crop:
        step = params.resize.multiple_of
        widest = math.ceil((params.resize.width or max(f.canvas[0] for _, _, f in plan)) / step) * step
        return [(name, turn, f._replace(canvas=(widest, f.canvas[1]))) for name, turn, f in plan]
    first_name, first_turn, first = plan[0]
    for other_name, other_turn, other in plan:
        if other.canvas != first.canvas:
            raise StageFailed(
                f"all samples must have one shape: {_called(other_name, other_turn)} is {other.canvas[0]} x "
                f"{other.canvas[1]} pixels (width x height) after resizing and cropping, but "
                f"{_called(first_name, first_turn)} is {first.canvas[0]} x {first.canvas[1]}; "
                f"use resize exact, letterbox or height, or a crop"
            )
    return plan


def _called(name: str, turn: int) -> str:
    return f"{name} turned by {turn}" if turn else name


def prepare(image: Any, place: Fit, params: PreprocessParams) -> np.ndarray:
    """Resize, pad, crop and normalise one upright RGB `PIL.Image`; gives one sample in the layout and dtype asked."""
    import numpy as np

    from trtpipe.data.pictures import pillow

    if params.color == "L":
        image = image.convert("L")
    method = getattr(params.resize, "interpolation", "bilinear")
    if image.size != place.resized:
        image = image.resize(place.resized, getattr(pillow().Resampling, method.upper()))
    pixels = np.atleast_3d(np.asarray(image))
    if params.color == "BGR":
        pixels = pixels[:, :, ::-1]
    width, height = place.canvas
    values = np.empty((height, width, pixels.shape[2]), np.float32)
    values[:] = getattr(params.resize, "pad", 0.0)
    top, left = max(place.top, 0), max(place.left, 0)
    part = pixels[max(-place.top, 0) :, max(-place.left, 0) :][: height - top, : width - left]
    values[top : top + part.shape[0], left : left + part.shape[1]] = part
    if params.dtype != "uint8":
        values *= np.float32(_number(params.scale))
        values -= np.asarray(params.mean, np.float32)
        values /= np.asarray(params.std, np.float32)
    if params.layout == "NCHW":
        values = values.transpose(2, 0, 1)
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(values, dtype=params.dtype)
    if not np.isfinite(result).all():
        raise StageFailed(f"{params.dtype} cannot hold the normalised pixels (up to {np.abs(values).max():.6g})")
    return result


def _call(entrypoint: str, function: Hook, args: dict[str, Any], value: Any, sample: dict[str, Any]) -> Any:
    try:
        return function(value, dict(sample), **args)
    except TrtpipeError:
        raise
    except Exception as error:
        raise StageFailed(f"{entrypoint} failed on {sample['id']}: {type(error).__name__}: {error}") from error


def _samples(
    ctx: Context, plan: Sequence[tuple[str, int, Fit]], ids: dict[str, str]
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Give each sample's line and its tensors by name."""
    import numpy as np

    from trtpipe.data import pictures

    params: PreprocessParams = ctx.params
    hooks = [(hook, ctx.load(hook.entrypoint)) for hook in params.python]
    marked = params.rotations != (0,)
    current, upright = "", None
    for name, turn, place in plan:
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
                        f"{hook.entrypoint} gave {_described(after)} for {sample['id']}, "
                        f"expected uint8 {list(before.shape)}: at picture, the size must stay"
                    )
                image = pictures.pillow().fromarray(np.ascontiguousarray(after))
        value: Any = prepare(image, place, params)
        for hook, function in hooks:
            if hook.at == "array":
                if not isinstance(value, np.ndarray):
                    raise StageFailed(f"only the last python step may give several tensors; {hook.entrypoint} follows")
                value = _call(hook.entrypoint, function, hook.args, value, sample)
                if not _are_arrays(value):
                    raise StageFailed(
                        f"{hook.entrypoint} gave {_described(value)} for {sample['id']}, "
                        f"expected an array of numbers, or a mapping of names to such arrays"
                    )
        yield sample, value if isinstance(value, dict) else {params.tensor: value}


def _are_arrays(value: Any) -> bool:
    import numpy as np

    values = value.values() if isinstance(value, dict) and value else [value]
    return all(isinstance(v, np.ndarray) and v.dtype.kind in "biuf" for v in values)


def _described(value: Any) -> str:
    import numpy as np

    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def run(ctx: Context) -> None:
    """Write the tensors and samples.jsonl, one picture in memory at a time."""
    from trtpipe.data import readable, tensors

    source = ctx.inputs["images"]
    names = _pictures(source, ctx.params)
    plan = _plan(source, names, ctx.params)
    ids = dict(zip(names, _identities(names), strict=True))
    arrays: dict[str, tensors.ArrayWriter] = {}
    first = ""
    with (
        tensors.Writer(ctx.out) as writer,
        (ctx.out / tensors.SAMPLES).open("w", encoding="utf-8", newline="\n") as lines,
    ):
        for done, (sample, made) in enumerate(_samples(ctx, plan, ids), 1):
            if not arrays:
                first = sample["id"]
                arrays = {name: writer.add(name, a.dtype, (len(plan), *a.shape)) for name, a in made.items()}
            _check_alike(arrays, made, first, sample["id"])
            for name, array in made.items():
                arrays[name].write(array[None])
            lines.write(msgspec.json.encode(sample).decode() + "\n")
            ctx.progress(done, len(plan), "samples")
    shapes = "; ".join(f"{name} {a.dtype} {list(a.shape)}" for name, a in arrays.items())
    ctx.note(f"{readable.count(len(plan), 'sample')} from {readable.count(len(names), 'picture')}: {shapes}")


def _check_alike(arrays: dict[str, Any], made: dict[str, np.ndarray], first: str, identity: str) -> None:
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
    version=1,
    Params=PreprocessParams,
    inputs={
        "images": Port(kinds=(), doc="A picture, or a folder of them.", outside=True),
    },
    output="tensors",
    doc="Decodes, turns, resizes and normalises pictures into tensors, a sample each.",
    run=run,
    packages=("numpy", "pillow"),
)
