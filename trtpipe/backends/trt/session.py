"""A TensorRT engine that is ready to run, with its streams and buffers; works alike on both flavours, 8.6 to 11.

Our own rather than Polygraphy's runner: that one sets an allocator for every output on every call and copies
through pageable memory that it makes anew (measured: 14.6 ms where the device takes 3.75 ms).

The session is the loop over batches: threads read batches ahead (reader.py), and as many are in flight on the
device as there are slots (execution.py).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from trtpipe import environment
from trtpipe.backends.trt import device, reader, timing
from trtpipe.backends.trt.cuda import Runtime
from trtpipe.backends.trt.engine import Engine
from trtpipe.backends.trt.execution import Execution
from trtpipe.backends.trt.reader import Reader
from trtpipe.documents.benchmark import RuntimeInfo
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from trtpipe.backends.trt.dtypes import Array
    from trtpipe.backends.trt.library import Library
    from trtpipe.backends.trt.slots import Feed, Loaded, Slot
    from trtpipe.documents.benchmark import Settings
    from trtpipe.documents.buffers import Buffers
    from trtpipe.documents.manifest import Manifest
    from trtpipe.runtime import Measured


class TrtSession:
    """See trtpipe.runtime.Session. float32 and bfloat16 feed bfloat16 inputs; int64 feeds fit int32 inputs."""

    def __init__(
        self,
        library: Library,
        plan: Path,
        manifest: Manifest,
        buffers: Buffers,
        note: Callable[[str], None],
        *,
        shared: Path | None = None,
    ) -> None:
        self._library = library
        self._readers: list[Reader] = []
        self._closed = False
        self._cuda = Runtime()
        engine = Engine(library, self._cuda, plan, manifest, note, profile=buffers.profile, shared=shared)
        self._execution = Execution(library, self._cuda, engine, buffers, note)
        self.bindings = engine.bindings
        gpu = environment.gpus()[0]
        if library.rtx and (what := environment.rtx_rounded(gpu.compute_capability, manifest.precision)):
            note(f"{library.title} multiplies {what} in TF32 on {gpu.name}, whatever it is told")
        self.info = RuntimeInfo(
            runtime=library.name,
            runtime_version=library.version,
            device=gpu.name,
            compute_capability=gpu.compute_capability,
            cuda=self._cuda.version(),
            driver=environment.driver(),
            slots=len(self._execution.slots),
            activation_bytes=engine.activation_bytes(),
        )

    def run(self, feed: Feed) -> dict[str, Array]:
        """Run one batch; the arrays given back are valid until the next call (and not after `close`).

        Raises StageFailed for a wrong name, dtype or shape, naming tensor, found and expected, and with
        TensorRT's own words if it refuses.
        """
        self._ready()
        loaded = self._execution.fill(self._execution.slots[0], feed)
        self._execution.send(loaded)
        self._execution.launch(loaded)
        return self._execution.finish(loaded)

    def run_on_device(
        self, feed: Mapping[str, Any], *, stream: int | None = None, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run a batch of arrays on the GPU, with DLPack or `__cuda_array_interface__`; no way leads through the host.

        `stream` is the number of the caller's CUDA stream, by default the current one of the arrays' library. Inputs
        are read and outputs are there in its order; the host waits for nothing. Gives a DeviceArray for each output
        that `out` does not name, and for the others what it names. Raises StageFailed as `run` does.
        """
        self._ready()
        into = out or {}
        if unknown := into.keys() - {b.name for b in self._execution.engine.outputs}:
            raise StageFailed(f"out: found {', '.join(sorted(unknown))}, expected an output")
        here = device.current_stream([*feed.values(), *into.values()]) if stream is None else stream
        given = {name: device.read(name, one, here) for name, one in feed.items()}
        targets = {name: device.read(name, one, here) for name, one in into.items()}
        return {**self._execution.pass_through(given, here, targets), **into}

    def stream(self, feeds: Iterable[Feed]) -> Iterator[dict[str, Array]]:
        """Run batches in order, as many in flight as there are slots; each result is valid until the next one.

        Threads take the feeds and fill slots, ahead of what is computed.
        """
        self._ready()
        execution = self._execution
        threads = reader.how_many(execution.slots, execution.engine.inputs)
        batches = Reader(execution.slots, feeds, self._load, threads)
        self._readers.append(batches)
        flying: deque[Loaded] = deque()
        try:
            while (loaded := batches.next()) is not None:
                if len(flying) == len(execution.slots):
                    yield execution.finish(flying.popleft())
                execution.launch(loaded)
                batches.launched()
                flying.append(loaded)
            while flying:
                yield execution.finish(flying.popleft())
        finally:
            self._readers.remove(batches)
            batches.stop()
            # The caller may have stopped on the way: the buffers are free again once nothing runs.
            for stream in execution.streams:
                self._cuda.synchronize(stream)

    def _load(self, slot: Slot, feed: Feed) -> Loaded:
        """Fill a slot as soon as its last batch has left host memory, and start its way to the device."""
        self._cuda.wait_host(slot.arrived)  # what is in the host memory has been copied
        if self._execution.engine.on_host:
            self._cuda.wait_host(slot.computed)  # computing reads it there
        loaded = self._execution.fill(slot, feed)
        self._execution.send(loaded)
        return loaded

    def _ready(self) -> None:
        if self._closed:
            raise StageFailed("the session is closed")
        self._library.errors.clear()

    def measure(self, feed: Feed, settings: Settings) -> Measured:
        """Time one batch again and again as trtexec does; see timing.measure."""
        self._ready()
        return timing.measure(self._execution, feed, settings)

    def close(self) -> None:
        """Stop the readers, then free all memory; safe to call twice."""
        self._closed = True
        for one in [*self._readers]:
            one.stop()
        self._execution.close()
