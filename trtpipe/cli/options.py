"""The parser: every command, its options, their help texts, and the function that does the work.

A function is named by its file in this folder and its own name (`running.run`), so that only the file of the given
command is imported.
"""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Any

from trtpipe import __version__, escaping

if TYPE_CHECKING:
    from collections.abc import Callable

    Add = Callable[..., argparse.ArgumentParser]

_AGES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
"""Seconds in each unit of an age."""

_PRECISIONS = ("model", "fp32", "tf32", "fp16", "bf16")

_EPILOG = """\
examples:
  trtpipe build model.onnx --fp16                         from an ONNX model to a checked engine
  trtpipe run pipelines/digits.yaml                       bring everything up to date
  trtpipe run pipelines/digits.yaml --target engine       only what the stage engine needs
  trtpipe run pipelines/digits.yaml --set vars.batch=8    with another value in the document
  trtpipe status pipelines/digits.yaml                    what a run would do, and why
  trtpipe show pipelines/digits.yaml labels/table.txt     the path of a file that a stage made

exit codes: 0 done · 1 a stage failed · 2 the document or the command is wrong · 3 a package, GPU or driver is missing
            4 the store cannot be used · 5 a requirement is not met · 10 (status) something would run
            70 a bug in trtpipe · 130 interrupted
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose messages pass the door, because they repeat what was typed."""

    is_whole = False
    """Whether all its arguments are there."""

    def _get_formatter(self) -> argparse.HelpFormatter:
        """Give what writes help texts. While arguments are added, argparse only tries their metavars in it.

        It makes one for each argument, and each would ask how wide the terminal is.
        """
        return super()._get_formatter() if self.is_whole else argparse.HelpFormatter(self.prog, width=80)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Say what was meant, where a command is misspelt or forgotten; argparse only lists them all."""
        if not isinstance(action, argparse._SubParsersAction) or value in action.choices:  # noqa: SLF001
            super()._check_value(action, value)
            return
        from trtpipe.words import suggest

        known = [name for name in action.choices if name]
        if value.endswith((".yaml", ".yml")):
            self.error(f"found {value}, expected a command, such as: {self.prog} run {value}")
        if value.endswith(".onnx"):
            self.error(f"found {value}, expected a command, such as: {self.prog} build {value}")
        self.error(f"there is no command {value}{suggest(value, known)}")

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(escaping.block(message) if message else message, file)


class _Group:
    """Options of which one may be given, for a parser that is made later."""

    def __init__(self) -> None:
        self._arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def add_argument(self, *args: Any, **kwargs: Any) -> None:
        """Add an argument, as argparse does."""
        self._arguments.append((args, kwargs))

    def add_to(self, made: argparse.ArgumentParser) -> None:
        """Add the options to a parser."""
        group = made.add_mutually_exclusive_group()
        for args, kwargs in self._arguments:
            group.add_argument(*args, **kwargs)


class _Later:
    """A command's parser, made when something is asked of it: a call uses one of thirty, and each takes its time."""

    def __init__(self, **given: Any) -> None:
        self._given = given
        self._steps: list[Callable[[argparse.ArgumentParser], object]] = []
        self._made: _Parser | None = None

    def when_made(self, step: Callable[[argparse.ArgumentParser], object]) -> None:
        """Say what else to do with the parser once it is made."""
        self._steps.append(step)

    def add_argument(self, *args: Any, **kwargs: Any) -> None:
        """Add an argument, as argparse does."""
        self.when_made(lambda made: made.add_argument(*args, **kwargs))

    def set_defaults(self, **kwargs: Any) -> None:
        """Set defaults, as argparse does."""
        self.when_made(lambda made: made.set_defaults(**kwargs))

    def add_mutually_exclusive_group(self) -> _Group:
        """Add a group, as argparse does."""
        group = _Group()
        self.when_made(group.add_to)
        return group

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = _Parser(**self._given)
        steps, self._steps = self._steps, []
        for step in steps:
            step(self._made)
        self._made.is_whole = True
        return getattr(self._made, name)


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser. Its result has `function`, the name of the command's function."""
    top = _Parser(
        prog="trtpipe",
        description="Declared, cached pipelines from a model to a TensorRT engine and its predictions.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"trtpipe {__version__}")
    later: Any = _Later
    # With `prog`, argparse does not lay the usage out to find it.
    commands = top.add_subparsers(prog="trtpipe", metavar="COMMAND", required=True, parser_class=later)

    def actions(of: argparse.ArgumentParser) -> Any:
        return of.add_subparsers(prog=of.prog, metavar="ACTION", required=True, parser_class=later)

    def add(name: str, function: str, help_text: str, description: str, group: Any = commands) -> Any:
        one = group.add_parser(name, help=help_text, description=description)
        one.set_defaults(function=function)
        one.add_argument("--json", action="store_true", help="print JSON for programs")
        return one

    _add_init(add)
    _add_build(add)
    _add_running(add)
    _add_status_and_explain(add)
    _add_lock_and_verify(add)
    _add_inspecting(add)
    cache = commands.add_parser("cache", help="inspect, clean and share the store")
    cache.when_made(lambda made: _add_cache(add, actions(made)))
    keys = commands.add_parser("keys", help="manage signing keys")
    keys.when_made(lambda made: _add_keys(add, actions(made)))
    _add_attest(add)
    _add_way_out(add)
    one = add("completion", "completion.completion", "print a shell's completion script",
              "Print the completion script for a shell. It asks `trtpipe completion words` for what may stand next.",
              )  # fmt: skip
    one.add_argument("shell", choices=("bash", "zsh", "fish", "tcsh", "words"), help="the shell")
    one.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    top.is_whole = True
    return top


def _add_init(add: Add) -> None:
    one = add("init", "scaffolding.init", "write the first pipeline of a project",
              "Write a commented pipeline for a model, with made-up samples to check it on and a gate. It runs at "
              "once.")  # fmt: skip
    one.add_argument("model", metavar="MODEL", nargs="?",
                     help="an ONNX file, or file.py:callable that gives a PyTorch module (default: the only ONNX file "
                          "here)")  # fmt: skip
    one.add_argument("--task", choices=("none", "classify", "detect", "segment", "embed", "asr"), default="none",
                     help="what becomes of the outputs (default: %(default)s)")  # fmt: skip
    _from_option(one)
    _precision_options(one)
    _shapes_option(one)
    one.add_argument("--dtype", action="append", default=[], metavar="NAME=TYPE",
                     help="of a callable: the type of an input, such as ids=int64 (default: float32)")  # fmt: skip
    one.add_argument("--outputs", metavar="NAMES", help="of a callable: names of its outputs, with commas between them")
    one.add_argument("--output", "-o", metavar="FILE", help="the document (default: the model's name with .yaml)")
    one.add_argument("--ci", choices=("github",), help="also write a workflow that runs it")
    _store_option(one)


def _add_build(add: Add) -> None:
    one = add("build", "building.build", "build a checked engine of an ONNX model, without a document",
              "Build an engine of an ONNX model with the same stages, cache and checks as a pipeline, and say how far "
              "it is from float32.")  # fmt: skip
    one.add_argument("model", metavar="MODEL", nargs="?", help="an ONNX file")
    _from_option(one)
    _precision_options(one)
    one.add_argument("--int8", metavar="DATA", help="8-bit products, with ranges from these samples (.npz or a folder)")
    _shapes_option(one)
    one.add_argument("--meet-tolerance", action="store_true",
                     help="with --fp16 or --bf16: keep nodes in float32 until the check passes")  # fmt: skip
    one.add_argument("--data", metavar="DATA", help="samples (.npz or a folder) on which everything is checked")
    one.add_argument(
        "--check",
        action="store_true",
        help="run the new engine once, on made-up inputs, and hold its answer against ONNX Runtime's",
    )
    one.add_argument("--output", "-o", metavar="FILE", help="copy the plan there")
    one.add_argument("--emit-yaml", metavar="FILE", help="write the pipeline that is run")
    one.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    _backend_option(one)
    _store_option(one)
    _remote_option(one)


def _add_running(add: Add) -> None:
    one = add("run", "running.run", "bring a pipeline up to date", "Bring the pipeline up to date.")
    _pipeline_options(one)
    _backend_option(one)
    _target_option(one)
    _force_option(one)
    one.add_argument("--jobs", type=_positive, metavar="N",
                     help="largest number of stages at a time (default: that of trtpipe.toml, else "
                          f"{min(4, os.cpu_count() or 1)}); on a GPU they run one at a time")  # fmt: skip
    one.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    one.add_argument("--progress", choices=("auto", "plain", "tty", "json"), default="auto",
                     help="how to show the run: live lines on a terminal, else plain lines (auto); always plain lines; "
                          "always live lines; or one JSON event a line, as --json (default: %(default)s)")  # fmt: skip
    one.add_argument("--frozen", action="store_true",
                     help="take what the lock file names and build nothing; exit 5 if anything drifts")  # fmt: skip
    one.add_argument("--strict", action="store_true",
                     help="refuse stages that depend on what could not be seen, such as a network")  # fmt: skip
    _remote_option(one)
    one = add("bench", "running.bench", "measure a pipeline's engines",
              "Measure a pipeline's engines by trtexec's definitions; first bring up to date what they need.",
              )  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    one.add_argument("--target", action="append", default=[], metavar="STAGE",
                     help="only this benchmark; may be repeated")  # fmt: skip
    one.add_argument(
        "--preset",
        choices=("trtexec-10", "trtexec-11"),
        help="the trtexec version whose defaults apply (default: trtexec-11)",
    )
    one.add_argument("--duration", type=float, metavar="SECONDS", help="measure for at least this time")
    one.add_argument("--warm-up", type=float, metavar="MS", help="length of the warm-up")
    one.add_argument("--iterations", type=_positive, metavar="N", help="measure at least this number of queries")
    one.add_argument("--transfers", action=argparse.BooleanOptionalAction, help="measure copies to and from the device")
    one.add_argument("--cuda-graph", action=argparse.BooleanOptionalAction, help="launch queries as a CUDA graph")
    one.add_argument("--profile", action="store_true", help="also time each layer")
    one.add_argument("--quiet", "-q", action="store_true", help="print the tables only")


def _add_status_and_explain(add: Add) -> None:
    one = add("status", "inspecting.status", "say what a run would do; exit 10 if anything would run",
              "Say what a run would do.")  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    _target_option(one)
    _force_option(one)
    one = add("explain", "explaining.explain", "say why a stage would run, field by field",
              "Say why a stage would run, field by field, or that it would not.")  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    one.add_argument("stage", metavar="STAGE", help="the stage's name")
    how = one.add_mutually_exclusive_group()
    how.add_argument("--lock", action="store_true", help="compare with the lock file")
    how.add_argument("--against", metavar="RECORD", help="compare with another machine's action record "
                     "(show --record), with @N of --history, or with a key in the store")  # fmt: skip
    how.add_argument("--history", action="store_true", help="list the runs in which it changed, and how")


def _add_lock_and_verify(add: Add) -> None:
    one = add("lock", "locking.lock", "write or check the lock file",
              "Write each stage's key and artifact into the lock file, or check that the lock file still fits.",
              )  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    _target_option(one)
    how = one.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="write nothing; exit 5 if anything has drifted")
    how.add_argument("--prune", action="store_true", help="remove the entries of other environments")
    one = add("verify", "locking.verify", "rebuild without the cache and compare; exit 5 above the bound",
              "Rebuild stages without the cache. Say whether the bytes are equal, and if not, how far the values "
              "drift.")  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    one.add_argument("stage", metavar="STAGE", nargs="*", help="these stages (default: all)")
    one.add_argument("--attestation", metavar="FILE",
                     help="build nothing; check the stage against FILE, which `attest` wrote")  # fmt: skip
    one.add_argument(
        "--times", type=_positive, default=1, metavar="N", help="rebuilds of each stage (default: %(default)s)"
    )
    one.add_argument("--bound", type=_bound, default=1e-3, metavar="X",
                     help="largest drift allowed, as a part of the largest value (default: %(default)s)")  # fmt: skip


def _add_inspecting(add: Add) -> None:
    one = add("validate", "inspecting.validate", "check documents and that their files are there",
              "Check documents, and that the files they name are there.")  # fmt: skip
    _pipeline_options(one, many=True)
    one = add("graph", "inspecting.graph", "draw the stages and what they read",
              "Draw the pipeline's stages and what they read.")  # fmt: skip
    _pipeline_options(one)
    one.add_argument("--format", choices=("text", "mermaid", "dot"), default="text", help="default: %(default)s")
    one = add("show", "inspecting.show", "print the path of what a stage made",
              "Print the path of what a stage made, or print its log.")  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    one.add_argument("what", metavar="STAGE[/FILE]", help="a stage, or one of its files")
    one.add_argument("--log", action="store_true", help="print the stage's whole log instead")
    one.add_argument("--record", action="store_true", help="print the path of its action record instead")
    one = add("notes", "inspecting.notes", "print what stages told when they ran",
              "Print all notes of the stages that are in the store: what they told when they ran.")  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    one.add_argument("stage", metavar="STAGE", nargs="*", help="these stages (default: all)")
    one = add("inspect", "examining.inspect", "tell what a file is, what takes it, and where it comes from",
              "Tell what an ONNX model, a plan, an array or a safetensors file holds, which runtimes take it, and "
              "where it comes from: pipeline, stage, key, commit, figures.")  # fmt: skip
    one.add_argument("file", metavar="FILE", help="a file, or the folder of an engine")
    _store_option(one)
    _remote_option(one)
    one = add("stages", "inspecting.stages", "list stage types, or one type's inputs and params",
              "List the stage types, or one type's inputs and params.")  # fmt: skip
    one.add_argument("type", metavar="TYPE", nargs="?", help="a stage type")
    one = add("schema", "inspecting.schema", "print, write or check the JSON Schemas",
              "Print the JSON Schema of pipelines or where it is, write all schemas into a folder, or check those in "
              "it.")  # fmt: skip
    how = one.add_mutually_exclusive_group()
    how.add_argument("--path", action="store_true",
                     help="print where the schema of pipelines lies in this installation, for editors")  # fmt: skip
    how.add_argument("--write", action="store_true", help="write all schemas into FOLDER")
    how.add_argument("--check", action="store_true", help="exit 1 if a schema in FOLDER is stale")
    one.add_argument("--folder", default="schemas", help="default: %(default)s")
    one = add("doctor", "doctor.doctor", "say what this machine can do",
              "Say what this machine can do, and how to get what is missing; or whether a plan can load here.",
              )  # fmt: skip
    one.add_argument(
        "plan", metavar="PLAN", nargs="?", help="a plan, or the folder of an engine: say whether it can load here"
    )
    _store_option(one)


def _add_way_out(add: Add) -> None:
    one = add("deploy", "deploying.deploy", "write an engine, with all that is known of it, to where it is used",
              "Write an engine with its manifest, figures, samples and signature to a folder that needs nothing else "
              "of the project. Exit 5 if the pipeline requires a figure that is not met or not known.")  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    one.add_argument("stage", metavar="STAGE", help="the stage that built the engine")
    one.add_argument("--as", dest="form", choices=("folder", "tar", "triton", "oci"), default="folder",
                     help="a folder of versions, a tar file, a model of a Triton repository, or an OCI image layout "
                          "(default: %(default)s)",
                     )  # fmt: skip
    one.add_argument("--to", metavar="PATH", required=True, help="the folder, the tar file, or the model's folder")
    one.add_argument("--licence", action="append", default=[], metavar="FILE",
                     help="put this note about the model's licence into it; may be repeated")  # fmt: skip
    one.add_argument("--link", action="store_true", help="with a folder: link to the store's files instead of copying")
    one.add_argument(
        "--allow-failed", action="store_true", help="deploy although a requirement is not met or not known"
    )
    one.add_argument("--dry-run", action="store_true", help="write nothing; say what would be written")
    one = add("serve-check", "deploying.serve_check", "run a deployed engine on its samples; exit 5 past a bound",
              "Load a bundle as a server would, run its recorded samples, compare them with what was recorded, and "
              "print the latency. A container's health check can call it.")  # fmt: skip
    one.add_argument("bundle", metavar="BUNDLE", help="a folder that deploy wrote, or one of its versions")
    one.add_argument("--bound", type=_bound, metavar="X", help="largest relative L2 difference (default: the bundle's)")
    one.add_argument("--latency", type=_bound, metavar="MS", help="largest median time of a call")
    one.add_argument("--calls", type=_positive, default=50, metavar="N", help="calls to time (default: %(default)s)")
    one.add_argument("--trust", action="append", default=[], metavar="NAME=KEY",
                     help="the bundle must be signed by one of these public keys; may be repeated")  # fmt: skip


def _add_cache(add: Add, group: Any) -> None:
    one = add("push", "sharing.push", "push what is built to the remote store, signed",
              "Push what is built to the remote store, signed, except what is already there; exit 10 if a stage is not "
              "built.", group)  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    _remote_option(one)
    _target_option(one)
    one.add_argument("--force", action="store_true", help="also write what is already there")
    one = add("pull", "sharing.pull", "fetch from the remote store what a run would build",
              "Fetch from the remote store what a run would build, and check it; exit 10 if something is missing.",
              group)  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    _remote_option(one)
    _target_option(one)
    one = add("ls", "caching.ls", "list the results in the store, last used first",
              "List the results in the store, each with its size, its key and its last use.", group)  # fmt: skip
    one.add_argument("pipeline", metavar="PIPELINE", nargs="?", help="only what this document's stages have now")
    one.add_argument("--kind", metavar="KIND", help="only results of this kind, such as engine")
    _backend_option(one)
    _store_option(one)
    one = add("du", "caching.du", "say how much space each part of the store takes",
              "Say how much space each part of the store takes.", group)  # fmt: skip
    _store_option(one)
    one = add("verify", "caching.verify", "read everything again and put damaged files aside; exit 4 if there are any",
              "Read every file of the store again and compare it with its digest.", group)  # fmt: skip
    _store_option(one)
    one = add("gc", "caching.collect", "collect garbage: remove the results that were not used for the longest time",
              "Collect garbage: remove what nothing refers to, then the results that were not used for the longest "
              "time, until the limits of the options are met.",
              group)  # fmt: skip
    _store_option(one)
    one.add_argument("--max-size", type=_size, metavar="SIZE", help="largest size of the store, such as 20GiB")
    one.add_argument("--min-free", type=_size, metavar="SIZE", help="space that must be free on the store's disk")
    one.add_argument(
        "--max-age", type=_age, metavar="AGE", help="remove results that were not used for this time, such as 30d"
    )
    one.add_argument("--unused-by", action="append", metavar="PATTERN",
                     help="remove what no stage of these documents has now, such as 'pipelines/*.yaml', with the "
                          "backend that they choose here; may be repeated")  # fmt: skip
    one.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    for name, help_text, description in (
        ("pin", "protect results from gc", "Protect the results of stages from `cache gc`."),
        ("unpin", "end the protection of results", "Let `cache gc` remove results that were pinned."),
    ):
        one = add(name, f"caching.{name}", help_text, description, group)
        _pipeline_options(one)
        _backend_option(one)
        one.add_argument("stage", metavar="STAGE", nargs="*", help="these stages (default: all)")


def _add_keys(add: Add, group: Any) -> None:
    add("new", "sharing.new_key", "make your signing key",
        "Make your signing key and print the public key, which others can trust.", group)  # fmt: skip
    one = add("trust", "sharing.trust", "trust a public key",
              "Trust a public key from now on, on this account; a document's `remote.trust` does so for a team.",
              group)  # fmt: skip
    one.add_argument("name", metavar="NAME", help="a name for the owner of the key")
    one.add_argument("key", metavar="KEY", help="the public key: ed25519:…")
    add("list", "sharing.list_keys", "list the keys that you trust",
        "List the public keys that you trust; your own is `you`.", group)  # fmt: skip


def _add_attest(add: Add) -> None:
    one = add("attest", "locking.attest", "write what an artifact was made of, signed (in-toto, SLSA provenance)",
              "Write a signed statement of what a stage's artifact was made of; `verify --attestation` checks it.",
              )  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    one.add_argument("stage", metavar="STAGE", help="the stage's name")
    one.add_argument("--output", "-o", metavar="FILE", help="where to write it (default: the screen)")
    one.add_argument("--builder", metavar="URI", help="the builder's URI in the statement")


# --- options of several commands


def _pipeline_options(one: argparse.ArgumentParser, *, many: bool = False) -> None:
    one.add_argument("pipeline", metavar="PIPELINE", nargs="+" if many else None, help="a YAML document")
    one.add_argument("--set", action="append", default=[], metavar="PATH=VALUE",
                     help="set a value in the document, such as vars.batch=8; may be repeated")  # fmt: skip
    one.add_argument("--allow-outside", action="store_true", help="allow paths that lead out of the project")
    _store_option(one)


def _precision_options(one: argparse.ArgumentParser) -> None:
    half = one.add_mutually_exclusive_group()
    for name, what in (("fp16", "float16"), ("bf16", "bfloat16")):
        half.add_argument(f"--{name}", dest="shorthand", action="store_const", const=name,
                          help=f"{what}, checked against float32")  # fmt: skip
    one.add_argument("--precision", type=_precision, metavar="P",
                     help="model, fp32, tf32, fp16 or bf16 (default: model, the model's own types)")  # fmt: skip


def _shapes_option(one: argparse.ArgumentParser) -> None:
    one.add_argument("--shapes", action="append", default=[], metavar="NAME=DIMS",
                     help="the smallest, best and largest sizes of an input, such as images=1..8..16x3x640x640; may be "
                          "repeated (default: sensible ones, which are told)")  # fmt: skip


def _from_option(one: argparse.ArgumentParser) -> None:
    one.add_argument("--from", dest="line", metavar="LINE",
                     help="a line for trtexec, or a script that holds one, whose flags are translated")  # fmt: skip


def _store_option(one: argparse.ArgumentParser) -> None:
    one.add_argument("--artifacts", metavar="DIR",
                     help="the store's folder (default: TRTPIPE_ARTIFACTS, else what trtpipe.toml names, else "
                          "artifacts in the project's root)")  # fmt: skip


def _backend_option(one: argparse.ArgumentParser) -> None:
    one.add_argument("--backend", choices=("auto", "tensorrt", "tensorrt_rtx", "onnxruntime"),
                     help="the runtime, instead of the document's")  # fmt: skip


def _target_option(one: argparse.ArgumentParser) -> None:
    one.add_argument("--target", action="append", default=[], metavar="STAGE",
                     help="only this stage and what it needs; may be repeated")  # fmt: skip


def _force_option(one: argparse.ArgumentParser) -> None:
    one.add_argument("--force", action="append", nargs="?", const="*", default=[], metavar="STAGE",
                     help="run this stage (without a name: every stage) even if it is cached")  # fmt: skip


def _remote_option(one: argparse.ArgumentParser) -> None:
    one.add_argument("--remote", metavar="URL",
                     help="the remote store, such as s3://bucket/prefix, instead of the document's; off: none "
                          "(default: TRTPIPE_REMOTE, the document's, or the user's config's)")  # fmt: skip


# --- reading values; argparse shows these errors with the option's name


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of at least 1")
    return int(text)


def _precision(text: str) -> str:
    if text in ("int8", "fp8", "int4"):
        more = "with samples: --int8 DATA" if text == "int8" else "in a pipeline with a stage `quantize`"
        raise argparse.ArgumentTypeError(f"found {text}, which is made {more}")
    if text not in _PRECISIONS:
        raise argparse.ArgumentTypeError(f"found {text}, expected {', '.join(_PRECISIONS[:-1])} or {_PRECISIONS[-1]}")
    return text


def _bound(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of at least 0")
    return value


def _size(text: str) -> int:
    """Read a size such as 20GiB, in bytes; only 0 needs no unit."""
    from trtpipe.texts import UNITS

    match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*({'|'.join(UNITS)})?", text.strip())
    if not match or (match[2] is None and float(match[1])):
        raise argparse.ArgumentTypeError(f"found {text}, expected a size such as 20GiB")
    return int(float(match[1]) * UNITS[match[2] or "B"])


def _age(text: str) -> float:
    """Read an age such as 30d, in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"found {text}, expected an age such as 12h, 30d or 8w")
    return float(match[1]) * _AGES[match[2]]
