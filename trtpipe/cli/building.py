"""The command `build`: from a model's file to a checked engine in one line, with the same stages as a document."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import defaults, errors, project
from trtpipe.cli import drafted
from trtpipe.cli.opening import open_pipeline
from trtpipe.cli.printing import for_programs, wrapped
from trtpipe.formatting import size_text
from trtpipe.pipeline import drafting, ranges, trtexec

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from trtpipe.documents.checks import Check
    from trtpipe.documents.config import Kept
    from trtpipe.environment import Choice
    from trtpipe.pipeline.trtexec import Translated
    from trtpipe.run.runner import Outcome
    from trtpipe.store.store import Store

_LISTED = 3


class Checked(NamedTuple):
    """What was compared with float32, on which data, and by output the figures by their names in the documents."""

    what: str
    how: str
    figures: dict[str, dict[str, float]]


class Drafted(NamedTuple):
    """The document of a build: its text, where it lies or would lie, and what nobody asked for."""

    text: str
    file: str
    told: tuple[str, ...]


def build(args: argparse.Namespace) -> int:
    """Build an engine of a model's file, and say what came of it."""
    from trtpipe.cli.run_display import Console, JsonLines
    from trtpipe.run import runner

    line = trtexec.translate(args.line) if args.line is not None else trtexec.Translated(measures=False)
    _merge(args, line)
    _check(args)
    # The document lies where it is written, or else beside its model; the store is that of its project.
    folder = os.path.dirname(os.path.abspath(args.emit_yaml or args.model))
    args.artifacts = defaults.store(None, args.named_store, folder=folder)
    choice = drafted.choose(args.backend or defaults.read(project.root(folder)).backend, args.output)
    _check_output(args.output, choice)
    document = _draft(args, choice, line)
    if args.emit_yaml:
        _write(args.emit_yaml, document.text.encode())
    # Its paths were named by hand, so they may lead anywhere.
    args.pipeline, args.set, args.allow_outside = document.file, [], True
    watcher = JsonLines(sys.stdout) if args.json else Console(sys.stdout, quiet=args.quiet, results=False)
    lookup, sharing = open_pipeline(args, emit=watcher, make=True, text=document.text, choice=choice)
    if not args.json and not args.quiet:
        for sentence in document.told:
            wrapped(sentence, hang=2)
    try:
        outcome = runner.run(lookup, emit=watcher, exchange=sharing)
    finally:
        watcher.close()
    if "engine" in outcome.artifacts:
        _tell(args, document, lookup.store, outcome)
    return outcome.exit_code


def _merge(args: argparse.Namespace, line: Translated) -> None:
    """Take from a line for trtexec what no option says."""
    args.model = args.model or line.model
    args.output = args.output or line.output
    args.backend = args.backend or line.backend
    if not (args.shorthand or args.precision):
        args.precision = line.precision
    if args.model is None:
        example = "trtpipe build model.onnx" if args.line is None else "--onnx=model.onnx"
        raise errors.PipelineInvalid(f"found no model, expected an ONNX file: {example}")


def _bench_command(bench: dict[str, Any], file: str) -> str:
    """Give the command that measures what a line for trtexec would measure."""
    words = ["trtpipe bench", file]
    for name, value in bench.items():
        option = f"--{name.replace('_', '-')}"
        if name in ("iterations", "duration", "warm_up"):
            words += [option, f"{value:g}"]
        elif name in ("transfers", "cuda_graph"):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif name == "profile":
            words.append(option)
    return " ".join(words)


def _check(args: argparse.Namespace) -> None:
    from trtpipe.models import outline

    outline.check(args.model)
    if args.precision and args.precision != (args.shorthand or args.precision):
        raise errors.PipelineInvalid(f"found --precision {args.precision} and --{args.shorthand}, expected one of them")
    for option, path in (("--int8", args.int8), ("--data", args.data)):
        if path is not None and not os.path.exists(path):
            raise errors.PipelineInvalid(f"{option}: {path}: there is no such file")
    if args.emit_yaml and not args.emit_yaml.endswith((".yaml", ".yml")):
        raise errors.PipelineInvalid(f"--emit-yaml: found {args.emit_yaml}, expected a name that ends in .yaml")
    there = os.path.dirname(args.emit_yaml or "") or "."
    if not os.path.isdir(there):
        raise errors.StoreError(f"{args.emit_yaml} cannot be written: there is no folder {there}")


def _check_output(output: str | None, choice: Choice) -> None:
    if output is None:
        return
    if choice.backend == "onnxruntime" and output.endswith(drafted.PLANS):
        raise errors.EnvironmentMissing(
            f"--output {output}: a plan needs TensorRT or TensorRT-RTX, and this build is with ONNX Runtime "
            f"({choice.reason}), which makes an ONNX file: pip install 'trtpipe[rtx]' and --backend tensorrt_rtx, or "
            f"--output {os.path.splitext(output)[0]}.onnx"
        )
    if choice.backend != "onnxruntime" and output.endswith(".onnx"):
        raise errors.PipelineInvalid(
            f"--output {output}: {choice.backend} makes a plan, expected a name such as a.plan"
        )
    if os.path.isdir(output) or not os.path.isdir(os.path.dirname(output) or "."):
        what = "a folder" if os.path.isdir(output) else "a file in a folder that is not there"
        raise errors.PipelineInvalid(f"--output {output}: found {what}, expected a file's name")


def _draft(args: argparse.Namespace, choice: Choice, line: Translated) -> Drafted:
    from trtpipe.models import outline
    from trtpipe.store.state import State
    from trtpipe.store.store import Store

    Store.make(args.artifacts)
    with State(args.artifacts) as state:
        found = outline.read(args.model, state)
        settled = drafted.settle(args.model, found, {**line.shapes, **ranges.read(args.shapes)}, state)
        more = drafted.settle_more(args.model, found, line, settled, state)
        batch_axis: dict[str, int] = {}
        if line.measures or args.data is not None:
            fixed = {one.name: [d for d in one.dims or () if isinstance(d, int)] for one in found.inputs}
            used = (settled, *more)[line.run_profile]
            shapes = {**fixed, **used.shapes("opt"), **{n: list(s) for n, s in line.run_shapes.items()}}
            batch_axis = drafted.batch_axes(args.model, found, shapes, state)
    told = [*line.told, *dict.fromkeys(one for ranged in (settled, *more) for one in ranged.told)]
    name = drafting.name_of(args.model)
    file = args.emit_yaml or os.path.join(os.path.dirname(args.model), f"{name}.yaml")
    folder = os.path.dirname(os.path.abspath(file))
    runs = drafted.runs_here(choice)
    if args.check and not runs:
        raise errors.EnvironmentMissing(
            f"--check runs the engine, and {choice.backend} runs no engine on this machine: leave it out, or use "
            "--backend onnxruntime"
        )
    if args.data is not None and not runs:
        told.append(
            f"the engine itself is not compared on {args.data}: {choice.backend} runs no engine on this machine"
        )
    wish = drafting.Wish(
        name=name,
        model=drafting.relative(args.model, folder),
        backend=choice.backend,
        ranges=settled,
        params={
            "precision": args.shorthand or args.precision or "model",
            **({"meet_tolerance": True} if args.meet_tolerance else {}),
            **line.params,
        },
        int8=args.int8 and drafting.relative(args.int8, folder),
        data=args.data and drafting.relative(args.data, folder),
        runs=runs,
        measured=line.run_shapes if line.measures else None,
        batch_axis=batch_axis,
        more=more,
        run_profile=line.run_profile,
        plugins=tuple(drafting.relative(path, folder) for path in line.plugins),
        check=args.check,
    )
    if line.measures:
        told.append("trtexec measures the engine too, and build does not; this does, with the document of --emit-yaml: "
                    + _bench_command(line.bench, args.emit_yaml or "FILE.yaml"))  # fmt: skip
    top = project.root(folder)
    outside = [
        path for path in (args.model, args.int8, args.data, *line.plugins) if path and not project.holds(top, path)
    ]
    allow = " --allow-outside" if outside else ""
    if outside and args.emit_yaml:
        told.append(f"{', '.join(outside)} is not in the project {top}: run {file} with --allow-outside")
    comments = [f"Written by `trtpipe build`; run it: trtpipe run {os.path.basename(file)}{allow}", *settled.told]
    return Drafted(drafting.text(name, choice.backend, drafting.stages(wish), comments), file, tuple(told))


def _write(path: str, content: bytes) -> None:
    from trtpipe.store.files import write_file

    try:
        write_file(path, content)
    except OSError as error:
        raise errors.StoreError(f"{path} cannot be written: {error.strerror}") from None


# --- what came of it


def _tell(args: argparse.Namespace, document: Drafted, store: Store, outcome: Outcome) -> None:
    from pathlib import Path

    from trtpipe.cli.run_display import shown_path
    from trtpipe.documents import files
    from trtpipe.documents.manifest import Manifest
    from trtpipe.formatting import seconds_text

    folder = Path(store.tree(outcome.artifacts["engine"]))
    manifest = files.read(folder / Manifest.file, Manifest)
    plan = os.path.join(store.view_path(drafting.name_of(args.model), "engine"), manifest.plan)
    record = store.action(manifest.key)
    seconds = record.about.seconds if record else None
    checks, kept = _checked(store, outcome)
    copies = _copy(folder, manifest.plan, args.output) if args.output else []
    if args.json:
        answer = {
            "event": "Built", "plan": plan, "bytes": manifest.plan_bytes, "seconds": seconds, "key": manifest.key,
            "runtime": manifest.runtime, "runtime_version": manifest.runtime_version, "precision": manifest.precision,
            "error": [{"of": one.what, "on": one.how, "outputs": one.figures} for one in checks],
            "float32": [{"node": one.node, "op": one.op, "why": one.why} for one in kept],
            "told": document.told, "output": copies, "document": args.emit_yaml,
        }  # fmt: skip
        for_programs(json.dumps(answer))
        return
    if args.quiet:
        return
    lines = [""]
    for one in checks:
        lines.append(f"error against float32: {', '.join(_figure_text(*item) for item in one.figures.items())}")
        lines.append(f"  of {one.what}, on {one.how}")
    if not checks:
        lines.append(f"error against float32: not measured, because precision {manifest.precision} leaves the types as "
                     "the model has them")  # fmt: skip
    lines.append(f"stayed float32: {_kept_text(kept)}" if checks else "")
    took = f", built in {seconds_text(seconds)}" if seconds is not None else ""
    lines.append(f"engine  {shown_path(plan)}  {size_text(manifest.plan_bytes)}{took}")
    lines += [f"copied to {one}" for one in copies]
    lines += [f"the pipeline is in {args.emit_yaml}"] if args.emit_yaml else []
    for index, line in enumerate(lines):
        if line or not index:
            wrapped(line, hang=2)


def _checked(store: Store, outcome: Outcome) -> tuple[list[Checked], Sequence[Kept]]:
    """Give what was checked, and the nodes that stayed float32."""
    from pathlib import Path

    from trtpipe.documents import files
    from trtpipe.documents.comparison import Comparison
    from trtpipe.documents.config import Config
    from trtpipe.documents.quantisation import Quantisation

    def folder(stage: str) -> Path:
        return Path(store.tree(outcome.artifacts[stage]))

    found = []
    kept: Sequence[Kept] = ()
    if "quantized" in outcome.artifacts:
        check = files.read(folder("quantized") / Quantisation.file, Quantisation).check
        found.append(Checked("the int8 model", check.how, _figures(check)))
    config = files.read(folder("config") / Config.file, Config)
    change = config.rewrite or config.hold
    if change is not None:
        found.append(Checked(f"the {config.precision} model", change.check.how, _figures(change.check)))
        kept = change.kept
    if "closeness" in outcome.artifacts:
        compared = files.read(folder("closeness") / Comparison.file, Comparison)
        found.append(Checked("the engine", "the samples that were given", compared.outputs))
    return found, kept


def _figures(check: Check) -> dict[str, dict[str, float]]:
    import msgspec

    return {
        name: {figure: value for figure, value in msgspec.structs.asdict(one).items() if value is not None}
        for name, one in check.outputs.items()
    }


def _figure_text(output: str, figures: dict[str, float]) -> str:
    if "relative_l2" in figures:
        return f"{output} {figures['relative_l2']:.2g} (relative L2)"
    return f"{output} differs in {figures.get('differing', 0):.2%} of its values"


def _kept_text(kept: Sequence[Kept]) -> str:
    if not kept:
        return "no node"
    first = ", ".join(f"{one.node} [{one.op}]" for one in kept[:_LISTED])
    more = f" and {len(kept) - _LISTED} more" if len(kept) > _LISTED else ""
    return (
        f"{len(kept)} node{'s' if len(kept) > 1 else ''}, {first}{more}; why: config.json beside the model in config/"
    )


def _copy(folder: Any, plan: str, output: str) -> list[str]:
    """Copy a plan to where people want it, and weights that ONNX Runtime keeps beside it under their own names."""
    import shutil

    copies = []
    for name in sorted(os.listdir(folder)):
        if name != plan and not name.startswith(f"{plan}."):
            continue
        target = output if name == plan else os.path.join(os.path.dirname(output), name)
        part = f"{target}.part"
        try:
            shutil.copyfile(os.path.join(folder, name), part)
            os.replace(part, target)
        except OSError as error:
            raise errors.StoreError(f"{target} cannot be written: {error.strerror}") from None
        copies.append(target)
    return copies
