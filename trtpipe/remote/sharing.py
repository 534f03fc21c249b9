"""A pipeline and its remote store: what to fetch before anything is built, and what to push.

The client is imported at its first use; a run in which every stage hits does not import it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trtpipe.errors import EnvironmentMissing, GateFailed, PipelineInvalid, StoreError, TrtpipeError
from trtpipe.row import Row
from trtpipe.run import events
from trtpipe.run.lookup import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from trtpipe.pipeline.graph import Stage
    from trtpipe.remote.signed_store import Fetched, Remote
    from trtpipe.run.events import Event
    from trtpipe.run.lookup import Assessed, Lookup
    from trtpipe.store.artifact import Artifact


class Line(Row):
    """The outcome of one stage in a push or a pull."""

    stage: str
    type: str
    how: str
    bytes: int
    artifact: str | None


class Sharing:
    """Fetches a pipeline's results from its remote store and pushes them; the `Exchange` of a run.

    It connects at the first request. `url` replaces the address in the document or the user's config.
    """

    def __init__(
        self,
        lookup: Lookup,
        url: str | None = None,
        *,
        write: bool = False,
        emit: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._lookup, self._url, self._write, self._emit = lookup, url, write, emit
        self._connected: Remote | None = None
        self._closed = False
        self._made = False

    @property
    def remote(self) -> Remote | None:
        """The remote store, or None if none is named. Raises PipelineInvalid if its description is wrong."""
        if not self._made and not self._closed:
            from trtpipe.remote.settings import settings
            from trtpipe.remote.signed_store import Remote

            self._made = True
            chosen = settings(self._lookup.pipeline, self._url, write=self._write)
            if chosen is not None:
                self._connected = Remote(chosen, self._lookup.store, lambda text: self._emit(events.Warned(text)))
        return self._connected

    @property
    def needed(self) -> Remote:
        """The remote store. Raises PipelineInvalid if none is named anywhere."""
        remote = self.remote
        if remote is None:
            raise PipelineInvalid(
                "no remote store is named: use --remote URL or TRTPIPE_REMOTE, or write remote: {url: …} in the "
                'document, or remote = "…" in trtpipe.toml'
            )
        return remote

    @property
    def there(self) -> bool:
        """Whether a remote store is named."""
        return self.remote is not None

    def __enter__(self) -> Sharing:  # noqa: PYI034 — Self came with 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all transfers; from now on there is no remote store."""
        self._closed = True
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def refetch(self, sha256: str, size: int) -> bool:
        """Fetch content that is damaged or missing in the local store; tell whether that succeeded."""
        return self.remote is not None and self.remote.refetch(sha256, size)

    def unasked(self, wanted: Mapping[str, str]) -> list[str]:
        """Give the stages (name → key) that were not requested yet; none if there is no reachable remote store."""
        if self.remote is None or not self.remote.reachable:
            return []
        return [name for name, digest in wanted.items() if digest not in self.remote.asked]

    def bring(
        self, names: Iterable[str], artifacts: Mapping[str, Artifact], forced: Collection[str] = ()
    ) -> dict[str, Fetched | Exception]:
        """Fetch what a run of these stages would build, as far as keys are known; give the results by stage.

        The key of a later stage needs the artifacts of earlier stages, so this works in waves. It stops at forced
        stages and at stages that the remote store does not have, because their artifacts are not known yet.
        """
        from trtpipe.remote.signed_store import Fetched
        from trtpipe.remote.transport import TransportError

        lookup, remote = self._lookup, self.needed
        known = dict(artifacts)
        answers: dict[str, Fetched | Exception] = {}
        waiting = [name for name in names if name not in known and name not in forced]
        while waiting and remote.reachable:
            wave: list[tuple[Stage, str]] = []
            later: list[str] = []
            found = False
            for name in waiting:
                stage = lookup.pipeline.stages[name]
                if any(upstream not in known for upstream in stage.upstream):
                    later.append(name)
                elif stage.cacheable:
                    assessed = self._assess(stage, known)
                    try:
                        if assessed.hit is None and stage.watched and remote.bring_lists(assessed.first):
                            assessed = self._assess(stage, known)
                    except (TransportError, GateFailed, EnvironmentMissing) as error:
                        remote.failed(error)
                        answers[name] = error
                        continue
                    if assessed.hit:
                        known[name] = assessed.hit.artifact
                        found = True
                        continue
                    wave += [(stage, digest) for digest in assessed.tries if digest not in remote.asked]
                    remote.asked.add(assessed.digest)
            remote.asked.update(digest for _, digest in wave)
            came = remote.fetch_many({digest: stage.output for stage, digest in wave})
            for stage, digest in wave:
                if digest not in came:
                    continue
                if isinstance(answers.get(stage.name), Fetched):
                    continue  # an earlier list of names has hit already
                answer = answers[stage.name] = came[digest]
                if isinstance(answer, Fetched):
                    known[stage.name] = answer.artifact
                    found = True
                    text = f"from {remote.settings.name}: {_amount(answer.bytes)}, signed by {answer.signer}"
                    self._emit(events.StageNote(stage.name, text))
                else:
                    remote.failed(answer)
            waiting = later if found else []
        return answers

    def _assess(self, stage: Stage, known: Mapping[str, Artifact]) -> Assessed:
        store = self._lookup.store
        with store.guard():
            assessed = self._lookup.assess(stage, known, brief=True)
            if assessed.hit:
                store.use([assessed.digest])
        return assessed

    def bring_content(self, wanted: Mapping[str, int]) -> None:
        """Fetch content (SHA-256 → bytes) that a lock file names and the store lacks, and say how much was fetched."""
        store = self._lookup.store
        missing = {sha256: n for sha256, n in wanted.items() if not os.path.exists(store.blob_path(sha256))}
        if not missing or self.remote is None or not self.remote.reachable:
            return
        came = self.remote.fetch_content(missing)
        if came:
            text = f"{len(came)} of {len(missing)} files, {_amount(sum(missing[s] for s in came))}"
            self._emit(events.StageNote(self._lookup.pipeline.name, f"from {self.remote.settings.name}: {text}"))

    def finish(self, made: Mapping[str, str]) -> None:
        """Push what a run made (stage → key), if the run used a remote store in mode `write`; warn if that fails."""
        remote = self._connected
        if remote is None:
            return
        from trtpipe.remote import signing
        from trtpipe.remote.transport import TransportError

        try:
            if remote.settings.writes and remote.reachable and made:
                signer = signing.own_signer()
                for stage, digest in made.items():
                    (pushed,) = remote.push([digest], signer).values()
                    if not pushed.already:
                        text = f"to {remote.settings.name}: {_amount(pushed.bytes)}, signed"
                        self._emit(events.StageNote(stage, text))
        except TransportError as error:
            remote.failed(error)
        except TrtpipeError as error:
            remote.warn(f"nothing more is pushed to {remote.settings.name}: {error}")

    def push(self, targets: Sequence[str], *, force: bool = False) -> list[Line]:
        """Push every stage that is built. Raises EnvironmentMissing without a key, StoreError if a push fails."""
        from trtpipe.remote import signing
        from trtpipe.remote.transport import TransportError

        remote, store = self.needed, self._lookup.store
        signer = signing.own_signer()
        if not remote.settings.writes:
            raise GateFailed(
                f"{remote.settings.name} ({remote.settings.origin}) has the mode read; "
                f"to write: --set remote.mode=write, or --remote {remote.settings.name}"
            )
        lines = []
        walk = Walk(self._lookup)
        with store.in_use():
            for name in self._lookup.pipeline.closure(targets):
                stage = self._lookup.pipeline.stages[name]
                with store.guard():
                    assessed = walk.take(name, latest=False)
                    digest = assessed.digest if assessed is not None and assessed.hit else None
                    store.use([digest] if digest is not None else [])
                if digest is None:
                    lines.append(Line(name, stage.type, "not built" if stage.cacheable else "runs each time", 0, None))
                    continue
                try:
                    (pushed,) = remote.push([digest], signer, force=force).values()
                except TransportError as error:
                    raise StoreError(f"{remote.settings.name}: {name} cannot be pushed: {error}") from None
                how = "there already" if pushed.already else "pushed"
                lines.append(Line(name, stage.type, how, pushed.bytes, pushed.artifact.digest))
        return lines

    def pull(self, targets: Sequence[str]) -> list[Line]:
        """Fetch every stage that the remote store has; then raise GateFailed or StoreError for refused ones."""
        from trtpipe.remote.signed_store import Fetched, WrongContent

        order = self._lookup.pipeline.closure(targets)
        with self._lookup.store.in_use():
            answers = self.bring(order, {})
        problems = [(name, a) for name, a in answers.items() if isinstance(a, Exception)]
        if problems:
            kinds = [type(error) for _, error in problems]
            text = "\n".join(f"{name}: {error}" for name, error in problems)
            if any(issubclass(kind, GateFailed) for kind in kinds):
                raise GateFailed(text)
            raise (WrongContent if any(issubclass(kind, WrongContent) for kind in kinds) else StoreError)(text)
        lines = []
        walk = Walk(self._lookup)
        for name in order:
            stage = self._lookup.pipeline.stages[name]
            answer = answers.get(name)
            assessed = walk.take(name, latest=False)
            artifact = assessed.hit.artifact if assessed is not None and assessed.hit else None
            if isinstance(answer, Fetched):
                lines.append(Line(name, stage.type, "fetched", answer.bytes, answer.artifact.digest))
            elif artifact is not None:
                lines.append(Line(name, stage.type, "here already", 0, artifact.digest))
            else:
                lines.append(Line(name, stage.type, "not there", 0, None))
        return lines


def _amount(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB" if size >= 2**10 else f"{size} B"
