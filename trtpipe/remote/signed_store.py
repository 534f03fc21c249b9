"""The remote store: signed action records and blobs, at any address that fsspec can open.

    v1/actions/ab/<key>.json          the action record of a key, signed (a DSSE envelope)
    v1/artifacts/ab/<artifact>.json   the same envelope by artifact, so that a locked artifact stays findable
    v1/reads/ab/<first part>.json     lists of names under the first part of a key, signed
    v1/blobs/sha256/ab/<digest>       files by content

A record counts only if a trusted key signed it and it is the record of the requested key. A blob counts only if its
bytes have the digest in the record. Neither is used before these checks. A push writes blobs before the records that
name them. So an interrupted push leaves nothing that a reader can see, and the next push continues it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import key as keys
from trtpipe import reads
from trtpipe.documents.action import parse
from trtpipe.errors import EnvironmentMissing, GateFailed, StoreError
from trtpipe.remote import signing
from trtpipe.remote.transport import (
    AHEAD,
    JOBS,
    READ_ONLY,
    NotAllowed,
    NotReachable,
    NotThere,
    Transport,
    TransportError,
)
from trtpipe.store import lists
from trtpipe.store.actions import artifact_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from trtpipe.documents.action import Action
    from trtpipe.reads import Names
    from trtpipe.remote.settings import Settings
    from trtpipe.store.artifact import Artifact
    from trtpipe.store.store import Store

PAYLOAD_TYPE = "application/vnd.trtpipe.action.v1+json"
LISTS_TYPE = "application/vnd.trtpipe.reads.v1+json"

_MAX_RECORD = 24 * 2**20
_ATTEMPTS = 3
_SYNC_BYTES = 32 * 2**20
_STALE_SECONDS = 7 * 24 * 3600


class WrongContent(StoreError):
    """Fetched content does not have the digest in its name and in the record."""


class Fetched(NamedTuple):
    """What was fetched: the artifact, the bytes that were not in the local store, and the signer of its record."""

    artifact: Artifact
    bytes: int
    signer: str


class _Part(NamedTuple):
    """A completely fetched file, locked until it is moved or closed, so that no other run writes into it."""

    path: str
    stream: Any


class Pushed(NamedTuple):
    """The outcome of a push of one key: the bytes sent, and whether the remote store had the key already."""

    artifact: Artifact
    bytes: int
    already: bool


# --- the store


class Remote:
    """A remote store beside a local one. `warn` gets each warning once."""

    def __init__(self, chosen: Settings, store: Store, warn: Callable[[str], None] = lambda _: None) -> None:
        self.settings, self.store = chosen, store
        self.reachable = True
        self.asked: set[str] = set()
        """Keys that were requested already."""
        self._warn, self._warned = warn, set[str]()
        self._transport: Transport | None = None
        self._making = threading.Lock()
        self._bad: set[str] = set()
        self._listed: set[str] = set()
        self._closed = False
        self._chunks = ThreadPoolExecutor(JOBS * AHEAD, "trtpipe-chunk")
        self._files = ThreadPoolExecutor(JOBS, "trtpipe-file")

    def close(self) -> None:
        """Stop all transfers; safe to call twice."""
        self._closed = True
        self._files.shutdown(wait=False, cancel_futures=True)
        self._chunks.shutdown(wait=False, cancel_futures=True)
        if self._transport is not None:
            self._transport.stop()

    def __enter__(self) -> Remote:  # noqa: PYI034 — Self came with 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def transport(self) -> Transport:
        """The client, made when it is first needed. Raises EnvironmentMissing."""
        with self._making:
            if self._transport is None:
                self._transport = Transport(self.settings.access)
            return self._transport

    def warn(self, text: str) -> None:
        """Give a warning, once."""
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)

    # --- reading

    def record(self, digest: str, artifact: str | None = None) -> tuple[Action, signing.Verified] | None:
        """Give a key's record and its signer, or None if there is no record.

        With `artifact`, the key must have made exactly this artifact. Raises GateFailed if the record is not signed by
        a trusted key or belongs to another key, TransportError if the server does not answer.
        """
        text = None
        names = [_action(digest)] if artifact is None else [_artifact(artifact), _action(digest)]
        for name in names:
            try:
                text = self.transport.get(name, _MAX_RECORD)
            except NotThere:
                continue
            found = self._checked(text, digest, f"{self.settings.name}/{name}")
            if artifact is None or found[0].artifact == artifact:
                return found
        return None

    def _checked(self, text: bytes, digest: str, what: str) -> tuple[Action, signing.Verified]:
        verified = signing.open_envelope(text, PAYLOAD_TYPE, self.settings.trust, what)
        try:
            record = parse(json.loads(verified.payload), digest)
            keys.of_record(record.key)
            good = keys.canonical(record.to_json()) == verified.payload
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            good = False
        if not good:
            # The signature is good, but the record belongs to another key: it was copied to this name.
            raise GateFailed(f"{what}: found a signed record of something else, expected that of key {digest[:12]}")
        return record, verified

    def bring_lists(self, first: str) -> bool:
        """Fetch the lists of names under the first part of a key into the local store; tell whether one is new there.

        Each first part is requested once. Raises GateFailed for lists that are not trusted, TransportError if the
        server does not answer, EnvironmentMissing without a client.
        """
        if first in self._listed or not self.reachable:
            return False
        self._listed.add(first)
        found = self._lists(first)
        known = self.store.lists(first)
        new = [names for names in found if names not in known]
        if new:
            self.store.add_lists(first, new)
        return bool(new)

    def _lists(self, first: str) -> list[Names]:
        """Give the lists of names on the remote store. Raises GateFailed if they are not signed by a trusted key."""
        name = _reads(first)
        try:
            text = self.transport.get(name, _MAX_RECORD)
        except NotThere:
            return []
        what = f"{self.settings.name}/{name}"
        verified = signing.open_envelope(text, LISTS_TYPE, self.settings.trust, what)
        try:
            return lists.parse(json.loads(verified.payload), first)
        except (ValueError, RecursionError):
            raise GateFailed(f"{what}: found signed lists of something else, expected those of {first[:12]}") from None

    def fetch(self, digest: str, *, artifact: str | None = None, kind: str | None = None) -> Fetched | None:
        """Fetch one key's artifact into the local store; None if the remote store does not have it.

        Raises GateFailed for a record or signer that is not trusted, StoreError for wrong content and for the local
        disk, TransportError if the server does not answer.
        """
        found = self.record(digest, artifact)
        if found is None:
            return None
        (fetched,) = self._bring([(digest, found, kind)]).values()
        if isinstance(fetched, Exception):
            raise fetched
        return fetched

    def fetch_many(self, wanted: Mapping[str, str]) -> dict[str, Fetched | Exception]:
        """Fetch the artifacts of several keys (key → kind), files in parallel; missing keys are left out of the answer.

        The answer holds an exception for each key that was refused or could not be fetched.
        """
        answers: dict[str, Fetched | Exception] = {}
        there = []
        for digest, got in zip(wanted, self._files.map(self._try_record, wanted), strict=True):
            if isinstance(got, Exception):
                answers[digest] = got
            elif got is not None:
                there.append((digest, got, wanted[digest]))
        return {**answers, **self._bring(there)}

    def _try_record(self, digest: str) -> tuple[Action, signing.Verified] | Exception | None:
        try:
            return self.record(digest)
        except (GateFailed, TransportError, EnvironmentMissing) as error:
            return error

    def _bring(
        self, wanted: Sequence[tuple[str, tuple[Action, signing.Verified], str | None]]
    ) -> dict[str, Fetched | Exception]:
        answers: dict[str, Fetched | Exception] = {}
        missing: dict[str, int] = {}
        for digest, (record, _), kind in wanted:
            artifact = artifact_of(record)
            if kind is not None and artifact.kind != kind:
                text = f"key {digest[:12]}: found an artifact of kind {artifact.kind}, expected {kind}"
                answers[digest] = GateFailed(text)
                continue
            missing.update((sha, size) for sha, size in artifact.files.values() if not self._has(sha, size))
        jobs = {sha256: self._files.submit(self._download, sha256, size) for sha256, size in missing.items()}
        try:
            for digest, (record, verified), _ in wanted:
                if digest not in answers:
                    artifact = artifact_of(record)
                    parts = {sha: size for sha, size in artifact.files.values() if sha in jobs}
                    try:
                        came = {sha: jobs[sha].result() for sha in parts}
                        self._keep(digest, record, verified, artifact, came)
                        answers[digest] = Fetched(artifact, sum(parts.values()), verified.signer)
                    except (GateFailed, WrongContent, TransportError) as error:
                        answers[digest] = error
        finally:
            for job in jobs.values():
                if not job.cancel():
                    job.add_done_callback(_let_go)
        return answers

    def _has(self, sha256: str, size: int) -> bool:
        return os.path.exists(self.store.blob_path(sha256)) and self.store.damage(sha256, size) is None

    def _keep(
        self,
        digest: str,
        record: Action,
        verified: signing.Verified,
        artifact: Artifact,
        came: dict[str, _Part],
    ) -> None:
        """Move fetched files into the store; the action record comes last, with its signature."""
        with self.store.guard():
            for sha256, size in artifact.files.values():
                if sha256 in came:
                    self._settle(came[sha256], sha256, size)
            signature = {"keyid": verified.keyid, "sig": verified.signature, "signer": verified.signer}
            about = record.about._replace(signed={**signature, "from": self.settings.name})
            self.store.write_action(keys.of_record(record.key), artifact, about)
            self.store.use([digest])

    def _settle(self, part: _Part, sha256: str, size: int) -> None:
        """Move a fetched file to its blob and close it; a file that two artifacts share is moved once."""
        if not part.stream.closed:
            self.store.take_file(part.path, sha256, size)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part.path)  # another run was faster and the content exists already
            part.stream.close()

    def refetch(self, sha256: str, size: int) -> bool:
        """Fetch content by its digest alone, which a local record names; tell whether that succeeded."""
        return bool(self.fetch_content({sha256: size}))

    def fetch_content(self, wanted: Mapping[str, int]) -> list[str]:
        """Fetch content (SHA-256 → bytes) that a lock file or a local record names; give what was fetched.

        For other content there is a warning. Raises StoreError for the local disk.
        """
        if not self.reachable:
            return []
        jobs = {s: self._files.submit(self._download, s, n) for s, n in wanted.items() if s not in self._bad}
        came = []
        try:
            for sha256, job in jobs.items():
                try:
                    self._settle(job.result(), sha256, wanted[sha256])
                    came.append(sha256)
                except (TransportError, WrongContent, EnvironmentMissing) as error:
                    self.failed(error)
        finally:
            for job in jobs.values():
                if not job.cancel():
                    job.add_done_callback(_let_go)
        return came

    def _download(self, sha256: str, size: int) -> _Part:
        """Fetch a blob to `partial/`, from where an earlier try stopped, and check its digest.

        Raises WrongContent if the bytes do not have the digest, and keeps none of them.
        """
        path = self._partial(sha256)
        stream: Any = None
        try:
            stream, path = _open_alone(path)
            for attempt in range(_ATTEMPTS):
                try:
                    self._receive(stream, sha256, size)
                    break
                except NotReachable:
                    # The bytes so far are kept, and the next try, now or in another run, continues after them.
                    if attempt + 1 == _ATTEMPTS or self._closed:
                        raise
                    time.sleep(0.2 * 3**attempt)
        except BaseException as error:
            if stream is not None:
                stream.close()
            if isinstance(error, WrongContent):
                self._bad.add(sha256)
                with contextlib.suppress(OSError):
                    os.unlink(path)
            if isinstance(error, OSError):
                raise StoreError(f"{path}: {error.strerror or error}") from None
            raise
        return _Part(path, stream)

    def _partial(self, sha256: str) -> str:
        folder = os.path.join(self.store.folder, "partial")
        os.makedirs(folder, exist_ok=True)
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                old = os.path.join(folder, name)
                if time.time() - os.stat(old).st_mtime > _STALE_SECONDS:
                    os.unlink(old)
        return os.path.join(folder, sha256)

    def _receive(self, stream: Any, sha256: str, size: int) -> None:
        name = _blob(sha256)
        hasher = hashlib.sha256()
        stream.seek(0)
        have = 0
        while have < size and (data := stream.read(min(1 << 20, size - have))):
            hasher.update(data)
            have += len(data)
        synced, syncing = have, None
        try:
            for offset, data in self.transport.chunks(name, size, have, self._chunks.submit):
                if offset != have:  # a server without ranges starts again
                    hasher, have, synced = hashlib.sha256(), offset, offset
                stream.seek(offset)
                stream.write(data)
                hasher.update(data)
                have += len(data)
                # The disk writes while more bytes arrive; otherwise the sync at the end would wait for all of them.
                if have - synced >= _SYNC_BYTES and (syncing is None or syncing.done()):
                    syncing, synced = self._chunks.submit(os.fdatasync, stream.fileno()), have
        finally:
            if syncing is not None:
                wait([syncing])
        stream.flush()
        if have < os.fstat(stream.fileno()).st_size:
            stream.truncate(have)
        if have < size:
            raise NotReachable(f"{name}: found {have} bytes, expected {size}: the transfer was cut off")
        if have != size or hasher.hexdigest() != sha256:
            raise WrongContent(
                f"{self.settings.name}/{name}: found content that does not have the digest in its name "
                f"(sha256 {hasher.hexdigest()[:12]}…, {have} bytes); it was changed on the server or during the "
                f"transfer, and is not used"
            )

    # --- writing

    def push(self, digests: Iterable[str], signer: signing.Signer, *, force: bool = False) -> dict[str, Pushed]:
        """Push keys' artifacts: first the missing blobs, then the records, signed.

        A fetched record keeps its first signature. A record by a trusted signer stays (unless `force`), so the team
        keeps the first plan that CI made. Raises StoreError, or TransportError if the push fails.
        """
        if self.transport.scheme in READ_ONLY:
            raise StoreError(
                f"{self.settings.name} can only be read: nothing can be pushed to {self.transport.scheme} servers"
            )
        done = {}
        for digest in digests:
            record = self.store.action(digest)
            if record is None:
                raise StoreError(f"key {digest[:12]} has no record in {self.store.folder}")
            artifact = artifact_of(record)
            already = not force and self._is_there(digest, artifact)
            sent = 0 if already else self._push_one(digest, record, artifact, signer, force=force)
            done[digest] = Pushed(artifact, sent, already)
        return done

    def _is_there(self, digest: str, artifact: Artifact) -> bool:
        try:
            found = self.record(digest)
        except GateFailed as error:
            self.warn(f"{error}; it is replaced")
            return False
        if found is None:
            return False
        # This run has seen that blobs of the record are bad, so the record must be replaced.
        theirs = artifact_of(found[0])
        if any(sha256 in self._bad for sha256, _ in theirs.files.values()):
            return False
        return theirs.digest != artifact.digest or all(
            self.transport.size(_blob(sha256)) == size for sha256, size in artifact.files.values()
        )

    def _push_one(self, digest: str, record: Action, artifact: Artifact, signer: signing.Signer, *, force: bool) -> int:
        for name, (sha256, size) in artifact.files.items():
            if damage := self.store.damage(sha256, size, name):
                raise StoreError(f"key {digest[:12]} cannot be pushed: {name}: {damage}")
        blobs = dict(artifact.files.values())
        sent = sum(self._files.map(lambda item: self._send(*item, force=force), blobs.items()))
        envelope = json.dumps(self._envelope(record, signer), sort_keys=True).encode()
        self._push_list(keys.of_record(record.key), signer)
        for name in (_artifact(artifact.digest), _action(digest)):
            self.transport.put(name, envelope)
        return sent

    def _push_list(self, key: keys.Key, signer: signing.Signer) -> None:
        """Add the list of names of a key to the lists on the remote store, if the key has one.

        Two pushes at the same moment may lose one list; a run that misses it builds again and pushes it again.
        """
        if not self.store.lists(key.first):
            return
        mine = reads.of(key.reads)
        try:
            there = self._lists(key.first)
        except GateFailed as error:
            self.warn(f"{error}; they are replaced")
            there = []
        if mine in there:
            return
        kept = [*there, mine][-reads.MAX_LISTS :]
        payload = keys.canonical(lists.record(key.first, kept))
        self.transport.put(_reads(key.first), json.dumps(signer.sign(LISTS_TYPE, payload), sort_keys=True).encode())

    def _envelope(self, record: Action, signer: signing.Signer) -> dict[str, Any]:
        payload = keys.canonical(record._replace(about=record.about._replace(signed=None)).to_json())
        old = record.about.signed
        if isinstance(old, dict):
            kept = signing.envelope(PAYLOAD_TYPE, payload, str(old.get("keyid")), str(old.get("sig")))
            with contextlib.suppress(GateFailed):
                signing.open_envelope(json.dumps(kept).encode(), PAYLOAD_TYPE, self.settings.trust, "")
                return kept
            raise StoreError(
                f"the record of key {record.digest[:12]} came from {old.get('from')}, signed by "
                f"{old.get('signer')}, whose key is not trusted here any more; it is not pushed"
            )
        return signer.sign(PAYLOAD_TYPE, payload)

    def _send(self, sha256: str, size: int, *, force: bool) -> int:
        name = _blob(sha256)
        if not force and sha256 not in self._bad and self.transport.size(name) == size:
            return 0
        for attempt in range(_ATTEMPTS):
            try:
                self.transport.put_file(self.store.blob_path(sha256), name)
                break
            except NotReachable:
                if attempt + 1 == _ATTEMPTS or self._closed:
                    raise
                time.sleep(0.2 * 3**attempt)
        self._bad.discard(sha256)
        return size

    # --- warnings

    def failed(self, error: Exception) -> None:
        """Warn of an error. If the server does not answer, do not use the remote store any more."""
        if isinstance(error, NotAllowed):
            self.warn(f"the remote store {self.settings.name} refuses access ({error}): going on with the local store")
        elif isinstance(error, NotThere):
            self.warn(f"{self.settings.name}/{error}: missing on the remote store, although a record names it")
        elif isinstance(error, (TransportError, EnvironmentMissing)):
            how = "cannot be reached" if isinstance(error, TransportError) else "cannot be used"
            if self.reachable:
                self.warn(f"the remote store {self.settings.name} {how} ({error}): going on with the local store")
            self.reachable = False
        else:
            self.warn(str(error))


def _open_alone(path: str) -> tuple[Any, str]:
    """Open a file into which no other run writes: the named one, otherwise one with a new name."""
    stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine, there = os.fstat(stream.fileno()), os.stat(path)
        if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
            return stream, path
    except OSError:
        pass  # another run has or has just moved the file, or the file system has no locks
    stream.close()
    path = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
    return open(path, "x+b"), path


def _let_go(job: Future[_Part]) -> None:
    if not job.exception():
        job.result().stream.close()


def _action(digest: str) -> str:
    return f"v1/actions/{digest[:2]}/{digest}.json"


def _artifact(digest: str) -> str:
    return f"v1/artifacts/{digest[:2]}/{digest}.json"


def _reads(first: str) -> str:
    return f"v1/reads/{first[:2]}/{first}.json"


def _blob(sha256: str) -> str:
    return f"v1/blobs/sha256/{sha256[:2]}/{sha256}"
