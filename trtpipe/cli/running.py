"""Commands that run stages: `run` and `bench`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from trtpipe import defaults, errors
from trtpipe.cli.opening import forced, open_pipeline
from trtpipe.cli.printing import out
from trtpipe.pipeline.graph import lock_path
from trtpipe.run import runner

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> int:
    """Bring the pipeline up to date."""
    from trtpipe.cli.run_display import Console, JsonLines

    args.json = args.json or args.progress == "json"
    watcher = (
        JsonLines(sys.stdout)
        if args.json
        else Console(sys.stdout, quiet=args.quiet, mode=args.progress, document=args.pipeline)
    )
    lookup, sharing = open_pipeline(args, emit=watcher, make=True)
    lock_file = lock_path(args.pipeline)
    own = defaults.read(defaults.top_of(args.pipeline))
    try:
        if args.frozen:
            from trtpipe.trust import lockfile

            if args.force or args.set or args.strict:
                raise errors.PipelineInvalid("--frozen goes with none of --force, --set and --strict")
            lockfile.run_frozen(lookup, lock_file, args.target, emit=watcher, exchange=sharing)
            lockfile.keep_root(lookup.store, args.pipeline)
            return 0
        named = forced(args, lookup.pipeline)
        jobs = args.jobs or own.jobs or min(4, os.cpu_count() or 1)
        outcome = runner.run(
            lookup, args.target, forced=named, jobs=jobs, strict=args.strict, emit=watcher, exchange=sharing
        )
        if os.path.exists(lock_file):
            from trtpipe.trust import lockfile

            lockfile.keep_root(lookup.store, args.pipeline)
    finally:
        watcher.close()
    return outcome.exit_code


def bench(args: argparse.Namespace) -> int:
    """Measure a pipeline's engines by trtexec's definitions; what they need is brought up to date first."""
    from trtpipe.cli.run_display import Console
    from trtpipe.pipeline import benchmarks as measuring

    watcher = Console(sys.stderr, quiet=args.quiet or args.json, document=args.pipeline)
    lookup, sharing = open_pipeline(args, emit=watcher, make=True)
    asked = {
        "preset": args.preset, "duration": args.duration, "warm_up": args.warm_up, "iterations": args.iterations,
        "transfers": args.transfers, "cuda_graph": args.cuda_graph, "profile": args.profile or None,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    lookup.pipeline, names = measuring.with_benchmarks(lookup.pipeline, given)
    targets = tuple(args.target) or names
    try:
        outcome = runner.run(lookup, targets, emit=watcher, exchange=sharing)
    finally:
        watcher.close()
    text = measuring.report(lookup.store, outcome.artifacts, names, as_json=args.json)
    if text:
        out(text)
    return outcome.exit_code
