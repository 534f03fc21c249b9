"""What a command works on: the document, its store and the backend, together as a runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtpipe import environment
from trtpipe.pipeline import loading
from trtpipe.store.state import State
from trtpipe.store.store import Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from trtpipe.remote.signed_store import Remote
    from trtpipe.run.runner import Runner

WOULD_RUN = 10
"""The exit code where nothing is wrong, but something is not there yet."""


def open_runner(
    args: argparse.Namespace, *, emit: Callable[[Any], None] = lambda _: None, make: bool = False
) -> Runner:
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


def forced(args: argparse.Namespace, runner: Runner) -> tuple[str, ...]:
    """Give the stages that `--force` names; without a name, all that the targets need."""
    if args.force == []:
        return ()
    if "*" in args.force:
        return tuple(runner.pipeline.closure(args.target))
    return runner.pipeline.match(args.force)
