"""Commands that change nothing in the store: `status`, `show`, `graph`, `validate`, `stages`; and `schema`."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from trtpipe import errors, escaping
from trtpipe.cli.opening import WOULD_RUN, forced, open_pipeline
from trtpipe.cli.printing import Reasons, Screen, err, for_programs, out, wrapped
from trtpipe.cli.printing import path as show_path
from trtpipe.pipeline import loading
from trtpipe.store.files import write_file
from trtpipe.store.state import State

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from trtpipe.run.lookup import Assessed, Lookup, Status
    from trtpipe.store.artifact import Artifact


def status(args: argparse.Namespace) -> int:
    """Say what a run would do; give 10 if anything would run."""
    lookup = open_pipeline(args).lookup
    found = lookup.statuses(args.target, forced=forced(args, lookup.pipeline))
    if args.json:
        out(
            json.dumps(
                {
                    "pipeline": lookup.pipeline.name,
                    "backend": lookup.choice._asdict(),
                    "stages": [
                        {
                            "stage": s.stage, "type": s.type, "status": s.state, "reasons": s.reasons,
                            "artifact": s.artifact.digest if s.artifact else None,
                            "size": s.artifact.size if s.artifact else None,
                        }
                        for s in found
                    ],
                }
            )
        )  # fmt: skip
    else:
        wrapped(f"{lookup.pipeline.name} · {lookup.choice.backend} {lookup.choice.version} ({lookup.choice.reason})",
                hang=2)  # fmt: skip
        _show_statuses(found)
    return 0 if all(s.state == "hit" for s in found) else WOULD_RUN


def _show_statuses(found: Sequence[Status]) -> None:
    """Print a line for each stage."""
    from trtpipe.formatting import size_text, table

    room = Screen(sys.stdout).width
    told = Reasons()
    cells = [
        [s.state, s.stage, s.type, *((size_text(s.artifact.size), s.artifact.digest[:12]) if s.artifact else ("", ""))]
        for s in found
    ]
    lines = table(cells, right=(3,), room=room, spare=(4, 3, 2))
    heads = table([row[:3] for row in cells], room=room, spare=(2,))
    longest = max(map(len, heads), default=0)
    for one, line, head in zip(found, lines, heads, strict=True):
        if one.artifact is not None:
            out(line)
        else:
            wrapped(f"{head.ljust(longest)}  {told(one.reasons)}", hang=4)


def show(args: argparse.Namespace) -> int:
    """Print the path of what a stage made, or its log."""
    stage, _, file = args.what.partition("/")
    lookup = open_pipeline(args).lookup
    order = lookup.pipeline.closure([stage])
    from trtpipe.pipeline import inputs
    from trtpipe.run.lookup import Walk

    try:
        inputs.check(lookup.pipeline, order, allow_outside=args.allow_outside, store=lookup.store.folder)
    except errors.PipelineInvalid as error:
        if args.log or args.record or not _show_locked(args, lookup, stage, file):
            raise error from None
        return 0
    walk = Walk(lookup)
    known = {name: walk.take(name) for name in order}
    for name in lookup.pipeline.match([stage]):
        assessed = known[name]
        if assessed is None:
            missing = [u for u in lookup.pipeline.stages[name].upstream if u not in walk.artifacts]
            causes = dict.fromkeys(walk.failed.get(u, u) for u in missing)
            raise errors.StageFailed(
                f"{name} is not built, because it needs {', '.join(causes)}; "
                f"run it: trtpipe run {args.pipeline} --target {stage}"
            )
        _show(args, lookup, name, file, assessed)
    return 0


def _show_locked(args: argparse.Namespace, lookup: Lookup, stage: str, file: str) -> bool:
    """Show what the lock file names, where inputs are not here (`run --frozen` needs none); tell whether that was done.

    A lock that does not fit what is here says nothing.
    """
    from trtpipe.pipeline.graph import lock_path
    from trtpipe.trust import lockfile

    path = lock_path(args.pipeline)
    if not os.path.exists(path):
        return False
    found = lockfile.compare(lookup, lockfile.read(path), [stage])
    names = [name for name in lookup.pipeline.match([stage]) if name in found.entries]
    artifacts = {name: found.entries[name].artifact for name in names}
    whole = all(
        lookup.store.damage(sha, size, one) is None
        for artifact in artifacts.values()
        for one, (sha, size) in artifact.files.items()
    )
    if found.drifts or not artifacts or not whole:
        return False
    err(f"as {path} has locked it; not here: {', '.join(map(escaping.inline, found.absent)) or 'its inputs'}", hang=2)
    for name, artifact in artifacts.items():
        _show_artifact(args, lookup, name, file, artifact)
    return True


def _show(args: argparse.Namespace, lookup: Lookup, stage: str, file: str, assessed: Assessed) -> None:
    if args.record:
        path = lookup.store.action_path(assessed.digest)
        if not os.path.exists(path):
            raise errors.StageFailed(f"{stage} is not built ({'; '.join(assessed.reasons)}), so it has no record")
        (for_programs(json.dumps({"stage": stage, "record": path})) if args.json else show_path(path))
        return
    if args.log:
        path = lookup.store.action_path(assessed.digest, ".log")
        if not os.path.exists(path):
            raise errors.StageFailed(
                f"{stage} has no log in this store, because it has not run here; "
                f"run it: trtpipe run {args.pipeline} --force {stage}"
            )
        if args.json:
            out(json.dumps({"stage": stage, "log": os.path.abspath(path)}))
        else:
            with open(path, encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
                for line in stream:
                    out(escaping.log(line.removesuffix("\n")))
        return
    if assessed.hit is None:
        raise errors.StageFailed(f"{stage} is not built ({'; '.join(assessed.reasons)}); "
                                 f"run it: trtpipe run {args.pipeline} --target {stage}")  # fmt: skip
    _show_artifact(args, lookup, stage, file, assessed.hit.artifact)


def _show_artifact(args: argparse.Namespace, lookup: Lookup, stage: str, file: str, artifact: Artifact) -> None:
    folder = lookup.store.tree(artifact)
    for told in lookup.store.told:
        err(told)
    lookup.store.told.clear()
    if file and file not in artifact.files:
        from trtpipe.words import suggest

        raise errors.UnknownReference(f"{stage} made no file {file}{suggest(file, artifact.files)}")
    if args.json:
        files = {n: {"sha256": sha, "size": size} for n, (sha, size) in artifact.files.items()}
        out(json.dumps({"stage": stage, "kind": artifact.kind, "digest": artifact.digest, "folder": folder,
                          "files": files}))  # fmt: skip
    else:
        show_path(os.path.join(folder, file) if file else folder)


def notes(args: argparse.Namespace) -> int:
    """Print what each stage told when it ran, and what could not be seen of what it depends on."""
    from trtpipe.run.lookup import Walk

    lookup = open_pipeline(args).lookup
    wanted = lookup.pipeline.match(args.stage) if args.stage else tuple(lookup.pipeline.stages)
    walk = Walk(lookup)
    found: dict[str, list[str]] = {}
    absent = []
    for name in lookup.pipeline.closure(wanted):
        assessed = walk.take(name)
        if name not in wanted:
            continue
        if assessed is None or assessed.hit is None:
            absent.append(name)
        else:
            found[name] = [*assessed.hit.notes, *assessed.hit.gaps]
    if args.json:
        for_programs(json.dumps({"notes": found, "not built": absent}))
        return 0
    for name, told in found.items():
        for text in told:
            wrapped(f"{name}: {escaping.inline(text)}", hang=2)
    if absent:
        wrapped(f"not built, so without notes: {', '.join(absent)}", hang=2)
    elif not any(found.values()):
        out("no stage told anything")
    return 0


def graph(args: argparse.Namespace) -> int:
    """Draw the pipeline's stages and what they read."""
    with State(args.artifacts) as state:
        loaded = loading.load(args.pipeline, args.set, state)
    stages = loaded.stages.values()
    edges = [(up if isinstance(up, str) else up.label, s.name, port.partition("[")[0], not isinstance(up, str))
             for s in stages for port, up in s.inputs.items()]  # fmt: skip
    if args.json:
        nodes = [{"stage": s.name, "type": s.type, "makes": s.output} for s in stages]
        links = [{"from": a, "to": b, "input": port, "outside": o} for a, b, port, o in edges]
        for_programs(json.dumps({"pipeline": loaded.name, "stages": nodes, "edges": links}))
    elif args.format == "text":
        for stage in stages:
            reads = [f"{port} ← {escaping.inline(up)}" for up, user, port, _ in edges if user == stage.name]
            out(f"{stage.name} ({stage.type} → {stage.output})")
            for index, line in enumerate(reads):
                out(f"  {'└─' if index == len(reads) - 1 else '├─'} {line}")
    elif args.format == "mermaid":
        text = escaping.mermaid
        show_path("flowchart TD")
        for stage in stages:
            show_path(f'  {_id(stage.name)}["{text(stage.name)}<br/>{stage.type}"]')
        for source, target, port, outside in edges:
            start = f'{_id("file " + source)}(["{text(source)}"])' if outside else _id(source)
            show_path(f"  {start} -- {port} --> {_id(target)}")
    else:
        dot = escaping.dot
        show_path(f"digraph {dot(loaded.name)} {{")
        show_path("  node [shape=box];")
        for stage in stages:
            # Two lines: within a label, and only there, Graphviz reads `\\n` as a new one.
            show_path(f'  {dot(stage.name)} [label={dot(stage.name)[:-1]}\\n{stage.type}"];')
        for source, target, port, outside in edges:
            name = dot(f"./{source}" if outside and source in loaded.stages else source)
            if outside:
                show_path(f"  {name} [shape=note];")
            show_path(f"  {name} -> {dot(target)} [label={dot(port)}];")
        show_path("}")
    return 0


_MERMAID_WORDS = ("call", "class", "classDef", "click", "default", "direction", "end", "flowchart", "graph", "href",
                  "linkStyle", "style", "subgraph")  # fmt: skip


def _id(name: str) -> str:
    """Make a node's name for mermaid, which trips over its own words."""
    import re

    return re.sub(r"\W", lambda m: f"_{ord(m[0]):x}_", name) + ("_" if name in _MERMAID_WORDS else "")


def validate(args: argparse.Namespace) -> int:
    """Check documents, that the files they name exist, and that this machine can enforce the limits of stages."""
    from trtpipe.pipeline import inputs, run_section

    worst: errors.TrtpipeError | None = None
    results = []
    for file in args.pipeline:
        problems: Sequence[str] = ()
        try:
            with State(args.artifacts) as state:
                loaded = loading.load(file, args.set, state)
                inputs.check(loaded, loaded.closure(()), allow_outside=args.allow_outside)
                run_section.check(loaded, loaded.stages)
        except errors.TrtpipeError as error:
            worst = worst or error
            problems = getattr(error, "problems", (str(error),))
            results.append({"pipeline": file, "valid": False, "error": type(error).__name__, "problems": problems})
            if not args.json:
                err("\n".join(map(escaping.inline, problems)))
        else:
            results.append({"pipeline": file, "valid": True, "stages": list(loaded.stages)})
            if not args.json:
                out(f"{file}: valid, {len(loaded.stages)} stages")
    if args.json:
        out(json.dumps(results))
    return worst.exit_code if worst else 0


def stages(args: argparse.Namespace) -> int:
    """List the stage types, or one type's inputs and params."""
    from trtpipe import stages as known
    from trtpipe.cli import reference
    from trtpipe.words import suggest

    if args.type is not None and args.type not in known.NAMES:
        raise errors.UnknownReference(f"unknown stage type {args.type}{suggest(args.type, known.NAMES)}")
    if args.json:
        out(json.dumps(reference.as_json(args.type)))
    elif args.type is None:
        out("\n".join(reference.overview()))
    else:
        out("\n".join(reference.text(args.type)))
    return 0


def schema(args: argparse.Namespace) -> int:
    """Print the JSON Schema of pipelines or its path, or write all schemas to a folder, or check those in it."""
    from trtpipe.pipeline import schema as made

    if args.path:
        place = os.path.join(os.path.dirname(os.path.abspath(escaping.__file__)), "schemas", made.FILE)
        if not os.path.isfile(place):
            raise errors.EnvironmentMissing(
                f"found no {place}: this installation is not whole; install trtpipe again, or write the schemas: "
                "trtpipe schema --write"
            )
        if args.json:
            out(json.dumps({"file": place}))
        else:
            show_path(place)
        return 0
    if not (args.check or args.write):
        for_programs(_schema_text(made.pipeline_schema()).removesuffix("\n"))
        return 0
    every_fresh = True
    for name, one in made.every().items():
        path, text = os.path.join(args.folder, name), _schema_text(one)
        if args.write:
            try:
                os.makedirs(args.folder, exist_ok=True)
                write_file(path, text.encode())
            except OSError as error:
                raise errors.StoreError(f"{path} cannot be written: {error.strerror}") from None
        fresh = args.write or _holds(path, text)
        every_fresh = every_fresh and fresh
        if args.json:
            out(json.dumps({"file": path, "fresh": fresh}))
        elif args.write:
            show_path(path)
        elif not fresh:
            err(f"{path} is stale; write it again: trtpipe schema --write")
    return 0 if every_fresh else 1


def _schema_text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _holds(path: str, text: str) -> bool:
    """Tell whether a file holds this text."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read() == text
    except OSError:
        return False
