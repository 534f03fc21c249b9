"""The loop of one run: what hits, what waits, what runs, and what becomes of it."""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING, Any

from trtpipe import environment, errors, project, reads
from trtpipe.documents.action import About, Figure, Read
from trtpipe.key import difference
from trtpipe.row import Row
from trtpipe.run import events, surroundings
from trtpipe.run.given import outside, request, stored
from trtpipe.run.pool import Pool
from trtpipe.run.standing import Standing
from trtpipe.store.artifact import Artifact, Hit
from trtpipe.store.locks import TELL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trtpipe.pipeline.graph import Stage
    from trtpipe.run.exchange import Exchange
    from trtpipe.run.lookup import Assessed, Lookup
    from trtpipe.run.request import Given
    from trtpipe.store.locks import Held

_OWN = (errors.StageFailed, errors.GateFailed)
"""What a stage fails with for reasons of its own, and would again."""
_SAYS = re.compile(r"(; [^;]* says)?:?$")
_POLL_SECONDS = 0.1
FIRST_SECONDS = 10.0
"""After so long people want to know what a stage is at."""


class _Running(Row):
    stage: Stage
    assessed: Assessed
    started: float
    workspace: contextlib.ExitStack
    folder: str
    notes: list[str]
    figures: list[Figure]


class Work:
    """The state of one run: what is done, what runs, what waits.

    `standing` has what was made and who is stopped; `how` says of each stage that has an artifact `hit` or `ran`, and
    `digests` its key.
    """

    def __init__(
        self,
        lookup: Lookup,
        order: tuple[str, ...],
        *,
        forced: Sequence[str],
        jobs: int,
        strict: bool,
        emit: Callable[[events.Event], None],
        exchange: Exchange | None,
    ) -> None:
        self.lookup, self.pipeline, self.store = lookup, lookup.pipeline, lookup.store
        self.order, self.forced, self.jobs = order, set(forced), max(1, jobs)
        self.strict = strict
        self.emit, self.exchange = emit, exchange
        self.standing = Standing()
        self.failures: dict[str, errors.TrtpipeError] = {}
        self.how: dict[str, str] = {}
        self.digests: dict[str, str] = {}
        self.waiting = list(order)
        self.queue: list[tuple[Stage, Assessed]] = []
        self.running: dict[str, _Running] = {}
        self.told: dict[str, float] = {}
        """When it was last told that a stage runs, or that it waits for another run."""
        self.pool: Pool | None = None
        self.awaited: set[str] = set()
        """Queued stages whose key another run makes now."""

    def loop(self) -> None:
        """Go on until every stage has hit, run, failed or been skipped."""
        store = self.store
        while True:
            with store.guard():
                known = len(self.standing.artifacts)
                self._settle()
                asking = self._unasked()
                if not asking:
                    self._start()
                if len(self.standing.artifacts) > known:
                    store.use(self.digests[name] for name in list(self.standing.artifacts)[known:])
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
            if now >= self._next(name):
                self.emit(events.StageRunning(name, round(now - run.started, 3)))
                self.told[name] = now
        return max(0.0, min(self._next(name) for name in self.running) - now)

    def _next(self, name: str) -> float:
        """When to say again that a stage runs: soon for the first time, then now and then."""
        told = self.told[name]
        return told + (min(FIRST_SECONDS, TELL_SECONDS) if told == self.running[name].started else TELL_SECONDS)

    def _unasked(self) -> list[str]:
        """Give the queued stages for which the remote store was not asked yet."""
        # Nobody else's run has pushed what came of it without the inputs that failed here.
        may_ask = {
            s.name: a.digest for s, a in self.queue if s.cacheable and s.name not in self.forced and not s.failed
        }
        return self.exchange.unasked(may_ask) if self.exchange is not None and may_ask else []

    def _bring(self, names: list[str]) -> None:
        """Fetch these stages, and what can be known of those that wait for them; then all are looked up again."""
        assert self.exchange is not None
        self.exchange.bring([*names, *self.waiting], self.standing.artifacts, self.forced)
        self.waiting = [*names, *self.waiting]
        self.queue = [(s, a) for s, a in self.queue if s.name not in names]

    def _ready(self) -> bool:
        """Tell whether a stage that waits need not: its inputs are there, or never will be."""
        return any(self.standing.decided(self.pipeline.stages[name]) for name in self.waiting)

    def lost(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Give the failed stages without which all that was asked for (without targets: all ends) has been made."""
        causes: dict[str, set[str]] = {}
        for name in self.order:
            if name in self.standing.stopped:
                through = (causes.get(u, set()) for u in self.pipeline.stages[name].upstream)
                causes[name] = {name} if name in self.failures else set().union(*through)
        missed = set().union(*(causes.get(name, set()) for name in self.pipeline.ends(targets)))
        return tuple(name for name in self.order if name in self.failures and name not in missed)

    def _settle(self) -> None:
        """Look up every stage whose inputs are there; queue the misses; skip what a failure stops."""
        later = []
        for name in self.waiting:
            stage = self.pipeline.stages[name]
            if not self.standing.decided(stage):
                later.append(name)
                continue
            able = self.standing.able(stage)
            if able is not None:
                self._look_up(able)
            else:
                self.emit(events.StageSkipped(name, stage.type, self.standing.stopped[name]))
        self.waiting = later

    def _look_up(self, stage: Stage) -> None:
        try:
            forced = stage.name in self.forced
            assessed = self.lookup.assess(stage, self.standing.artifacts, forced=forced, brief=True)
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
        if self.strict and hit.gaps:
            self._failed(stage, _not_strict(hit.gaps), 0.0, None)
            return
        self._done(stage, assessed, artifact, None, "hit")
        self.emit(
            events.StageCached(
                stage.name,
                stage.type,
                artifact.digest,
                artifact.size,
                assessed.digest,
                hit.notes,
                hit.figures,
                hit.gaps,
            )
        )

    def _done(self, stage: Stage, assessed: Assessed, artifact: Artifact, seconds: float | None, how: str) -> None:
        store = self.store
        self.standing.artifacts[stage.name] = artifact
        self.digests[stage.name] = assessed.digest
        self.how[stage.name] = how
        store.show(self.pipeline.name, stage.name, artifact)
        self.lookup.remember(stage, assessed.digest, seconds)
        for text in store.told:
            self.emit(events.StageNote(stage.name, text))
        store.told.clear()

    def _start(self) -> None:
        """Start queued stages while there are free jobs; on a GPU, one at a time."""
        later = []
        for stage, assessed in self.queue:
            on_gpu = self._on_gpu(stage)
            busy = on_gpu and any(self._on_gpu(r.stage) for r in self.running.values())
            same = any(r.assessed.first == assessed.first for r in self.running.values())
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
        again = assessed._replace(hit=self._found(assessed))
        if stage.watched and again.hit is None:
            # The list of names that another run has left may be one that was not known before.
            again = self.lookup.assess(stage, self.standing.artifacts)
        if again.hit is None:
            return False
        self.awaited.discard(stage.name)
        self._hit(stage, again, again.hit)
        return True

    def _found(self, assessed: Assessed) -> Hit | None:
        found = self.store.lookup(assessed.digest)
        return found if isinstance(found, Hit) else None

    def _lock(self, stage: Stage, assessed: Assessed) -> Held | None:
        """Take the key's lock, or say now and then who has it, and give None: then the stage stays in the queue.

        No run ever blocks on a lock while it holds others, so runs cannot wait for each other in a circle; a lock
        whose holder dies is free at once, and the next run that asks makes the key.
        """
        store = self.store
        held = store.lock(assessed.first, f"{self.pipeline.name}/{stage.name}")
        if held is None:
            now = time.monotonic()
            if stage.name not in self.awaited or now - self.told[stage.name] >= TELL_SECONDS:
                self.awaited.add(stage.name)
                self.told[stage.name] = now
                self.emit(events.StageNote(stage.name, f"waiting: {store.holder(assessed.first)}"))
            return None
        self.awaited.discard(stage.name)
        return held

    def _on_gpu(self, stage: Stage) -> bool:
        return stage.backend and self.lookup.gpu is not None and self.lookup.choice.backend != "onnxruntime"

    def _launch(self, stage: Stage, assessed: Assessed, stack: contextlib.ExitStack) -> None:
        folder = self._start_worker(stage, assessed, stack)
        now = self.told[stage.name] = time.monotonic()
        self.running[stage.name] = _Running(stage, assessed, now, stack.pop_all(), folder, [], [])
        expected = self.lookup.expected_seconds(stage)
        self.emit(events.StageStarted(stage.name, stage.type, assessed.reasons, expected))

    def _start_worker(self, stage: Stage, assessed: Assessed, stack: contextlib.ExitStack) -> str:
        """Start a worker in a workspace that `stack` closes; give the workspace's folder."""
        given = {port: self._given(stage, assessed, port) for port in stage.inputs}
        folder = stack.enter_context(self.store.workspace())
        try:
            for name in ("out", "scratch"):
                os.makedirs(os.path.join(folder, name))
            with contextlib.suppress(OSError):
                os.makedirs(self.store.timing_path(), exist_ok=True)
            if self.pool is None:
                self.pool = Pool()
            shared = self.store.timing_path()
            self.pool.start(request(self.lookup, stage, assessed.digest, given, folder=folder, shared=shared), folder)
        except OSError as error:
            raise errors.StoreError(f"the stage cannot start: {error}") from None
        return folder

    def _given(self, stage: Stage, assessed: Assessed, port: str) -> Given:
        source = stage.inputs[port]
        if isinstance(source, str):
            return stored(self.store, self.standing.artifacts[source], source)
        found = assessed.now.found[port]
        if found.folder is None:
            self.emit(events.StageNote(stage.name, f"fetching {source.label}"))
        return outside(self.store, source, found)

    def _handle(self, name: str, message: dict[str, Any]) -> None:
        kind = message["message"]
        if kind == "progress":
            self.emit(events.StageProgress(name, message["done"], message["total"], message["unit"]))
        elif kind == "doing":
            self.emit(events.StageDoing(name, message["text"]))
        elif kind == "figure":
            figure = Figure(message["name"], message["value"], message["rule"], message["passed"])
            self.running[name].figures.append(figure)
            self.emit(events.StageMeasured(name, figure))
        elif kind == "note":
            self.running[name].notes.append(message["text"])
            self.emit(events.StageNote(name, message["text"]))
        elif kind == "end":
            self._ended(self.running.pop(name), message)

    def _ended(self, run: _Running, message: dict[str, Any]) -> None:
        """Commit what a worker made, or say why it failed; both under the key with what users' code looked at."""
        stage, assessed = run.stage, run.assessed
        seconds = time.monotonic() - run.started
        log: str | None = None
        with run.workspace:
            try:
                # What failed may have failed because of what changed; then it is not remembered as a failure.
                assessed = self._as_it_ran(run, message)
                unchanged = True
            except errors.TrtpipeError as error:
                unchanged, changed = False, error
            try:
                with contextlib.suppress(errors.StoreError):
                    log = self.store.keep_log(os.path.join(run.folder, "log"), assessed.digest)
                if message["error"] is not None:
                    self._quarantine(run, assessed, message)
                    raise errors.CLASSES[message["error"]](message["text"])
                if not unchanged:
                    raise changed
                self._check_inputs(stage)
                if self.strict and message.get("gaps"):
                    raise _not_strict(message["gaps"])
                artifact = self._commit(run, assessed, seconds, message.get("gaps", ()))
            except errors.TrtpipeError as error:
                own = assessed if message["error"] is not None and unchanged and message.get("own", True) else None
                self._failed(stage, error, seconds, log, own)
                return
        for gap in message.get("gaps", ()):
            self.emit(events.StageNote(stage.name, gap))
        self.store.state.forget_failure(assessed.digest)
        with self.store.guard():
            self.store.links_changed(self.standing.artifacts[u] for u in stage.upstream)
            self._done(stage, assessed, artifact, seconds, "ran")
        self.emit(
            events.StageFinished(stage.name, stage.type, artifact.digest, artifact.size, seconds, assessed.digest)
        )

    def _quarantine(self, run: _Running, assessed: Assessed, message: dict[str, Any]) -> None:
        """Keep what a stage had made that then failed its own checks or a gate."""
        if message["error"] not in ("StageFailed", "GateFailed"):
            return
        from trtpipe.store import quarantine

        out = os.path.join(run.folder, "out")
        if where := quarantine.keep(self.store.folder, run.stage.name, assessed.digest, out, message["text"]):
            self.emit(events.StageNote(run.stage.name, f"kept for inspection: {where}"))

    def _as_it_ran(self, run: _Running, message: dict[str, Any]) -> Assessed:
        """Give a stage that has run with its whole key. Raises StageFailed if what it was made of changed meanwhile.

        It would be kept under the wrong key.
        """
        before = run.assessed.now
        try:
            now = self.lookup.now(run.stage, self.standing.artifacts)
            changed = [p for p, _, _ in difference(before.key._replace(reads={}).record, now.key.record)]
            # What was changed and changed back has the same digest, but who knows which of the two the stage has read.
            changed = changed or [
                os.path.basename(p) for p in sorted(now.stamps) if before.stamps.get(p) != now.stamps[p]
            ]
            if run.stage.watched:
                now = self.lookup.with_reads(now, reads.parse(message.get("seen", {})))
        except errors.TrtpipeError as error:
            raise errors.StageFailed(f"{error}: it changed while the stage ran, so its result is not kept") from None
        if changed:
            names = ", ".join(changed)
            raise errors.StageFailed(f"{names} changed while the stage ran, so its result is not kept; run again")
        return run.assessed._replace(now=now, digest=now.key.digest)

    def _check_inputs(self, stage: Stage) -> None:
        """Raise StageFailed if a stage wrote into what it reads."""
        for name in stage.upstream:
            self.store.links_changed([self.standing.artifacts[name]])
            for file, (sha256, size) in self.standing.artifacts[name].files.items():
                if self.store.damage(sha256, size, file):
                    message = f"the stage wrote into its input {name}/{file}, so nothing of it is kept; run again"
                    raise errors.StageFailed(message)

    def _commit(self, run: _Running, assessed: Assessed, seconds: float, gaps: Iterable[str]) -> Artifact:
        stage = run.stage
        upstream = {port: self._read(run, port) for port in stage.inputs}
        about = About(
            seconds=round(seconds, 3),
            stage=stage.name,
            pipeline=self.pipeline.name,
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            notes=tuple(run.notes),
            figures=tuple(run.figures),
            gaps=tuple(gaps),
            environment={
                **environment.record(),
                "commit": project.commit(self.pipeline.root),
                "variables": surroundings.recorded(stage.env),
            },
            inputs={
                port: Read(self.lookup.label(source), {n: sha for n, (sha, _) in upstream[port].files.items()})
                for port, source in stage.inputs.items()
            },
        )
        out = os.path.join(run.folder, "out")
        self._keep_list(stage, assessed)
        return self.store.commit(assessed.key, stage.output, out, about, upstream.values())

    def _keep_list(self, stage: Stage, assessed: Assessed) -> None:
        """Keep where users' code looked, so that the next run knows what to look at before it decides."""
        if stage.watched:
            self.store.add_lists(assessed.first, [reads.of(assessed.key.reads)])

    def _read(self, run: _Running, port: str) -> Artifact:
        source = run.stage.inputs[port]
        return self.standing.artifacts[source] if isinstance(source, str) else run.assessed.now.found[port].artifact

    def _failed(
        self, stage: Stage, error: errors.TrtpipeError, seconds: float, log: str | None, own: Assessed | None = None
    ) -> None:
        """Note that a stage failed; with how it ran, if it failed of itself."""
        self.failures[stage.name] = error
        self.awaited.discard(stage.name)  # or the loop would wait for ever
        why = None
        if own is not None and type(error) in _OWN:
            # What a runtime says stands in the lines below, where the failure is told.
            why = _SAYS.sub("", next(iter(str(error).splitlines()), ""))
            with contextlib.suppress(errors.StoreError):
                self._keep_list(stage, own)
            self.store.state.remember_failure(own.digest, why)
        self.standing.failed(stage.name, why)
        self.emit(
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


def _not_strict(gaps: Iterable[str]) -> errors.GateFailed:
    return errors.GateFailed(f"--strict takes no result that depends on what was not seen: {'; '.join(gaps)}")
