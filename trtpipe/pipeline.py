"""Checked mapping → typed pipeline: references, kinds, cycles, order.

A resolved pipeline is plain JSON, so that a document which passed once is not read, validated or
resolved again: importing YAML, msgspec and jsonschema would cost more than an all-cached run.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe.errors import Cycle, KindMismatch, PipelineInvalid, UnknownReference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trtpipe.document import Document
    from trtpipe.state import State


_GLANCE = 2**24  # characters: more than any document that is read


class Source(NamedTuple):
    """An input from outside; just one of `file`, `package` and `url` (with `sha256`) is set."""

    file: str | None
    package: str | None
    url: str | None
    sha256: str | None
    place: str
    model: bool
    """Whether the port takes models, so that an ONNX file's external data belongs to it."""

    @property
    def label(self) -> str:
        """What people call it."""
        return self.file or self.package or self.url or ""


class Stage(NamedTuple):
    """One stage of a resolved pipeline. `params` have their defaults filled in.

    `inputs` maps a port to a stage's name or a Source. `sources` are files beside the document and
    `modules` importable modules whose content is in the key; `packages` are distributions whose versions are.
    """

    name: str
    type: str
    version: int
    params: dict[str, Any]
    inputs: dict[str, str | Source]
    output: str
    sources: tuple[str, ...]
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    backend: bool
    gpu_on: tuple[str, ...]
    place: str

    @property
    def upstream(self) -> tuple[str, ...]:
        """The stages that this one reads."""
        return tuple(dict.fromkeys(i for i in self.inputs.values() if isinstance(i, str)))


class Pipeline(NamedTuple):
    """A resolved pipeline; `stages` stand in an order in which each comes after what it reads."""

    name: str
    backend: str
    file: str
    stages: dict[str, Stage]

    @property
    def root(self) -> str:
        """The document's folder, which paths in it start from."""
        return os.path.dirname(os.path.abspath(self.file))

    def closure(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Give the targets (none: all stages) and all they need, in order. Raises UnknownReference."""
        from trtpipe.document import suggest

        wanted = set(targets) or set(self.stages)
        unknown = [t for t in targets if t not in self.stages]
        if unknown:
            raise UnknownReference([f"--target {t}: unknown stage{suggest(t, self.stages)}" for t in unknown])
        for name in reversed(self.stages):
            if name in wanted:
                wanted.update(self.stages[name].upstream)
        return tuple(name for name in self.stages if name in wanted)


def load(file: str, settings: Sequence[str], state: State | None) -> Pipeline:
    """Read, check and resolve a document; an unchanged one comes from `state`.

    Raises PipelineInvalid or one of its kinds with everything that is wrong.
    """
    stamp = [code_stamp(), os.path.abspath(file), file, *settings]
    if state is not None and (text := _glance(file)) is not None:
        resolved = state.resolved(_known(stamp, text))
        if resolved:
            return from_json(file, json.loads(resolved))
    from trtpipe import document, schema

    text = document.read(file)
    parsed = document.substitute(document.override(document.parse(text, file), settings))
    document.check(parsed, schema.pipeline_schema())
    pipeline = resolve(parsed)
    if state is not None:
        state.remember_resolved(_known(stamp, text), json.dumps(to_json(pipeline)))
    return pipeline


def _glance(file: str) -> str | None:
    """Read a document that may have passed before; what is wrong with it is `document.read`'s to say."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            return stream.read(_GLANCE)
    except (OSError, UnicodeDecodeError):
        return None


def _known(stamp: list[str], text: str) -> str:
    return hashlib.sha256("\0".join([*stamp, text]).encode()).hexdigest()


def code_stamp() -> str:
    """Give a text that changes whenever trtpipe's own code does: names, sizes and times of its modules."""
    top = os.path.dirname(os.path.abspath(__file__))
    found = []
    for folder in (top, *(os.path.join(top, f) for f in ("stages", "backends", "steps"))):
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".py"):
                        status = entry.stat()
                        found.append(f"{entry.path} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(sorted(found))


def to_json(pipeline: Pipeline) -> dict[str, Any]:
    """Give the resolved pipeline as a JSON object, without its file."""
    stages = []
    for stage in pipeline.stages.values():
        inputs = {port: i if isinstance(i, str) else i._asdict() for port, i in stage.inputs.items()}
        stages.append({**stage._asdict(), "inputs": inputs})
    return {"name": pipeline.name, "backend": pipeline.backend, "stages": stages}


def from_json(file: str, value: dict[str, Any]) -> Pipeline:
    """Make the pipeline again from `to_json`'s object."""
    stages = {}
    for stage in value["stages"]:
        stage["inputs"] = {p: i if isinstance(i, str) else Source(**i) for p, i in stage["inputs"].items()}
        for name in ("sources", "modules", "packages", "gpu_on"):
            stage[name] = tuple(stage[name])
        stages[stage["name"]] = Stage(**stage)
    return Pipeline(value["name"], value["backend"], file, stages)


def resolve(document: Document) -> Pipeline:
    """Resolve a document that fits the schema.

    Raises UnknownReference, KindMismatch, PipelineInvalid or Cycle, each with every problem of its sort.
    """
    given: dict[str, Any] = document.value["stages"]
    _check_references(document, given)
    order = _order(document, given)
    stages = {}
    problems: list[str] = []
    for name in order:
        stage, found = _stage(document, name, given[name])
        problems += found
        stages[name] = stage
    if problems:
        raise PipelineInvalid(problems)
    return Pipeline(document.value["name"], document.value.get("backend", "auto"), document.file, stages)


def _inputs(given: dict[str, Any]) -> Iterable[tuple[str, str, Any]]:
    for name, stage in given.items():
        for port, value in (stage.get("inputs") or {}).items():
            yield name, port, value


def _check_references(document: Document, given: dict[str, Any]) -> None:
    from trtpipe import stages
    from trtpipe.document import suggest

    types = {t: stages.get(t) for t in {stage["type"] for stage in given.values()}}
    unknown, mismatched = [], []
    for name, port, value in _inputs(given):
        path = ("stages", name, "inputs", port)
        if not isinstance(value, str):
            continue
        if value not in given:
            unknown.append(document.problem(path, f"unknown stage {value}{suggest(value, given)}"))
            continue
        kind = types[given[value]["type"]].output
        kinds = types[given[name]["type"]].inputs[port].kinds
        if kind not in kinds:
            message = f"found {value}, which makes {_a(kind)}, expected {' or '.join(map(_a, kinds))}"
            makers = [n for n, s in given.items() if types[s["type"]].output in kinds and n != name]
            hint = f"; {', '.join(makers)} would fit" if makers else ""
            mismatched.append(document.problem(path, message + hint))
    if unknown:
        raise UnknownReference(unknown)
    if mismatched:
        raise KindMismatch(mismatched)


def _a(kind: str) -> str:
    """Give a kind with its article; kinds in the plural have none."""
    if kind.endswith("s"):
        return kind
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _order(document: Document, given: dict[str, Any]) -> list[str]:
    """Order the stages so that each comes after what it reads, else as written. Raises Cycle with one cycle."""
    needs = {name: [] for name in given}  # type: dict[str, list[str]]
    for name, _, value in _inputs(given):
        if isinstance(value, str) and value not in needs[name]:
            needs[name].append(value)
    waiting = {name: len(n) for name, n in needs.items()}
    users: dict[str, list[str]] = {name: [] for name in given}
    for name, upstream in needs.items():
        for one in upstream:
            users[one].append(name)
    ready = [name for name in given if not waiting[name]]
    order: list[str] = []
    for name in ready:  # grows while it is read
        order.append(name)
        for user in users[name]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    if len(order) < len(given):
        stuck = set(given) - set(order)
        walk = [next(name for name in given if name in stuck)]
        while walk[-1] not in walk[:-1]:
            walk.append(next(n for n in needs[walk[-1]] if n in stuck))
        cycle = walk[walk.index(walk[-1]) :][::-1]
        raise Cycle(document.problem(("stages", cycle[0]), f"found a cycle: {' → '.join(cycle)}"))
    return order


def _stage(document: Document, name: str, given: dict[str, Any]) -> tuple[Stage, list[str]]:
    import msgspec

    from trtpipe import entrypoint, stages

    stage_type = stages.get(given["type"])
    path = ("stages", name, "params")
    problems: list[str] = []
    try:
        params = msgspec.convert(given.get("params") or {}, stage_type.Params)
    except (msgspec.ValidationError, ValueError) as error:
        # The schema is stricter than msgspec, so this is seldom reached.
        raise PipelineInvalid(document.problem(path, str(error))) from None
    problems += [document.problem((*path, *_path(inner)), message) for inner, message in params.problems()]
    files = [*params.files()]
    modules: list[str] = []
    for one in params.entrypoints():
        where = entrypoint.split(one)[0]
        (files if entrypoint.is_file(one) else modules).append(where)
    inputs: dict[str, str | Source] = {}
    for port, value in (given.get("inputs") or {}).items():
        place = document.problem(("stages", name, "inputs", port), "")[:-2]
        takes_models = "model" in stage_type.inputs[port].kinds
        inputs[port] = (
            value if isinstance(value, str)
            else Source(**{name: value.get(name) for name in ("file", "package", "url", "sha256")},
                        place=place, model=takes_models)
        )  # fmt: skip
    stage = Stage(
        name=name,
        type=stage_type.name,
        version=stage_type.version,
        params=json.loads(msgspec.json.encode(params)),
        inputs=inputs,
        output=stage_type.output,
        sources=tuple(sorted(set(files))),
        modules=tuple(sorted(set(modules))),
        packages=tuple(sorted({*stage_type.packages, *params.packages()})),
        backend=stage_type.backend,
        gpu_on=stage_type.gpu_on,
        place=document.problem(("stages", name), "")[:-2],
    )
    return stage, problems


def _path(inner: str) -> tuple[str | int, ...]:
    """Split a path inside the params, as in `steps[0].tensor`."""
    parts = filter(None, inner.replace("[", ".[").split("."))
    return tuple(int(part[1:-1]) if part.startswith("[") else part for part in parts)
