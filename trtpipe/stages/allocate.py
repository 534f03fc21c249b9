"""`allocate`: work out every buffer of an engine for the shapes chosen, before anything is allocated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from trtpipe import batch as rule
from trtpipe.documents.buffers import Buffer, Buffers, Split, SplitBy, Totals
from trtpipe.documents.manifest import Manifest
from trtpipe.errors import StageFailed
from trtpipe.stage import BatchAxis, Context, Params, Port, StageType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.documents.manifest import Binding

BITS = {
    "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "int64": 64, "int32": 32, "int16": 16, "int8": 8,
    "uint64": 64, "uint32": 32, "uint16": 16, "uint8": 8, "bool": 8, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2,
    "float8e4m3fn": 8, "float8e4m3fnuz": 8, "float8e5m2": 8, "float8e5m2fnuz": 8, "float8e8m0": 8, "float4e2m1": 4,
}  # fmt: skip


AHEAD, LEAST_SLOTS, MOST_SLOTS = 512 << 20, 2, 8
"""Batches that wait, read already, hide a reader that comes late. In bytes of one kind of memory, and in batches."""


Shapes = dict[str, list[Annotated[int, Meta(ge=0)]]]


class AllocateParams(Params, frozen=True, kw_only=True):
    """Params of `allocate`."""

    shapes: Annotated[
        Shapes | Annotated[list[Shapes], Meta(min_length=2)] | Literal["auto"],
        Meta(
            description="The shape of each input, by name; an input without dynamic axes may be left out. Several "
            "are buckets: `infer` pads samples to the smallest one that holds them. `auto`: the profile's opt and max."
        ),
    ] = msgspec.field(default_factory=dict)
    values: Annotated[
        dict[str, list[int]],
        Meta(
            description="Values of shape inputs, one number an element, that are fed where the data has no tensor "
            "for them."
        ),
    ] = msgspec.field(default_factory=dict)
    batch_axis: BatchAxis = msgspec.field(default_factory=dict)
    split_by: SplitBy = msgspec.field(default_factory=list)
    profile: Annotated[int, Meta(ge=0, description="Which of the engine's optimisation profiles is used, from 0.")] = 0
    slots: Annotated[
        Annotated[int, Meta(ge=1, le=16)] | None,
        Meta(
            description="How many batches are in flight; each has its own buffers. Default: as many as 512 MiB hold, "
            "from 2 to 8, where the engine runs on a GPU, and 1 on a CPU.",
        ),
    ] = None
    host: Annotated[
        Literal["auto", "pageable", "pinned"],
        Meta(description="The host memory that is copied from and to; auto: pinned where the engine runs on a GPU."),
    ] = "auto"


def run(ctx: Context) -> None:
    """Write `buffers.json`. Needs the engine's manifest only, no runtime and no GPU."""
    params: AllocateParams = ctx.params
    manifest = ctx.inputs["engine"].read(Manifest)
    buffers = plan_buffers(manifest, params)
    ctx.write(buffers)
    if told := _told(manifest, buffers):
        ctx.note(told)


def plan_buffers(manifest: Manifest, params: AllocateParams, *, whole: bool = False) -> Buffers:
    """Work out the buffers. Raises StageFailed that lists everything wrong with the shapes and with the batch.

    `whole` is for callers that take batches as they come out: then nobody must say where the samples lie in outputs.
    """
    on_gpu = manifest.runtime != "onnxruntime"
    if params.host == "pinned" and not on_gpu:
        raise StageFailed(
            "host: found pinned, but onnxruntime runs on the CPU here and copies nothing; expected auto or pageable"
        )
    auto: Literal["pinned", "pageable"] = "pinned" if on_gpu else "pageable"
    shapes, sizes, buckets = _all_shapes(manifest, params)
    batch = _batch(manifest, params, sizes, whole=whole)
    buffers = []
    for b in manifest.bindings:
        shape = shapes[b.name] if b.mode == "input" else _output_shape(b, sizes, batch)
        count = _bytes(shape, b.dtype)
        buffers.append(
            Buffer(
                name=b.name,
                mode=b.mode,
                dtype=b.dtype,
                shape=tuple(shape),
                bytes=count,
                size="known" if count is not None else "data-dependent",
                batch_axis=batch.axes[b.name],
                host=auto if params.host == "auto" else params.host,
                device="cuda:0" if on_gpu else "cpu",
            )
        )
    one_slot = sum(b.bytes or 0 for b in buffers)
    slots = params.slots or (max(LEAST_SLOTS, min(MOST_SLOTS, AHEAD // max(1, one_slot))) if on_gpu else 1)
    return Buffers(
        bindings=tuple(buffers),
        slots=slots,
        totals=Totals(host=one_slot * slots, device=one_slot * slots if on_gpu else 0),
        unknown=tuple(b.name for b in buffers if b.bytes is None),
        profile=params.profile,
        values={name: tuple(given) for name, given in params.values.items()},
        batch=1 if batch.size is None else batch.size,
        buckets=buckets,
        splits=_splits(params),
    )


def _splits(params: AllocateParams) -> tuple[Split, ...]:
    return (params.split_by,) if isinstance(params.split_by, Split) else tuple(params.split_by)


def _split_problems(outputs: Sequence[Binding], params: AllocateParams) -> list[str]:
    """Give what is wrong with `split_by`."""
    problems = []
    known = {b.name: b for b in outputs}
    seen: set[str] = set()
    for split in _splits(params):
        for name in (split.tensor, *split.also):
            at = f"split_by ({split.tensor})"
            if name not in known:
                problems.append(f"{at}: found {name}, expected an output; they are {', '.join(known)}")
            elif name in seen or name in params.batch_axis:
                problems.append(f"{at}: found {name} twice, expected it once, in split_by or in batch_axis")
            seen.add(name)
        b = known.get(split.tensor)
        if b is not None and (len(b.dims) not in (1, 2) or "int" not in b.dtype):
            problems.append(
                f"split_by: {split.tensor} is {b.dtype} {rule.text(b)}, expected whole numbers [n] or [n, columns]"
            )
        elif b is not None and split.column and (len(b.dims) == 1 or split.column >= (_size(b.dims[1]))):
            problems.append(f"split_by: found column {split.column}, but {split.tensor} is {rule.text(b)}")
    return problems


def _size(dim: int | str) -> float:
    return dim if isinstance(dim, int) else math.inf


def _output_shape(b: Binding, sizes: Mapping[str, int], batch: rule.Batch) -> list[int | None]:
    """Give an output's shape, as far as the inputs' shapes decide it."""
    shape = [sizes.get(d) if isinstance(d, str) else d for d in b.dims]
    axis = batch.axes[b.name]
    if axis is not None and shape[axis] is None:
        shape[axis] = batch.size
    return shape


def _batch(manifest: Manifest, params: AllocateParams, sizes: Mapping[str, int], *, whole: bool) -> rule.Batch:
    """Decide which axes are the batch. Raises StageFailed where that is contradictory, or for outputs left open."""
    inputs, outputs = manifest.side("input"), manifest.side("output")
    split = {name: "none" for one in _splits(params) for name in (one.tensor, *one.also)}
    batch = rule.find(inputs, outputs, {**split, **params.batch_axis}, sizes)
    if problems := [*_split_problems(outputs, params), *batch.problems]:
        raise StageFailed("\n".join(problems))
    if batch.undecided and not whole:
        unclear = [b for b in outputs if b.name in batch.undecided]
        which = ", ".join(f"{b.name} {rule.text(b)}" for b in unclear)
        carried = next(b for b in inputs if batch.axes[b.name] is not None)
        whose = f"axis {batch.axes[carried.name]} of {carried.name} {rule.text(carried)}"
        line = rule.line(unclear, batch.size)
        ways = [f"{line} with the axis that is the batch, or none where all samples share the output"]
        rows = [b for b in unclear if len(b.dims) == 2 and "int" in b.dtype and isinstance(b.dims[0], str)]
        if rows:
            ways.append(f"split_by: {{tensor: {rows[0].name}, column: 0}} if a column has the sample's number")
        if _alone(manifest, params, batch):
            ways.append("shapes with a batch of 1")
        if not params.batch_axis:
            ways.append(f"batch_axis: {{{carried.name}: none}} if that is no batch at all")
        raise StageFailed(
            f"a batch has {batch.size} samples ({whose}), and nothing says which axis of {which} they lie along; "
            f"expected in params of allocate: {'; or '.join(ways)}"
        )
    return batch


def _alone(manifest: Manifest, params: AllocateParams, batch: rule.Batch) -> bool:
    """Tell whether the engine takes a batch of 1."""
    profile = manifest.profiles[params.profile] if manifest.profiles else {}
    for b in manifest.side("input"):
        axis = batch.axes[b.name]
        if axis is not None and (
            isinstance(b.dims[axis], int) or (b.name in profile and profile[b.name].min[axis] > 1)
        ):
            return False
    return True


def _told(manifest: Manifest, buffers: Buffers) -> str:
    """Say which axes are the batch, where that is not axis 0 of every tensor."""
    dims = {b.name: rule.text(b) for b in manifest.bindings}
    axes = {b.name: b.batch_axis for b in buffers.bindings}
    if all(axis == 0 for axis in axes.values()):
        return ""
    whole = [f"{name} {dims[name]}" for name, axis in axes.items() if axis is None]
    if len(whole) == len(axes):
        return f"no batch: the engine runs once a sample ({', '.join(whole)})"
    found = ", ".join(f"axis {axis} of {name} {dims[name]}" for name, axis in axes.items() if axis is not None)
    rest = f"; none of {', '.join(whole)}" if whole else ""
    return f"batch of {buffers.batch}: {found}{rest}"


def _all_shapes(
    manifest: Manifest, params: AllocateParams
) -> tuple[dict[str, Sequence[int]], dict[str, int], tuple[dict[str, tuple[int, ...]], ...]]:
    """Give the largest shape of each input, the largest size of each named axis, and the buckets if there are some."""
    asked: list[Shapes]
    if params.shapes == "auto":
        if not 0 <= params.profile < len(manifest.profiles):
            raise StageFailed(
                f"shapes: found auto, but the engine has no profile {params.profile}; write the shape of each input"
            )
        known = manifest.profiles[params.profile]
        asked = [{n: list(one.opt) for n, one in known.items()}, {n: list(one.max) for n, one in known.items()}]
        asked = asked if asked[0] != asked[1] else asked[:1]
    else:
        asked = params.shapes if isinstance(params.shapes, list) else [params.shapes]
    problems, found = [], []
    for number, one in enumerate(asked):
        try:
            found.append(_input_shapes(manifest, params, one))
        except StageFailed as error:
            problems.append(str(error) if len(asked) == 1 else f"bucket {number}: {error}")
    if problems:
        raise StageFailed("\n".join(problems))
    largest = {
        name: [max(sizes) for sizes in zip(*(shapes[name] for shapes, _ in found), strict=True)] for name in found[0][0]
    }
    sizes = {dim: max(own[dim] for _, own in found) for dim in found[0][1]}
    several = tuple({n: tuple(shape) for n, shape in shapes.items()} for shapes, _ in found)
    return {n: tuple(shape) for n, shape in largest.items()}, sizes, several if len(found) > 1 else ()


def _input_shapes(
    manifest: Manifest, params: AllocateParams, asked: Shapes
) -> tuple[dict[str, Sequence[int]], dict[str, int]]:
    """Give the shape of each input, and the size of each named axis."""
    inputs = {b.name: b for b in manifest.side("input")}
    profiles = manifest.profiles
    problems: list[str] = []
    if profiles and params.profile >= len(profiles):
        last = len(profiles) - 1
        raise StageFailed(f"profile: found {params.profile}, expected 0 to {last}: the engine has {len(profiles)}")
    if not profiles and params.profile:
        raise StageFailed(f"profile: found {params.profile}, but the engine has no profiles; leave it out")
    profile = profiles[params.profile] if profiles else {}
    if extra := [name for name in asked if name not in inputs]:
        problems.append(f"shapes: found {', '.join(extra)}; the engine's inputs are {', '.join(inputs)}")
    shapes: dict[str, Sequence[int]] = {}
    sizes: dict[str, int] = {}
    owner: dict[str, str] = {}
    for name, b in inputs.items():
        dims = b.dims
        shape = asked.get(name)
        if shape is None:
            shape = [d for d in dims if isinstance(d, int)]
            if len(shape) < len(dims):
                problems.append(f"shapes: input {name} {_text(dims)} is missing; its dynamic axes need sizes")
                continue
        if len(shape) != len(dims):
            problems.append(f"shapes.{name}: found {shape} ({len(shape)} axes), expected {len(dims)}: {_text(dims)}")
            continue
        fixed = [a for a, d in enumerate(dims) if isinstance(d, int) and d != shape[a]]
        if fixed:
            problems.append(f"shapes.{name}: found {shape}, but axis {fixed[0]} is fixed: {_text(dims)}")
            continue
        shapes[name] = shape
        if name in profile:
            within = profile[name]
            if any(not a <= n <= z for a, n, z in zip(within.min, shape, within.max, strict=True)):
                problems.append(
                    f"shapes.{name}: found {shape}, outside profile {params.profile}: "
                    f"min {list(within.min)}, opt {list(within.opt)}, max {list(within.max)}"
                )
        for axis, dim in enumerate(dims):
            if isinstance(dim, str):
                if sizes.setdefault(dim, shape[axis]) != shape[axis]:
                    problems.append(
                        f"shapes.{name}: axis {axis} ({dim}) is {shape[axis]}, "
                        f"but {sizes[dim]} in input {owner[dim]}: it is one axis"
                    )
                owner.setdefault(dim, name)
    problems += _value_problems(manifest, params)
    if problems:
        raise StageFailed("\n".join(problems))
    return shapes, sizes


def _value_problems(manifest: Manifest, params: AllocateParams) -> list[str]:
    """Give what is wrong with the values of shape inputs."""
    problems = []
    deciding = {b.name: b for b in manifest.side("input") if b.shape_input}
    for name, given in params.values.items():
        if name not in deciding:
            known = f"they are {', '.join(deciding)}" if deciding else "it has none"
            problems.append(f"values: found {name}, expected one of the engine's shape inputs; {known}")
            continue
        dims = deciding[name].dims
        count = math.prod(d if isinstance(d, int) else -1 for d in dims)
        if count != len(given):
            problems.append(f"values.{name}: found {len(given)} values, expected {count}: {_text(dims)}")
        elif problem := manifest.values_outside(params.profile, name, given):
            problems.append(f"values.{name}: {problem}")
    return problems


def _bytes(shape: Sequence[int | None], dtype: str) -> int | None:
    """Give the bytes of a tensor; None if an axis has no size yet."""
    known = [size for size in shape if size is not None]
    if len(known) < len(shape):
        return None
    if dtype not in BITS:
        raise StageFailed(f"a binding is of dtype {dtype}, whose size is not known")
    return -(-math.prod(known) * BITS[dtype] // 8)


def _text(dims: Sequence[int | str]) -> str:
    return "[" + ", ".join(str(d) for d in dims) + "]"


STAGE = StageType(
    name="allocate",
    version=6,
    Params=AllocateParams,
    inputs={"engine": Port(kinds=("engine",), doc="The engine whose buffers are worked out.")},
    output="buffers",
    doc="Works out every buffer of an engine for the shapes chosen, and refuses shapes outside the profile.",
    run=run,
)
