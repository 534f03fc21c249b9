"""A resolved pipeline: its stages in order, and what each reads.

It can be written as plain JSON and remembered, so that an unchanged document is not parsed, validated or resolved
again: importing YAML, msgspec and jsonschema would take longer than a run in which every stage hits.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from trtpipe import project
from trtpipe.errors import UnknownReference
from trtpipe.row import Row
from trtpipe.words import suggest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FAILED_INPUTS = "failed_inputs"


def lock_path(document: str) -> str:
    """Give the path of a document's lock file: `digits.yaml` has `digits.lock`."""
    stem, suffix = os.path.splitext(document)
    return (stem if suffix in (".yaml", ".yml") else document) + ".lock"


class Source(Row):
    """An input from outside; exactly one of `file`, `package` and `url` (with `sha256`) is set."""

    file: str | None
    package: str | None
    url: str | None
    sha256: str | None
    place: str
    model: bool
    """Whether the port takes models, so that an ONNX file's external data belongs to it."""

    @property
    def label(self) -> str:
        """The input's name for people."""
        return self.file or self.package or self.url or ""


class Limits(Row):
    """A stage's limits: `timeout` in seconds, `memory` in bytes; None is no limit."""

    timeout: int | None = None
    memory: int | None = None


class Stage(Row):
    """One stage of a resolved pipeline. `params` have their defaults filled in.

    `inputs` maps a port to a stage's name or a Source; a port with `many` appears once for each stage that it reads, as
    `port[stage]`. A stage of a matrix is one variant: `engine@precision=fp16`. The key holds the contents of `sources`
    (files beside the document) and `modules` (importable modules), and the versions of `packages` (distributions). A
    stage that is not `cacheable` runs each time. No other stage runs beside one that is `alone`. A `tolerant` stage
    runs without those of its inputs that failed; a run puts them into `failed` as (input, why). A `watched` stage runs
    users' code, and what that code reads is in the key too. `limits` are in no key.
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
    cacheable: bool
    alone: bool
    tolerant: bool
    watched: bool
    place: str
    failed: tuple[tuple[str, str], ...] = ()
    limits: Limits = Limits()

    @property
    def upstream(self) -> tuple[str, ...]:
        """The stages that this one reads."""
        return tuple(dict.fromkeys(i for i in self.inputs.values() if isinstance(i, str)))

    @property
    def env(self) -> tuple[str, ...]:
        """The environment variables that the stage declares: users' code gets them, and records show their values."""
        return tuple(self.params.get("env") or ())

    @property
    def key_params(self) -> dict[str, Any]:
        """The params as they are in the key, together with the failed inputs."""
        return {**self.params, FAILED_INPUTS: dict(self.failed)} if self.failed else self.params

    def without(self, failed: Mapping[str, str]) -> Stage:
        """Give the stage without inputs that failed (input → why)."""
        left = {port: i for port, i in self.inputs.items() if port not in failed}
        return self._replace(inputs=left, failed=tuple(sorted(failed.items())))


class Pipeline(Row):
    """A resolved pipeline; in `stages` each stage comes after the stages that it reads."""

    name: str
    backend: str
    file: str
    stages: dict[str, Stage]
    remote: dict[str, Any] | None = None

    @property
    def folder(self) -> str:
        """The document's folder, from which paths in the document start."""
        return os.path.dirname(os.path.abspath(self.file))

    @property
    def root(self) -> str:
        """The project's root: names in records start from it, and files outside it need --allow-outside."""
        return project.root(self.folder)

    def ends(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Give the stages that targets name; without any, those that no other stage reads."""
        read = {u for stage in self.stages.values() for u in stage.upstream}
        return self.match(targets) or tuple(name for name in self.stages if name not in read)

    def match(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Give the stages that targets name, in order: `engine` names all its variants, `engine@batch=1` some.

        Raises UnknownReference with every target that names none.
        """
        found: set[str] = set()
        unknown = []
        for target in targets:
            named = {target} & self.stages.keys() or self._variants(target)
            found |= named
            if not named:
                unknown.append(f"unknown stage {target}{self._near(target)}")
        if unknown:
            raise UnknownReference(unknown)
        return tuple(name for name in self.stages if name in found)

    def _variants(self, target: str) -> set[str]:
        from trtpipe import variant

        reference = variant.split(target)
        return {name for name in self.stages if "@" in name and reference.fits(name)}

    def _near(self, target: str) -> str:
        stage = target.partition("@")[0]
        variants = [name for name in self.stages if name.partition("@")[0] == stage]
        return suggest(target, variants or dict.fromkeys(name.partition("@")[0] for name in self.stages))

    def closure(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Give the targets (none: all stages) and all they need, in order. Raises UnknownReference."""
        wanted = set(self.match(targets)) or set(self.stages)
        for name in reversed(self.stages):
            if name in wanted:
                wanted.update(self.stages[name].upstream)
        return tuple(name for name in self.stages if name in wanted)


def to_json(pipeline: Pipeline) -> dict[str, Any]:
    """Give the resolved pipeline as a JSON object, without its file."""
    stages = []
    for stage in pipeline.stages.values():
        inputs = {port: i if isinstance(i, str) else i._asdict() for port, i in stage.inputs.items()}
        stages.append({**stage._asdict(), "inputs": inputs})
    return {"name": pipeline.name, "backend": pipeline.backend, "stages": stages, "remote": pipeline.remote}


def from_json(file: str, value: dict[str, Any]) -> Pipeline:
    """Make the pipeline again from `to_json`'s object."""
    stages = {}
    for stage in value["stages"]:
        stage["inputs"] = {p: i if isinstance(i, str) else Source(**i) for p, i in stage["inputs"].items()}
        for name in ("sources", "modules", "packages", "gpu_on", "failed"):
            stage[name] = tuple(stage[name])
        stage["limits"] = Limits(*stage["limits"])
        stages[stage["name"]] = Stage(**stage)
    return Pipeline(value["name"], value["backend"], file, stages, value["remote"])
