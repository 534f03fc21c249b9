"""The command `completion`: a shell's completion script."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from trtpipe import errors
from trtpipe.cli import options
from trtpipe.cli.printing import for_programs

if TYPE_CHECKING:
    import argparse


def completion(args: argparse.Namespace) -> int:
    """Print the completion script for a shell. Raises EnvironmentMissing without shtab."""
    try:
        import shtab
    except ImportError:
        raise errors.EnvironmentMissing("completion needs shtab: pip install 'trtpipe[completion]'") from None
    script = shtab.complete(options.parser(), shell=args.shell)
    for_programs(json.dumps({"shell": args.shell, "script": script}) if args.json else script)
    return 0
