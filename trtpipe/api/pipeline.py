"""A pipeline from Python: loaded, looked up, run; its artifacts by stage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from trtpipe import defaults, environment
from trtpipe.errors import StageFailed, UnknownReference
from trtpipe.pipeline import loading
from trtpipe.run import runner
from trtpipe.run.lookup import Lookup
from trtpipe.store.state import State
from trtpipe.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from trtpipe.documents.manifest import Manifest
    from trtpipe.run.events import Event
    from trtpipe.store.artifact import Artifact

Known = Literal["hit", "run", "unknown"]


class Stage(NamedTuple):
    """A stage as it is now. `state` is `hit`, `run`, or `unknown` until what it reads is made; `reasons` say why.

    `folder` has the files of its artifact, and `digest` is the artifact's; both are None if it is no hit. Files in the
    folder are read-only.
    """

    name: str
    type: str
    state: Known
    reasons: tuple[str, ...]
    digest: str | None
    folder: Path | None

    def path(self, file: str) -> Path:
        """Give the path of a file of the artifact. Raises StageFailed if it is not built or has no such file."""
        if self.folder is None:
            raise StageFailed(f"{self.name} is not built ({'; '.join(self.reasons)}); run it first")
        found = self.folder / file
        if not found.is_file():
            there = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())
            raise StageFailed(f"{self.name} made no file {file}; it made {', '.join(there)}")
        return found

    @property
    def manifest(self) -> Manifest:
        """What an engine is. Raises StageFailed if the stage is not built, or made no engine."""
        from trtpipe.documents import files
        from trtpipe.documents.manifest import Manifest

        return files.read(self.path(Manifest.file), Manifest)

    @property
    def metrics(self) -> dict[str, float]:
        """The figures of a stage that measures. Raises StageFailed if it is not built, or measures nothing."""
        from trtpipe.documents import files
        from trtpipe.documents.benchmark import Benchmark
        from trtpipe.documents.comparison import Comparison
        from trtpipe.documents.metrics import Metrics

        kinds: dict[str, type[Metrics | Comparison | Benchmark]] = {
            "evaluate": Metrics, "compare": Comparison, "benchmark": Benchmark,
        }  # fmt: skip
        if self.type not in kinds:
            raise StageFailed(
                f"{self.name} is a stage {self.type}, expected one of {', '.join(kinds)}: it has no metrics"
            )
        kind = kinds[self.type]
        return dict(files.read(self.path(kind.file), kind).metrics)


class Pipeline:
    """A document with its store, in this environment. A context manager; `close` lets go of the store's state."""

    def __init__(self, lookup: Lookup, state: State) -> None:
        self._lookup, self._state = lookup, state

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self._lookup.pipeline.name

    @property
    def backend(self) -> str:
        """The runtime that was chosen: `tensorrt`, `tensorrt_rtx` or `onnxruntime`."""
        return self._lookup.choice.backend

    def stages(self, targets: Iterable[str] = ()) -> dict[str, Stage]:
        """Give the targets (none: every stage) and all that they need, in order, as they are now; nothing is run.

        Raises PipelineInvalid or one of its kinds, EnvironmentMissing or StoreError.
        """
        found = self._lookup.statuses(tuple(targets))
        return {one.stage: self._stage(one.stage, one.state, one.reasons, one.artifact) for one in found}

    def __getitem__(self, name: str) -> Stage:
        """Give one stage as it is now. Raises UnknownReference if there is none of this name."""
        if name not in self._lookup.pipeline.stages:
            raise UnknownReference(f"unknown stage {name}; there are {', '.join(self._lookup.pipeline.stages)}")
        return self.stages([name])[name]

    def _stage(self, name: str, state: str, reasons: tuple[str, ...], artifact: Artifact | None) -> Stage:
        kind = self._lookup.pipeline.stages[name].type
        known: Known = "hit" if state == "hit" else "run" if state == "run" else "unknown"
        if artifact is None:
            return Stage(name, kind, known, reasons, None, None)
        return Stage(name, kind, known, reasons, artifact.digest, Path(self._lookup.store.tree(artifact)))

    def run(
        self, targets: Iterable[str] = (), *, jobs: int = 1, tell: Callable[[Event], None] = lambda _: None
    ) -> dict[str, Stage]:
        """Bring the targets (none: every stage) up to date; give them, and all that they need, as they are then.

        `tell` gets what happens, as it happens. Raises the error of the first stage that failed and was needed, and
        what stops a run before it starts.
        """
        wanted = tuple(targets)
        outcome = runner.run(self._lookup, wanted, jobs=jobs, emit=tell)
        for name, error in outcome.failures.items():
            if name not in outcome.lost:
                raise error
        # A new one, since it remembers with which key each stage was last made.
        old = self._lookup
        self._lookup = Lookup(old.pipeline, old.store, old.choice, allow_outside=old.allow_outside)
        names = (name for name in self._lookup.pipeline.closure(wanted) if name in outcome.artifacts)
        return {name: self._stage(name, "hit", (), outcome.artifacts[name]) for name in names}

    def close(self) -> None:
        """Write what was learnt of files, and let go of the store; safe to call twice."""
        self._state.close()

    def __enter__(self) -> Pipeline:  # noqa: PYI034 — Self came with 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    document: str | os.PathLike[str],
    *,
    set: Mapping[str, object] | None = None,  # noqa: A002 — as the command line calls it
    backend: str | None = None,
    artifacts: str | os.PathLike[str] | None = None,
    allow_outside: bool = False,
) -> Pipeline:
    """Load a document. `set` replaces values by their paths, such as `{"vars.batch": 8}`.

    `backend` is what `--backend` is, `artifacts` the folder of the store: by default `$TRTPIPE_ARTIFACTS`, else what
    the project's `trtpipe.toml` names, else `artifacts` in the project's root. Raises PipelineInvalid or one of its
    kinds with everything that is wrong, EnvironmentMissing if the runtime is not installed, StoreError.
    """
    import json

    folder = defaults.store(os.fspath(document), None if artifacts is None else os.fspath(artifacts))
    settings = [f"{path}={json.dumps(value)}" for path, value in (set or {}).items()]
    Store.make(folder)
    state = State(folder)
    try:
        loaded = loading.load(os.fspath(document), settings, state)
        own = defaults.read(defaults.top_of(loaded.file)).backend if loaded.backend == "auto" else None
        choice = environment.choose(backend or own or loaded.backend)
        return Pipeline(Lookup(loaded, Store(folder, state), choice, allow_outside=allow_outside), state)
    except BaseException:
        state.close()
        raise
