"""Keys, look-ups, order, jobs. Emits events; never prints."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import environment, errors
from trtpipe.columns import seconds_text
from trtpipe.key import Key, difference
from trtpipe.pipeline import inputs
from trtpipe.run import events, reasons
from trtpipe.store.actions import artifact_of
from trtpipe.store.artifact import Artifact, Hit

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from queue import SimpleQueue

    from trtpipe.environment import Choice
    from trtpipe.pipeline.graph import Pipeline, Stage
    from trtpipe.remote.signed_store import Remote
    from trtpipe.store.locks import Held
    from trtpipe.store.store import Store

LOG_LINES = 12
_GRACE_SECONDS = 3.0
_OWN = (errors.StageFailed, errors.GateFailed)
"""What a stage fails with for reasons of its own, and would again."""
_SAYS = re.compile(r"(; [^;]* says)?:?$")
_POLL_SECONDS = 0.1
_STILL_SECONDS = 60


class Assessed(NamedTuple):
    """What is known of a stage before it runs: its key, and whether the store has it."""

    key: Key
    digest: str
    hit: Hit | None
    reasons: tuple[str, ...]
    found: dict[str, inputs.Found]
    stamps: dict[str, str] | None = None
    """For each file from outside that the key was made of, what changes when somebody writes to it."""
    failure: str | None = None
    """Why it failed when it last ran with this key."""


class Status(NamedTuple):
    """One line of `status`: `hit`, `run` or `unknown` (until an upstream stage finishes)."""

    stage: str
    type: str
    state: str
    reasons: tuple[str, ...]
    artifact: Artifact | None


class Outcome(NamedTuple):
    """What a run came to: artifacts by stage, and errors by stage.

    `lost` are the failed stages without which everything that was asked for has been made.
    """

    artifacts: dict[str, Artifact]
    failures: dict[str, errors.TrtpipeError]
    lost: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """The exit code of the first failure that counts, 0 if there is none."""
        return next((error.exit_code for name, error in self.failures.items() if name not in self.lost), 0)


class Taken:
    """Stages of a pipeline as they are in the store, taken in an order in which each comes after what it reads."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.artifacts: dict[str, Artifact] = {}
        self.failed: dict[str, str] = {}
        """For each stage that failed when it last ran, or cannot run for that reason, the stage that failed."""
        self._why: dict[str, str] = {}

    def take(self, name: str, *, latest: bool = True) -> Assessed | None:
        """Look a stage up; None if it cannot be, because something that it reads is not there."""
        runner, stage = self._runner, self._runner.pipeline.stages[name]
        missing = [u for u in stage.upstream if u not in self.artifacts]
        if missing:
            stop = next((u for u in missing if u in self.failed), None)
            able = without_failed(stage, self.failed, self._why) if all(u in self.failed for u in missing) else None
            if able is None:
                if stop is not None:
                    self.failed[name] = self.failed[stop]
                return None
            stage = able
        assessed = runner.assess(stage, self.artifacts, latest=latest)
        if assessed.hit:
            self.artifacts[name] = assessed.hit.artifact
        elif assessed.failure is not None:
            self.failed[name], self._why[name] = name, assessed.failure
        return assessed


def without_failed(stage: Stage, stopped: Mapping[str, str], why: Mapping[str, str]) -> Stage | None:
    """Give a tolerant stage without the inputs that failed; None if it cannot do without them.

    `stopped` gives for each stage that is not there the one that failed, `why` the reason of those that failed of
    themselves, and not for want of a disk or a GPU, say. Each port must have an input left.
    """
    gone = {port: stopped[i] for port, i in stage.inputs.items() if isinstance(i, str) and i in stopped}
    left = {port: i for port, i in stage.inputs.items() if port not in gone}
    ports = [{port.partition("[")[0] for port in some} for some in (gone, left)]
    if not stage.tolerant or not ports[0] <= ports[1] or any(root not in why for root in gone.values()):
        return None
    return stage.without({port: f"{root} failed: {why[root]}" for port, root in gone.items()})


class _Running(NamedTuple):
    stage: Stage
    assessed: Assessed
    started: float
    workspace: contextlib.ExitStack
    folder: str
    notes: list[str]


class Runner:
    """Runs a pipeline's stages against one store."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store,
        choice: Choice,
        emit: Callable[[events.Event], None] = lambda _: None,
        *,
        allow_outside: bool = False,
    ) -> None:
        self.pipeline, self.store, self.choice, self.emit = pipeline, store, choice, emit
        self.allow_outside = allow_outside
        gpus = environment.gpus()
        self.gpu = gpus[0] if gpus else None
        self._last = store.state.last(pipeline.name)
        self._facets: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.connect: Callable[[Runner], Remote | None] | None = None
        """Gives the remote store; asked when the first stage misses, so that an all-cached run needs none."""
        self._remote: Remote | None = None

    @property
    def remote(self) -> Remote | None:
        """The remote store, or None. Raises what `connect` raises."""
        if self.connect is not None:
            connect, self.connect = self.connect, None
            self._remote = connect(self)
        return self._remote

    def disconnect(self) -> None:
        """End what is on its way from or to the remote store; there is none from now on."""
        self.connect = None
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def bring_content(self, wanted: Mapping[str, int]) -> None:
        """Fetch content (SHA-256 → bytes) that is not in the store, if there is a remote store that has it."""
        missing = {sha256: n for sha256, n in wanted.items() if not os.path.exists(self.store.blob_path(sha256))}
        if missing and self.remote is not None and self.remote.reachable:
            from trtpipe.remote import sharing

            sharing.bring_content(self, self.remote, missing)

    # --- keys and look-ups

    def assess(
        self, stage: Stage, upstream: dict[str, Artifact], *, forced: bool = False, latest: bool = False
    ) -> Assessed:
        """Compute a stage's key, look it up, and say why it would run. `upstream` holds what it reads.

        `latest` asks for the last artifact of a stage that runs each time, too.
        """
        stamps: dict[str, str] = {}
        self.store.state.seen = stamps
        found = {
            port: inputs.find(source, self.pipeline.root, self.store)
            for port, source in stage.inputs.items()
            if not isinstance(source, str)
        }
        digests = {
            port: (upstream[i] if isinstance(i, str) else found[port].artifact).digest
            for port, i in stage.inputs.items()
        }
        key = Key(
            stage.type,
            stage.version,
            stage.key_params,
            digests,
            inputs.sources(stage, self.pipeline.root, self.store.state),
            self.facets(stage),
        )
        digest = key.digest
        if forced:
            return Assessed(key, digest, None, ("forced",), found, stamps)
        if not (stage.cacheable or latest):
            return Assessed(key, digest, None, ("runs each time",), found, stamps)
        result = self.store.lookup(digest)
        if isinstance(result, Hit):
            return Assessed(key, digest, result, (), found, stamps)
        if result.damage:
            return Assessed(key, digest, None, (result.damage,), found, stamps)
        failure = self.store.state.failure(digest)
        why = self.reasons(stage, key, upstream, found) if failure is None else (f"failed last time: {failure}",)
        return Assessed(key, digest, None, why, found, stamps, failure)

    def facets(self, stage: Stage) -> dict[str, Any]:
        """Give the part of the environment that is in a stage's key. Raises EnvironmentMissing."""
        uses_gpu = self.choice.backend in stage.gpu_on
        wanted = (stage.packages, stage.backend, uses_gpu)
        if wanted not in self._facets:
            choice = self.choice if stage.backend else None
            self._facets[wanted] = environment.facets(stage.packages, choice, self.gpu if uses_gpu else None)
        return self._facets[wanted]

    def reasons(
        self, stage: Stage, key: Key, upstream: dict[str, Artifact], found: dict[str, inputs.Found]
    ) -> tuple[str, ...]:
        """Say field by field how a key differs from the one with which the stage was last made or found."""
        last = self._last.get(stage.name)
        record = self.store.action(last[0]) if last else None
        if record is None:
            return ("never built",)
        if record["key"] == key.record:
            return ("its artifact is gone from the store",)
        return reasons.between(reasons.of_record(record), side(stage, key, upstream, found))

    def statuses(self, targets: Sequence[str], *, forced: Sequence[str] = ()) -> list[Status]:
        """Say of every stage what a run would do; what a run would run, and nothing else, is not `hit`."""
        order = self.pipeline.closure(targets)
        inputs.check(self.pipeline, order, allow_outside=self.allow_outside)
        artifacts: dict[str, Artifact] = {}
        found = []
        for name in order:
            stage = self.pipeline.stages[name]
            waiting = [u for u in stage.upstream if u not in artifacts]
            if waiting:
                reason = f"depends on {', '.join(waiting)}"
                found.append(Status(name, stage.type, "unknown", (reason,), None))
                continue
            assessed = self.assess(stage, artifacts, forced=name in forced)
            if assessed.hit:
                artifacts[name] = assessed.hit.artifact
                found.append(Status(name, stage.type, "hit", (), assessed.hit.artifact))
            else:
                found.append(Status(name, stage.type, "run", assessed.reasons, None))
        return found

    # --- running

    def run(self, targets: Sequence[str] = (), *, forced: Sequence[str] = (), jobs: int = 1) -> Outcome:
        """Bring the targets (none: every stage) up to date. Raises what stops the run before any stage starts.

        A failing stage stops what depends on it; the others still finish. On KeyboardInterrupt all workers are
        ended, nothing half-written stays, and the interrupt goes on.
        """
        begun = time.monotonic()
        order = self.pipeline.closure(targets)
        inputs.check(self.pipeline, order, allow_outside=self.allow_outside)
        for name in order:
            if missing := self.needs_gpu(self.pipeline.stages[name]):
                raise errors.EnvironmentMissing(missing)
        backend = f"{self.choice.backend} {self.choice.version}"
        self.emit(events.PipelineStarted(self.pipeline.name, backend, self.choice.reason, order))
        work = _Work(self, order, forced, jobs)
        with self.store.in_use():
            try:
                work.loop()
                if self._remote is not None:
                    from trtpipe.remote import sharing

                    made = {name: work.digests[name] for name, how in work.how.items() if how == "ran"}
                    sharing.finish(self, self._remote, made)
            finally:
                work.end()
                self.store.state.commit()
        hit = sum(1 for how in work.how.values() if how == "hit")
        ran = sum(1 for how in work.how.values() if how == "ran")
        skipped = len(order) - hit - ran - len(work.failures)
        seconds = time.monotonic() - begun
        failures = {name: work.failures[name] for name in order if name in work.failures}
        lost = work.lost(targets)
        self.emit(events.PipelineFinished(self.pipeline.name, hit, ran, len(failures), skipped, seconds, lost))
        return Outcome(work.artifacts, failures, lost)

    def request(
        self, stage: Stage, digest: str, given: dict[str, dict[str, Any]], folder: str, shared: str
    ) -> dict[str, Any]:
        """Give what a worker is told: `given` says for each input its kind, folder, files and label."""
        return {
            "stage": stage.name,
            "type": stage.type,
            "params": stage.params,
            "inputs": given,
            "failed": dict(stage.failed),
            "sources": stage.sources,
            "root": self.pipeline.root,
            "out": os.path.join(folder, "out"),
            "scratch": os.path.join(folder, "scratch"),
            "shared": shared,
            "store": self.store.folder,
            "key": digest,
            "backend": self.choice.backend,
        }

    def remember(self, stage: Stage, digest: str, seconds: float | None) -> None:
        """Remember the key of a stage for explanations and expected times, if that is news."""
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
        """Say why a stage cannot run here for want of a GPU, or None if it can."""
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


class _Work:
    """The state of one run: what is done, what runs, what waits."""

    def __init__(self, runner: Runner, order: tuple[str, ...], forced: Sequence[str], jobs: int) -> None:
        self.runner, self.order, self.forced, self.jobs = runner, order, set(forced), max(1, jobs)
        self.artifacts: dict[str, Artifact] = {}
        self.failures: dict[str, errors.TrtpipeError] = {}
        self.why: dict[str, str] = {}
        """In a line, why stages failed of themselves."""
        self.stopped: dict[str, str] = {}
        self.how: dict[str, str] = {}
        self.digests: dict[str, str] = {}
        self.waiting = list(order)
        self.queue: list[tuple[Stage, Assessed]] = []
        self.running: dict[str, _Running] = {}
        self.told: dict[str, float] = {}
        """When it was last told that a stage runs, or that it waits for another run."""
        self.pool: _Pool | None = None
        self.awaited: set[str] = set()
        """Queued stages whose key another run makes now."""

    def loop(self) -> None:
        """Go on until every stage has hit, run, failed or been skipped."""
        store = self.runner.store
        while True:
            with store.guard():
                known = len(self.artifacts)
                self._settle()
                asking = self._unasked()
                if not asking:
                    self._start()
                if len(self.artifacts) > known:
                    store.use(self.digests[name] for name in list(self.artifacts)[known:])
            if asking:
                self._bring(asking)
                continue
            if not self.running and not self.awaited:
                if not self.queue and not self._ready():
                    return
                continue
            # Other runs must be able to write what they learn while this one waits.
            store.state.commit()
            if self.pool is None or not self.running:
                time.sleep(_POLL_SECONDS)
            else:
                pause = self._still()
                message = self.pool.next(min(pause, _POLL_SECONDS) if self.awaited else pause)
                if message is not None:
                    self._handle(*message)

    def _still(self) -> float:
        """Tell which stages have run for another while; give the seconds until the next word."""
        now = time.monotonic()
        for name, run in self.running.items():
            if now - self.told[name] >= _STILL_SECONDS:
                self.runner.emit(events.StageRunning(name, round(now - run.started, 3)))
                self.told[name] = now
        return max(0.0, min(self.told[name] for name in self.running) + _STILL_SECONDS - now)

    def _unasked(self) -> list[str]:
        """Give the queued stages for which the remote store was not asked yet."""
        # Nobody else's run has pushed what came of it without the inputs that failed here.
        may_ask = [(s, a) for s, a in self.queue if s.cacheable and s.name not in self.forced and not s.failed]
        if not may_ask or self.runner.remote is None or not self.runner.remote.reachable:
            return []
        return [s.name for s, a in may_ask if a.digest not in self.runner.remote.asked]

    def _bring(self, names: list[str]) -> None:
        """Fetch these stages, and what can be known of those that wait for them; then all are looked up again."""
        from trtpipe.remote import sharing

        assert self.runner.remote is not None
        sharing.bring(self.runner, self.runner.remote, [*names, *self.waiting], self.artifacts, self.forced)
        self.waiting = [*names, *self.waiting]
        self.queue = [(s, a) for s, a in self.queue if s.name not in names]

    def _ready(self) -> bool:
        """Tell whether a stage that waits need not: its inputs are there, or never will be."""
        return any(self._decided(self.runner.pipeline.stages[name]) for name in self.waiting)

    def _decided(self, stage: Stage) -> bool:
        """Tell whether it is known if a stage can run."""
        if not stage.tolerant and any(u in self.stopped for u in stage.upstream):
            return True
        return all(u in self.artifacts or u in self.stopped for u in stage.upstream)

    def lost(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Give the failed stages without which all that was asked for (without targets: all ends) has been made."""
        pipeline = self.runner.pipeline
        causes: dict[str, set[str]] = {}
        for name in self.order:
            if name in self.stopped:
                through = (causes.get(u, set()) for u in pipeline.stages[name].upstream)
                causes[name] = {name} if name in self.failures else set().union(*through)
        missed = set().union(*(causes.get(name, set()) for name in pipeline.ends(targets)))
        return tuple(name for name in self.order if name in self.failures and name not in missed)

    def _settle(self) -> None:
        """Look up every stage whose inputs are there; queue the misses; skip what a failure stops."""
        later = []
        for name in self.waiting:
            stage = self.runner.pipeline.stages[name]
            if not self._decided(stage):
                later.append(name)
                continue
            stop = next((u for u in stage.upstream if u in self.stopped), None)
            able = stage if stop is None else without_failed(stage, self.stopped, self.why)
            if able is not None:
                self._look_up(able)
            elif stop is not None:
                self.stopped[name] = self.stopped[stop]
                self.runner.emit(events.StageSkipped(name, stage.type, self.stopped[stop]))
        self.waiting = later

    def _look_up(self, stage: Stage) -> None:
        try:
            assessed = self.runner.assess(stage, self.artifacts, forced=stage.name in self.forced)
        except errors.TrtpipeError as error:
            # A file that vanished meanwhile, say: no reason to end what other stages are at.
            self._failed(stage, error, 0.0, None)
            return
        if assessed.hit:
            self._hit(stage, assessed, assessed.hit)
        else:
            self.queue.append((stage, assessed))

    def _hit(self, stage: Stage, assessed: Assessed, hit: Hit) -> None:
        artifact = hit.artifact
        self._done(stage, assessed, artifact, None, "hit")
        self.runner.emit(
            events.StageCached(stage.name, stage.type, artifact.digest, artifact.size, assessed.digest, hit.notes)
        )

    def _done(self, stage: Stage, assessed: Assessed, artifact: Artifact, seconds: float | None, how: str) -> None:
        store = self.runner.store
        self.artifacts[stage.name] = artifact
        self.digests[stage.name] = assessed.digest
        self.how[stage.name] = how
        store.show(self.runner.pipeline.name, stage.name, artifact)
        self.runner.remember(stage, assessed.digest, seconds)
        for text in store.told:
            self.runner.emit(events.StageNote(stage.name, text))
        store.told.clear()

    def _start(self) -> None:
        """Start queued stages while there are free jobs; on a GPU, one at a time."""
        later = []
        for stage, assessed in self.queue:
            on_gpu = self._on_gpu(stage)
            busy = on_gpu and any(self._on_gpu(r.stage) for r in self.running.values())
            same = any(r.assessed.digest == assessed.digest for r in self.running.values())
            # What measures must not share the machine with what it does not measure.
            apart = any(r.stage.alone for r in self.running.values()) or (stage.alone and bool(self.running))
            if len(self.running) >= self.jobs or busy or same or apart:
                later.append((stage, assessed))
                continue
            try:
                # Who waits for another run looks first, so that all who wait are served at once, not in turn.
                if stage.name in self.awaited and self._made_meanwhile(stage, assessed):
                    continue
                held = self._lock(stage, assessed)
                if held is None:
                    later.append((stage, assessed))
                    continue
                with contextlib.ExitStack() as stack:
                    stack.callback(held.release)
                    if not self._made_meanwhile(stage, assessed):
                        self._launch(stage, assessed, stack)
            except errors.TrtpipeError as error:
                self._failed(stage, error, 0.0, None)
        self.queue = later

    def _made_meanwhile(self, stage: Stage, assessed: Assessed) -> bool:
        """Take the artifact if there is one now: two stages may have one key, and so may those of other runs."""
        if not stage.cacheable or stage.name in self.forced:
            return False
        again = self.runner.store.lookup(assessed.digest)
        if not isinstance(again, Hit):
            return False
        self.awaited.discard(stage.name)
        self._hit(stage, assessed, again)
        return True

    def _lock(self, stage: Stage, assessed: Assessed) -> Held | None:
        """Take the key's lock, or say now and then who has it, and give None: then the stage stays in the queue.

        No run ever blocks on a lock while it holds others, so runs cannot wait for each other in a circle; a lock
        whose holder dies is free at once, and the next run that asks makes the key.
        """
        store = self.runner.store
        held = store.lock(assessed.digest, f"{self.runner.pipeline.name}/{stage.name}")
        if held is None:
            now = time.monotonic()
            if stage.name not in self.awaited or now - self.told[stage.name] >= _STILL_SECONDS:
                self.awaited.add(stage.name)
                self.told[stage.name] = now
                self.runner.emit(events.StageNote(stage.name, f"waiting: {store.holder(assessed.digest)}"))
            return None
        self.awaited.discard(stage.name)
        return held

    def _on_gpu(self, stage: Stage) -> bool:
        return stage.backend and self.runner.gpu is not None and self.runner.choice.backend != "onnxruntime"

    def _launch(self, stage: Stage, assessed: Assessed, stack: contextlib.ExitStack) -> None:
        folder = self._start_worker(stage, assessed, stack)
        now = self.told[stage.name] = time.monotonic()
        self.running[stage.name] = _Running(stage, assessed, now, stack.pop_all(), folder, [])
        expected = self.runner.expected_seconds(stage)
        self.runner.emit(events.StageStarted(stage.name, stage.type, assessed.reasons, expected))

    def _start_worker(self, stage: Stage, assessed: Assessed, stack: contextlib.ExitStack) -> str:
        """Start a worker in a workspace that `stack` closes; give the workspace's folder."""
        runner, store = self.runner, self.runner.store
        folders = {}
        for port, source in stage.inputs.items():
            if isinstance(source, str):
                artifact = self.artifacts[source]
                folders[port] = (artifact.kind, store.tree(artifact), artifact, source)
            else:
                found = assessed.found[port]
                if found.folder is None:
                    runner.emit(events.StageNote(stage.name, f"fetching {source.label}"))
                    found = inputs.fetch(source, store)
                assert found.folder is not None
                folders[port] = (found.artifact.kind, found.folder, found.artifact, source.label)
        folder = stack.enter_context(store.workspace())
        try:
            for name in ("out", "scratch"):
                os.makedirs(os.path.join(folder, name))
            with contextlib.suppress(OSError):
                os.makedirs(store.timing_path(), exist_ok=True)
            given = {
                port: {"kind": kind, "folder": where, "files": sorted(artifact.files), "label": label}
                for port, (kind, where, artifact, label) in folders.items()
            }
            request = runner.request(stage, assessed.digest, given, folder, store.timing_path())
            if self.pool is None:
                self.pool = _Pool()
            self.pool.start(stage.name, request, folder)
        except OSError as error:
            raise errors.StoreError(f"the stage cannot start: {error}") from None
        return folder

    def _handle(self, name: str, message: dict[str, Any]) -> None:
        kind = message["message"]
        if kind == "progress":
            self.runner.emit(events.StageProgress(name, message["done"], message["total"], message["unit"]))
        elif kind == "note":
            self.running[name].notes.append(message["text"])
            self.runner.emit(events.StageNote(name, message["text"]))
        elif kind == "end":
            self._ended(self.running.pop(name), message)

    def _ended(self, run: _Running, message: dict[str, Any]) -> None:
        """Commit what a worker made, or say why it failed."""
        store, stage = self.runner.store, run.stage
        seconds = time.monotonic() - run.started
        log: str | None = None
        with run.workspace:
            try:
                with contextlib.suppress(errors.StoreError):
                    log = store.keep_log(os.path.join(run.folder, "log"), run.assessed.digest)
                if message["error"] is not None:
                    self._quarantine(run, message)
                    raise errors.CLASSES[message["error"]](message["text"])
                self._check_unchanged(run)
                artifact = self._commit(run, seconds)
            except errors.TrtpipeError as error:
                own = run.assessed.digest if message["error"] is not None else None
                self._failed(stage, error, seconds, log, own)
                return
        store.state.forget_failure(run.assessed.digest)
        with store.guard():
            store.links_changed(self.artifacts[u] for u in stage.upstream)
            self._done(stage, run.assessed, artifact, seconds, "ran")
        self.runner.emit(
            events.StageFinished(stage.name, stage.type, artifact.digest, artifact.size, seconds, run.assessed.digest)
        )

    def _quarantine(self, run: _Running, message: dict[str, Any]) -> None:
        """Keep what a stage had made that then failed its own checks or a gate."""
        if message["error"] not in ("StageFailed", "GateFailed"):
            return
        from trtpipe.store import quarantine

        store = self.runner.store
        out = os.path.join(run.folder, "out")
        if where := quarantine.keep(store.folder, run.stage.name, run.assessed.digest, out, message["text"]):
            self.runner.emit(events.StageNote(run.stage.name, f"kept for inspection: {where}"))

    def _check_unchanged(self, run: _Running) -> None:
        """Refuse a result whose inputs changed while it was made: it would be kept under the wrong key."""
        try:
            again = self.runner.assess(run.stage, self.artifacts, forced=True)
        except errors.TrtpipeError as error:
            raise errors.StageFailed(f"{error}: it changed while the stage ran, so its result is not kept") from None
        changed = [p for p, _, _ in difference(run.assessed.key.record, again.key.record)]
        # What was changed and changed back has the same digest, but who knows which of the two the stage has read.
        before, after = run.assessed.stamps or {}, again.stamps or {}
        changed = changed or [os.path.basename(p) for p in sorted(before) if before[p] != after.get(p)]
        if changed:
            names = ", ".join(changed)
            raise errors.StageFailed(f"{names} changed while the stage ran, so its result is not kept; run again")
        store = self.runner.store
        for name in run.stage.upstream:
            store.links_changed([self.artifacts[name]])
            for file, (sha256, size) in self.artifacts[name].files.items():
                if store.damage(sha256, size):
                    message = f"the stage wrote into its input {name}/{file}, so nothing of it is kept; run again"
                    raise errors.StageFailed(message)

    def _commit(self, run: _Running, seconds: float) -> Artifact:
        stage = run.stage
        upstream = {port: self._read(run, port) for port in stage.inputs}
        record = {
            "stage": stage.name,
            "pipeline": self.runner.pipeline.name,
            "seconds": round(seconds, 3),
            "notes": run.notes,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "environment": environment.record(),
            "inputs": {
                port: {
                    "label": source if isinstance(source, str) else source.label,
                    "files": {n: sha for n, (sha, _) in upstream[port].files.items()},
                }
                for port, source in stage.inputs.items()
            },
        }
        out = os.path.join(run.folder, "out")
        return self.runner.store.commit(run.assessed.key, stage.output, out, record, upstream.values())

    def _read(self, run: _Running, port: str) -> Artifact:
        source = run.stage.inputs[port]
        return self.artifacts[source] if isinstance(source, str) else run.assessed.found[port].artifact

    def _failed(
        self, stage: Stage, error: errors.TrtpipeError, seconds: float, log: str | None, digest: str | None = None
    ) -> None:
        """Note that a stage failed; with its key's digest, if it failed of itself."""
        self.failures[stage.name] = error
        if digest is not None and type(error) in _OWN:
            # What a runtime says stands in the lines below, where the failure is told.
            why = self.why[stage.name] = _SAYS.sub("", next(iter(str(error).splitlines()), ""))
            self.runner.store.state.remember_failure(digest, why)
        self.stopped[stage.name] = stage.name
        self.runner.emit(
            events.StageFailed(stage.name, stage.type, type(error).__name__, str(error), seconds, log, stage.place)
        )

    def end(self) -> None:
        """End whatever still runs and remove its work."""
        try:
            if self.pool is not None:
                self.pool.end()
        finally:
            for run in self.running.values():
                run.workspace.close()
            self.running.clear()


def work(request: dict[str, Any], folder: str, tell: Callable[[str], None]) -> None:
    """Run one stage in a worker and wait for it; notes go to `tell`, and each minute that it still runs.

    Raises what the stage failed with.
    """
    pool, begun = _Pool(), time.monotonic()
    try:
        pool.start(request["stage"], request, folder)
        while True:
            got = pool.next(_STILL_SECONDS)
            if got is None:
                tell(f"{request['stage']}: still running, {seconds_text(time.monotonic() - begun)}")
                continue
            message = got[1]
            if message["message"] == "note":
                tell(message["text"])
            elif message["message"] == "end":
                if message["error"] is not None:
                    raise errors.CLASSES[message["error"]](message["text"])
                return
    finally:
        pool.end()


class _Pool:
    """Worker processes, each watched by a thread that puts (stage, message) into `messages`."""

    def __init__(self) -> None:
        from queue import SimpleQueue

        self.messages: SimpleQueue[tuple[str, dict[str, Any]]] = SimpleQueue()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def next(self, seconds: float | None) -> tuple[str, dict[str, Any]] | None:
        """Wait for a message, or for so many seconds."""
        from queue import Empty

        try:
            return self.messages.get(timeout=seconds)
        except Empty:
            return None

    def start(self, name: str, request: dict[str, Any], folder: str) -> None:
        """Start a worker for a stage; its output goes to the file `log` in the folder."""
        import subprocess
        import threading

        reading, writing = os.pipe()
        log = os.path.join(folder, "log")
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        settings = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in paths),
            "PYTHONHASHSEED": "0",
            "PYTHONUNBUFFERED": "1",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts, from which GPUs are named
            "CUDA_MODULE_LOADING": os.environ.get("CUDA_MODULE_LOADING", "LAZY"),
        }
        settings.pop("TRTPIPE_SIGNING_KEY", None)  # what a pipeline's code signs is not what its owner says
        command = [sys.executable, "-m", "trtpipe.run.worker", str(writing), str(os.getpid())]
        try:
            with open(log, "wb") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=os.path.join(folder, "scratch"),
                    env=settings,
                    pass_fds=(writing,),
                    start_new_session=True,  # Ctrl-C is this process's to handle
                )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._processes[name] = process
        threading.Thread(
            target=self._watch, args=(name, process, reading, json.dumps(request).encode(), log), daemon=True
        ).start()
        threading.Thread(target=_end_rest, args=(process.pid,), daemon=True).start()

    def _watch(self, name: str, process: subprocess.Popen[bytes], reading: int, request: bytes, log: str) -> None:
        last: dict[str, Any] | None = None
        assert process.stdin is not None
        try:
            with contextlib.suppress(OSError), process.stdin as stream:
                stream.write(request)
            with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
                for line in pipe:
                    try:
                        message = json.loads(line)
                    except ValueError:
                        continue  # the last line of a worker that died while it wrote
                    if message["message"] in ("done", "error"):
                        last = message
                    else:
                        self.messages.put((name, message))
            code = process.wait()
            self.messages.put((name, {"message": "end", **_verdict(code, last, log)}))
        except BaseException as error:  # noqa: BLE001 — a watcher that dies silently would hang the run
            self.messages.put(
                (name, {"message": "end", "error": "TrtpipeError", "text": f"the watcher died: {error!r}"})
            )

    def end(self) -> None:
        """Ask the workers to end, then make them; returns when none is left. An interrupt ends them at once."""
        import signal
        import subprocess

        left = [process for process in self._processes.values() if process.poll() is None]
        try:
            for signal_number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, 30.0)):
                deadline = time.monotonic() + patience
                for process in left:
                    if process.poll() is None:
                        _end_group(process.pid, signal_number)
                for process in left:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.05, deadline - time.monotonic()))
        finally:
            for process in left:
                _end_group(process.pid, signal.SIGKILL)


def _end_group(pid: int, signal_number: int) -> None:
    """Send a signal to a worker and to all that it started, if any of it is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal_number)


def _end_rest(pid: int) -> None:
    """Wait for a worker's end, then end what it started: that would go on unseen, and may hold the messages' pipe."""
    import signal

    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    _end_group(pid, signal.SIGKILL)


def _verdict(code: int, last: dict[str, Any] | None, log: str) -> dict[str, Any]:
    """Turn a worker's end into an error's class and text, or none. A result counts only if the end was clean."""
    if last is not None and last["message"] == "error":
        return {"error": last["error"], "text": last["text"]}
    if code == 0 and last is not None:
        return {"error": None, "text": ""}
    import signal

    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (often: the machine is out of memory)" if name == "SIGKILL" else ""
        how = f"the worker was ended by {name}{hint}"
    else:
        how = f"the worker ended with exit code {code} before it was done"
    lines = tail(log, LOG_LINES)
    return {
        "error": "StageFailed",
        "text": how + ("; last lines of its log:\n  " + "\n  ".join(lines) if lines else ""),
    }


def tail(path: str, count: int) -> list[str]:
    """Give the last lines of a log, of which at most 64 KiB are read."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 65536))
            text = stream.read().decode("utf-8", "replace")
    except OSError as error:
        return [] if error.errno == errno.ENOENT else [f"({error})"]
    return [line for line in text.splitlines() if line.strip()][-count:]


def side(stage: Stage, key: Key, upstream: Mapping[str, Artifact], found: Mapping[str, inputs.Found]) -> reasons.Side:
    """Give a key with the names of its inputs and of their files, for explanations."""
    labels = {port: i if isinstance(i, str) else i.label for port, i in stage.inputs.items()}
    files: dict[str, dict[str, str] | None] = {}
    for port, i in stage.inputs.items():
        artifact = upstream.get(i) if isinstance(i, str) else found[port].artifact if port in found else None
        files[port] = None if artifact is None else {name: sha for name, (sha, _) in artifact.files.items()}
    return reasons.Side(key.record, labels, files)


__all__ = ["Assessed", "Outcome", "Runner", "Status", "Taken", "artifact_of", "side", "tail", "without_failed", "work"]
