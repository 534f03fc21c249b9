"""Provenance: a signed statement of what an artifact was made of, in a form that other tools read.

The form is an in-toto statement (v1) with the SLSA provenance predicate (v1) in a DSSE envelope. The subject is the
files of one stage's artifact. The materials are the document, every file from outside and every source that it or a
stage before it read, by digest, and the packages in their keys, by version. docs/remote.md explains the fields.

Sources: in-toto/attestation spec/v1 (statement.md, resource_descriptor.md); slsa.dev/provenance/v1; DSSE 1.0.
"""

from __future__ import annotations

import calendar
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import __version__, project
from trtpipe import key as keys
from trtpipe.documents.action import About
from trtpipe.errors import GateFailed, PipelineInvalid, StageFailed
from trtpipe.remote import signing
from trtpipe.remote.transport import redact
from trtpipe.run.lookup import Walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trtpipe.pipeline.graph import Source, Stage
    from trtpipe.pipeline.inputs import Found
    from trtpipe.run.lookup import Assessed, Lookup

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://github.com/trtpipe/trtpipe/blob/main/docs/remote.md#build-type-v1"
BUILDER = "https://github.com/trtpipe/trtpipe/blob/main/docs/remote.md#builder"
MAX_BYTES = 32 * 2**20

_NOT_PACKAGES = ("backend", "backend_version", "machine", "gpu", "compute_capability", "variables")


class Attested(NamedTuple):
    """A statement with a checked signature, and its signer."""

    statement: dict[str, Any]
    signer: str


def statement(lookup: Lookup, name: str, builder: str = BUILDER) -> dict[str, Any]:
    """Give the statement for what a stage made. Raises StageFailed if it, or what it reads, is not built.

    Variants that failed, and that a `select` went on without, are not in it.
    """
    stages: dict[str, Any] = {}
    environments: dict[str, Any] = {}
    built: dict[str, Any] = {}
    unseen: dict[str, Any] = {}
    materials: dict[str, dict[str, Any]] = {}
    walk = Walk(lookup)
    artifacts = walk.artifacts
    about = About()
    for one in lookup.pipeline.closure([name]):
        stage = lookup.pipeline.stages[one]
        assessed = walk.take(one)
        if assessed is None or assessed.hit is None:
            if one != name and one in walk.failed:
                continue
            raise StageFailed(f"{one} is not built; run it: trtpipe run {lookup.pipeline.file} --target {one}")
        action = lookup.store.action(assessed.digest)
        about = action.about if action else About()
        if about.gaps:
            unseen[one] = list(about.gaps)
        stages[one] = {
            "type": stage.type,
            "version": stage.version,
            "params": stage.params,
            "inputs": {
                port: i if isinstance(i, str) else {_form(i): redact(lookup.label(i))}
                for port, i in stage.inputs.items()
                if i not in walk.failed
            },
        }
        environments[one] = assessed.key.environment
        built[one] = {"key": assessed.digest, "artifact": artifacts[one].digest}
        for material in _materials(lookup, stage, assessed):
            materials.setdefault(keys.digest(material), material)
    document = {
        "name": project.name(lookup.pipeline.file, lookup.pipeline.root),
        "digest": {"sha256": keys.digest_file(lookup.pipeline.file)},
        "annotations": {"role": "document"},
    }
    finished = about.finished
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": file, "digest": {"sha256": sha256}} for file, (sha256, _) in sorted(artifacts[name].files.items())
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"pipeline": lookup.pipeline.name, "stage": name, "stages": stages},
                "internalParameters": {
                    "environment": environments,
                    "built": built,
                    "machine": about.environment,
                    **({"gaps": unseen} if unseen else {}),
                },
                "resolvedDependencies": [document, *sorted(materials.values(), key=_order)],
            },
            "runDetails": {
                "builder": {"id": builder, "version": {"trtpipe": __version__}},
                "metadata": {
                    "invocationId": built[name]["key"],
                    "startedOn": _earlier(finished, about.seconds),
                    "finishedOn": finished,
                },
            },
        },
    }


def _form(source: Source) -> str:
    return "file" if source.file is not None else "package" if source.package is not None else "url"


def _materials(lookup: Lookup, stage: Stage, assessed: Assessed) -> Iterable[dict[str, Any]]:
    """Give what a stage read from outside: files of its inputs, its sources, and packages by version."""
    for port, source in stage.inputs.items():
        if not isinstance(source, str):
            yield from _files(source, redact(lookup.label(source)), assessed.now.found[port])
    for file, sha256 in assessed.key.sources.items():
        yield {"name": file, "digest": {"sha256": sha256}, "annotations": {"role": "source"}}
    held = assessed.key.reads
    for file, content in held.get("files", {}).items():
        if content is not None:
            yield {"name": file, "digest": {"sha256": content}, "annotations": {"role": "read"}}
    for package, what in held.get("packages", {}).items():
        if what is not None:
            uri = f"pkg:pypi/{package}@{what.partition(' ')[0]}"
            yield {"name": package, "uri": uri, "annotations": {"role": "package"}}
    environment = assessed.key.environment
    for package, version in environment.items():
        if package not in _NOT_PACKAGES:
            yield {"name": package, "uri": f"pkg:pypi/{package}@{version}", "annotations": {"role": "package"}}
    if "backend" in environment:
        name, version = environment["backend"], environment["backend_version"]
        yield {"name": name, "uri": f"pkg:pypi/{name}@{version}", "annotations": {"role": "runtime"}}


def _files(source: Source, label: str, found: Found) -> Iterable[dict[str, Any]]:
    single = len(found.artifact.files) == 1
    for file, (sha256, _) in found.artifact.files.items():
        # An ONNX model's external data is beside it; a folder's files are below it.
        base = label if found.artifact.kind == "folder" else label.rpartition("/")[0]
        name = label if single and found.artifact.kind == "file" else f"{base}/{file}".lstrip("/")
        material = {"name": name, "digest": {"sha256": sha256}, "annotations": {"role": "input"}}
        yield {**material, "uri": label} if source.url is not None else material


def _order(material: dict[str, Any]) -> tuple[str, str]:
    return material["annotations"]["role"], material["name"]


def _earlier(finished: str, seconds: float) -> str:
    """Give the time so many seconds before a time, both as SLSA writes them (RFC 3339, UTC)."""
    form = "%Y-%m-%dT%H:%M:%SZ"
    try:
        return time.strftime(form, time.gmtime(calendar.timegm(time.strptime(finished, form)) - seconds))
    except (ValueError, OverflowError):
        return finished


def sign(made: dict[str, Any], signer: signing.Signer) -> str:
    """Give the envelope's text."""
    return json.dumps(signer.sign(PAYLOAD_TYPE, keys.canonical(made)), sort_keys=True) + "\n"


def read(path: str, trust: Mapping[str, str]) -> Attested:
    """Read an attestation that a trusted key signed.

    Raises PipelineInvalid if there is no such file, GateFailed if it is not signed by a trusted key or is no statement
    of trtpipe's build type.
    """
    try:
        with open(path, "rb") as stream:
            text = stream.read(MAX_BYTES)
    except OSError as error:
        raise PipelineInvalid(f"{path}: cannot be read: {error.strerror}") from None
    verified = signing.open_envelope(text, PAYLOAD_TYPE, trust, path)
    try:
        said = json.loads(verified.payload)
        wrong = said["_type"] != STATEMENT or said["predicateType"] != PREDICATE
        wrong = wrong or said["predicate"]["buildDefinition"]["buildType"] != BUILD_TYPE
        {s["name"]: s["digest"]["sha256"] for s in said["subject"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        wrong = True
    if wrong:
        raise GateFailed(f"{path}: found a signed statement of something else, expected provenance by trtpipe")
    return Attested(said, verified.signer)


def differences(attested: Attested, lookup: Lookup, name: str) -> list[str]:
    """Say how the artifact that a stage has here, and what it was made of, differ from what was attested.

    Raises StageFailed if the stage is not built here.
    """
    now = statement(lookup, name)
    said = attested.statement
    lines = _changed("file", _digests(said["subject"]), _digests(now["subject"]))
    before, after = (s["predicate"]["buildDefinition"] for s in (said, now))
    lines += _changed(
        "material", _digests(before.get("resolvedDependencies", [])), _digests(after["resolvedDependencies"])
    )
    for path, old, new in keys.difference(before.get("externalParameters"), after["externalParameters"]):
        lines.append(f"{path}: attested {json.dumps(old)[:80]}, found {json.dumps(new)[:80]}")
    return lines


def _digests(descriptors: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {
        f"{d.get('annotations', {}).get('role', '')} {d.get('name', '')}".strip(): (
            d.get("digest", {}).get("sha256") or d.get("uri", "")
        )
        for d in descriptors
    }


def _changed(what: str, said: dict[str, str], now: dict[str, str]) -> list[str]:
    lines = [f"{what} {name}: attested, but missing here" for name in said if name not in now]
    lines += [f"{what} {name}: found here, but not attested" for name in now if name not in said]
    lines += [
        f"{what} {name}: attested {said[name][:80]}, found {now[name][:80]}"
        for name in said
        if name in now and said[name] != now[name]
    ]
    return sorted(lines)
