"""Opens what a command works on: the document, its store, the backend, and the remote store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe import defaults, environment
from trtpipe.pipeline import loading
from trtpipe.remote.sharing import Sharing
from trtpipe.row import Row
from trtpipe.run.lookup import Lookup
from trtpipe.store.state import State
from trtpipe.store.store import Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from trtpipe.environment import Choice
    from trtpipe.pipeline.graph import Pipeline
    from trtpipe.run.events import Event

WOULD_RUN = 10
"""The exit code if nothing is wrong, but something is not made yet."""


class Opened(Row):
    """A document with its store and, for commands that may use one, its remote store."""

    lookup: Lookup
    sharing: Sharing | None


def open_pipeline(
    args: argparse.Namespace,
    *,
    emit: Callable[[Event], None] = lambda _: None,
    make: bool = False,
    write: bool = False,
    text: str | None = None,
    choice: Choice | None = None,
) -> Opened:
    """Load the document and open its store; the backend is chosen here.

    `make` makes the store if it does not exist. `write` allows writing to the remote store, whatever the document says.
    With `text`, that is the document, and nothing needs to be at its path. `choice` is a backend that was chosen.
    """
    if make:
        Store.make(args.artifacts)
    state = args.cleanup.enter_context(State(args.artifacts))
    loaded = loading.load(args.pipeline, args.set, state, text)
    choice = choice or choose(args.backend, loaded)
    lookup = Lookup(loaded, Store(args.artifacts, state), choice, allow_outside=args.allow_outside)
    if not hasattr(args, "remote"):
        return Opened(lookup, None)
    sharing = args.cleanup.enter_context(Sharing(lookup, args.remote, write=write, emit=emit))
    # Content that is damaged or missing in the store may be fetched again by its digest.
    lookup.store.refetch = sharing.refetch
    return Opened(lookup, sharing)


def choose(asked: str | None, pipeline: Pipeline) -> Choice:
    """Choose the backend: the one asked for, else the document's, else that of trtpipe.toml, else `auto`."""
    own = None
    if asked is None and pipeline.backend == "auto":
        own = defaults.read(defaults.top_of(pipeline.file)).backend
    found = environment.choose(asked or own or pipeline.backend)
    return found if own in (None, "auto") else found._replace(reason=f"named in {defaults.FILE}")


def forced(args: argparse.Namespace, pipeline: Pipeline) -> tuple[str, ...]:
    """Give the stages that `--force` names; without a name, all that the targets need."""
    if args.force == []:
        return ()
    if "*" in args.force:
        return tuple(pipeline.closure(args.target))
    return pipeline.match(args.force)
