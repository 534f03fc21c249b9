"""postprocess: tensors → decisions, as JSON lines, a table and pictures."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from trtpipe.data.step_params import TRANSFORMS, PythonStep, Step
from trtpipe.errors import StageFailed
from trtpipe.stage import Context, Env, Network, Params, Port, StageType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.data.tensors import Ragged, Source

BATCH_BYTES = 1 << 26
"""So many bytes of tensors are in memory at a time (at least one sample)."""


class PostprocessParams(Params, frozen=True):
    """What is done to the tensors, and what of it becomes results."""

    steps: Annotated[tuple[Step, ...], Meta(description="Run in order on tensors and fields by name.")] = ()
    env: Env = ()
    network: Network = False
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

    def tensors(self) -> set[str] | None:
        """Name the tensors that the params mention; None if a python step may read any."""
        if any(isinstance(step, PythonStep) for step in self.steps):
            return None
        roles = ("tensor", "mask", "boxes", "scores", "classes")
        named = {getattr(step, role, None) for step in self.steps for role in roles}
        return {name for name in named if name} | {*self.keep, *self.arrays}


def run(ctx: Context) -> None:
    """Run the steps batch by batch; write results.jsonl, table.txt, the arrays asked for and the pictures."""
    from trtpipe.data import painter, readable, results, step_runs, tensors
    from trtpipe.data.samples import lines_of
    from trtpipe.data.working_set import WorkingSet

    params: PostprocessParams = ctx.params
    sources, given = _sources(ctx)
    total = tensors.count(next(iter(sources.values())))
    even = {name: source for name, source in sources.items() if not isinstance(source, tensors.Ragged)}
    alone = len(even) < len(sources)
    known = lines_of(ctx.inputs["tensors"], total)
    runners = [
        (f"steps[{i}] ({step.__struct_config__.tag})", step_runs.runner(step, ctx.inputs, ctx.load))
        for i, step in enumerate(params.steps)
    ]
    size = max(1, BATCH_BYTES // max(1, sum(source.row_bytes for source in even.values())))
    draws = "images" in ctx.inputs and params.pictures
    painting = painter.Painter(ctx.inputs["images"], ctx.out / "pictures") if draws else None
    shown: list[dict[str, Any]] = []
    done = 0
    with (
        (ctx.out / results.RESULTS).open("w", encoding="utf-8", newline="\n") as lines,
        tensors.Writer(ctx.out) if params.arrays else nullcontext() as writer,
    ):
        arrays = results.Arrays(writer, total, ragged=alone) if writer else None
        # Samples of shapes of their own are decided one by one.
        for batch in tensors.one_by_one(sources) if alone else tensors.batches(even, size):
            count = len(next(iter(batch.values())))
            work = WorkingSet(batch, list(itertools.islice(known, count)), given)
            for where, step in runners:
                try:
                    step(work)
                except (ValueError, StageFailed) as error:
                    raise StageFailed(f"{where}: {error}") from error
            fields, large = results.fields(work, params.keep, params.exclude)
            if large and not done:
                ctx.note(
                    f"not in {results.RESULTS}, because of their size: {', '.join(large)} (see params keep and arrays)"
                )
            if arrays:
                for name in params.arrays:
                    arrays.append(name, work.get(name))
            for sample, record in zip(work.samples, results.records(work, fields), strict=True):
                lines.write(results.json_line(record))
                if len(shown) < params.table_rows:
                    shown.append(record)
                if painting and done < params.pictures:
                    painting.draw(sample, record, done)
                done += 1
            ctx.progress(done, total, "samples")
    (ctx.out / results.TABLE).write_text(readable.table(shown, total=total), "utf-8")
    if painting and total > params.pictures:
        ctx.note(f"{params.pictures} of {total} pictures drawn (param pictures)")


def _sources(ctx: Context) -> tuple[dict[str, Source | Ragged], list[str]]:
    """Give the arrays to read by name, and the names of all in the input `tensors`."""
    from trtpipe.data import tensors

    main = tensors.open_input(ctx.inputs["tensors"])
    extra = tensors.open_input(ctx.inputs["data"]) if "data" in ctx.inputs else {}
    asked = ctx.params.tensors()
    wanted = {*main, *extra} if asked is None else asked | (set(main) if len(main) == 1 else set())
    if both := sorted(main.keys() & extra.keys() & wanted):
        raise StageFailed(f"tensor {both[0]} is in the inputs tensors and data, expected different names")
    chosen = {name: source for name, source in {**main, **extra}.items() if name in wanted}
    # Where the steps name nothing that is there, they are to say so themselves: the message has the step.
    chosen = chosen or dict(itertools.islice(main.items(), 1))
    sources = {name: tensors.plain(source) for name, source in chosen.items()}
    for source in sources.values():
        if isinstance(source, tensors.Ragged):
            if not len(source):
                raise StageFailed(f"{source.label} has no samples, expected at least one")
        elif not source.shape or not source.shape[0]:
            raise StageFailed(f"{source.label} has shape {list(source.shape)}, expected at least one sample on axis 0")
    return sources, list(main)


STAGE = StageType(
    name="postprocess",
    version=5,
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
