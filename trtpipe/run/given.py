"""Prepares the run of a stage: its inputs as folders, and the request for its worker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trtpipe.pipeline import inputs
from trtpipe.run.request import Given, Request

if TYPE_CHECKING:
    from trtpipe.pipeline.graph import Source, Stage
    from trtpipe.pipeline.inputs import Found
    from trtpipe.run.lookup import Lookup
    from trtpipe.store.artifact import Artifact
    from trtpipe.store.store import Store


def request(lookup: Lookup, stage: Stage, key: str, given: dict[str, Given], *, folder: str, shared: str) -> Request:
    """Give the request for a stage that works in `folder`, which has the folders `out` and `scratch`."""
    return Request(
        stage=stage.name,
        type=stage.type,
        params=stage.params,
        inputs=given,
        failed=dict(stage.failed),
        sources=stage.sources,
        folder=lookup.pipeline.folder,
        root=lookup.pipeline.root,
        out=os.path.join(folder, "out"),
        scratch=os.path.join(folder, "scratch"),
        shared=shared,
        store=lookup.store.folder,
        key=key,
        backend=lookup.choice.backend,
        env=stage.env,
        watched=stage.watched,
        network=bool(stage.params.get("network", False)),
        allow_outside=lookup.allow_outside,
        timeout=stage.limits.timeout,
        memory=stage.limits.memory,
    )


def stored(store: Store, artifact: Artifact, stage: str) -> Given:
    """Give another stage's artifact as an input. Raises StoreError if its folder cannot be made."""
    return Given(artifact.kind, store.tree(artifact), tuple(sorted(artifact.files)), stage)


def outside(store: Store, source: Source, found: Found) -> Given:
    """Give an input from outside; a url that is not in the store yet is fetched. Raises StoreError."""
    if found.folder is None:
        found = inputs.fetch(source, store)
    assert found.folder is not None
    return Given(found.artifact.kind, found.folder, tuple(sorted(found.artifact.files)), source.label)
