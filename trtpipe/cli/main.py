"""The command line: one function a command, and the only place where errors become exit codes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from trtpipe import __version__, environment, errors
from trtpipe.pipeline import loading
from trtpipe.pipeline.graph import lock_path
from trtpipe.store.files import write_file
from trtpipe.store.state import State
from trtpipe.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from trtpipe.remote.signed_store import Remote
    from trtpipe.run.runner import Assessed, Runner, Status

INTERNAL, INTERRUPTED, WOULD_RUN = 70, 130, 10
_ISSUES = "https://github.com/trtpipe/trtpipe/issues"

_EPILOG = """\
examples:
  trtpipe run pipelines/digits.yaml                       bring everything up to date
  trtpipe run pipelines/digits.yaml --target engine       only what the stage engine needs
  trtpipe run pipelines/digits.yaml --set vars.batch=8    with another value in the document
  trtpipe status pipelines/digits.yaml                    what a run would do, and why
  trtpipe show pipelines/digits.yaml labels/table.txt     the path of a file that a stage made

exit codes: 0 done · 1 a stage failed · 2 the document or the command is wrong · 3 a package, GPU or driver is absent
            4 the store · 5 a gate said no · 10 (status) something would run · 70 our bug · 130 interrupted
"""


class _Terminated(BaseException):
    """SIGTERM, or SIGHUP from a terminal that was closed, treated as Ctrl-C is; the argument is the signal's number."""


def main(arguments: Sequence[str]) -> int:
    """Run one command; give its exit code."""
    _ready_streams()
    try:
        args = parser().parse_args(arguments)
    except SystemExit as stop:  # argparse has said what is wrong
        return int(stop.code or 0)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup has it ignored
        signal.signal(signal.SIGHUP, _terminate)
    try:
        try:
            _check_surroundings(arguments)
            with contextlib.ExitStack() as args.cleanup:
                code: int = args.function(args)
        except errors.TrtpipeError as error:
            code = _report(error, as_json=getattr(args, "json", False))
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt:
        _farewell("interrupted")
        return INTERRUPTED
    except _Terminated as end:
        _farewell("terminated")
        return 128 + int(end.args[0])
    except BrokenPipeError:
        _drop_streams()  # the reader (head, less) has gone
        return 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 — this is where a bug of ours ends
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            # What names no file is the stream to which the answer goes.
            with contextlib.suppress(OSError):
                sys.stderr.write(f"error: {error.filename or 'the output'} cannot be written: {error.strerror}\n")
            _drop_streams()
            return errors.StoreError.exit_code
        import traceback

        traceback.print_exc()
        sys.stderr.write(f"\nthis is a bug in trtpipe {__version__}; please report the lines above: {_ISSUES}\n")
        return INTERNAL
    return code


def _ready_streams() -> None:
    """See to it that printing cannot fail for what is printed, or because a stream was closed by the caller."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115 — stays open to the end
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_streams() -> None:
    """Send what is still to be written nowhere: Python would complain once more when it closes the streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _check_surroundings(arguments: Sequence[str]) -> None:
    """Refuse what cannot be kept in records: names that are not UTF-8; and a folder that is gone."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise errors.StoreError("the folder in which this runs is gone; change to one that is there") from None
    for text in (here, *arguments):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise errors.PipelineInvalid(f"found {os.fsencode(text)!r}, expected UTF-8") from None


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Terminated(number)


def _farewell(how: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"\n{how}: nothing half-written is left\n")
    _drop_streams()


def _report(error: errors.TrtpipeError, *, as_json: bool) -> int:
    if as_json:
        problems = getattr(error, "problems", (str(error),))
        print(json.dumps({"event": "Error", "error": type(error).__name__, "problems": problems}))
    else:
        from trtpipe.cli.console import has_colour

        colour = "\033[1;31merror\033[0m" if has_colour(sys.stderr) else "error"
        text = str(error)
        sys.stderr.write(f"{colour}: {text}\n" if "\n" not in text else f"{colour}:\n{text}\n")
    return error.exit_code


# --- commands


def _open(args: argparse.Namespace, *, emit: Callable[[Any], None] = lambda _: None, make: bool = False) -> Runner:
    """Load the document and make its runner; the choice of the backend is made here."""
    from trtpipe.run.runner import Runner

    if make:
        Store.make(args.artifacts)
    state = args.cleanup.enter_context(State(args.artifacts))
    loaded = loading.load(args.pipeline, args.set, state)
    choice = environment.choose(args.backend or loaded.backend)
    runner = Runner(loaded, Store(args.artifacts, state), choice, emit, allow_outside=args.allow_outside)
    runner.connect = _connector(args)
    if runner.connect is not None:
        # What is damaged or gone from the store, and known by its digest, may be had again.
        runner.store.refetch = lambda sha256, size: runner.remote is not None and runner.remote.refetch(sha256, size)
        args.cleanup.callback(runner.disconnect)
    return runner


def _connector(args: argparse.Namespace) -> Callable[[Runner], Remote | None] | None:
    """Give what makes the remote store's client, for commands that may use one."""
    if not hasattr(args, "remote"):
        return None

    def connect(runner: Runner) -> Remote | None:
        from trtpipe.remote import sharing

        return sharing.connect(runner, args.remote)

    return connect


def run(args: argparse.Namespace) -> int:
    """Bring the pipeline up to date."""
    from trtpipe.cli.console import Console, JsonLines

    watcher = JsonLines(sys.stdout) if args.json else Console(sys.stdout, quiet=args.quiet)
    runner = _open(args, emit=watcher, make=True)
    lock_file = lock_path(args.pipeline)
    try:
        if args.frozen:
            from trtpipe.trust import lockfile

            if args.force or args.set:
                raise errors.PipelineInvalid("--frozen builds nothing, so it goes with neither --force nor --set")
            lockfile.run_frozen(runner, lock_file, args.target)
            lockfile.keep_root(runner, args.pipeline)
            return 0
        outcome = runner.run(args.target, forced=_forced(args, runner), jobs=args.jobs)
        if os.path.exists(lock_file):
            from trtpipe.trust import lockfile

            lockfile.keep_root(runner, args.pipeline)
    finally:
        watcher.close()
    return outcome.exit_code


def bench(args: argparse.Namespace) -> int:
    """Measure a pipeline's engines by trtexec's definitions; what they need is brought up to date first."""
    from trtpipe.cli.console import Console
    from trtpipe.pipeline import benchmarks as measuring

    watcher = Console(sys.stderr, quiet=args.quiet or args.json)
    runner = _open(args, emit=watcher, make=True)
    asked = {
        "preset": args.preset, "duration": args.duration, "warm_up": args.warm_up, "iterations": args.iterations,
        "transfers": args.transfers, "cuda_graph": args.cuda_graph, "profile": args.profile or None,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    runner.pipeline, names = measuring.with_benchmarks(runner.pipeline, given)
    targets = tuple(args.target) or names
    try:
        outcome = runner.run(targets)
    finally:
        watcher.close()
    text = measuring.report(runner.store, outcome.artifacts, names, as_json=args.json)
    if text:
        print(text)
    return outcome.exit_code


def _forced(args: argparse.Namespace, runner: Runner) -> tuple[str, ...]:
    if args.force == []:
        return ()
    if "*" in args.force:
        return tuple(runner.pipeline.closure(args.target))
    return runner.pipeline.match(args.force)


def status(args: argparse.Namespace) -> int:
    """Say what a run would do."""
    from trtpipe.columns import size_text, table

    runner = _open(args)
    found = runner.statuses(args.target, forced=_forced(args, runner))
    if args.json:
        print(
            json.dumps(
                {
                    "pipeline": runner.pipeline.name,
                    "backend": runner.choice._asdict(),
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
        print(f"{runner.pipeline.name} · {runner.choice.backend} {runner.choice.version} ({runner.choice.reason})")
        rows = [
            [
                s.state, s.stage, s.type,
                f"{size_text(s.artifact.size)}  {s.artifact.digest[:12]}" if s.artifact else "; ".join(s.reasons),
            ]
            for s in found
        ]  # fmt: skip
        print("\n".join(table(rows)))
    return 0 if all(s.state == "hit" for s in found) else WOULD_RUN


def explain(args: argparse.Namespace) -> int:
    """Say why a stage would run, field by field, or that it would not."""
    runner = _open(args)
    if args.lock or args.against or args.history:
        from trtpipe.cli import upkeep

        return upkeep.explain(args, runner)
    found = {s.stage: s for s in runner.statuses([args.stage])}
    for name in runner.pipeline.match([args.stage]):
        _explain(runner, found[name], found, as_json=args.json)
    return 0


def _explain(runner: Runner, mine: Status, found: dict[str, Status], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"stage": mine.stage, "type": mine.type, "status": mine.state, "reasons": mine.reasons}))
        return
    print(f"{mine.stage} ({mine.type}): {mine.state}")
    if mine.state == "hit" and mine.artifact:
        last = runner.store.state.last(runner.pipeline.name).get(mine.stage)
        record = runner.store.action(last[0]) if last else None
        print("  nothing that its key holds has changed")
        if record:
            print(f"  made {record['finished']} in {record['seconds']} s on {record['environment']['host']}")
            for name, version in sorted(record["key"]["environment"].items()):
                print(f"  {name}: {version}")
    for reason in mine.reasons:
        print(f"  {reason}")
    if mine.state == "unknown":
        needs = runner.pipeline.closure([mine.stage])
        for other in found.values():
            if other.state == "run" and other.stage in needs:
                print(f"  {other.stage} ({other.type}) would run: {'; '.join(other.reasons)}")


def lock(args: argparse.Namespace) -> int:
    """Write what each stage was made of and made into the document's lock, or check that it still fits."""
    from trtpipe.cli import upkeep

    return upkeep.make_lock(args, _open(args))


def verify(args: argparse.Namespace) -> int:
    """Rebuild stages without the cache, say whether their bytes are equal, and if not how far their values drift."""
    from trtpipe.cli import upkeep

    return _check_attestation(args) if args.attestation is not None else upkeep.rebuild(args, _open(args))


def _check_attestation(args: argparse.Namespace) -> int:
    """Say whether a trusted key attested what a stage's artifact is and was made of; exit 5 if not."""
    from trtpipe.remote import settings
    from trtpipe.trust import attest

    runner = _open(args)
    if len(args.stage) != 1:
        raise errors.PipelineInvalid(f"--attestation: found {len(args.stage)} stages, expected one: what it speaks of")
    (name,) = runner.pipeline.match(args.stage)
    found = attest.read(args.attestation, settings.trusted(runner.pipeline))
    differences = attest.differences(found, runner, name)
    if differences:
        raise errors.GateFailed("\n".join([f"{args.attestation} does not speak of this {name}:", *differences]))
    what = f"{name} is what {found.signer} attested"
    print(json.dumps({"stage": name, "signer": found.signer}) if args.json else what)
    return 0


def cache_care(args: argparse.Namespace) -> int:
    """List, measure, check or clear the store."""
    from trtpipe.cli import upkeep

    return upkeep.cache(args)


def cache_pin(args: argparse.Namespace) -> int:
    """Keep what stages made from `cache gc`, or let it go."""
    from trtpipe.cli import upkeep

    return upkeep.pin(args, _open(args))


def validate(args: argparse.Namespace) -> int:
    """Check documents, and that the files they name are there."""
    from trtpipe.pipeline import inputs

    worst: errors.TrtpipeError | None = None
    results = []
    for file in args.pipeline:
        problems: Sequence[str] = ()
        try:
            with State(args.artifacts) as state:
                loaded = loading.load(file, args.set, state)
                inputs.check(loaded, loaded.closure(()), allow_outside=args.allow_outside)
        except errors.TrtpipeError as error:
            worst = worst or error
            problems = getattr(error, "problems", (str(error),))
            results.append({"pipeline": file, "valid": False, "error": type(error).__name__, "problems": problems})
            if not args.json:
                sys.stderr.write("\n".join(problems) + "\n")
        else:
            results.append({"pipeline": file, "valid": True, "stages": list(loaded.stages)})
            if not args.json:
                print(f"{file}: valid, {len(loaded.stages)} stages")
    if args.json:
        print(json.dumps(results))
    return worst.exit_code if worst else 0


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
        print(json.dumps({"pipeline": loaded.name, "stages": nodes, "edges": links}))
    elif args.format == "text":
        for stage in stages:
            reads = [f"{port} ← {up}" for up, user, port, _ in edges if user == stage.name]
            print(f"{stage.name} ({stage.type} → {stage.output})")
            for index, line in enumerate(reads):
                print(f"  {'└─' if index == len(reads) - 1 else '├─'} {line}")
    elif args.format == "mermaid":
        print("flowchart TD")
        for stage in stages:
            print(f'  {_id(stage.name)}["{stage.name}<br/>{stage.type}"]')
        for source, target, port, outside in edges:
            text = source.replace("#", "#35;").replace('"', "#quot;")
            start = f'{_id("file " + source)}(["{text}"])' if outside else _id(source)
            print(f"  {start} -- {port} --> {_id(target)}")
    else:
        print(f'digraph "{loaded.name}" {{\n  node [shape=box];')
        for stage in stages:
            print(f'  "{stage.name}" [label="{stage.name}\\n{stage.type}"];')
        for source, target, port, outside in edges:
            name = json.dumps(f"./{source}" if outside and source in loaded.stages else source, ensure_ascii=False)
            if outside:
                print(f"  {name} [shape=note];")
            print(f'  {name} -> "{target}" [label="{port}"];')
        print("}")
    return 0


_MERMAID_WORDS = ("call", "class", "classDef", "click", "default", "direction", "end", "flowchart", "graph", "href",
                  "linkStyle", "style", "subgraph")  # fmt: skip


def _id(name: str) -> str:
    """Make a node's name for mermaid, which trips over its own words."""
    import re

    return re.sub(r"\W", lambda m: f"_{ord(m[0]):x}_", name) + ("_" if name in _MERMAID_WORDS else "")


def show(args: argparse.Namespace) -> int:
    """Print the path of what a stage made, or its log."""
    stage, _, file = args.what.partition("/")
    runner = _open(args)
    order = runner.pipeline.closure([stage])
    from trtpipe.pipeline import inputs
    from trtpipe.run.runner import Taken

    inputs.check(runner.pipeline, order, allow_outside=args.allow_outside)
    taken = Taken(runner)
    known = {name: taken.take(name) for name in order}
    for name in runner.pipeline.match([stage]):
        assessed = known[name]
        if assessed is None:
            missing = [u for u in runner.pipeline.stages[name].upstream if u not in taken.artifacts]
            causes = dict.fromkeys(taken.failed.get(u, u) for u in missing)
            raise errors.StageFailed(
                f"{name} waits for {', '.join(causes)}; run it: trtpipe run {args.pipeline} --target {stage}"
            )
        _show(args, runner, name, file, assessed)
    return 0


def _show(args: argparse.Namespace, runner: Runner, stage: str, file: str, assessed: Assessed) -> None:
    if args.record:
        path = runner.store.action_path(assessed.digest)
        if not os.path.exists(path):
            raise errors.StageFailed(f"{stage} is not built ({'; '.join(assessed.reasons)}), so it has no record")
        print(json.dumps({"stage": stage, "record": path}) if args.json else path)
        return
    if args.log:
        path = runner.store.action_path(assessed.digest, ".log")
        if not os.path.exists(path):
            raise errors.StageFailed(f"{stage} has no log: it has not run with this document, or elsewhere")
        if args.json:
            print(json.dumps({"stage": stage, "log": os.path.abspath(path)}))
        else:
            with open(path, "rb") as stream:
                while chunk := stream.read(1 << 16):
                    sys.stdout.buffer.write(chunk)
        return
    if assessed.hit is None:
        raise errors.StageFailed(f"{stage} is not built ({'; '.join(assessed.reasons)}); "
                                 f"run it: trtpipe run {args.pipeline} --target {stage}")  # fmt: skip
    artifact = assessed.hit.artifact
    folder = runner.store.shown(artifact)
    if file and file not in artifact.files:
        from trtpipe.words import suggest

        raise errors.UnknownReference(f"{stage} made no file {file}{suggest(file, artifact.files)}")
    if args.json:
        files = {n: {"sha256": sha, "size": size} for n, (sha, size) in artifact.files.items()}
        print(json.dumps({"stage": stage, "kind": artifact.kind, "digest": artifact.digest, "folder": folder,
                          "files": files}))  # fmt: skip
    else:
        print(os.path.join(folder, file) if file else folder)


def stages(args: argparse.Namespace) -> int:
    """List the stage types, or one type's inputs and params."""
    from trtpipe import stages as known
    from trtpipe.cli import reference
    from trtpipe.words import suggest

    if args.type is not None and args.type not in known.NAMES:
        raise errors.UnknownReference(f"unknown stage type {args.type}{suggest(args.type, known.NAMES)}")
    if args.json:
        print(json.dumps(reference.as_json(args.type), ensure_ascii=False))
    elif args.type is None:
        print("\n".join(reference.overview()))
    else:
        print("\n".join(reference.text(args.type)))
    return 0


def schema(args: argparse.Namespace) -> int:
    """Print the documents' JSON Schema, write it to a folder, or check that the folder has it."""
    from trtpipe.pipeline import schema as made

    text = json.dumps(made.pipeline_schema(), indent=2, ensure_ascii=False) + "\n"
    path = os.path.join(args.folder, "pipeline.schema.json")
    if args.check:
        try:
            with open(path, encoding="utf-8") as stream:
                fresh = stream.read() == text
        except OSError:
            fresh = False
        if args.json:
            print(json.dumps({"file": path, "fresh": fresh}))
        elif not fresh:
            sys.stderr.write(f"{path} is stale; write it again: trtpipe schema --write\n")
        return 0 if fresh else 1
    if args.write:
        try:
            os.makedirs(args.folder, exist_ok=True)
            write_file(path, text.encode())
        except OSError as error:
            raise errors.StoreError(f"{path} cannot be written: {error.strerror}") from None
        print(json.dumps({"file": path, "fresh": True}) if args.json else path)
        return 0
    print(text, end="")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Say what this machine can do, and how to get what is missing; or whether a plan can load here."""
    from trtpipe.cli import doctor as examination

    if args.plan is not None:
        return examination.plan(args.plan, as_json=args.json)
    return examination.run(args.artifacts, as_json=args.json)


def cache_push(args: argparse.Namespace) -> int:
    """Push what is built to the remote store, signed; what is there already stays."""
    return _share(args, push=True)


def cache_pull(args: argparse.Namespace) -> int:
    """Fetch from the remote store what a run would build, and check it; exit 10 if something is not there."""
    return _share(args, push=False)


def _share(args: argparse.Namespace, *, push: bool) -> int:
    from trtpipe.columns import size_text, table
    from trtpipe.remote import sharing
    from trtpipe.run import events

    def emit(event: Any) -> None:
        if isinstance(event, events.Warned):
            sys.stderr.write(f"warning: {event.message}\n")

    runner = _open(args, emit=emit, make=not push)
    with sharing.needed(sharing.connect(runner, args.remote, write=args.remote is not None)) as remote:
        if push:
            lines = sharing.push(runner, remote, args.target, force=args.force)
        else:
            lines = sharing.pull(runner, remote, args.target)
        missing = [line for line in lines if line.how in ("not built", "not there")]
        if args.json:
            print(json.dumps({"remote": remote.settings.name, "stages": [line._asdict() for line in lines]}))
        else:
            rows = [
                [one.how, one.stage, one.type, size_text(one.bytes) if one.bytes else "", (one.artifact or "")[:12]]
                for one in lines
            ]
            print("\n".join([remote.settings.name, *table(rows, right=(3,))]))
    return WOULD_RUN if missing else 0


def keys_new(args: argparse.Namespace) -> int:
    """Make your signing key and print its public half, which others trust."""
    from trtpipe.remote import signing

    public = signing.new_key()
    if args.json:
        print(json.dumps({"public": public, "file": signing.key_path()}))
    else:
        print(public)
        sys.stderr.write(f"the private half is in {signing.key_path()}; whoever has it can sign as you\n")
    return 0


def keys_trust(args: argparse.Namespace) -> int:
    """Believe what a key signs from now on, on this account; a document's `remote.trust` does so for a team."""
    from trtpipe.remote import signing

    path = signing.trust(args.name, args.key)
    print(json.dumps({"name": args.name, "public": args.key, "file": path}) if args.json else f"{args.name} is trusted")
    return 0


def keys_list(args: argparse.Namespace) -> int:
    """List the keys that you trust; your own is `you`."""
    from trtpipe.remote import signing

    found = signing.trusted()
    if args.json:
        print(json.dumps([{"name": n, "public": p, "id": signing.keyid(p)} for n, p in found.items()]))
    else:
        print("\n".join(f"{name} {public}" for name, public in found.items()) or "no key is trusted")
    return 0


def attest(args: argparse.Namespace) -> int:
    """Write a signed statement of what a stage's artifact was made of; `verify --attestation` checks it."""
    from trtpipe.remote import signing
    from trtpipe.trust import attest as provenance

    runner = _open(args)
    runner.pipeline.closure([args.stage])
    signer = signing.own_signer()
    text = provenance.sign(provenance.statement(runner, args.stage, args.builder or provenance.BUILDER), signer)
    if args.output is None:
        sys.stdout.write(text)
        return 0
    try:
        with open(args.output, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise errors.StoreError(f"{args.output} cannot be written: {error.strerror}") from None
    print(json.dumps({"stage": args.stage, "file": args.output}) if args.json else args.output)
    return 0


def completion(args: argparse.Namespace) -> int:
    """Print the completion script for a shell."""
    try:
        import shtab
    except ImportError:
        raise errors.EnvironmentMissing("completion needs shtab: pip install 'trtpipe[completion]'") from None
    script = shtab.complete(parser(), shell=args.shell)
    print(json.dumps({"shell": args.shell, "script": script}) if args.json else script)
    return 0


# --- the parser


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    top = argparse.ArgumentParser(
        prog="trtpipe",
        description="Declared, cached pipelines from a model to a TensorRT engine and its predictions.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"trtpipe {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, function: Callable[[argparse.Namespace], int], help_text: str, group: Any = commands
    ) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = group.add_parser(name, help=help_text, description=function.__doc__)
        one.set_defaults(function=function)
        one.add_argument("--json", action="store_true", help="print JSON for programs")
        return one

    one = add("run", run, "bring a pipeline up to date")
    _pipeline_options(one)
    _choice_options(one)
    _target_options(one)
    one.add_argument("--jobs", type=_positive, default=min(4, os.cpu_count() or 1), metavar="N",
                     help="stages at a time, where they do not depend on each other (default: %(default)s); "
                          "a GPU takes one at a time")  # fmt: skip
    one.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    one.add_argument("--frozen", action="store_true",
                     help="take what the lock names and build nothing; exit 5 if anything drifts")  # fmt: skip
    _remote_option(one)
    one = add("bench", bench, "measure a pipeline's engines")
    _pipeline_options(one)
    _choice_options(one)
    one.add_argument("--target", action="append", default=[], metavar="STAGE",
                     help="only this benchmark; may be repeated")  # fmt: skip
    one.add_argument("--preset", choices=("trtexec-10", "trtexec-11"), help="whose defaults; default: trtexec-11")
    one.add_argument("--duration", type=float, metavar="SECONDS", help="how long to measure, at least")
    one.add_argument("--warm-up", type=float, metavar="MS", help="how long to warm up")
    one.add_argument("--iterations", type=_positive, metavar="N", help="queries to measure, at least")
    one.add_argument("--transfers", action=argparse.BooleanOptionalAction, help="measure copies to and from the device")
    one.add_argument("--cuda-graph", action=argparse.BooleanOptionalAction, help="launch queries as a CUDA graph")
    one.add_argument("--profile", action="store_true", help="time each layer, too")
    one.add_argument("--quiet", "-q", action="store_true", help="print the tables only")
    one = add("status", status, "say what a run would do; exit 10 if anything would run")
    _pipeline_options(one)
    _choice_options(one)
    _target_options(one)
    one = add("explain", explain, "say why a stage would run, field by field")
    _pipeline_options(one)
    _choice_options(one)
    one.add_argument("stage", metavar="STAGE", help="the stage's name")
    how = one.add_mutually_exclusive_group()
    how.add_argument("--lock", action="store_true", help="how it differs from the document's lock")
    how.add_argument("--against", metavar="RECORD", help="how it differs from another machine's record "
                     "(show --record), from @N of --history, or from a key in the store")  # fmt: skip
    how.add_argument("--history", action="store_true", help="the runs in which it changed, and how")
    one = add("lock", lock, "write or check the document's lock")
    _pipeline_options(one)
    _choice_options(one)
    one.add_argument("--target", action="append", default=[], metavar="STAGE",
                     help="only this stage and what it needs; may be repeated")  # fmt: skip
    how = one.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="write nothing; exit 5 if anything has drifted")
    how.add_argument("--prune", action="store_true", help="drop what was locked in other environments")
    one = add("verify", verify, "rebuild without the cache and compare; exit 5 past the bound")
    _pipeline_options(one)
    _choice_options(one)
    one.add_argument("stage", metavar="STAGE", nargs="*", help="these stages (default: all)")
    one.add_argument("--attestation", metavar="FILE",
                     help="build nothing; check that FILE, which attest wrote, speaks of the stage")  # fmt: skip
    one.add_argument("--times", type=_positive, default=1, metavar="N", help="rebuilds a stage (default: %(default)s)")
    one.add_argument("--bound", type=_bound, default=1e-3, metavar="X",
                     help="how far values may drift, as a part of the largest (default: %(default)s)")  # fmt: skip
    one = add("validate", validate, "check documents and that their files are there")
    _pipeline_options(one, many=True)
    one = add("graph", graph, "draw the stages and what they read")
    _pipeline_options(one)
    one.add_argument("--format", choices=("text", "mermaid", "dot"), default="text", help="default: %(default)s")
    one = add("show", show, "print the path of what a stage made")
    _pipeline_options(one)
    _choice_options(one)
    one.add_argument("what", metavar="STAGE[/FILE]", help="a stage, or one of its files")
    one.add_argument("--log", action="store_true", help="print the stage's whole log instead")
    one.add_argument("--record", action="store_true", help="print the path of its action record instead")
    one = add("stages", stages, "list stage types, or one type's inputs and params")
    one.add_argument("type", metavar="TYPE", nargs="?", help="a stage type")
    one = add("schema", schema, "print, write or check the documents' JSON Schema")
    how = one.add_mutually_exclusive_group()
    how.add_argument("--write", action="store_true", help="write FOLDER/pipeline.schema.json")
    how.add_argument("--check", action="store_true", help="exit 1 if FOLDER/pipeline.schema.json is stale")
    one.add_argument("--folder", default="schemas", help="default: %(default)s")
    one = add("doctor", doctor, "say what this machine can do")
    one.add_argument("plan", metavar="PLAN", nargs="?", help="a plan, or the folder of an engine: can it load here?")
    _store_option(one)
    cache_parser = commands.add_parser("cache", help="look after what is built, and share it")
    cache = cache_parser.add_subparsers(metavar="ACTION", required=True)
    one = add("push", cache_push, "push what is built to the remote store, signed", cache)
    _sharing_options(one)
    one.add_argument("--force", action="store_true", help="write again what is there already")
    one = add("pull", cache_pull, "fetch from the remote store what a run would build", cache)
    _sharing_options(one)
    for name, help_text in (("ls", "list what is built, last used first"), ("du", "say what takes how much space"),
                            ("verify", "read everything again and put aside what is damaged; exit 4 if any is"),
                            ("gc", "remove what was not used for longest")):  # fmt: skip
        one = add(name, cache_care, help_text, cache)
        one.set_defaults(what=name)
        _store_option(one)
    one.add_argument("--max-size", type=_converted("size"), metavar="SIZE", help="what the store may take, as 20GiB")
    one.add_argument("--min-free", type=_converted("size"), metavar="SIZE", help="what its disk must have free")
    one.add_argument("--max-age", type=_converted("age"), metavar="AGE", help="how long a result may lie unused: 30d")
    one.add_argument("--dry-run", action="store_true", help="only say what would go")
    for name, help_text in (("pin", "keep what stages made from gc"), ("unpin", "let it go again")):
        one = add(name, cache_pin, help_text, cache)
        one.set_defaults(what=name)
        _pipeline_options(one)
        _choice_options(one)
        one.add_argument("stage", metavar="STAGE", nargs="*", help="these stages (default: all)")
    keys = commands.add_parser("keys", help="signing keys").add_subparsers(metavar="ACTION", required=True)
    add("new", keys_new, "make your signing key", keys)
    one = add("trust", keys_trust, "believe what a key signs", keys)
    one.add_argument("name", metavar="NAME", help="what to call whoever has it")
    one.add_argument("key", metavar="KEY", help="the public key: ed25519:…")
    add("list", keys_list, "list the keys that you trust", keys)
    one = add("attest", attest, "write what an artifact was made of, signed (in-toto, SLSA provenance)")
    _pipeline_options(one)
    _choice_options(one)
    one.add_argument("stage", metavar="STAGE", help="the stage's name")
    one.add_argument("--output", "-o", metavar="FILE", help="where to write it (default: the screen)")
    one.add_argument("--builder", metavar="URI", help="who built it, in the statement's words")
    one = add("completion", completion, "print a shell's completion script")
    one.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")
    return top


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of at least 1")
    return int(text)


def _bound(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of at least 0")
    return value


def _converted(how: str) -> Callable[[str], float]:
    def convert(text: str) -> float:
        from trtpipe.cli import upkeep

        try:
            return float(getattr(upkeep, how)(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _pipeline_options(one: argparse.ArgumentParser, *, many: bool = False) -> None:
    one.add_argument("pipeline", metavar="PIPELINE", nargs="+" if many else None, help="a YAML document")
    one.add_argument("--set", action="append", default=[], metavar="PATH=VALUE",
                     help="set a value in the document, such as vars.batch=8; may be repeated")  # fmt: skip
    one.add_argument("--allow-outside", action="store_true", help="let paths lead out of the document's folder")
    _store_option(one)


def _choice_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("--backend", choices=("auto", "tensorrt", "tensorrt_rtx", "onnxruntime"),
                     help="the runtime, instead of the document's")  # fmt: skip


def _target_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("--target", action="append", default=[], metavar="STAGE",
                     help="only this stage and what it needs; may be repeated")  # fmt: skip
    one.add_argument("--force", action="append", nargs="?", const="*", default=[], metavar="STAGE",
                     help="run this stage (without a name: every stage) even if it is cached")  # fmt: skip


def _sharing_options(one: argparse.ArgumentParser) -> None:
    _pipeline_options(one)
    _choice_options(one)
    _remote_option(one)
    one.add_argument("--target", action="append", default=[], metavar="STAGE",
                     help="only this stage and what it needs; may be repeated")  # fmt: skip


def _remote_option(one: argparse.ArgumentParser) -> None:
    one.add_argument("--remote", metavar="URL",
                     help="the store to share with others, such as s3://bucket/prefix, instead of the document's; "
                          "off: none (default: TRTPIPE_REMOTE, the document's, or the user's config's)")  # fmt: skip


def _store_option(one: argparse.ArgumentParser) -> None:
    one.add_argument("--artifacts", default=os.environ.get("TRTPIPE_ARTIFACTS") or "artifacts", metavar="DIR",
                     help="the store's folder (default: %(default)s, or TRTPIPE_ARTIFACTS)")  # fmt: skip
