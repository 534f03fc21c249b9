"""The lock file `<pipeline>.lock`: the key and the artifact of each stage.

It has one block for each stage, sorted, with an entry for each set of environments that share it. A merge touches only
the blocks of stages that changed, and entries of other machines stay. An entry holds the whole key, so that a drift can
be named, and the digest of every file, so that an artifact can be taken by content from any store.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import errors, reads
from trtpipe import key as keys
from trtpipe.key import Key
from trtpipe.pipeline.graph import FAILED_INPUTS, lock_path
from trtpipe.run import events, reasons, runner
from trtpipe.run.lookup import Walk
from trtpipe.run.record import of_action, of_key
from trtpipe.store import locks
from trtpipe.store.artifact import Artifact
from trtpipe.store.files import below, write_file
from trtpipe.store.state import stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trtpipe.pipeline.graph import Pipeline, Stage
    from trtpipe.reads import Reads
    from trtpipe.run.exchange import Exchange
    from trtpipe.run.lookup import Lookup
    from trtpipe.store.gc import Needed
    from trtpipe.store.store import Store

FORMAT = 2
"""Format 1 had keys without reads, with names from the document's folder."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NOT_PLAIN = ("null", "true", "false")


class Entry(NamedTuple):
    """The locked key and artifact of one stage, in the environments named by `where`."""

    where: tuple[str, ...]
    key: Key
    artifact: Artifact


class Lock(NamedTuple):
    """A lock file's content: for each stage its entries."""

    pipeline: str
    stages: dict[str, tuple[Entry, ...]]


class Drift(NamedTuple):
    """How one stage differs from the lock file."""

    stage: str
    reasons: tuple[str, ...]


class Frozen(NamedTuple):
    """The lock file's entries of the targets; `absent` names what is missing here and was taken as locked."""

    entries: dict[str, Entry]
    drifts: tuple[Drift, ...]
    absent: tuple[str, ...]


def where(lookup: Lookup) -> str:
    """Name this environment: the runtime with its version, and the GPU's name or, without one, the architecture."""
    choice, gpu = lookup.choice, lookup.gpu
    on = os.uname().machine if gpu is None or choice.backend == "onnxruntime" else gpu.name
    return f"{choice.backend} {choice.version}, {on}"


# --- reading and writing


def read(path: str) -> Lock:
    """Read a lock file. Raises PipelineInvalid if it is missing or not valid."""
    from trtpipe.pipeline import document

    again = "write it again: trtpipe lock"
    if not os.path.exists(path):
        raise errors.PipelineInvalid(f"{path}: there is no lock file; make one: trtpipe lock")
    try:
        parsed = document.parse(document.read(path), path)
    except errors.PipelineInvalid as error:
        raise errors.PipelineInvalid([*error.problems, f"{path}: expected a whole lock file; {again}"]) from None
    value = parsed.value
    if isinstance(value, dict) and value.get("format") == 1:
        raise errors.PipelineInvalid(
            f"{path}: found a lock file of format 1, from an older trtpipe, whose keys held less; {again}"
        )
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("stages"), dict):
        raise errors.PipelineInvalid(f"{path}: expected a lock file of format {FORMAT}; {again}")
    stages = {}
    for name, entries in value["stages"].items():
        try:
            stages[name] = tuple(_entry(one) for one in entries)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            why = str(error) if type(error) is ValueError else "its fields are not those of a lock file"
            raise errors.PipelineInvalid(parsed.problem(("stages", name), f"{why}; {again}")) from None
    return Lock(str(value.get("pipeline", "")), stages)


def _entry(value: dict[str, Any]) -> Entry:
    key = Key(
        value["type"],
        value["version"],
        value.get("params") or {},
        value.get("inputs") or {},
        value.get("sources") or {},
        value.get("environment") or {},
        value.get("reads") or {},
    )
    files = {}
    for name, (sha256, size) in (value.get("files") or {}).items():
        parts = name.split("/")
        if not re.fullmatch("[0-9a-f]{64}", sha256) or type(size) is not int or not all(parts) or ".." in parts:
            raise ValueError(f"found a file {name} without a valid path, digest and size")
        files[name] = (sha256, size)
    reads.of(key.reads)
    entry = Entry(tuple(map(str, value["for"])), key, Artifact(value["kind"], files))
    if key.digest != value["key"]:
        raise ValueError("its key does not fit its fields: it was edited or merged wrongly")
    if entry.artifact.digest != value["artifact"]:
        raise ValueError("its artifact does not fit its files: it was edited or merged wrongly")
    return entry


def text(lock: Lock, name: str) -> str:
    """Write a lock as YAML, the same text each time, with each value on a line of its own."""
    lines = [
        f"# Written by `trtpipe lock {name}`; keep it beside the document under version control.",
        f"format: {FORMAT}",
        f"pipeline: {_quote(lock.pipeline)}",
        "stages:",
    ]
    for stage in sorted(lock.stages):
        lines.append(f"  {_name(stage)}:")
        for entry in sorted(lock.stages[stage]):
            lines.append(f"    - for: [{', '.join(_quote(w) for w in sorted(entry.where))}]")
            lines.append(f"      key: {_quote(entry.key.digest)}")
            lines.append(f"      artifact: {_quote(entry.artifact.digest)}")
            lines.append(f"      kind: {_quote(entry.artifact.kind)}")
            files = {n: list(f) for n, f in entry.artifact.files.items()}
            lines += _mapping("files", files)
            lines.append(f"      type: {_quote(entry.key.type)}")
            lines.append(f"      version: {entry.key.version}")
            for field in ("params", "inputs", "sources", "environment"):
                lines += _mapping(field, getattr(entry.key, field))
            lines += _reads(entry.key.reads)
    return "\n".join(lines) + "\n"


def _mapping(field: str, values: dict[str, Any]) -> list[str]:
    if not values:
        return []
    return [f"      {field}:", *(f"        {_name(n)}: {_flow(values[n])}" for n in sorted(values))]


def _reads(held: Reads) -> list[str]:
    """Write each name on a line of its own, so that a merge touches only the changed names."""
    lines = ["      reads:"] if held else []
    for kind in sorted(held):
        lines += [f"        {kind}:", *(f"          {_name(n)}: {_flow(held[kind][n])}" for n in sorted(held[kind]))]
    return lines


def _name(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and text.lower() not in _NOT_PLAIN else _quote(text)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quote(n)}: {_flow(value[n])}" for n in sorted(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _quote(value) if isinstance(value, str) else json.dumps(value, allow_nan=False)


def _quote(text: str) -> str:
    r"""Write a text in double quotes; other than printable characters as \xNN, \uNNNN or \UNNNNNNNN (YAML 1.2, 5.7)."""
    escaped = []
    for c in text:
        code = ord(c)
        if c in '"\\':
            escaped.append("\\" + c)
        elif c.isprintable() and c != "\ufeff":
            escaped.append(c)
        else:
            escaped.append(f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}")
    return f'"{"".join(escaped)}"'


def write(path: str, lock: Lock, document: str) -> bool:
    """Write a lock file if its text is new; tell whether it was. Raises StoreError if the disk refuses."""
    new = text(lock, os.path.basename(document)).encode()
    try:
        with open(path, "rb") as stream:
            if stream.read() == new:
                return False
    except OSError:
        pass
    try:
        write_file(path, new)
    except OSError as error:
        raise errors.StoreError(f"{path} cannot be written: {error.strerror}") from None
    return True


# --- locking


def locked(lookup: Lookup, old: Lock | None, targets: Sequence[str] = (), *, prune: bool = False) -> Lock:
    """Lock the stages as they are cached now; entries of other environments stay, unless `prune`.

    Raises StageFailed if a stage is not cached. A variant that failed, and that a `select` went on without, has no
    entry.
    """
    order = lookup.pipeline.closure(targets)
    lookup.check(order)
    here = where(lookup)
    walk = Walk(lookup)
    ends = lookup.pipeline.ends(targets)
    stages = {n: e for n, e in old.stages.items() if n in lookup.pipeline.stages} if old else {}
    for name in order:
        assessed = walk.take(name)
        if assessed is None or assessed.hit is None:
            if name in walk.failed and name not in ends:
                before = stages.pop(name, ())
                left = [one._replace(where=others) for one in before if (others := _others(one, (here,)))]
                if left and not prune:
                    stages[name] = tuple(left)
                continue
            why = f"it needs {walk.failed[name]}" if assessed is None else "; ".join(assessed.reasons)
            raise errors.StageFailed(f"{name} is not built ({why}), so it cannot be locked; run it first: trtpipe run")
        mine = Entry((here,), assessed.key, assessed.hit.artifact)
        stages[name] = _joined(() if prune else stages.get(name, ()), mine)
    return Lock(lookup.pipeline.name, stages)


def gaps(lookup: Lookup, lock: Lock) -> dict[str, tuple[str, ...]]:
    """Give what locked stages, by name, depend on and could not be seen when they ran here."""
    found = {}
    for name, entries in lock.stages.items():
        actions = (lookup.store.action(entry.key.digest) for entry in entries)
        unseen = [gap for action in actions if action for gap in action.about.gaps]
        if unseen:
            found[name] = tuple(dict.fromkeys(unseen))
    return found


def _others(entry: Entry, than: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(w for w in entry.where if w not in than)


def _joined(entries: tuple[Entry, ...], mine: Entry) -> tuple[Entry, ...]:
    """Replace this environment's entry; environments that agree share an entry."""
    kept: list[Entry] = []
    for one in entries:
        others = _others(one, mine.where)
        if (one.key, one.artifact) == (mine.key, mine.artifact):
            mine = mine._replace(where=(*others, *mine.where))
        elif others:
            kept.append(one._replace(where=others))
    return tuple(sorted([*kept, mine._replace(where=tuple(sorted(mine.where)))]))


# --- comparing


def compare(lookup: Lookup, lock: Lock, targets: Sequence[str] = ()) -> Frozen:
    """Compare the document, its files and the environment with the lock file; nothing is built or fetched.

    A model or package that is missing here (only a build needs it) cannot drift: it is taken as locked.
    """
    here = where(lookup)
    entries: dict[str, Entry] = {}
    drifts: list[Drift] = []
    absent: dict[str, None] = {}
    order = lookup.pipeline.closure(targets)
    without = _without(lookup.pipeline, lock, order, here)
    for name in order:
        stage = lookup.pipeline.stages[name]
        if name in without or any(u not in entries and u not in without for u in stage.upstream):
            continue  # its inputs drift, which is reported at the first stage that drifts
        found = [_compared(lookup, stage, one, entries) for one in lock.stages.get(name, ())]
        fitting = [f for f in found if not f[1]]
        if not found:
            drifts.append(Drift(name, ("is not in the lock file",)))
        elif not fitting:
            near = [f for f in found if here in f[0].where] or found
            entry, why, _ = min(near, key=lambda f: len(f[1]))
            other = () if here in entry.where else (f"locked for {' and '.join(entry.where)}, this machine is {here}",)
            drifts.append(Drift(name, (*other, *why)))
        else:
            entry, _, unseen = next((f for f in fitting if here in f[0].where), fitting[0])
            entries[name] = entry
            absent.update(dict.fromkeys(unseen))
    if not targets:
        gone = [n for n in lock.stages if n not in lookup.pipeline.stages]
        drifts += [Drift(n, ("is in the lock file, but not in the document any more",)) for n in gone]
    return Frozen(entries, tuple(drifts), tuple(absent))


def _without(pipeline: Pipeline, lock: Lock, order: Sequence[str], here: str) -> set[str]:
    """Give the stages that failed when this environment was locked: only stages that went on without them read them."""
    readers: dict[str, set[str]] = {}
    spared: set[tuple[str, str]] = set()
    for name in order:
        stage = pipeline.stages[name]
        for upstream in stage.upstream:
            readers.setdefault(upstream, set()).add(name)
        for entry in lock.stages.get(name, ()):
            if here in entry.where:
                failed = _failed(stage, entry)
                spared |= {(i, name) for port, i in stage.inputs.items() if port in failed and isinstance(i, str)}
    found: set[str] = set()
    for name in reversed(order):
        mine = any(here in entry.where for entry in lock.stages.get(name, ()))
        reading = readers.get(name, set())
        if not mine and reading and all(reader in found or (name, reader) in spared for reader in reading):
            found.add(name)
    return found


def _failed(stage: Stage, entry: Entry) -> dict[str, str]:
    """Give the failed inputs of a tolerant stage in a lock file; none if the entry, which people may edit, is wrong."""
    given = entry.key.params.get(FAILED_INPUTS)
    if not stage.tolerant or not isinstance(given, dict) or not given.keys() <= stage.inputs.keys():
        return {}
    return given if all(isinstance(why, str) for why in given.values()) else {}


def _compared(
    lookup: Lookup, stage: Stage, entry: Entry, upstream: dict[str, Entry]
) -> tuple[Entry, tuple[str, ...], tuple[str, ...]]:
    """Compare a stage as it is now with an entry; give the entry, the differences, and what is missing here."""
    artifacts = {name: one.artifact for name, one in upstream.items()}
    now = lookup.now(stage.without(_failed(stage, entry)), artifacts, like=entry.key)
    # The store's record of the locked key, if there is one, has the names of the files in a folder.
    action = lookup.store.action(entry.key.digest) if now.key != entry.key else None
    locked_record = of_key(entry.key) if action is None else of_action(action)
    return entry, reasons.between(locked_record, now.record), now.absent


# --- run --frozen


def drift_error(path: str, drifts: Sequence[Drift]) -> errors.GateFailed:
    """Give the error that lists the drifts."""
    lines = [f"{one.stage}: {why}" for one in drifts for why in one.reasons]
    return errors.GateFailed("\n".join([f"{path} does not fit, and --frozen builds nothing:", *lines]))


def run_frozen(
    lookup: Lookup,
    path: str,
    targets: Sequence[str] = (),
    *,
    emit: Callable[[events.Event], None] = lambda _: None,
    exchange: Exchange | None = None,
) -> dict[str, Artifact]:
    """Take every stage's locked artifact from the store, or from the remote store.

    Nothing is built. Raises GateFailed if anything drifts or a file is missing; then the view stays as it is.
    """
    begun = time.monotonic()
    order = lookup.pipeline.closure(targets)
    found = compare(lookup, read(path), targets)
    if found.drifts:
        raise drift_error(path, found.drifts)
    reason = f"{lookup.choice.reason}; frozen by {os.path.basename(path)}"
    backend = f"{lookup.choice.backend} {lookup.choice.version}"
    emit(events.PipelineStarted(lookup.pipeline.name, backend, reason, order, lookup.store.folder))
    skipped = len(order) - len(found.entries)
    order = tuple(name for name in order if name in found.entries)
    store = lookup.store
    if exchange is not None:
        exchange.bring_content(dict(f for e in found.entries.values() for f in e.artifact.files.values()))
    with store.in_use(), store.guard():
        store.use((e.key.digest for e in found.entries.values()),
                  (sha for e in found.entries.values() for sha, _ in e.artifact.files.values()))  # fmt: skip
        missing: dict[tuple[str, str], list[str]] = {}
        for name in order:
            for file, (sha256, size) in found.entries[name].artifact.files.items():
                if damage := store.damage(sha256, size, file):
                    missing.setdefault((name, damage), []).append(file)
        if missing:
            lines = [f"some files that {path} names are missing, and --frozen builds nothing:"]
            lines += [f"{name}: {', '.join(files)}: {damage}" for (name, damage), files in missing.items()]
            elsewhere = "" if exchange is not None and exchange.there else ", or use a remote store that has them"
            lines.append(f"to make them again, run without --frozen on a machine that has the inputs{elsewhere}")
            raise errors.GateFailed("\n".join(lines))
        for name in order:
            entry = found.entries[name]
            store.show(lookup.pipeline.name, name, entry.artifact)
            emit(events.StageCached(name, entry.key.type, entry.artifact.digest, entry.artifact.size,
                                           entry.key.digest, ()))  # fmt: skip
    for text_ in (*store.told, *([f"not here, taken as locked: {', '.join(found.absent)}"] if found.absent else [])):
        emit(events.StageNote(order[-1], text_))
    store.told.clear()
    store.state.commit()
    made = {name: found.entries[name].artifact for name in order}
    shown = runner.results(lookup, made, targets)
    emit(events.PipelineFinished(lookup.pipeline.name, len(order), 0, 0, skipped, time.monotonic() - begun, (), shown))
    return made


# --- cache gc


class Root(NamedTuple):
    """A document with a lock file, as the store knows it.

    `keys`, `artifacts` and `blobs` are what the lock file named when this was written: another machine that shares the
    store may not see the document.
    """

    document: str
    host: str
    stamp: str
    keys: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()


def _named(root: Root, entries: Sequence[Entry]) -> Root:
    """Give a root with what the entries of its lock file name."""
    return root._replace(
        keys=tuple(sorted({e.key.digest for e in entries})),
        artifacts=tuple(sorted({e.artifact.digest for e in entries})),
        blobs=tuple(sorted({sha for e in entries for sha, _ in e.artifact.files.values()})),
    )


def _root_name(document: str, host: str) -> str:
    return keys.digest([document, host])[:32]


def read_root(file: str) -> Root:
    """Read what the store knows of a document. Raises StoreError if the file is damaged."""
    try:
        with open(file, encoding="utf-8") as stream:
            record = json.load(stream)
        lists = {name: tuple(map(str, record[name])) for name in ("keys", "artifacts", "blobs")}
        root = Root(str(record["document"]), str(record["host"]), str(record["stamp"]), **lists)
        named = os.path.basename(file) == _root_name(root.document, root.host)
        if named and record["check"] == keys.digest(_unchecked(root)):
            return root
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise errors.StoreError(
        f"{file}: found damage, so what a lock file needs is not known; run `trtpipe lock` again on its document, then "
        "remove this file"
    )


def _unchecked(root: Root) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in root._asdict().items()}


def keep_root(store: Store, document: str) -> None:
    """Record for `cache gc` a document with a lock file, and what that file names. Raises StoreError."""
    path, host = os.path.abspath(document), locks.host()
    where = lock_path(path)
    file = os.path.join(store.layout.part("roots"), _root_name(path, host))
    try:
        root = Root(path, host, "")
        if os.path.exists(file):
            with contextlib.suppress(errors.StoreError):
                root = read_root(file)
        status = os.stat(where)
        now = stamp(status)
        if root.stamp == now or not stat.S_ISREG(status.st_mode):
            return
        with contextlib.suppress(errors.PipelineInvalid):  # gc stops while the lock file cannot be read
            entries = [e for them in read(where).stages.values() for e in them]
            root = _named(Root(path, host, now), entries)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        record = {**_unchecked(root), "check": keys.digest(_unchecked(root))}
        write_file(file, json.dumps(record, indent=1).encode())
    except FileNotFoundError:
        return  # the lock file has just been removed
    except OSError as error:
        raise errors.StoreError(f"{file} cannot be written: {error.strerror}") from None


def needed(store: Store) -> Needed:
    """Give what `cache gc` must keep for the documents with a lock file.

    Raises StoreError if the store's file about a document is damaged, PipelineInvalid if its lock file is: in both
    cases it is not known what the lock file needs.
    """
    from trtpipe.store.gc import Needed

    found = Needed({}, {}, {})
    for file in below(store.layout.part("roots")):
        if file.endswith(".tmp"):
            continue
        root = read_root(file)
        where = lock_path(root.document)
        if os.path.exists(where):
            entries = [entry for them in read(where).stages.values() for entry in them]
            root = _named(root, entries)
        elif root.host != locks.host():
            # Another machine's lock file may be out of reach: what it named when the root was written counts.
            where = f"{root.host}:{where}"
        else:
            continue
        for mine, digests in zip(found, (root.keys, root.artifacts, root.blobs), strict=True):
            mine.update(dict.fromkeys(digests, f"locked by {where}"))
    return found
