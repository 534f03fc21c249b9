"""The protocols of a backend and of its sessions.

Their documents are in `trtpipe.documents`. The backends, and the only function that imports them, are in
`trtpipe.backends`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from trtpipe.documents.base import Runtime
    from trtpipe.documents.benchmark import RuntimeInfo, Settings
    from trtpipe.documents.buffers import Buffers
    from trtpipe.documents.config import Asked, Config, Hold
    from trtpipe.documents.layers import Layers
    from trtpipe.documents.manifest import Binding, Manifest, Proof, Target
    from trtpipe.documents.network import Network

NAMES = ("tensorrt", "tensorrt_rtx", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Pending:
    """An input that is not in memory yet; the session gives the memory into which it is read.

    `fill` is called once, perhaps on another thread, with a C-contiguous array of this shape and dtype. Inputs that are
    `ordered` are filled one after the other, in order; others may be filled several at a time.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Callable[[np.ndarray], None]
    ordered: bool = True


class Query(NamedTuple):
    """The trace of one query, in milliseconds from the start; a copy that did not happen has length 0."""

    enqueue_start: float
    enqueue_end: float
    h2d_start: float
    h2d_end: float
    compute_start: float
    compute_end: float
    d2h_start: float
    d2h_end: float

    @property
    def h2d(self) -> float:
        """Time of the copy from host to device."""
        return self.h2d_end - self.h2d_start

    @property
    def compute(self) -> float:
        """Time from the start to the end of computing on the device."""
        return self.compute_end - self.compute_start

    @property
    def d2h(self) -> float:
        """Time of the copy from device to host."""
        return self.d2h_end - self.d2h_start

    @property
    def enqueue(self) -> float:
        """Host time of the call that enqueues the query."""
        return self.enqueue_end - self.enqueue_start

    @property
    def latency(self) -> float:
        """Sum of h2d, compute and d2h."""
        return self.h2d + self.compute + self.d2h


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a session measured. `queries` includes the warm-up; `layers` has (name, ms of each run) if profiled."""

    queries: Sequence[Query]
    device: str
    """`gpu` or `cpu`: where computing was timed."""
    cuda_graph: bool
    transfers: bool
    layers: Sequence[tuple[str, Sequence[float]]] = ()
    notes: Sequence[str] = ()


class Session(Protocol):
    """An engine that is ready to run, with its own buffers. Close it in every case."""

    bindings: Sequence[Binding]
    info: RuntimeInfo

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch; the arrays given back are valid until the next call."""
        ...

    def stream(self, feeds: Iterable[Mapping[str, np.ndarray | Pending]]) -> Iterator[dict[str, np.ndarray]]:
        """Run batches in order; each result is valid until the next one is asked for.

        Feeds may be taken ahead of the results, on another thread. A feed may be reused when the next one is asked for.
        """
        ...

    def measure(self, feed: Mapping[str, np.ndarray], settings: Settings) -> Measured:
        """Run one batch again and again and time it by trtexec's definitions; see trtpipe.backends.measure."""
        ...

    def close(self) -> None:
        """Free all memory; safe to call twice."""
        ...


class Parsed(NamedTuple):
    """A network as a runtime's parser sees it: inputs and outputs, and the number of layers of each type."""

    bindings: Sequence[Binding]
    layers: dict[str, int]
    told: tuple[str, ...] = ()
    """What the parser changed, for people."""

    def side(self, mode: str) -> list[Binding]:
        """Give the bindings of one mode, `input` or `output`."""
        return [b for b in self.bindings if b.mode == mode]


class Settled(NamedTuple):
    """How a runtime honours what was asked for.

    `rewrite` is the change of the ONNX file (`fp16`, `bf16` or none), `flags` are builder flags by name, and
    `not_applicable` are names of settings that have no meaning here and whose loss changes nothing.
    """

    strongly_typed: bool
    rewrite: Literal["fp16", "bf16"] | None
    flags: tuple[str, ...]
    not_applicable: tuple[str, ...]


class Built(NamedTuple):
    """What a runtime says about the plan that it built; `told` is what it warned of, for people."""

    bindings: tuple[Binding, ...]
    target: Target
    proof: Proof
    layers: Layers | None = None
    told: tuple[str, ...] = ()


class Engine(NamedTuple):
    """What an engine is run with: its plan, its manifest, and the record of its buffers."""

    plan: Path
    manifest: Manifest
    buffers: Buffers


class Backend(Protocol):
    """A runtime. Bodies of stages call this, never polygraphy, tensorrt or onnxruntime."""

    name: Runtime
    version: str

    def parse(self, model: Path) -> Parsed:
        """Parse an ONNX file with the runtime's own parser.

        Raises StageFailed that lists every rejected node with its name, op and reason.
        """
        ...

    def configure(self, asked: Asked, network: Network, hold: Hold | None = None) -> Settled:
        """Check that this runtime can honour the settings (see stages/configure.py), and say how.

        `hold` says what must stay float32 if the runtime chooses types, once that is known. Raises StageFailed for a
        setting that it cannot honour; the message names the runtime and the alternatives.
        """
        ...

    def build(
        self,
        model: Path,
        config: Config,
        plan: Path,
        shared: Path,
        note: Callable[[str], None],
        *,
        pinned: Path | None = None,
        reproducible: bool = False,
        doing: Callable[[str], None] = lambda _: None,
        progress: Callable[[int, int | None, str], None] = lambda *_: None,
    ) -> Built:
        """Build and serialise the plan for a configured model into the file `plan`.

        `pinned` is a timing cache that replaces the store's. `reproducible` fails a build that might not give the same
        bytes again. `shared` is the folder of timing caches. `doing` and `progress` are told how far it
        is. Raises StageFailed with the runtime's own last errors.
        """
        ...

    def open(
        self,
        plan: Path,
        manifest: Manifest,
        buffers: Buffers,
        note: Callable[[str], None],
        shared: Path | None = None,
    ) -> Session:
        """Load a plan and allocate its buffers.

        `shared` is the folder of state that outlives a run; TensorRT-RTX keeps its compiled kernels there.
        """
        ...


def plan_name(backend: str) -> str:
    """Give the file name of a backend's plan; only TensorRT's files are called plan."""
    return "engine.onnx" if backend == "onnxruntime" else "engine.plan"
