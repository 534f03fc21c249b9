"""A TensorRT engine that is ready to run, with its streams and buffers; works alike on both flavours, 8.6 to 11.

Our own rather than Polygraphy's runner: that one sets an allocator for every output on every call and copies
through pageable memory that it makes anew (measured: 14.6 ms where the device takes 3.75 ms).

Three streams share the work: copy in, compute, copy out. A slot holds what one batch in flight needs, so that
while one batch is computed the next is copied in, the one after that is read from disk by a thread of its own,
and the last is copied out. There is one context, so batches are computed one after the other, by the same kernels
whatever the number of slots: results do not depend on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import re
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trtpipe import environment
from trtpipe.backends.trt.cuda import Runtime
from trtpipe.data import parallel
from trtpipe.errors import StageFailed
from trtpipe.runtime import Measured, Pending, Query
from trtpipe.store.store import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from trtpipe.backends.trt.backend import TrtBackend
    from trtpipe.runtime import Binding, Settings

Array = np.ndarray[Any, np.dtype[Any]]
Shapes = tuple[tuple[int, ...], ...]
PROFILED = 25
"""Runs of a per-layer profile; the first fifth warms up."""


class Slot:
    """The buffers and events of one batch in flight; sizes in bytes.

    `device` maps a tensor's name to (pointer, size). `host` maps it to page-locked or pageable bytes. `arrived` is
    passed when the batch is on the device, `computed` when its results are there, `left` when they are on the host.
    """

    def __init__(self, cuda: Runtime) -> None:
        self.cuda = cuda
        self.device: dict[str, tuple[int, int]] = {}
        self.host: dict[str, Array] = {}
        self.graph: tuple[Shapes, Any] | None = None
        self.seen: Shapes | None = None
        """The shapes with which the slot was last enqueued, without a change of the context since."""
        self.out: dict[str, tuple[int, ...] | None] = {}
        """The outputs' shapes of the batch in flight; None where only running tells it."""
        self.allocators: dict[str, Any] = {}
        self._pinned: list[int] = []
        self._events: list[Any] = []
        self.arrived, self.computed, self.left = (self._event() for _ in range(3))

    def _event(self) -> Any:
        event = self.cuda.event()
        self._events.append(event)
        return event

    def reserve(self, name: str, size: int, *, pinned: bool, on_device: bool) -> None:
        """Allocate a tensor's buffers. TensorRT wants an address even for an empty tensor."""
        size = max(1, size)
        if on_device:
            self.device[name] = (self.cuda.malloc(size), size)
        if pinned:
            pointer = self.cuda.malloc_host(size)
            self._pinned.append(pointer)
            self.host[name] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))
        else:
            self.host[name] = np.empty(size, np.uint8)

    def grow(self, name: str, size: int) -> int:
        """Give a device buffer of at least `size` bytes for an output whose size only the engine knows."""
        pointer, have = self.device.get(name, (0, 0))
        if have < size or not pointer:
            self.drop_graph()
            if pointer:
                del self.device[name]
                self.cuda.free(pointer)
            pointer = self.cuda.malloc(max(1, size))
            self.device[name] = (pointer, max(1, size))
        return pointer

    def drop_graph(self) -> None:
        """Forget the captured graph: what it was captured with has changed."""
        self.seen = None
        if self.graph is not None:
            graph, self.graph = self.graph[1], None
            self.cuda.destroy_graph(graph)

    def close(self) -> None:
        """Free everything, even if some of it fails; safe to call twice."""
        first: StageFailed | None = None
        todo: list[tuple[Callable[[Any], None], Any]] = []
        if self.graph is not None:
            todo.append((self.cuda.destroy_graph, self.graph[1]))
        todo += [(self.cuda.destroy_event, event) for event in self._events]
        todo += [(self.cuda.free, pointer) for pointer, _ in self.device.values()]
        todo += [(self.cuda.free_host, pointer) for pointer in self._pinned]
        self.graph, self.device, self.host, self._pinned, self._events = None, {}, {}, [], []
        for call, handle in todo:
            try:
                call(handle)
            except StageFailed as error:
                first = first or error
        if first is not None:
            raise first


class Loaded(NamedTuple):
    """A batch whose inputs are in a slot, or on their way to the device."""

    slot: Slot
    shapes: Shapes


class TrtSession:
    """See trtpipe.runtime.Session. A bfloat16 tensor is float32 on this side; int64 feeds fit int32 inputs."""

    def __init__(
        self,
        backend: TrtBackend,
        plan: Path,
        manifest: Mapping[str, Any],
        buffers: Mapping[str, Any],
        note: Callable[[str], None],
        *,
        shared: Path | None = None,
    ) -> None:
        self._backend = backend
        self._trt = backend.trt
        self._note = note
        self._profile = int(buffers.get("profile", 0))
        self._profiles = manifest.get("profiles") or []
        self._cuda = Runtime()
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._kept: _RuntimeCache | None = None
        self._slots: list[Slot] = []
        self._streams: list[int] = []
        self._readers: list[_Reader] = []
        self._shapes: Shapes | None = None
        """The shapes that the context has now."""
        self._bound: Slot | None = None
        """The slot whose addresses the context has now."""
        self._out: dict[str, tuple[int, ...] | None] = {}
        self.bindings: Sequence[Binding] = []
        self._closed = False
        try:
            self.bindings = self._load(plan, manifest)
            self._inputs = [b for b in self.bindings if b.mode == "input"]
            self._outputs = [b for b in self.bindings if b.mode == "output"]
            # The values of a shape tensor are part of what a graph would freeze.
            self._fixed = not any(b.name in self._on_host for b in self._inputs)
            self._own_graphs = backend.rtx and hasattr(backend.trt, "CudaGraphStrategy")
            """TensorRT-RTX captures and launches graphs by itself, shape by shape."""
            self._capturable = self._fixed and not self._own_graphs
            if backend.rtx and shared is not None:
                self._kept = _RuntimeCache(backend, self._cuda, shared, str(manifest.get("key", "none")), note)
            self._allocate({entry["name"]: entry for entry in buffers["bindings"]}, int(buffers.get("slots", 1)))
        except BaseException:
            self.close()
            raise
        gpu = environment.gpus()[0]
        if backend.rtx and (what := environment.rtx_rounded(gpu.compute_capability, manifest.get("precision"))):
            note(f"{backend.title} multiplies {what} in TF32 on {gpu.name}, whatever it is told")
        self.info: Mapping[str, Any] = {
            "runtime": backend.name,
            "runtime_version": backend.version,
            "device": gpu.name,
            "compute_capability": gpu.compute_capability,
            "cuda": self._cuda.version(),
            "driver": environment.driver(),
            "slots": len(self._slots),
            "activation_bytes": self._activation_bytes(),
        }

    # -- loading -------------------------------------------------------------------------------------------------

    def _load(self, plan: Path, manifest: Mapping[str, Any]) -> list[Binding]:
        from polygraphy.backend.trt import EngineFromBytes

        from trtpipe.backends.trt.backend import DTYPES
        from trtpipe.runtime import Binding

        trt = self._trt
        self._runtime = trt.Runtime(self._backend.logger)
        if manifest.get("version_compatible"):
            self._runtime.engine_host_code_allowed = True
        self._engine = EngineFromBytes(plan.read_bytes(), runtime=self._runtime)()
        engine = self._engine
        known = {entry["name"]: tuple(entry["dims"]) for entry in manifest["bindings"]}
        bindings: list[Binding] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            native = engine.get_tensor_dtype(name).name
            shape = tuple(int(d) for d in engine.get_tensor_shape(name))
            dtype = DTYPES.get(native, native.lower())
            if dtype != "bfloat16":
                try:
                    np.dtype(dtype)
                except TypeError as error:
                    raise StageFailed(
                        f"{name} is {dtype}, which NumPy does not know; end the model with a Cast to float32"
                    ) from error
            mode = "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
            bindings.append(Binding(name=name, mode=mode, dtype=dtype, shape=shape, dims=known.get(name, shape)))
        if not 0 <= self._profile < engine.num_optimization_profiles:
            count = engine.num_optimization_profiles
            raise StageFailed(f"profile {self._profile} is asked for; the engine has {count}")
        # Shape tensors live in host memory, on both flavours.
        host = trt.TensorLocation.HOST
        self._on_host = {b.name for b in bindings if engine.get_tensor_location(b.name) == host}
        return bindings

    def _activation_bytes(self) -> int:
        engine = self._engine
        size = getattr(engine, "device_memory_size_v2", None)
        return int(size if size is not None else getattr(engine, "device_memory_size", 0))

    def _allocate(self, wanted: Mapping[str, Mapping[str, Any]], slots: int) -> None:
        missing = [b.name for b in self.bindings if b.name not in wanted]
        if missing:
            raise StageFailed(
                f"the buffers have none for {', '.join(missing)}; they have {', '.join(wanted)}: allocate again "
                "for this engine"
            )
        one_slot = sum(int(wanted[b.name]["bytes"] or 0) for b in self.bindings if b.name not in self._on_host)
        activations = self._activation_bytes()
        free, total = self._cuda.free_memory()
        if one_slot * slots + activations > free:
            raise StageFailed(
                f"not enough device memory: {one_slot * slots} bytes of buffers ({slots} slots) and {activations} of "
                f"activations, {free} of {total} are free; use smaller shapes, fewer slots or a smaller profile"
            )
        # Outputs whose size nobody could tell from the inputs' dims: the engine tells it once a batch is set.
        self._elastic = {b.name for b in self.bindings if b.mode == "output" and wanted[b.name]["bytes"] is None}
        for _ in range(3):
            self._streams.append(self._cuda.stream())
        self._in, self._compute, self._back = self._streams
        for _ in range(slots):
            slot = Slot(self._cuda)
            self._slots.append(slot)
            for b in self.bindings:
                entry = wanted[b.name]
                on_device = b.name not in self._on_host
                slot.reserve(
                    b.name, int(entry["bytes"] or 0), pinned=entry.get("host") == "pinned", on_device=on_device
                )
        self._make_context(runtime_graphs=self._own_graphs and self._fixed)

    def _make_context(self, *, runtime_graphs: bool = False) -> None:
        """Make the execution context, which takes the memory of activations.

        `runtime_graphs` asks TensorRT-RTX to capture and launch CUDA graphs by itself.
        """
        for slot in self._slots:
            slot.drop_graph()
        self._context = None  # its memory is given back before the next one takes its own
        config = self._runtime_config(runtime_graphs=runtime_graphs)
        make = self._engine.create_execution_context
        self._context = make() if config is None else make(config)
        self._shapes = self._bound = None
        if self._context is None:
            raise StageFailed(self._native(f"no execution context ({self._activation_bytes()} bytes of activations)"))
        if self._engine.num_optimization_profiles > 1:
            if not self._context.set_optimization_profile_async(self._profile, self._compute):
                raise StageFailed(self._native(f"profile {self._profile} cannot be chosen"))
            self._cuda.synchronize(self._compute)

    def _runtime_config(self, *, runtime_graphs: bool) -> Any:
        """Give TensorRT-RTX's settings of a context; None for TensorRT, which needs none."""
        if not (self._backend.rtx and hasattr(self._engine, "create_runtime_config")):
            return None
        trt, config = self._trt, self._engine.create_runtime_config()
        kernels = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
        if kernels is not None:
            # The default compiles in the background and changes kernels on the way, and so the results' last bits.
            config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        if runtime_graphs and hasattr(trt, "CudaGraphStrategy"):
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self._kept is not None and hasattr(config, "create_runtime_cache"):
            self._kept.attach(config)
        return config

    def _native(self, what: str) -> str:
        return self._backend._native(what)  # noqa: SLF001 - session and backend are one thing in two files

    # -- running -------------------------------------------------------------------------------------------------

    def run(self, feed: Mapping[str, Array | Pending]) -> dict[str, Array]:
        """Run one batch; the arrays given back are valid until the next call (and not after `close`).

        Raises StageFailed for a wrong name, dtype or shape, naming tensor, found and expected, and with
        TensorRT's own words if it refuses.
        """
        self._ready()
        loaded = self._fill(self._slots[0], feed)
        self._send(loaded)
        self._launch(loaded)
        return self._finish(loaded)

    def stream(self, feeds: Iterable[Mapping[str, Array | Pending]]) -> Iterator[dict[str, Array]]:
        """Run batches in order, as many in flight as there are slots; each result is valid until the next one.

        A thread takes the feeds and fills slots, ahead of what is computed.
        """
        self._ready()
        reader = _Reader(self, feeds, self._reading())
        self._readers.append(reader)
        flying: deque[Loaded] = deque()
        try:
            while (loaded := reader.next()) is not None:
                if len(flying) == len(self._slots):
                    yield self._finish(flying.popleft())
                self._launch(loaded)
                reader.launched()
                flying.append(loaded)
            while flying:
                yield self._finish(flying.popleft())
        finally:
            self._readers.remove(reader)
            reader.stop()
            # Given up on the way, perhaps: the buffers are free again once nothing runs.
            for stream in self._streams:
                self._cuda.synchronize(stream)

    def _reading(self) -> int:
        """Give how many batches are read at a time.

        Two, if a batch is shared out to several threads: one is begun while the last pieces of the other are still
        being read. Smaller ones are read by one thread each, up to four at a time, and the smallest by one for four
        slots: more of them wait for Python's lock (docs/benchmarks/h100.md).
        """
        largest = max((self._slots[0].host[b.name].size for b in self._inputs), default=0)
        if parallel.shares(largest) > 1:
            return 2
        return max(1, len(self._slots) // 4) if largest < parallel.PIECE else max(2, min(4, parallel.threads()))

    def _ready(self) -> None:
        if self._closed:
            raise StageFailed("the session is closed")
        self._backend.errors.clear()

    def _fill(self, slot: Slot, feed: Mapping[str, Array | Pending]) -> Loaded:
        """Put a batch into a slot's host memory, checked. The slot's last batch must have left it."""
        if set(feed) != {b.name for b in self._inputs}:
            found = ", ".join(sorted(feed)) or "nothing"
            raise StageFailed(f"found data for {found}, expected {', '.join(b.name for b in self._inputs)}")
        shapes = []
        for b in self._inputs:
            given = feed[b.name]
            shape = tuple(int(n) for n in given.shape)
            self._check_shape(b, shape)
            shapes.append(shape)
            size = math.prod(shape) * _itemsize(b.dtype)
            host = slot.host[b.name]
            capacity = host.size if b.name in self._on_host else slot.device[b.name][1]
            if size > capacity:
                raise StageFailed(
                    f"{b.name}: a batch of shape {list(shape)} takes {size} bytes, the buffers hold {capacity}; "
                    "allocate for this shape"
                )
            if isinstance(given, Pending) and given.dtype == _dtype(b.dtype):
                given.fill(host[:size].view(given.dtype).reshape(shape))
                continue
            if isinstance(given, Pending):
                array = np.empty(shape, given.dtype)
                given.fill(array)
            else:
                array = np.asarray(given)
            whole = np.ascontiguousarray(_to_engine(b, array))
            parallel.copy(host[:size], whole.reshape(-1).view(np.uint8))
        return Loaded(slot, tuple(shapes))

    def _send(self, loaded: Loaded) -> None:
        """Start the copy to the device, after the slot's last batch was computed there."""
        slot = loaded.slot
        self._cuda.wait(self._in, slot.computed)
        for b, shape in zip(self._inputs, loaded.shapes, strict=True):
            size = math.prod(shape) * _itemsize(b.dtype)
            if size and b.name not in self._on_host:
                self._cuda.to_device(slot.device[b.name][0], slot.host[b.name].ctypes.data, size, self._in)
        self._cuda.record(slot.arrived, self._in)

    def _launch(self, loaded: Loaded, *, graphs: bool = True) -> None:
        """Enqueue computing and the copy back; nothing here waits, unless an output's size depends on the data."""
        slot = loaded.slot
        self._cuda.wait(self._compute, slot.arrived)
        self._prepare(loaded)
        self._enqueue(loaded, graphs=graphs)
        self._cuda.record(slot.computed, self._compute)
        if not any(shape is None for shape in self._out.values()):
            self._fetch(slot, self._out)
        slot.out = dict(self._out)

    def _prepare(self, loaded: Loaded) -> None:
        """Tell the context shapes and addresses, where it does not have them yet."""
        slot = loaded.slot
        if loaded.shapes != self._shapes or not self._fixed:
            # Whatever was captured before was captured from a context that is another one from here on.
            for other in self._slots:
                other.drop_graph()
            self._shapes = self._bound = None
            for b, shape in zip(self._inputs, loaded.shapes, strict=True):
                if -1 in b.shape and not self._context.set_input_shape(b.name, shape):
                    raise StageFailed(self._native(f"{b.name}: the engine refuses the shape {list(shape)}"))
            self._bind_inputs(slot)
            try:
                lacking = self._context.infer_shapes()
            except RuntimeError as error:
                raise StageFailed(self._native(f"shapes cannot be inferred ({error})")) from error
            if lacking:
                raise StageFailed(self._native(f"shapes cannot be inferred: {', '.join(lacking)} not set"))
            self._out = {}
            for b in self._outputs:
                shape = tuple(int(d) for d in self._context.get_tensor_shape(b.name))
                self._out[b.name] = None if any(d < 0 for d in shape) else shape
        if self._bound is not slot and (slot.graph is None or slot.graph[0] != loaded.shapes):
            self._bound = None
            self._bind_inputs(slot)
            self._bind_outputs(slot)
            self._bound = slot
        self._shapes = loaded.shapes

    def _bind_inputs(self, slot: Slot) -> None:
        for b in self._inputs:
            address = slot.host[b.name].ctypes.data if b.name in self._on_host else slot.device[b.name][0]
            if not self._context.set_tensor_address(b.name, address):
                raise StageFailed(self._native(f"{b.name}: the engine refuses the input's buffer"))

    def _bind_outputs(self, slot: Slot) -> None:
        for b in self._outputs:
            shape = self._out[b.name]
            if shape is None:
                self._allocator(b.name, slot)
                continue
            size = math.prod(shape) * _itemsize(b.dtype)
            if b.name in self._on_host:
                if slot.host[b.name].size < size:
                    slot.host[b.name] = np.empty(size, np.uint8)
                address = slot.host[b.name].ctypes.data
            else:
                address, capacity = slot.device[b.name]
                if size > capacity and b.name in self._elastic:
                    address = slot.grow(b.name, size)
                elif size > capacity:
                    raise StageFailed(
                        f"{b.name}: an output of shape {list(shape)} takes {size} bytes, the buffers hold {capacity}; "
                        "allocate for this shape"
                    )
            if not self._context.set_tensor_address(b.name, address):
                raise StageFailed(self._native(f"{b.name}: the engine refuses the output's buffer"))

    def _allocator(self, name: str, slot: Slot) -> None:
        """Let TensorRT ask for an output's memory when its size is known: it depends on the data."""
        if name not in slot.allocators:
            slot.allocators[name] = _output_allocator(self._trt, slot)
        allocator = slot.allocators[name]
        allocator.shape = None
        if not self._context.set_output_allocator(name, allocator):
            raise StageFailed(self._native(f"{name}: its size depends on the data, and no allocator can be set for it"))

    def _enqueue(self, loaded: Loaded, *, graphs: bool) -> None:
        """Enqueue computing: the second time with the same shapes it is captured, from then on launched at once."""
        slot = loaded.slot
        if slot.graph is not None and slot.graph[0] == loaded.shapes:
            self._cuda.launch(slot.graph[1], self._compute)
            return
        fixed = self._capturable and not any(shape is None for shape in self._out.values())
        if graphs and fixed and slot.seen == loaded.shapes and self._capture(loaded):
            assert slot.graph is not None
            self._cuda.launch(slot.graph[1], self._compute)
            return
        if not self._context.execute_async_v3(self._compute):
            raise StageFailed(self._native("the engine refused to run"))
        slot.seen = loaded.shapes

    def _capture(self, loaded: Loaded) -> bool:
        """Capture the enqueue of a slot; False, for good, if this engine cannot be captured."""
        graph = self._cuda.capture(self._compute, lambda: bool(self._context.execute_async_v3(self._compute)))
        if graph is None:
            self._capturable = False
            self._backend.errors.clear()
            self._note("this engine cannot be captured as a CUDA graph; its kernels are launched one by one")
            return False
        loaded.slot.graph = (loaded.shapes, graph)
        return True

    def _fetch(self, slot: Slot, shapes: Mapping[str, tuple[int, ...] | None]) -> None:
        """Start the copy of the results to the host."""
        self._cuda.wait(self._back, slot.computed)
        for b in self._outputs:
            shape = shapes[b.name]
            assert shape is not None
            size = math.prod(shape) * _itemsize(b.dtype)
            if slot.host[b.name].size < size:
                slot.host[b.name] = np.empty(size, np.uint8)
            if b.name not in self._on_host and size:
                self._cuda.to_host(slot.host[b.name].ctypes.data, slot.device[b.name][0], size, self._back)
        self._cuda.record(slot.left, self._back)

    def _finish(self, loaded: Loaded) -> dict[str, Array]:
        """Wait for a batch's results; they lie in the slot's host memory."""
        slot = loaded.slot
        final: dict[str, tuple[int, ...]] = {}
        open_ended = any(shape is None for shape in slot.out.values())
        if open_ended:
            self._cuda.wait_host(slot.computed)  # only then is the size known
        for b in self._outputs:
            shape = slot.out[b.name]
            if shape is None:
                allocator = slot.allocators[b.name]
                if allocator.error is not None:
                    raise StageFailed(f"{b.name}: {allocator.error}")
                if allocator.shape is None:
                    raise StageFailed(self._native(f"{b.name}: the engine did not say the output's shape"))
                shape = allocator.shape
            final[b.name] = shape
        if open_ended:
            self._fetch(slot, final)
            self._bound = None  # an allocator is told for each run anew
        self._cuda.wait_host(slot.left)
        return {b.name: _from_engine(b, slot.host[b.name], final[b.name]) for b in self._outputs}

    def _check_shape(self, b: Binding, shape: tuple[int, ...]) -> None:
        text = f"[{', '.join(map(str, b.dims))}]"
        if len(shape) != len(b.shape) or any(want not in (-1, have) for want, have in zip(b.shape, shape, strict=True)):
            raise StageFailed(f"{b.name}: found the shape {list(shape)}, expected {text}")
        profile = self._profiles[self._profile].get(b.name) if self._profile < len(self._profiles) else None
        if profile is not None and not all(
            low <= have <= high for low, have, high in zip(profile["min"], shape, profile["max"], strict=True)
        ):
            raise StageFailed(
                f"{b.name}: the shape {list(shape)} lies outside profile {self._profile}, "
                f"min {list(profile['min'])} to max {list(profile['max'])}"
            )

    # -- measuring -----------------------------------------------------------------------------------------------

    def measure(self, feed: Mapping[str, Array | Pending], settings: Settings) -> Measured:
        """Time one batch again and again as trtexec does; two queries are in flight.

        Source: NVIDIA/TensorRT, samples/common/sampleInference.cpp: the next query is enqueued before the previous
        one is waited for; the moments are CUDA events on the three streams, the enqueue call is timed by the host.
        """
        self._ready()
        cuda = self._cuda
        own = self._own_graphs
        self._make_context(runtime_graphs=settings.cuda_graph and own)
        captured = settings.cuda_graph and own
        notes: list[str] = []
        one = self._fill(self._slots[0], feed)
        for _ in range(2):
            # Once to let everything be made that is made at first use, once to capture.
            self._send(one)
            self._launch(one, graphs=settings.cuda_graph and not own)
            self._finish(one)
        if any(shape is None for shape in self._out.values()) and not settings.transfers:
            notes.append("an output's size depends on the data: each query waits for it")
        if settings.cuda_graph and not own:
            captured = one.slot.graph is not None
            if not captured:
                notes.append("no CUDA graph could be captured; queries are enqueued kernel by kernel")
        depth = 2
        events = [[cuda.event(timing=True, blocking=not settings.spin_wait) for _ in range(6)] for _ in range(depth)]
        start = cuda.event(timing=True)
        try:
            queries = self._loop(one, settings, events, start)
        finally:
            for event in [start, *(e for group in events for e in group)]:
                cuda.destroy_event(event)
        layers = self._time_layers(one) if settings.profile else ()
        return Measured(
            queries=queries,
            device="gpu",
            cuda_graph=captured,
            transfers=settings.transfers,
            layers=layers,
            notes=notes,
        )

    def _loop(self, one: Loaded, settings: Settings, events: Sequence[Sequence[Any]], start: Any) -> list[Query]:
        cuda, now = self._cuda, time.perf_counter
        depth = len(events)
        flying: deque[tuple[int, float, float]] = deque()
        queries: list[Query] = []
        cuda.record(start, self._compute)
        cuda.wait_host(start)
        begun = now()
        number = skipped = 0
        passed = 0.0

        def sync() -> None:
            nonlocal passed
            which, host_start, host_end = flying.popleft()
            in_start, in_end, run_start, run_end, out_start, out_end = events[which]
            cuda.wait_host(out_end if settings.transfers else run_end)
            moments = [cuda.elapsed(start, run_start), cuda.elapsed(start, run_end)]
            if settings.transfers:
                moments = [
                    cuda.elapsed(start, in_start), cuda.elapsed(start, in_end), *moments,
                    cuda.elapsed(start, out_start), cuda.elapsed(start, out_end),
                ]  # fmt: skip
            else:
                moments = [moments[0], moments[0], *moments, moments[1], moments[1]]
            queries.append(Query((host_start - begun) * 1000, (host_end - begun) * 1000, *moments))
            passed = max(passed, moments[3])

        while number < settings.iterations + skipped or passed - settings.warm_up_ms < settings.duration_ms:
            which = number % depth
            in_start, in_end, run_start, run_end, out_start, out_end = events[which]
            if settings.transfers:
                cuda.record(in_start, self._in)
                for b, shape in zip(self._inputs, one.shapes, strict=True):
                    if b.name not in self._on_host:
                        size = math.prod(shape) * _itemsize(b.dtype)
                        host = one.slot.host[b.name].ctypes.data
                        cuda.to_device(one.slot.device[b.name][0], host, size, self._in)
                cuda.record(in_end, self._in)
                cuda.wait(self._compute, in_end)
            self._prepare(one)
            cuda.record(run_start, self._compute)
            host_start = now()
            self._enqueue(one, graphs=False)
            host_end = now()
            cuda.record(run_end, self._compute)
            if settings.transfers:
                cuda.wait(self._back, run_end)
                cuda.record(out_start, self._back)
                for b in self._outputs:
                    out = self._out[b.name] or one.slot.allocators[b.name].shape
                    size = math.prod(out) * _itemsize(b.dtype)
                    if size and b.name not in self._on_host:
                        host = one.slot.host[b.name].ctypes.data
                        cuda.to_host(host, one.slot.device[b.name][0], size, self._back)
                cuda.record(out_end, self._back)
            flying.append((which, host_start, host_end))
            number += 1
            if len(flying) == depth:
                sync()
            skipped += passed < settings.warm_up_ms
        while flying:
            sync()
        return queries

    def _time_layers(self, loaded: Loaded) -> list[tuple[str, list[float]]]:
        """Time each layer in runs of their own: reporting slows the whole down."""
        trt = self._trt
        found: dict[str, list[float]] = {}

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                found.setdefault(layer_name, []).append(float(ms))

        self._make_context()
        profiler = Profiler()
        self._context.profiler = profiler
        self._context.enqueue_emits_profile = True
        for _ in range(PROFILED):
            self._send(loaded)
            self._launch(loaded, graphs=False)
            self._finish(loaded)
        self._make_context()
        return [(name, runs[len(runs) // 5 :]) for name, runs in found.items()]

    def close(self) -> None:
        """Free all memory, in an order that TensorRT allows; safe to call twice."""
        self._closed = True
        for reader in [*self._readers]:
            reader.stop()
        first: StageFailed | None = None
        streams, self._streams = self._streams, []
        for stream in streams:
            try:
                self._cuda.synchronize(stream)
            except StageFailed as error:
                first = first or error
        if self._kept is not None and first is None:
            self._kept.save()
        self._kept = None
        # The graphs go before the context, that before the engine, and that before the runtime.
        slots, self._slots = self._slots, []
        for slot in slots:
            try:
                slot.drop_graph()
            except StageFailed as error:
                first = first or error
        self._context = None
        self._engine = None
        self._runtime = None
        for slot in slots:
            try:
                slot.close()
            except StageFailed as error:
                first = first or error
        for stream in streams:
            try:
                self._cuda.destroy_stream(stream)
            except StageFailed as error:
                first = first or error
        if first is not None:
            raise first


class _Reader:
    """Takes feeds, fills the slots in turn and starts their way to the device, on threads of its own.

    There are as many as `reading`, and no more than slots: each fills one.
    """

    def __init__(self, session: TrtSession, feeds: Iterable[Mapping[str, Array | Pending]], reading: int) -> None:
        self._session = session
        self._feeds = feeds
        self._iterator = iter(feeds)
        self._slots = session._slots  # noqa: SLF001
        self._cuda = session._cuda  # noqa: SLF001
        self._lock = threading.Lock()
        """Held while a feed is taken; and while it is filled, if that must be done in order."""
        self._news = threading.Condition()
        self._made: dict[int, Loaded | BaseException | None] = {}
        self._taken = self._given = 0
        self._free = threading.Semaphore(len(self._slots))
        """Slots whose last batch has been launched, so that their events say when they are free."""
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"reader {n}", daemon=True)
            for n in range(min(reading, len(self._slots)))
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while self._one():
            pass

    def _one(self) -> bool:
        """Take and fill one batch; False after the last."""
        session = self._session
        self._lock.acquire()
        held = True
        number = self._taken
        made: Loaded | BaseException | None = None
        try:
            if not self._stopped.is_set():
                self._free.acquire()
            if not self._stopped.is_set():
                slot = self._slots[number % len(self._slots)]
                feed = next(self._iterator, None)
                if feed is None:
                    self._stopped.set()  # for the other thread
                else:
                    if not any(isinstance(one, Pending) and one.ordered for one in feed.values()):
                        self._taken += 1
                        held = False
                        self._lock.release()
                    self._cuda.wait_host(slot.arrived)  # what is in the host memory has been copied
                    if session._on_host:  # noqa: SLF001
                        self._cuda.wait_host(slot.computed)  # computing reads it there
                    made = session._fill(slot, feed)  # noqa: SLF001
                    session._send(made)  # noqa: SLF001
        except BaseException as error:  # noqa: BLE001 - it goes to who asked for the batch
            made = error
            self._stopped.set()
        finally:
            if held:
                self._taken += 1
                self._lock.release()
        with self._news:
            self._made[number] = made
            self._news.notify_all()
        return isinstance(made, tuple)

    def next(self) -> Loaded | None:
        """Give the next batch, or None after the last. Raises what taking or filling it raised."""
        with self._news:
            while self._given not in self._made:
                self._news.wait()
            made = self._made.pop(self._given)
        self._given += 1
        if isinstance(made, BaseException):
            raise made
        return made

    def launched(self) -> None:
        """Say that the batch last given has been launched."""
        self._free.release()

    def stop(self) -> None:
        """End the threads; a batch that they fill is finished first."""
        self._stopped.set()
        for _ in self._threads:
            self._free.release()
        for thread in self._threads:
            thread.join()
        close = getattr(self._iterator, "close", None)
        if close is not None:
            with contextlib.suppress(Exception):
                close()


class _RuntimeCache:
    """What TensorRT-RTX compiled for this GPU, kept from one start to the next; never part of a result or key.

    One file an engine, in a folder named after what the compiled code depends on: RTX's version, GPU and CUDA.
    """

    def __init__(self, backend: TrtBackend, cuda: Runtime, shared: Path, key: str, note: Callable[[str], None]) -> None:
        gpu = environment.gpus()[0]
        name = f"{backend.name}-{backend.version}-{gpu.name}-cuda{cuda.version()}"
        self.path = shared / re.sub(r"[^A-Za-z0-9.+-]+", "_", name) / f"{key[:16]}.runtime"
        self._note = note
        self._cache: Any = None
        self._before = b""

    def attach(self, config: Any) -> None:
        """Give the cache to a context's settings; a torn or foreign one is ignored, loudly."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            with contextlib.suppress(OSError):
                self._before = self.path.read_bytes()
            if self._before and not self._cache.deserialize(self._before):
                self._note(f"ignored the runtime cache {self.path.name}: it is torn, or of another TensorRT-RTX or GPU")
                self._before = b""
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Replace the file if something was compiled; a cache that cannot be saved costs time, and no more."""
        if self._cache is None:
            return
        try:
            data = bytes(memoryview(self._cache.serialize()))
            if not data or len(data) <= len(self._before):
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path.parent / "lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                write_file(str(self.path), data)
        except (OSError, TypeError, RuntimeError) as error:
            self._note(f"the runtime cache could not be saved ({error}); results are not affected")


def _output_allocator(trt: Any, slot: Slot) -> Any:
    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        """Called by TensorRT from within the run: an exception must not cross native code."""

        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] | None = None
            self.error: str | None = None

        def reallocate_output(self, tensor_name: str, _memory: Any, size: int, _alignment: int) -> int:
            try:
                return slot.grow(tensor_name, size)
            except Exception as error:  # noqa: BLE001
                self.error = str(error)
                return 0

        def reallocate_output_async(
            self, tensor_name: str, memory: Any, size: int, alignment: int, _stream: Any
        ) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, _tensor_name: str, shape: Any) -> None:
            self.shape = tuple(int(d) for d in shape)

    return Allocator()


def _dtype(dtype: str) -> np.dtype[Any] | None:
    return None if dtype == "bfloat16" else np.dtype(dtype)


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _to_engine(b: Binding, array: Array) -> Array:
    """Give a feed in the engine's type. Raises StageFailed unless it is that type, or fits it exactly."""
    if b.dtype == "bfloat16":
        if array.dtype == np.float32:
            from trtpipe.models.bfloat16 import round_bfloat16

            return round_bfloat16(array)
    elif array.dtype == np.dtype(b.dtype):
        return array
    elif b.dtype == "int32" and array.dtype == np.int64:
        # TensorRT before 10 has no int64: its parser makes such inputs int32.
        limits = np.iinfo(np.int32)
        if not array.size or (array.min() >= limits.min and array.max() <= limits.max):
            return array.astype(np.int32)
        raise StageFailed(f"{b.name}: int64 values up to {array.max()} do not fit the engine's int32")
    expected = "float32 (the engine rounds it to bfloat16)" if b.dtype == "bfloat16" else b.dtype
    raise StageFailed(f"{b.name}: found {array.dtype}, expected {expected}")


def _from_engine(b: Binding, host: Array, shape: tuple[int, ...]) -> Array:
    data = host[: math.prod(shape) * _itemsize(b.dtype)]
    if b.dtype == "bfloat16":
        from trtpipe.models.bfloat16 import from_bfloat16

        return from_bfloat16(data.view(np.uint16)).reshape(shape)
    return data.view(np.dtype(b.dtype)).reshape(shape)
