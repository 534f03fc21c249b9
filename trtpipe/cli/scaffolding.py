"""The command `init`: the first document of a project, with data that it runs on at once. It asks nothing."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import defaults, errors, project
from trtpipe.cli import drafted
from trtpipe.cli.printing import answer
from trtpipe.pipeline import drafting, ranges, scaffold, trtexec
from trtpipe.store.state import State

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from trtpipe.models.outline import Outline, Side
    from trtpipe.pipeline.ranges import Ranges
    from trtpipe.pipeline.trtexec import Translated

_MOST = 16 * 2**20
"""Bytes of made-up samples that init aims at."""
_IGNORED = "artifacts/"
CI = """\
# Checks the pipeline, runs it, and fails if a gate fails. Without a GPU it runs in ONNX Runtime.
name: trtpipe
on: [push, pull_request]
jobs:
  run:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: {{python-version: "3.11"}}
      - run: pip install 'trtpipe[{extra}]'
      - run: trtpipe validate {document}
      - run: trtpipe run {document}
"""
_CI_FILE = ".github/workflows/trtpipe.yaml"


class Subject(NamedTuple):
    """What the document is about: an ONNX file, or a callable that gives a PyTorch module.

    `settled` is its first profile, `more` are those after it.
    """

    name: str
    inputs: Sequence[Side]
    outputs: Sequence[Side]
    settled: Ranges
    model: str
    export: dict[str, Any] | None
    outline: Outline | None = None
    more: Sequence[Ranges] = ()


def init(args: argparse.Namespace) -> int:
    """Write the first document of a project, and what it needs to run."""
    line = trtexec.translate(args.line) if args.line is not None else trtexec.Translated(measures=False)
    args.artifacts = defaults.store(None, args.named_store, folder=os.path.dirname(os.path.abspath(args.output or "p")))
    given = args.model or line.model or _only_model()
    subject = _of_callable(args, given) if re.search(r"\.py:[A-Za-z_]", given) else _of_file(args, given, line)
    document = args.output or f"{subject.name}.yaml"
    folder = os.path.dirname(os.path.abspath(document))
    root = project.root(folder)
    data = f"{subject.name}-samples.npz"
    shapes = _shapes(subject, line)
    batch_axis: dict[str, int] = {}
    if subject.outline is not None:
        with State(args.artifacts) as state:
            batch_axis = drafted.batch_axes(subject.model, subject.outline, shapes, state)
    plan = scaffold.Plan(
        name=os.path.splitext(os.path.basename(document))[0] if args.output else subject.name,
        model=drafting.relative(subject.model, folder),
        data=data,
        params={"precision": args.shorthand or args.precision or line.precision or "model", **line.params},
        dims=subject.settled.dims,
        profiles=[one.param() for one in (subject.settled, *subject.more) if one.profile],
        run_profile=line.run_profile,
        run_shapes={name: shapes[name] for name in subject.settled.profile},
        inputs=subject.inputs,
        outputs=subject.outputs,
        task=args.task,
        export=subject.export,
        bench=line.bench if line.measures else None,
        batch_axis=batch_axis,
        plugins=tuple(drafting.relative(path, folder) for path in line.plugins),
        told=subject.settled.told,
    )
    text, more = scaffold.document(plan)
    files: dict[str, bytes] = {document: text.encode()}
    files |= {os.path.join(folder, name): content.encode() for name, content in more.items()}
    if args.ci:
        extra = "demo" if subject.export is not None else "cpu"
        shown = drafting.relative(document, root)
        files[os.path.join(root, _CI_FILE)] = CI.format(document=shown, extra=extra).encode()
    _refuse_existing(files)
    kept = os.path.exists(os.path.join(folder, data))
    written = _write(files, folder, root)
    if not kept:
        written.append(_write_samples(os.path.join(folder, data), subject, shapes))
    if not project.holds(root, subject.model.partition(":")[0] if subject.export else subject.model):
        line.told.append(f"{subject.model} is not in the project {root}: run {document} with --allow-outside")
    told = [*line.told, *subject.settled.told, *([f"{data} was there already, and is kept"] if kept else [])]
    shown_files = [os.path.relpath(path) for path in written]
    answer(
        {"document": document, "written": shown_files, "told": told},
        as_json=args.json,
        lines=[*told, *(f"wrote {path}" for path in shown_files), "", f"next: trtpipe run {document}"],
    )
    return 0


# --- what it is about


def _only_model() -> str:
    """Give the only ONNX file in the folder. Raises PipelineInvalid if there is not just one."""
    found = sorted(name for name in os.listdir() if name.endswith(".onnx"))
    if len(found) != 1:
        have = f"{len(found)} ONNX files here ({', '.join(found[:5])})" if found else "no ONNX file here"
        raise errors.PipelineInvalid(
            f"found {have}, expected one model: trtpipe init {found[0] if found else 'model.onnx'}"
        )
    return found[0]


def _of_file(args: argparse.Namespace, path: str, line: Translated) -> Subject:
    from trtpipe.models import outline

    outline.check(path)
    if args.outputs:
        raise errors.PipelineInvalid(
            "found --outputs, expected it with a callable only: an ONNX model names its outputs"
        )
    with State(args.artifacts) as state:
        found = outline.read(path, state)
        given = {**line.shapes, **ranges.read(args.shapes)}
        settled = drafted.settle(path, found, given, state)
        more = drafted.settle_more(path, found, line, settled, state)
    return Subject(drafting.name_of(path), found.inputs, found.outputs, settled, path, None, found, more)


def _of_callable(args: argparse.Namespace, given: str) -> Subject:
    from trtpipe.models.outline import Side

    file, _, function = given.rpartition(":")
    if not os.path.isfile(file):
        raise errors.PipelineInvalid(f"{file}: there is no such file")
    if not args.shapes:
        raise errors.PipelineInvalid(
            f"{given}: found no shapes, expected those of the module's inputs, in the order of forward's arguments: "
            "--shapes image=1..8x3x224x224"
        )
    shapes = ranges.read(args.shapes)
    types = _types(args.dtype, shapes)
    inputs = []
    for name, axes in shapes.items():
        dims = tuple(
            one.opt if one.min == one.max else "batch" if axis == 0 else f"{name}_{axis}"
            for axis, one in enumerate(axes)
        )
        inputs.append(Side(name, types.get(name, "float32"), dims))
    outputs = [Side(name, "float32", None) for name in (args.outputs or "output").split(",")]
    settled = ranges.settle(inputs, shapes)
    folder = os.path.dirname(os.path.abspath(args.output or "net.yaml"))
    export = {
        "framework": "torch",
        "entrypoint": f"{drafting.relative(file, folder)}:{function}",
        "inputs": {one.name: {"shape": list(one.dims or ()), "dtype": one.dtype} for one in inputs},
        "outputs": [one.name for one in outputs],
    }
    return Subject(drafting.name_of(file), inputs, outputs, settled, file, export)


def _types(texts: Sequence[str], shapes: Mapping[str, Any]) -> dict[str, str]:
    from trtpipe.words import suggest

    known = ("bool", "float16", "float32", "float64", "int8", "int32", "int64", "uint8")
    found = {}
    for text in texts:
        name, _, kind = text.rpartition("=")
        if name not in shapes:
            raise errors.PipelineInvalid(
                f"--dtype {text}: found no shape for {name or text}{suggest(name or text, shapes)}"
            )
        if kind not in known:
            raise errors.PipelineInvalid(f"--dtype {text}: found {kind}, expected one of {', '.join(known)}")
        found[name] = kind
    return found


# --- what is written


def _shapes(subject: Subject, line: Translated) -> dict[str, list[int]]:
    """Give the shape of each input in a run: the line's, or the best one, with a smaller batch if samples are large."""
    used = (subject.settled, *subject.more)[line.run_profile]
    profile = used.profile
    best = used.shapes("opt")
    fixed = {one.name: [d for d in one.dims or () if isinstance(d, int)] for one in subject.inputs}
    shapes = {**fixed, **best, **{name: list(shape) for name, shape in line.run_shapes.items() if name in best}}
    batches = {one.dims[0] for one in subject.inputs if one.dims and isinstance(one.dims[0], str)}
    rows = [name for name in profile for one in subject.inputs if one.name == name and (one.dims or (0,))[0] in batches]
    while sum(_bytes(one, shapes) for one in subject.inputs) > _MOST and rows and not line.run_shapes:
        smaller = [max(profile[name][0].min, shapes[name][0] // 2) for name in rows]
        if smaller == [shapes[name][0] for name in rows]:
            break
        for name, size in zip(rows, smaller, strict=True):
            shapes[name][0] = size
    return shapes


def _bytes(one: Side, shapes: Mapping[str, Sequence[int]]) -> int:
    count = 1
    for size in shapes[one.name]:
        count *= size
    return count * (8 if one.dtype.endswith("64") else 4)


def _refuse_existing(files: Mapping[str, bytes]) -> None:
    there = [os.path.relpath(path) for path in files if os.path.lexists(path)]
    if there:
        raise errors.PipelineInvalid(
            f"{', '.join(there)}: it is there already, so nothing was written; name another: --output FILE.yaml"
        )


def _write(files: Mapping[str, bytes], folder: str, root: str) -> list[str]:
    from trtpipe.pipeline import schema
    from trtpipe.store.files import write_file

    every = dict(files)
    text = json.dumps(schema.pipeline_schema(), indent=2, ensure_ascii=False) + "\n"
    every[os.path.join(folder, ".trtpipe", "pipeline.schema.json")] = text.encode()
    ignore = os.path.join(root, ".gitignore")
    have = ""
    path = ignore
    try:
        if os.path.exists(ignore):
            with open(ignore, encoding="utf-8") as stream:
                have = stream.read()
        if _IGNORED not in have.split():
            gap = "" if not have or have.endswith("\n") else "\n"
            every[ignore] = f"{have}{gap}# what trtpipe makes\n{_IGNORED}\n".encode()
        for path, content in every.items():
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            write_file(path, content)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "found no UTF-8 text"
        raise errors.StoreError(f"{path} cannot be written: {why}") from None
    return list(every)


def _write_samples(path: str, subject: Subject, shapes: Mapping[str, Sequence[int]]) -> str:
    import io
    import zipfile
    from pathlib import Path

    import numpy as np

    from trtpipe.models import onnxfile, trial_data
    from trtpipe.store.files import write_file

    model = None if subject.export is not None else onnxfile.load(Path(subject.model))
    try:
        made = trial_data.make(model, subject.inputs, shapes)
    except TypeError:
        kinds = ", ".join(f"{one.name} {one.dtype}" for one in subject.inputs)
        raise errors.PipelineInvalid(
            f"found inputs of types that NumPy lacks ({kinds}): make samples of your own"
        ) from None
    # As numpy.savez_compressed does it, which takes names as arguments, and so not every name.
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in made.items():
            one = io.BytesIO()
            np.lib.format.write_array(one, values)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), one.getvalue(), zipfile.ZIP_DEFLATED)
    try:
        write_file(path, stream.getvalue())
    except OSError as error:
        raise errors.StoreError(f"{path} cannot be written: {error.strerror}") from None
    return path
