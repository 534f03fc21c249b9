"""`deploy`: an engine with all that is known of it, as a folder of its own that needs nothing of the project."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trtpipe import copying, errors
from trtpipe import key as keys
from trtpipe.deploy import reading, recording
from trtpipe.deploy.reading import CURRENT, PAYLOAD_TYPE, SIGNATURE
from trtpipe.documents import files
from trtpipe.documents.bundle import Bundle, BundledFile, Requirement
from trtpipe.documents.manifest import Manifest
from trtpipe.remote import signing
from trtpipe.run.lookup import Walk
from trtpipe.trust import attest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trtpipe.documents.action import Figure
    from trtpipe.run.lookup import Lookup

ATTESTATION = "attestation.json"
LOCK = "pipeline.lock"
TOLERANCE = 0.05
"""The largest relative L2 difference of the recorded samples, where the manifest has no bound of its own."""


class Ready(NamedTuple):
    """All that a bundle is made of: its document, and each file's content or the path that has it."""

    bundle: Bundle
    manifest: Manifest
    contents: dict[str, bytes | str]
    told: tuple[str, ...]


def prepare(lookup: Lookup, stage: str, *, allow_failed: bool = False, licences: tuple[str, ...] = ()) -> Ready:
    """Gather what a bundle of an engine holds; nothing is written.

    Every stage that reads the engine and requires a figure must have run as everything is now, and must have passed;
    `allow_failed` lets it go, and the bundle says so. Raises StageFailed if the engine is not built, GateFailed.
    """
    name, walk = _engine(lookup, stage)
    artifact = walk.artifacts[name]
    tree = lookup.store.tree(artifact)
    manifest = files.read(Path(tree) / Manifest.file, Manifest)
    requirements, unmet = _required(walk, name)
    if unmet and not allow_failed:
        lines = "\n  ".join(unmet)
        raise errors.GateFailed(
            f"{name} is not deployed, because its pipeline requires more than is known of it:\n  {lines}\n"
            f"run the pipeline: trtpipe run {lookup.pipeline.file}; or allow it: --allow-failed"
        )
    beside = f"{os.path.dirname(manifest.parsed)}/" if manifest.parsed and "/" in manifest.parsed else None
    left_out = tuple(
        one for one in artifact.files if one == manifest.parsed or (beside is not None and one.startswith(beside))
    )
    contents: dict[str, bytes | str] = {one: os.path.join(tree, one) for one in artifact.files if one not in left_out}
    told = list(unmet)
    recorded = recording.take(walk, name, manifest)
    told += [recorded.why] if recorded.why else []
    if recorded.inputs:
        contents[recording.SAMPLES] = recording.npz(recorded.inputs)
        contents[recording.EXPECTED] = recording.npz(recorded.outputs)
    for licence in licences:
        kept = f"licences/{os.path.basename(licence)}"
        if (other := contents.setdefault(kept, licence)) != licence:
            raise errors.PipelineInvalid(f"found {other!r} and {licence!r}, expected licences of different names")
    lock = os.path.splitext(lookup.pipeline.file)[0] + ".lock"
    if os.path.isfile(lock):
        contents[LOCK] = lock
    signer = signing.signer()
    if signer is None:
        told.append("it is not signed: there is no signing key here (trtpipe keys new)")
    else:
        contents[ATTESTATION] = attest.sign(attest.statement(lookup, name), signer).encode()
    known = {one: BundledFile(sha256=sha256, bytes=size) for one, (sha256, size) in artifact.files.items()}
    action = lookup.store.action(walk.found[name].digest)
    bundle = Bundle(
        pipeline=lookup.pipeline.name,
        stage=name,
        key=manifest.key,
        artifact=artifact.digest,
        commit=action.about.environment.get("commit") if action else None,
        files={one: known.get(one) or described(content) for one, content in sorted(contents.items())},
        left_out=left_out,
        requirements=tuple(requirements),
        unmet=tuple(unmet),
        samples=recorded.samples,
        tolerance=(manifest.bound or TOLERANCE) if recorded.samples else None,
    )
    text = files.encode(bundle).encode()
    contents[Bundle.file] = text
    if signer is not None:
        contents[SIGNATURE] = (json.dumps(signer.sign(PAYLOAD_TYPE, text), indent=1) + "\n").encode()
    return Ready(bundle, manifest, contents, tuple(told))


def _engine(lookup: Lookup, stage: str) -> tuple[str, Walk]:
    """Find the one engine that is meant, and look up the whole pipeline, as far as it is made."""
    names = lookup.pipeline.match([stage])
    if len(names) != 1:
        raise errors.PipelineInvalid(f"found {len(names)} stages for {stage} ({', '.join(names)}), expected one")
    (name,) = names
    if lookup.pipeline.stages[name].output != "engine":
        made = lookup.pipeline.stages[name].output
        engines = [one.name for one in lookup.pipeline.stages.values() if one.output == "engine"]
        raise errors.PipelineInvalid(
            f"{name} makes an artifact of kind {made}, expected an engine; there are {', '.join(engines) or 'none'}"
        )
    walk = Walk(lookup)
    for one in lookup.pipeline.closure(()):
        walk.take(one)
    known = walk.found.get(name)
    if known is None or known.hit is None:
        first = next(one for one in lookup.pipeline.closure([name]) if one not in walk.artifacts)
        assessed = walk.found.get(first)
        why = f" ({first}: {'; '.join(assessed.reasons)})" if assessed is not None and assessed.reasons else ""
        raise errors.StageFailed(
            f"{name} is not built{why}; run it: trtpipe run {lookup.pipeline.file} --target {name}"
        )
    return name, walk


def _required(walk: Walk, engine: str) -> tuple[list[Requirement], list[str]]:
    """Give the figures that are required of an engine, and a sentence for each that is not met or not known."""
    pipeline = walk.lookup.pipeline
    met: list[Requirement] = []
    unmet: list[str] = []
    after = {engine}
    for name in pipeline.closure(()):
        stage = pipeline.stages[name]
        if after.isdisjoint(stage.upstream):
            continue
        after.add(name)
        if not stage.params.get("require"):
            continue
        known = walk.found.get(name)
        if known is None or known.hit is None:
            why = (known.failure or "; ".join(known.reasons)) if known is not None else "what it reads is not made"
            unmet.append(f"{name} ({stage.type}) has no figures for this engine: {' '.join(why.split())}")
            continue
        for one in known.hit.figures:
            if one.rule:
                met.append(_requirement(name, one))
                if not one.passed:
                    unmet.append(f"{name}: {one.name} is {one.value}, and {one.rule} is required")
    return met, unmet


def _requirement(stage: str, one: Figure) -> Requirement:
    return Requirement(stage=stage, figure=one.name, value=one.value, rule=one.rule, passed=bool(one.passed))


def described(content: bytes | str) -> BundledFile:
    """Give the digest and size of a file's content. Raises PipelineInvalid if it cannot be read."""
    if isinstance(content, bytes):
        import hashlib

        return BundledFile(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    try:
        return BundledFile(sha256=keys.digest_file(content), bytes=os.path.getsize(content))
    except OSError as error:
        raise errors.PipelineInvalid(f"{content} cannot be read: {error.strerror}") from None


# --- to a folder


def to_folder(
    ready: Ready, to: str, *, link: bool = False, note: Callable[[str], None] = lambda _: None
) -> tuple[str, bool]:
    """Write a bundle as the next version in a folder; give its path, and whether it is new.

    The version is a whole folder or not there at all, and `current` leads to it only then. The same bundle again is not
    written again, unless its files are no longer what they were. With `link`, files are hard links into the store,
    where that is possible. Raises StoreError for a folder that holds something else or cannot be written.
    """
    try:
        os.makedirs(to, exist_ok=True)
        foreign = [name for name in os.listdir(to) if not (name.isdigit() or name == CURRENT or name.startswith("."))]
        if foreign:
            raise errors.StoreError(
                f"{to} holds {', '.join(sorted(foreign)[:3])}, expected an empty folder, or one that deploy has written"
            )
        text = ready.contents[Bundle.file]
        current = os.path.join(to, CURRENT)
        if os.path.isfile(os.path.join(current, Bundle.file)):
            with open(os.path.join(current, Bundle.file), "rb") as stream:
                same = stream.read() == text
            try:
                if same and reading.verify(Path(current)) is not None:
                    return os.path.join(to, os.readlink(current)), False
            except (errors.GateFailed, errors.StageFailed) as damage:
                note(f"the bundle is written again: {damage}")
        versions = [int(name) for name in os.listdir(to) if name.isdigit()]
        part = tempfile.mkdtemp(prefix=".part-", dir=to)
        try:
            fill(part, ready.contents, link=link)
            final = _take_number(part, to, max(versions, default=0) + 1)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        _point(to, os.path.basename(final))
    except OSError as error:
        raise errors.StoreError(f"{error.filename or to} cannot be written: {error.strerror or error}") from None
    return final, True


def _take_number(part: str, to: str, number: int) -> str:
    """Give a whole folder the next number that nobody else takes at the same time."""
    while True:
        final = os.path.join(to, str(number))
        try:
            os.rename(part, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            number += 1
        else:
            return final


def to_model(ready: Ready, to: str) -> tuple[str, bool]:
    """Write a model's folder of Triton or an OCI layout, whole or not at all. Raises StoreError if it is there already.

    Triton reads all versions in that folder by one config, and another engine has another, so it gets a folder of its
    own.
    """
    if os.path.lexists(to):
        raise errors.StoreError(f"{to} is there already, and is not overwritten: name another, or remove it")
    above = os.path.dirname(os.path.abspath(to))
    try:
        os.makedirs(above, exist_ok=True)
        part = tempfile.mkdtemp(prefix=".part-", dir=above)
        try:
            fill(part, ready.contents)
            os.rename(part, to)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        _sync(above)
    except OSError as error:
        raise errors.StoreError(f"{error.filename or to} cannot be written: {error.strerror or error}") from None
    return to, True


def fill(folder: str, contents: Mapping[str, bytes | str], *, link: bool = False) -> None:
    """Write files into a folder, each synced to the disk. Raises OSError."""
    os.chmod(folder, 0o755)  # noqa: S103 — temporary folders are made for their owner alone
    for name, content in contents.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(content, bytes):
            with open(path, "wb") as stream:
                stream.write(content)
        elif link and _linked(content, path):
            continue
        else:
            copying.copy(content, path)
        os.chmod(path, 0o644)
        _sync(path)
    for place, _, _ in os.walk(folder):
        _sync(place)


def _linked(source: str, path: str) -> bool:
    with contextlib.suppress(OSError):
        os.link(os.path.realpath(source), path)
        return True
    return False


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _point(to: str, version: str) -> None:
    """Let `current` lead to a version, at once: there is never a moment without it."""
    new = os.path.join(to, f".{CURRENT}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    os.symlink(version, new)
    os.replace(new, os.path.join(to, CURRENT))
    _sync(to)


def to_tar(ready: Ready, to: str) -> tuple[str, bool]:
    """Write a bundle as a tar file, the same bytes each time. Raises StoreError."""
    import io
    import tarfile

    if os.path.lexists(to):
        raise errors.StoreError(f"{to} is there already, and is not overwritten: name another, or remove it")
    part = f"{to}.part-{os.getpid()}"
    try:
        with open(part, "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for name, content in sorted(ready.contents.items()):
                    head = tarfile.TarInfo(name)  # owner, group and time are zero
                    head.mode = 0o644
                    head.size = len(content) if isinstance(content, bytes) else os.path.getsize(content)
                    if isinstance(content, bytes):
                        archive.addfile(head, io.BytesIO(content))
                    else:
                        with open(content, "rb") as reading:
                            archive.addfile(head, reading)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(part, to)  # fails if somebody has made it meanwhile
        os.unlink(part)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError):
            raise errors.StoreError(f"{to} cannot be written: {error.strerror or error}") from None
        raise
    return to, True
