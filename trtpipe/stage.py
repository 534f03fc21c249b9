"""The parts of a stage type: its params, its ports, and the context of its body."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from trtpipe import copying, texts, typed
from trtpipe.documents import files
from trtpipe.documents.checks import Bound
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from trtpipe.documents.base import Document
    from trtpipe.runtime import Backend

_Value = TypeVar("_Value")
_Kind = TypeVar("_Kind", bound="Document")

Size = Annotated[
    str,
    Meta(
        pattern=texts.SIZE_PATTERN,
        description="A size in bytes: a whole number and B, KiB, MiB or GiB.",
        extra={typed.MARK: typed.SIZE},
    ),
]
Entrypoint = Annotated[
    str,
    Meta(
        pattern=texts.ENTRYPOINT_PATTERN,
        description="`file.py:callable` beside the document, or an importable `package.module:callable`.",
        extra={typed.MARK: typed.ENTRYPOINT},
    ),
]
DocumentPath = Annotated[
    str,
    Meta(
        min_length=1,
        description="A path relative to the document; its content is in the key.",
        extra={typed.MARK: typed.PATH},
    ),
]
InnerPath = Annotated[
    str,
    Meta(min_length=1, description="A path inside a folder that is an input.", extra={typed.MARK: typed.INNER_PATH}),
]
Env = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="The name of a variable.")], ...],
    Meta(
        description="Environment variables that the code gets even if their names look like secrets. Records show "
        "their values. Other variables that the code reads are in the key as digests."
    ),
]


def put(source: Path, target: Path, *, link: bool) -> None:
    """Put one file into an artifact: as a hard link if `link` allows it and the disk can, otherwise as a copy.

    Link only files that belong to the store: linking a user's own file would let a later edit reach the artifact.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(source, target)
        except OSError:
            pass
        else:
            return
    copying.copy(source, target)


Network = Annotated[
    bool,
    Meta(description="The code may connect to other machines. What they answer is in no key; the record says so."),
]


BatchAxis = Annotated[
    dict[str, Annotated[int, Meta(ge=0)] | Literal["none"]],
    Meta(
        description="Which axis of a tensor is the batch, by the tensor's name: a number from 0, or `none`. It is "
        "needed only where the network does not say it: an axis with the name of the inputs' batch is the batch."
    ),
]

CustomOps = Annotated[
    list[DocumentPath],
    Meta(
        description="Libraries of operators that ONNX Runtime does not have: native code, which runs in this stage and "
        "in every later one that runs the model there. It travels with the model, so the first stage names it."
    ),
]

FirstCheck = Annotated[
    Literal["auto", "off"] | Bound,
    Meta(
        description="An engine's first answer is held against ONNX Runtime's on the model as it was parsed; beyond the "
        "bound the stage fails (exit 5). `auto`: the manifest's bound. `off`: for models that draw random numbers. "
        "`{relative_l2: 0.1}`: this bound."
    ),
]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every stage type's params. Field types and `Meta` give the JSON Schema and the reference page."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """Give errors that a schema cannot express, as (path inside the params, `found …, expected …`)."""
        return ()

    def missing(self, ports: Collection[str]) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        """Give errors about inputs that these params need and do not get, as (path inside the stage, message)."""
        return ()

    def entrypoints(self) -> Iterable[str]:
        """Give the entrypoints that the body will load; their files are in the key."""
        return typed.found(self, typed.ENTRYPOINT)

    def files(self) -> Iterable[str]:
        """Give the declared source files, beyond the entrypoints' own, relative to the document."""
        return typed.found(self, typed.PATH)

    def packages(self) -> Iterable[str]:
        """Give further distributions on whose versions the stage depends with these params."""
        return ()

    def cacheable(self) -> bool:
        """Tell whether an artifact that was made with these params may be a hit in a later run."""
        return True

    def tolerant(self) -> bool:
        """Tell whether the stage also runs if some stages failed that its ports with `many` read."""
        return False

    def figures(self) -> Iterable[str]:
        """Give the names of the figures that the stage will measure; `*` stands for names known only at run time."""
        return ()

    def mismatches(self, upstream: Mapping[str, Sequence[Upstream]]) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        """Give errors about the stages that each port reads, as (path inside the stage, `found …, expected …`)."""
        return ()


class Upstream(NamedTuple):
    """A stage that another stage reads, with what is known of it before anything runs."""

    stage: str
    params: Params


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input of a stage type: the kinds of artifact that it takes.

    `outside` means that the port also takes a file or folder from outside the pipeline. `many` means that it takes a
    list of stages, and all variants of each; the body gets them with Context.many.
    """

    kinds: tuple[str, ...]
    doc: str
    required: bool = True
    outside: bool = False
    many: bool = False


def many_port(port: str, stage: str) -> str:
    """Name the input through which a port with `many` reads one stage: `metrics[accuracy@precision=fp16]`."""
    return f"{port}[{stage}]"


def _of_port(port: str, values: Mapping[str, _Value]) -> dict[str, _Value]:
    found = {name[len(port) + 1 : -1]: value for name, value in values.items() if name.startswith(f"{port}[")}
    return dict(sorted(found.items()))


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a body reads: files below `folder`, named by `files` (posix paths, sorted).

    Read only what `files` names: the folder of an input from outside may hold other files.
    `kind` is `file` or `folder` for inputs from outside, else the artifact's kind.
    """

    name: str
    kind: str
    folder: Path
    files: tuple[str, ...]
    label: str

    def path(self, name: str) -> Path:
        """Give the path of one file. Raises StageFailed if the input has no such file."""
        if name not in self.files:
            raise StageFailed(f"input {self.name} ({self.label}) has no file {name}; it has {', '.join(self.files)}")
        return self.folder / name

    def one(self, *suffixes: str) -> Path:
        """Give the path of the only file with one of the suffixes. Raises StageFailed if there is not exactly one."""
        found = [f for f in self.files if PurePosixPath(f).suffix in suffixes]
        if len(found) != 1:
            raise StageFailed(
                f"input {self.name} ({self.label}): expected one {' or '.join(suffixes)} file, "
                f"found {', '.join(found) or ', '.join(self.files) or 'none'}"
            )
        return self.folder / found[0]

    def read(self, kind: type[_Kind]) -> _Kind:
        """Give one of the input's stage documents. Raises StageFailed if it is missing or not valid."""
        return files.read(self.path(kind.file), kind, f"input {self.name} ({self.label}): {kind.file}")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage's body gets. It writes files only below `out` and `scratch`.

    `sources` maps each declared source path to the file on disk. `backend` is a function, so that a body without need
    for a runtime imports none. `load` imports what an entrypoint names and gives the callable; it raises StageFailed.
    """

    stage: str
    params: Any
    inputs: Mapping[str, Input]
    out: Path
    scratch: Path
    sources: Mapping[str, Path]
    key: str
    backend_name: str
    backend: Callable[[], Backend]
    load: Callable[[str], Callable[..., Any]]
    progress: Callable[[int, int | None, str], None]
    note: Callable[[str], None]
    shared: Path = field(default_factory=Path)
    """`artifacts/timing`, for state that outlives a run and is no artifact."""
    doing: Callable[[str], None] = lambda _: None
    """Says what the body is at, such as `calibrating on 64 samples`; shown while it runs, and kept nowhere."""
    figure: Callable[[str, float, str, bool | None], None] = lambda *_: None
    """Says what the body measured: name, value, the rule for it (or an empty text), whether it meets the rule."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """For a tolerant stage, the inputs that failed, and why: `engines[engine@precision=int8]` → a sentence."""

    def many(self, port: str) -> dict[str, Input]:
        """Give the inputs of a port with `many` by the names of their stages, sorted."""
        return _of_port(port, self.inputs)

    def missing(self, port: str) -> dict[str, str]:
        """Give the failed stages of a port with `many`, sorted, and why they failed."""
        return _of_port(port, self.failed)

    def write(self, document: Document) -> None:
        """Write a stage document into the artifact, under the file name of its kind."""
        files.write(self.out / document.file, document)

    def write_json(self, name: str, value: Any) -> None:
        """Write a value in the form of another program as readable JSON with sorted names, the same bytes each time."""
        (self.out / name).write_text(files.text(value, name), "utf-8")


@dataclass(frozen=True, kw_only=True)
class StageType:
    """One kind of stage. `version` rises whenever the body's output changes for the same key.

    `packages` are the distributions whose versions are in the key. `backend` puts the runtime and its full version into
    the key. `gpu_on` names the runtimes on which the body needs a GPU; the GPU's name is then in the key too. `alone`
    means that the body measures time, so no other stage of the run may work at the same time.
    """

    name: str
    version: int
    Params: type[Params]
    inputs: Mapping[str, Port]
    output: str
    doc: str
    run: Callable[[Context], None]
    packages: tuple[str, ...] = ()
    backend: bool = False
    gpu_on: tuple[str, ...] = ()
    alone: bool = False
