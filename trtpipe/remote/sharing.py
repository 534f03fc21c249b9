"""A pipeline and a remote store: what to fetch before anything is built, and what to push."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trtpipe.errors import GateFailed, PipelineInvalid, StoreError, TrtpipeError
from trtpipe.remote import signing
from trtpipe.remote.settings import settings
from trtpipe.remote.signed_store import Fetched, Remote, WrongContent
from trtpipe.remote.transport import TransportError
from trtpipe.run import events

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from trtpipe.pipeline.graph import Stage
    from trtpipe.run.runner import Runner
    from trtpipe.store.artifact import Artifact


class Line(NamedTuple):
    """What became of one stage in a push or a pull."""

    stage: str
    type: str
    how: str
    bytes: int
    artifact: str | None


def connect(runner: Runner, url: str | None = None, *, write: bool = False) -> Remote | None:
    """Give the remote store that the command line, the document or the user's config names, or None.

    What people should know goes out as an event.
    Raises PipelineInvalid for a config that is wrong, StoreError for keys that cannot be read.
    """
    chosen = settings(runner.pipeline, url, write=write)
    if chosen is None:
        return None
    return Remote(chosen, runner.store, lambda text: runner.emit(events.Warned(text)))


def bring(
    runner: Runner, remote: Remote, order: Iterable[str], artifacts: Mapping[str, Artifact], forced: Collection[str]
) -> dict[str, Fetched | Exception]:
    """Fetch what a run of these stages would build, as far as keys are known; give it by stage.

    Keys of later stages are made of what earlier ones made, so this goes in waves; what a forced stage or one that
    the remote store has not makes, is not known yet.
    """
    known = dict(artifacts)
    answers: dict[str, Fetched | Exception] = {}
    waiting = [name for name in order if name not in known and name not in forced]
    while waiting and remote.reachable:
        wave: list[tuple[Stage, str]] = []
        later: list[str] = []
        found = False
        for name in waiting:
            stage = runner.pipeline.stages[name]
            if any(upstream not in known for upstream in stage.upstream):
                later.append(name)
            elif stage.cacheable:
                with runner.store.guard():
                    assessed = runner.assess(stage, known)
                    if assessed.hit:
                        runner.store.use([assessed.digest])
                if assessed.hit:
                    known[name] = assessed.hit.artifact
                    found = True
                elif assessed.digest not in remote.asked:
                    wave.append((stage, assessed.digest))
        remote.asked.update(digest for _, digest in wave)
        came = remote.fetch_many({digest: stage.output for stage, digest in wave})
        for stage, digest in wave:
            if digest not in came:
                continue
            answer = answers[stage.name] = came[digest]
            if isinstance(answer, Fetched):
                known[stage.name] = answer.artifact
                found = True
                text = f"from {remote.settings.name}: {_amount(answer.bytes)}, signed by {answer.signer}"
                runner.emit(events.StageNote(stage.name, text))
            else:
                remote.failed(answer)
        waiting = later if found else []
    return answers


def bring_content(runner: Runner, remote: Remote, missing: Mapping[str, int]) -> None:
    """Fetch content by digest (SHA-256 → bytes), which a lock vouches for, and say how much came."""
    came = remote.fetch_content(missing)
    if came:
        text = f"{len(came)} of {len(missing)} files, {_amount(sum(missing[s] for s in came))}"
        runner.emit(events.StageNote(runner.pipeline.name, f"from {remote.settings.name}: {text}"))


def finish(runner: Runner, remote: Remote, ran: Mapping[str, str]) -> None:
    """Push what a run made (stage → key), if the remote store is there to be written to; else say why not, once."""
    try:
        if remote.settings.writes and remote.reachable and ran:
            signer = signing.own_signer()
            for stage, digest in ran.items():
                (pushed,) = remote.push([digest], signer).values()
                if not pushed.already:
                    runner.emit(events.StageNote(stage, f"to {remote.settings.name}: {_amount(pushed.bytes)}, signed"))
    except TransportError as error:
        remote.failed(error)
    except TrtpipeError as error:
        remote.warn(f"nothing more is pushed to {remote.settings.name}: {error}")


def push(runner: Runner, remote: Remote, targets: Sequence[str], *, force: bool = False) -> list[Line]:
    """Push every stage that is built. Raises EnvironmentMissing without a key, StoreError if it is not taken."""
    from trtpipe.run.runner import Taken

    signer = signing.own_signer()
    if not remote.settings.writes:
        raise GateFailed(
            f"{remote.settings.name} ({remote.settings.origin}) is there to be read; to write: --set remote.mode=write"
        )
    lines = []
    taken = Taken(runner)
    with runner.store.in_use():
        for name in runner.pipeline.closure(targets):
            stage = runner.pipeline.stages[name]
            digest = None
            with runner.store.guard():
                assessed = taken.take(name, latest=False)
                if assessed is not None and assessed.hit:
                    digest = assessed.digest
                    runner.store.use([digest])
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


def pull(runner: Runner, remote: Remote, targets: Sequence[str]) -> list[Line]:
    """Fetch every stage that is there. Raises GateFailed or StoreError for what was refused, when the rest has come."""
    order = runner.pipeline.closure(targets)
    with runner.store.in_use():
        answers = bring(runner, remote, order, {}, ())
    problems = [(name, a) for name, a in answers.items() if isinstance(a, Exception)]
    if problems:
        kinds = [type(error) for _, error in problems]
        text = "\n".join(f"{name}: {error}" for name, error in problems)
        if any(issubclass(kind, GateFailed) for kind in kinds):
            raise GateFailed(text)
        raise (WrongContent if any(issubclass(kind, WrongContent) for kind in kinds) else StoreError)(text)
    lines = []
    artifacts: dict[str, Artifact] = {}
    for name in order:
        stage = runner.pipeline.stages[name]
        answer = answers.get(name)
        if isinstance(answer, Fetched):
            artifacts[name] = answer.artifact
            lines.append(Line(name, stage.type, "fetched", answer.bytes, answer.artifact.digest))
            continue
        how = "not there"
        if all(upstream in artifacts for upstream in stage.upstream):
            assessed = runner.assess(stage, artifacts)
            if assessed.hit:
                artifacts[name] = assessed.hit.artifact
                how = "here already"
        lines.append(Line(name, stage.type, how, 0, artifacts[name].digest if name in artifacts else None))
    return lines


def needed(remote: Remote | None) -> Remote:
    """Give the remote store. Raises PipelineInvalid if none is named anywhere."""
    if remote is None:
        raise PipelineInvalid("no remote store is named: use --remote URL, or write remote: {url: …} in the document")
    return remote


def _amount(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB" if size >= 2**10 else f"{size} B"
