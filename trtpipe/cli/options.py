"""The parser: every command, its options, the words that explain them, and the function that does the work.

A function is named by its file in this folder and its name there (`running.run`): so that only the file of the command
that was given is imported.
"""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Any

from trtpipe import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    Add = Callable[..., argparse.ArgumentParser]

_AGES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
"""Seconds in each unit of an age."""

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


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser. What it parses has `function`, the name of the command's function."""
    top = argparse.ArgumentParser(
        prog="trtpipe",
        description="Declared, cached pipelines from a model to a TensorRT engine and its predictions.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"trtpipe {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, function: str, help_text: str, description: str, group: Any = commands) -> Any:
        one = group.add_parser(name, help=help_text, description=description)
        one.set_defaults(function=function)
        one.add_argument("--json", action="store_true", help="print JSON for programs")
        return one

    _add_running(add)
    _add_status_and_explain(add)
    _add_lock_and_verify(add)
    _add_inspecting(add)
    cache = commands.add_parser("cache", help="look after what is built, and share it")
    _add_cache(add, cache.add_subparsers(metavar="ACTION", required=True))
    keys = commands.add_parser("keys", help="signing keys")
    _add_keys(add, keys.add_subparsers(metavar="ACTION", required=True))
    _add_attest(add)
    one = add("completion", "completion.completion", "print a shell's completion script",
              "Print the completion script for a shell.")  # fmt: skip
    one.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")
    return top


def _add_running(add: Add) -> None:
    one = add("run", "running.run", "bring a pipeline up to date", "Bring the pipeline up to date.")
    _pipeline_options(one)
    _backend_option(one)
    _target_option(one)
    _force_option(one)
    one.add_argument("--jobs", type=_positive, default=min(4, os.cpu_count() or 1), metavar="N",
                     help="stages at a time, where they do not depend on each other (default: %(default)s); "
                          "a GPU takes one at a time")  # fmt: skip
    one.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    one.add_argument("--frozen", action="store_true",
                     help="take what the lock names and build nothing; exit 5 if anything drifts")  # fmt: skip
    _remote_option(one)
    one = add("bench", "running.bench", "measure a pipeline's engines",
              "Measure a pipeline's engines by trtexec's definitions; what they need is brought up to date first.",
              )  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
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
    how.add_argument("--lock", action="store_true", help="how it differs from the document's lock")
    how.add_argument("--against", metavar="RECORD", help="how it differs from another machine's record "
                     "(show --record), from @N of --history, or from a key in the store")  # fmt: skip
    how.add_argument("--history", action="store_true", help="the runs in which it changed, and how")


def _add_lock_and_verify(add: Add) -> None:
    one = add("lock", "locking.lock", "write or check the document's lock",
              "Write what each stage was made of and made into the document's lock, or check that it still fits.",
              )  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    _target_option(one)
    how = one.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="write nothing; exit 5 if anything has drifted")
    how.add_argument("--prune", action="store_true", help="drop what was locked in other environments")
    one = add("verify", "locking.verify", "rebuild without the cache and compare; exit 5 past the bound",
              "Rebuild stages without the cache, say whether their bytes are equal, and if not how far their values "
              "drift.")  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    one.add_argument("stage", metavar="STAGE", nargs="*", help="these stages (default: all)")
    one.add_argument("--attestation", metavar="FILE",
                     help="build nothing; check that FILE, which attest wrote, speaks of the stage")  # fmt: skip
    one.add_argument("--times", type=_positive, default=1, metavar="N", help="rebuilds a stage (default: %(default)s)")
    one.add_argument("--bound", type=_bound, default=1e-3, metavar="X",
                     help="how far values may drift, as a part of the largest (default: %(default)s)")  # fmt: skip


def _add_inspecting(add: Add) -> None:
    one = add("validate", "inspecting.validate", "check documents and that their files are there",
              "Check documents, and that the files they name are there.")  # fmt: skip
    _pipeline_options(one, many=True)
    one = add("graph", "inspecting.graph", "draw the stages and what they read",
              "Draw the pipeline's stages and what they read.")  # fmt: skip
    _pipeline_options(one)
    one.add_argument("--format", choices=("text", "mermaid", "dot"), default="text", help="default: %(default)s")
    one = add("show", "inspecting.show", "print the path of what a stage made",
              "Print the path of what a stage made, or its log.")  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    one.add_argument("what", metavar="STAGE[/FILE]", help="a stage, or one of its files")
    one.add_argument("--log", action="store_true", help="print the stage's whole log instead")
    one.add_argument("--record", action="store_true", help="print the path of its action record instead")
    one = add("stages", "inspecting.stages", "list stage types, or one type's inputs and params",
              "List the stage types, or one type's inputs and params.")  # fmt: skip
    one.add_argument("type", metavar="TYPE", nargs="?", help="a stage type")
    one = add("schema", "inspecting.schema", "print, write or check the documents' JSON Schema",
              "Print the documents' JSON Schema, write it to a folder, or check that the folder has it.")  # fmt: skip
    how = one.add_mutually_exclusive_group()
    how.add_argument("--write", action="store_true", help="write FOLDER/pipeline.schema.json")
    how.add_argument("--check", action="store_true", help="exit 1 if FOLDER/pipeline.schema.json is stale")
    one.add_argument("--folder", default="schemas", help="default: %(default)s")
    one = add("doctor", "doctor.doctor", "say what this machine can do",
              "Say what this machine can do, and how to get what is missing; or whether a plan can load here.",
              )  # fmt: skip
    one.add_argument("plan", metavar="PLAN", nargs="?", help="a plan, or the folder of an engine: can it load here?")
    _store_option(one)


def _add_cache(add: Add, group: Any) -> None:
    one = add("push", "sharing.push", "push what is built to the remote store, signed",
              "Push what is built to the remote store, signed; what is there already stays.", group)  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    _remote_option(one)
    _target_option(one)
    one.add_argument("--force", action="store_true", help="write again what is there already")
    one = add("pull", "sharing.pull", "fetch from the remote store what a run would build",
              "Fetch from the remote store what a run would build, and check it; exit 10 if something is not there.",
              group)  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    _remote_option(one)
    _target_option(one)
    one = add("ls", "caching.ls", "list what is built, last used first",
              "List what is built, with its size, its key and when it was last used.", group)  # fmt: skip
    _store_option(one)
    one = add("du", "caching.du", "say what takes how much space",
              "Say how much space each part of the store takes.", group)  # fmt: skip
    _store_option(one)
    one = add("verify", "caching.verify", "read everything again and put aside what is damaged; exit 4 if any is",
              "Read every file of the store again and compare it with its digest.", group)  # fmt: skip
    _store_option(one)
    one = add("gc", "caching.collect", "remove what was not used for longest",
              "Remove what was not used for longest, until the store keeps to what the options allow.",
              group)  # fmt: skip
    _store_option(one)
    one.add_argument("--max-size", type=_size, metavar="SIZE", help="what the store may take, as 20GiB")
    one.add_argument("--min-free", type=_size, metavar="SIZE", help="what its disk must have free")
    one.add_argument("--max-age", type=_age, metavar="AGE", help="how long a result may lie unused: 30d")
    one.add_argument("--dry-run", action="store_true", help="only say what would go")
    for name, help_text, description in (
        ("pin", "keep what stages made from gc", "Keep what stages made from `cache gc`."),
        ("unpin", "let it go again", "Let `cache gc` remove again what was pinned."),
    ):
        one = add(name, f"caching.{name}", help_text, description, group)
        _pipeline_options(one)
        _backend_option(one)
        one.add_argument("stage", metavar="STAGE", nargs="*", help="these stages (default: all)")


def _add_keys(add: Add, group: Any) -> None:
    add("new", "sharing.new_key", "make your signing key",
        "Make your signing key and print its public half, which others trust.", group)  # fmt: skip
    one = add("trust", "sharing.trust", "believe what a key signs",
              "Believe what a key signs from now on, on this account; a document's `remote.trust` does so for a team.",
              group)  # fmt: skip
    one.add_argument("name", metavar="NAME", help="what to call whoever has it")
    one.add_argument("key", metavar="KEY", help="the public key: ed25519:…")
    add("list", "sharing.list_keys", "list the keys that you trust",
        "List the keys that you trust; your own is `you`.", group)  # fmt: skip


def _add_attest(add: Add) -> None:
    one = add("attest", "locking.attest", "write what an artifact was made of, signed (in-toto, SLSA provenance)",
              "Write a signed statement of what a stage's artifact was made of; `verify --attestation` checks it.",
              )  # fmt: skip
    _pipeline_options(one)
    _backend_option(one)
    one.add_argument("stage", metavar="STAGE", help="the stage's name")
    one.add_argument("--output", "-o", metavar="FILE", help="where to write it (default: the screen)")
    one.add_argument("--builder", metavar="URI", help="who built it, in the statement's words")


# --- options that several commands have


def _pipeline_options(one: argparse.ArgumentParser, *, many: bool = False) -> None:
    one.add_argument("pipeline", metavar="PIPELINE", nargs="+" if many else None, help="a YAML document")
    one.add_argument("--set", action="append", default=[], metavar="PATH=VALUE",
                     help="set a value in the document, such as vars.batch=8; may be repeated")  # fmt: skip
    one.add_argument("--allow-outside", action="store_true", help="let paths lead out of the project")
    _store_option(one)


def _store_option(one: argparse.ArgumentParser) -> None:
    one.add_argument("--artifacts", default=os.environ.get("TRTPIPE_ARTIFACTS") or "artifacts", metavar="DIR",
                     help="the store's folder (default: %(default)s, or TRTPIPE_ARTIFACTS)")  # fmt: skip


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
                     help="the store to share with others, such as s3://bucket/prefix, instead of the document's; "
                          "off: none (default: TRTPIPE_REMOTE, the document's, or the user's config's)")  # fmt: skip


# --- reading values; argparse shows these errors with the option's name


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
