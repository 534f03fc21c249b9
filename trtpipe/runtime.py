"""What a runtime is to all others: its bindings, a session, the protocol that every backend speaks.

The backends themselves, and the one door to their imports, are in `trtpipe.backends`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np

NAMES = ("tensorrt", "tensorrt_rtx", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Binding:
    """One input or output of an engine. `shape` holds -1 for a dynamic axis; `dtype` is NumPy's name or `bfloat16`."""

    name: str
    mode: str  # input | output
    dtype: str
    shape: tuple[int, ...]
    dims: tuple[int | str, ...]
    """The shape with the ONNX names of its dynamic axes."""


def batch_dim(inputs: Iterable[Mapping[str, Any]]) -> int | str | None:
    """Give the dim of the batch axis by the inputs' records: the first axis of the first input where that is dynamic.

    Where no input begins with a dynamic axis, the first axis of the first input that has one.
    """
    firsts = [entry["dims"][0] for entry in inputs if entry["dims"]]
    return next((dim for dim in firsts if isinstance(dim, str)), firsts[0] if firsts else None)


@dataclass(frozen=True, kw_only=True)
class Pending:
    """An input that is not in memory yet: a session says where it shall be read to.

    `fill` is called once, with a C-contiguous array of that shape and dtype, maybe on another thread. Inputs that
    are `ordered` are filled one after the other, as they come; others maybe several at a time.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Callable[[np.ndarray], None]
    ordered: bool = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured: at least `iterations` queries and `duration_ms`, after `warm_up_ms`."""

    warm_up_ms: float = 200.0
    iterations: int = 10
    duration_ms: float = 3000.0
    transfers: bool = True
    cuda_graph: bool = False
    spin_wait: bool = False
    profile: bool = False


class Query(NamedTuple):
    """The trace of one query, in milliseconds from the start; copies that did not happen have no length."""

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
        """Copy-in, compute and copy-out."""
        return self.h2d + self.compute + self.d2h


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a session measured. `queries` holds the warm-up too; `layers` (name, ms of each run) if profiled."""

    queries: Sequence[Query]
    device: str
    """`gpu` or `cpu`: where computing was timed."""
    cuda_graph: bool
    transfers: bool
    layers: Sequence[tuple[str, Sequence[float]]] = ()
    notes: Sequence[str] = ()


class Session(Protocol):
    """An engine that is ready to run, with the buffers that it owns. Close it on every path."""

    bindings: Sequence[Binding]
    info: Mapping[str, Any]

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch; the arrays given back are valid until the next call."""
        ...

    def stream(self, feeds: Iterable[Mapping[str, np.ndarray | Pending]]) -> Iterator[dict[str, np.ndarray]]:
        """Run batches in order; each result is valid until the next one is asked for.

        Feeds may be taken ahead of the results, on another thread; one is given back to its maker when the next
        is asked for.
        """
        ...

    def measure(self, feed: Mapping[str, np.ndarray], settings: Settings) -> Measured:
        """Run one batch again and again and time it by trtexec's definitions; see trtpipe.backends.measure."""
        ...

    def close(self) -> None:
        """Free all memory; safe to call twice."""
        ...


class Backend(Protocol):
    """A runtime. Bodies of stages call this, never polygraphy, tensorrt or onnxruntime."""

    name: str
    version: str

    def parse(self, model: Path) -> dict[str, Any]:
        """Parse an ONNX file with the runtime's own parser.

        Gives `inputs` and `outputs` (name, dtype, shape with -1, dims) and `layers` (type → count) as the runtime
        sees them. Raises StageFailed that lists every rejected node with its name, op and reason.
        """
        ...

    def configure(self, config: dict[str, Any], network: Mapping[str, Any]) -> dict[str, Any]:
        """Check that this runtime can honour a config (see stages/configure.py).

        Gives the runtime's part of the config: `strongly_typed` (bool), `rewrite` (None, "fp16" or "bf16": what
        must be done to the ONNX file), `flags` (builder flags by name) and `not_applicable` (names of settings
        that have no meaning here and lose nothing). Raises StageFailed for what it cannot honour, naming the
        runtime and the alternatives.
        """
        ...

    def build(
        self,
        model: Path,
        config: Mapping[str, Any],
        plan: Path,
        shared: Path,
        note: Callable[[str], None],
        *,
        pinned: Path | None = None,
        reproducible: bool = False,
    ) -> dict[str, Any]:
        """Build and serialise the plan for a configured model into the file `plan`.

        `pinned` is a timing cache to use instead of the store's; `reproducible` fails a build that another one
        might not repeat.
        `shared` is the folder of timing caches. Gives the manifest's runtime part: `bindings` (list of
        Binding as dicts), `target` (GPU name and compute capability, or the capabilities built for).
        Raises StageFailed with the runtime's own last errors.
        """
        ...

    def open(
        self,
        plan: Path,
        manifest: Mapping[str, Any],
        buffers: Mapping[str, Any],
        note: Callable[[str], None],
        shared: Path | None = None,
    ) -> Session:
        """Load a plan and allocate what `buffers` (the buffers artifact's record) says.

        `shared` is the folder of state that outlives a run: TensorRT-RTX keeps there what it compiled.
        """
        ...


def plan_name(backend: str) -> str:
    """Give the file name of a backend's plan: only TensorRT's own are called plan."""
    return "engine.onnx" if backend == "onnxruntime" else "engine.plan"
