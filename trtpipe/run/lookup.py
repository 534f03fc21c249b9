"""What is known of a pipeline's stages before anything runs: their keys, and whether the store has their artifacts."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from trtpipe import environment, errors, project
from trtpipe import reads as seen
from trtpipe.key import FORMAT, Key
from trtpipe.pipeline import inputs, run_section
from trtpipe.row import Row
from trtpipe.run import reasons, surroundings, unchanged
from trtpipe.run.holdings import holds
from trtpipe.run.record import Record, of_action
from trtpipe.run.standing import Standing
from trtpipe.store.artifact import Artifact, Hit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtpipe.environment import Choice
    from trtpipe.pipeline.graph import Pipeline, Source, Stage
    from trtpipe.reads import Names, Reads
    from trtpipe.store.store import Store


class Now(Row):
    """A stage as it is now: its key, and what was found of its inputs from outside, by port.

    A tolerant `stage` does not have those of its inputs that failed.
    """

    stage: Stage
    key: Key
    record: Record
    found: dict[str, inputs.Found]
    stamps: dict[str, str]
    """For each file from outside in the key, a stamp that changes when the file is written."""
    absent: tuple[str, ...]
    """What is missing here and was taken from another key."""


class Assessed(Row):
    """What is known of a stage before it runs: its key, and whether the store has it.

    `first` is the digest of the key's first part, `digest` that of the full key. If a stage that runs users' code is no
    hit, the reads in the key are those of the list that was tried first; what the code will read is not known yet.
    """

    now: Now
    first: str
    digest: str
    hit: Hit | None
    reasons: tuple[str, ...]
    failure: str | None = None
    """Why it failed when it last ran with this key."""
    tries: tuple[str, ...] = ()
    """The digests of the keys that were looked up, in order, one for each list of names."""

    @property
    def key(self) -> Key:
        """The stage's key."""
        return self.now.key


class Status(Row):
    """One line of `status`: `hit`, `run` or `unknown` (until an upstream stage finishes)."""

    stage: str
    type: str
    state: str
    reasons: tuple[str, ...]
    artifact: Artifact | None


class Lookup:
    """A pipeline with a store, in this environment. It runs nothing and writes only digests to the state."""

    def __init__(self, pipeline: Pipeline, store: Store, choice: Choice, *, allow_outside: bool = False) -> None:
        self.pipeline, self.store, self.choice = pipeline, store, choice
        self.allow_outside = allow_outside
        gpus = environment.gpus()
        self.gpu = gpus[0] if gpus else None
        self._last = store.state.last(pipeline.name)
        self._facets: dict[tuple[Any, ...], dict[str, Any]] = {}

    def check(self, order: tuple[str, ...]) -> None:
        """Check that the files that these stages name exist and are allowed, and that their limits can be enforced.

        Raises what `inputs.check` and `run_section.check` raise.
        """
        inputs.check(self.pipeline, order, allow_outside=self.allow_outside, store=self.store.folder)
        run_section.check(self.pipeline, order)

    def _limit(self) -> str | None:
        """Give the folder that inputs may not lead out of, or None."""
        return None if self.allow_outside else self.pipeline.root

    # --- keys

    def now(self, stage: Stage, upstream: Mapping[str, Artifact], like: Key | None = None) -> Now:
        """Give a stage as it is now; `upstream` holds the artifacts that it reads.

        If a model, a package or an artifact is missing here, that is an error; with `like`, it is taken from that key.
        Raises PipelineInvalid, EnvironmentMissing or StoreError.
        """
        stamps: dict[str, str] = {}
        self.store.state.seen = stamps
        absent: dict[str, None] = {}
        digests: dict[str, str] = {}
        labels: dict[str, str] = {}
        files: dict[str, dict[str, str] | None] = {}
        found: dict[str, inputs.Found] = {}
        if like is not None:
            self._refuse_outside(stage)
        for port, source in stage.inputs.items():
            labels[port] = self.label(source)
            artifact = None
            if isinstance(source, str):
                artifact = upstream.get(source)
            elif like is None or self._is_here(source):
                found[port] = inputs.find(source, self.pipeline.folder, self.store, self._limit())
                artifact = found[port].artifact
            else:
                absent[source.label] = None
            if artifact is not None:
                digests[port] = artifact.digest
                files[port] = {name: sha256 for name, (sha256, _) in artifact.files.items()}
            elif like is None:
                raise errors.StageFailed(f"{stage.name}: {labels[port]} is not built")
            elif port in like.inputs:
                digests[port] = like.inputs[port]
        sources = self._sources(stage, like, absent)
        facets = self._environment(stage, like, absent)
        held = {} if like is None else self._held(stage, like)
        key = Key(stage.type, stage.version, stage.key_params, digests, sources, facets, held)
        return Now(stage, key, Record(key.record, labels, files), found, stamps, tuple(absent))

    def _held(self, stage: Stage, like: Key) -> Reads:
        """Give what the names in another key's reads hold here. Raises PipelineInvalid if they are not valid."""
        try:
            return holds(seen.of(like.reads), self.pipeline.root, self.store.state, stage.env)
        except ValueError as error:
            raise errors.PipelineInvalid(f"the reads of a key: {error}") from None

    def label(self, source: str | Source) -> str:
        """Give an input's name in messages and records: a stage's name, or a file's path from the project's root."""
        if isinstance(source, str):
            return source
        return source.label if source.file is None else self._name(source.file)

    def _name(self, file: str) -> str:
        return project.name(os.path.join(self.pipeline.folder, file), self.pipeline.root)

    def _is_here(self, source: Source) -> bool:
        if source.file is not None:
            return os.path.exists(os.path.join(self.pipeline.folder, source.file))
        return source.package is None or environment.find_file(source.package) is not None

    def _refuse_outside(self, stage: Stage) -> None:
        """Raise PipelineInvalid if an existing file must not be read."""
        folder, root = self.pipeline.folder, self._limit()
        named = [(s.file, s.place) for s in stage.inputs.values() if not isinstance(s, str) and s.file is not None]
        named += [(file, stage.place) for file in stage.sources]
        problems: list[str] = []
        for file, place in named:
            if os.path.exists(os.path.join(folder, file)):
                problems += inputs.file_problems(folder, file, place, root)
        if problems:
            raise errors.PipelineInvalid(problems)

    def _sources(self, stage: Stage, like: Key | None, absent: dict[str, None]) -> dict[str, str]:
        if like is None:
            return inputs.sources(stage, self.pipeline, self.store)
        here = [one for one in stage.sources if self._source_is_here(one)]
        modules = [module for module in stage.modules if inputs.module_files(module) is not None]
        sources = inputs.sources(stage._replace(sources=tuple(here), modules=tuple(modules)), self.pipeline, self.store)
        for file in stage.sources:
            if file not in here:
                absent[file] = None
                name = self._name(file)
                sources.update({n: d for n, d in like.sources.items() if inputs.stands_for(name, n)})
        for module in stage.modules:
            if module not in modules:
                top = module.split(".", 1)[0]
                absent[top] = None
                sources.update({n: d for n, d in like.sources.items() if n == f"{top}.py" or n.startswith(f"{top}/")})
        return sources

    def _source_is_here(self, source: str) -> bool:
        folder = self.pipeline.folder
        if os.path.isdir(os.path.join(folder, source)):
            return True
        return any(os.path.exists(os.path.join(folder, one)) for one in inputs.source_files(source, folder))

    def _environment(self, stage: Stage, like: Key | None, absent: dict[str, None]) -> dict[str, Any]:
        if like is None:
            return self.facets(stage)
        have = tuple(package for package in stage.packages if environment.version(package) is not None)
        lacking = [package for package in stage.packages if package not in have]
        absent.update(dict.fromkeys(lacking))
        facets = self.facets(stage._replace(packages=have))
        return {**facets, **{p: like.environment[p] for p in lacking if p in like.environment}}

    def facets(self, stage: Stage) -> dict[str, Any]:
        """Give the part of the environment that is in a stage's key. Raises EnvironmentMissing."""
        uses_gpu = self.choice.backend in stage.gpu_on
        wanted = (stage.packages, stage.backend, uses_gpu)
        if wanted not in self._facets:
            choice = self.choice if stage.backend else None
            facets = environment.facets(stage.packages, choice, self.gpu if uses_gpu else None)
            # Without a package and a runtime, no native library of the stage can read a variable.
            if facets and (variables := surroundings.native()):
                facets["variables"] = variables
            self._facets[wanted] = facets
        return self._facets[wanted]

    # --- look-ups

    def assess(
        self,
        stage: Stage,
        upstream: Mapping[str, Artifact],
        *,
        forced: bool = False,
        latest: bool = False,
        brief: bool = False,
    ) -> Assessed:
        """Compute a stage's key, look it up, and say why it would run. `upstream` holds what it reads.

        With `latest`, a stage that runs each time may also hit with its last artifact. With `brief`, the key of a hit
        may be without its reads; `digest` is right all the same.
        """
        now = self.now(stage, upstream)
        first = now.key.first
        asks = not forced and (stage.cacheable or latest)
        if brief and asks and stage.watched and (unmoved := self._unchanged(now, first)):
            return unmoved
        looked: list[tuple[Now, str]] = []
        damaged: tuple[Now, str, str, str | None] | None = None
        failed = damaged
        looks: list[unchanged.Looked | None] = []
        for one in self._as_listed(now, first, looks if brief and asks else None):
            digest = one.key.digest
            looked.append((one, digest))
            if not asks:
                continue
            result = self.store.lookup(digest)
            if isinstance(result, Hit):
                tries = tuple(tried for _, tried in looked)
                self._remember_looked(first, looks, tries)
                return Assessed(one, first, digest, result, (), None, tries)
            if result.damage:
                damaged = damaged or (one, digest, result.damage, None)
            failure = self.store.state.failure(digest)
            if failure is not None:
                failed = failed or (one, digest, f"failed last time: {failure}", failure)
        tries = tuple(digest for _, digest in looked)
        usual, digest = looked[0] if looked else (now, now.key.digest)
        if not asks:
            why = "forced" if forced else "runs each time"
            return Assessed(usual, first, digest, None, (why,), None, tries)
        if found := damaged or failed:
            one, digest, why, failure = found
            return Assessed(one, first, digest, None, (why,), failure, tries)
        return Assessed(usual, first, digest, None, self._reasons(stage, now), None, tries)

    def _as_listed(self, now: Now, first: str, looks: list[unchanged.Looked | None] | None) -> Iterator[Now]:
        """Give a stage with what each of its lists holds here, one after the other: a hit needs no further list.

        Where a list looks is put into `looks` before what it holds is found, so that a later change is noticed.
        """
        if not now.stage.watched:
            yield now
            return
        lists_path = self.store.layout.lists(first)
        for names in self.store.lists(first):
            if looks is not None:
                looks.append(unchanged.look(names, lists_path, self.pipeline.root, now.stage.env))
            yield self.with_reads(now, names)

    def _unchanged(self, now: Now, first: str) -> Assessed | None:
        """Give a stage's hit if all that its lists look at is as it was when it last hit."""
        text = self.store.state.looked(unchanged.name_of(first, self.pipeline.root))
        looks = unchanged.of_text(text) if text is not None else []
        if not all(unchanged.is_same(look, now.stage.env) for look in looks):
            return None
        for number, look in enumerate(looks, 1):
            found = self.store.lookup(look.key)
            if isinstance(found, Hit):
                return Assessed(now, first, look.key, found, (), None, tuple(one.key for one in looks[:number]))
        return None

    def _remember_looked(self, first: str, looks: list[unchanged.Looked | None], tries: tuple[str, ...]) -> None:
        """Remember where the lists looked that were tried up to a hit."""
        known = [look._replace(key=key) for look, key in zip(looks, tries, strict=False) if look is not None]
        if len(known) == len(tries):
            text = unchanged.text_of(known)
            self.store.state.remember_looked(unchanged.name_of(first, self.pipeline.root), text)

    def with_reads(self, now: Now, names: Names) -> Now:
        """Give a stage as it is now, with what a list of names holds here. Raises StoreError."""
        self.store.state.seen = dict(now.stamps)
        key = now.key._replace(reads=holds(names, self.pipeline.root, self.store.state, now.stage.env))
        stamps = self.store.state.seen
        return now._replace(key=key, record=now.record._replace(key=key.record), stamps=stamps)

    def _reasons(self, stage: Stage, now: Now) -> tuple[str, ...]:
        """Say field by field how a stage differs from the last time when it was made or found."""
        last = self._last.get(stage.name)
        action = self.store.action(last[0]) if last else None
        if action is None:
            return ("never built",)
        before = of_action(action)
        if before.key.get("format") != FORMAT:
            return ("was made by an older trtpipe, whose keys held less",)
        with contextlib.suppress(ValueError):
            now = self.with_reads(now, seen.of(before.key.get("reads", {})))
        if before.key == now.record.key:
            return ("its artifact is not in the store any more",)
        return reasons.between(before, now.record)

    def statuses(self, targets: Sequence[str], *, forced: Sequence[str] = ()) -> list[Status]:
        """Say for every stage what a run would do."""
        order = self.pipeline.closure(targets)
        self.check(order)
        artifacts: dict[str, Artifact] = {}
        found = []
        for name in order:
            stage = self.pipeline.stages[name]
            waiting = [u for u in stage.upstream if u not in artifacts]
            if waiting:
                reason = f"depends on {', '.join(waiting)}"
                found.append(Status(name, stage.type, "unknown", (reason,), None))
                continue
            assessed = self.assess(stage, artifacts, forced=name in forced, brief=True)
            if assessed.hit:
                artifacts[name] = assessed.hit.artifact
                found.append(Status(name, stage.type, "hit", (), assessed.hit.artifact))
            else:
                found.append(Status(name, stage.type, "run", assessed.reasons, None))
        return found

    # --- what a run needs and remembers

    def remember(self, stage: Stage, digest: str, seconds: float | None) -> None:
        """Remember the key of a stage for explanations and expected times, if it is new."""
        last = self._last.get(stage.name)
        if last is None or last[0] != digest or seconds is not None:
            self.store.state.remember_last(self.pipeline.name, stage.name, digest, seconds)
        if last is None or last[0] != digest:
            self.store.state.remember_change(self.pipeline.name, stage.name, digest)

    def expected_seconds(self, stage: Stage) -> float | None:
        """Give what the stage took last time, if known."""
        last = self._last.get(stage.name)
        return last[1] if last else None

    def needs_gpu(self, stage: Stage) -> str | None:
        """Say why a stage cannot run here without a GPU, or None if it can."""
        if self.choice.backend not in stage.gpu_on or self.gpu is not None:
            return None
        hidden = " (CUDA_VISIBLE_DEVICES hides it)" if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") else ""
        help_text = "run it on a machine with an NVIDIA GPU and driver"
        if self.choice.backend == "tensorrt_rtx":
            help_text += ", or build the plan here with --target on the build stage"
        return (
            f"stage {stage.name} ({stage.type}) needs a GPU on {self.choice.backend}, and there is none here{hidden}: "
            f"{help_text}, or use --backend onnxruntime"
        )

    def refuse_without_gpu(self, order: Sequence[str]) -> None:
        """Raise EnvironmentMissing if one of these stages needs a GPU and there is none."""
        for name in order:
            if missing := self.needs_gpu(self.pipeline.stages[name]):
                raise errors.EnvironmentMissing(missing)


class Walk:
    """The stages of a pipeline as they are in the store, looked up one by one, each after the stages that it reads.

    `found` has the look-ups. `standing` has the artifacts, and which failure stops which stage.
    """

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.standing = Standing()
        self.found: dict[str, Assessed] = {}

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """What is in the store, by stage."""
        return self.standing.artifacts

    @property
    def failed(self) -> dict[str, str]:
        """For each stage that failed when it last ran, or cannot run for that reason, the stage that failed."""
        return self.standing.stopped

    def take(self, name: str, *, latest: bool = True) -> Assessed | None:
        """Look a stage up; None if that is not possible, because something that it reads is missing."""
        stage = self.lookup.pipeline.stages[name]
        able = self.standing.able(stage) if self.standing.decided(stage) else None
        if able is None:
            return None
        assessed = self.found[name] = self.lookup.assess(able, self.artifacts, latest=latest)
        if assessed.hit:
            self.artifacts[name] = assessed.hit.artifact
        elif assessed.failure is not None:
            self.standing.failed(name, assessed.failure)
        return assessed
