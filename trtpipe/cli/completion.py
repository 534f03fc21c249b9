"""The command `completion`: a shell's completion script, and the words that the script asks for."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

from trtpipe import errors
from trtpipe.cli import options
from trtpipe.cli.printing import for_programs, path

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPTS = {
    "bash": """\
_trtpipe() {
    local IFS=$'\\n'
    COMPREPLY=($(trtpipe completion words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o bashdefault -o default -F _trtpipe trtpipe""",
    "zsh": """\
#compdef trtpipe
_trtpipe() {
    local -a found
    found=("${(@f)$(trtpipe completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found[1]" ]]; then compadd -- $found; else _files; fi
}
if [[ "$funcstack[1]" == _trtpipe ]]; then _trtpipe "$@"; else compdef _trtpipe trtpipe; fi""",
    "fish": """\
function __trtpipe_words
    set -l typed (commandline -opc) (commandline -ct)
    trtpipe completion words $typed[2..-1] 2>/dev/null
end
complete -c trtpipe -a '(__trtpipe_words)'""",
    "tcsh": """\
complete trtpipe 'p@*@`sh -c "trtpipe completion words \\`echo $COMMAND_LINE | cut -d\\" \\" -f2-\\`"`@'""",
}
"""Each asks `trtpipe completion words` for what may stand next, and takes files where that gives nothing."""


def completion(args: argparse.Namespace) -> int:
    """Print the completion script for a shell, or what may stand in place of the last word."""
    if args.shell == "words":
        for word in words(args.words or [""]):
            path(word)
        return 0
    script = SCRIPTS[args.shell]
    for_programs(json.dumps({"shell": args.shell, "script": script}) if args.json else script)
    return 0


def words(typed: Sequence[str]) -> list[str]:
    """Give what may stand in place of the last of the words that follow `trtpipe`; none where a path may stand."""
    *before, last = typed
    parser: argparse.ArgumentParser = options.parser()
    place, pending = 0, None
    for word in before:
        if pending is not None and not word.startswith("-"):
            pending = None  # it was that option's value
            continue
        pending = None
        if word.startswith("-"):
            action = parser._option_string_actions.get(word)  # noqa: SLF001 — argparse has no other way to ask
            pending = action if action is not None and action.nargs != 0 else None
            continue
        below = _commands(parser)
        if below is not None and word in below.choices:
            parser, place = below.choices[word], 0
        elif below is not None:
            return []  # there is no such command
        else:
            place += 1
    if pending is not None and not last.startswith("-"):
        found = _values(pending, before)
    elif last.startswith("-"):
        found = sorted(one for one in parser._option_string_actions if one.startswith("--") or last == "-")  # noqa: SLF001
    elif (below := _commands(parser)) is not None:
        found = list(below.choices)
    else:
        positionals = parser._get_positional_actions()  # noqa: SLF001
        many = positionals and positionals[-1].nargs in ("*", "+")
        index = min(place, len(positionals) - 1) if many else place
        found = _values(positionals[index], before) if 0 <= index < len(positionals) else []
    return [word for word in found if word.startswith(last)]


def _commands(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
    return next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)  # noqa: SLF001


def _values(action: argparse.Action, before: Sequence[str]) -> list[str]:
    """Give the values of an option or argument: its choices, or the stages of the document that was typed."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    if not str(action.metavar).startswith("STAGE"):
        return []
    return next((_stages(word) for word in before if word.endswith((".yaml", ".yml")) and os.path.isfile(word)), [])


def _stages(document: str) -> list[str]:
    from trtpipe.pipeline import loading

    try:
        names = list(loading.load(document, (), None).stages)
    except (errors.TrtpipeError, OSError):
        return []
    # A stage's own name stands for all its variants.
    return list(dict.fromkeys([*(name.partition("@")[0] for name in names), *names]))
