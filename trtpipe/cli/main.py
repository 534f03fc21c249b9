"""The entry point of the command line; only here errors become exit codes."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

from trtpipe import __version__, defaults, errors, escaping, interrupts
from trtpipe.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INTERNAL = 70
_ISSUES = "https://github.com/trtpipe/trtpipe/issues"
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main(arguments: Sequence[str]) -> int:
    """Run one command and flush what it printed; give its exit code."""
    try:
        _ready_streams()
        code = _run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt as interrupt:
        interrupts.over()
        code = interrupts.code(interrupt)
        _farewell("interrupted" if code == 128 + signal.SIGINT else "terminated")
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE  # the reader (head, less) has gone
    except Exception as error:  # noqa: BLE001 — this is where a bug of ours ends
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            # An error without a file name comes from the output stream.
            with contextlib.suppress(OSError):
                _error(f"{error.filename or 'the output'} cannot be written: {error.strerror}")
            return errors.StoreError.exit_code
        import traceback

        from trtpipe.cli import printing

        printing.err(traceback.format_exc())
        printing.err(f"this is a bug in trtpipe {__version__}; please report the lines above: {_ISSUES}")
        return INTERNAL
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        args = options.parser().parse_args(arguments)
    except SystemExit as stop:  # argparse has said what is wrong
        return int(stop.code or 0)
    try:
        _check_surroundings(arguments)
        if hasattr(args, "artifacts"):
            args.named_store = args.artifacts
            document = getattr(args, "pipeline", None) or getattr(args, "model", None) or None
            args.artifacts = defaults.store(document[0] if isinstance(document, list) else document, args.artifacts)
        with contextlib.ExitStack() as args.cleanup:
            return command(args.function)(args)
    except errors.TrtpipeError as error:
        return _report(error, as_json=args.json)


def command(name: str) -> Callable[..., int]:
    """Give the function that the parser names, such as `running.run`; only now is its file imported."""
    family, _, function = name.partition(".")
    found: Callable[..., int] = getattr(importlib.import_module(f"trtpipe.cli.{family}"), function)
    return found


def _ready_streams() -> None:
    """Make sure that printing fails neither for a character nor because the caller has closed a stream."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115 — stays open to the end
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _check_surroundings(arguments: Sequence[str]) -> None:
    """Refuse names that are not UTF-8, which records cannot hold, and a current folder that was removed."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise errors.StoreError("the current folder was removed; change to another folder") from None
    for text in (here, *arguments):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise errors.PipelineInvalid(
                f"found {os.fsencode(text)!r} in the command or the current folder, expected UTF-8"
            ) from None


def _farewell(how: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        from trtpipe.cli import printing

        printing.err(f"\n{how}: nothing half-written is left")


def _report(error: errors.TrtpipeError, *, as_json: bool) -> int:
    from trtpipe.cli import printing

    problems = getattr(error, "problems", (str(error),))
    if as_json:
        printing.for_programs(json.dumps({"event": "Error", "error": type(error).__name__, "problems": problems}))
        return error.exit_code
    if isinstance(error, errors.PipelineInvalid):
        problems = map(escaping.inline, problems)  # a line for each, whatever a name in it holds
    _error("\n".join(problems))
    return error.exit_code


def _error(text: str) -> None:
    from trtpipe.cli import printing

    printing.message("error", text)
