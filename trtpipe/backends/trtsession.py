"""A TensorRT engine that is ready to run, with its stream and buffers; works alike on both flavours, 8.6 to 11.

Our own rather than Polygraphy's runner: that one sets an allocator for every output on every call and copies
through pageable memory that it makes anew (measured: 14.6 ms where the device takes 3.75 ms).

One slot now: copy in, compute, copy out, wait. A slot holds everything that a batch in flight needs, so that
several of them can overlap on one context.
"""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe import environment
from trtpipe.backends.cuda import Runtime
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from trtpipe.backends import Binding
    from trtpipe.backends.trt import TrtBackend
    from trtpipe.measure import Measured, Settings

Array = np.ndarray[Any, np.dtype[Any]]


class Slot:
    """Stream, device buffers and host buffers of one batch in flight; sizes in bytes.

    `device` maps a tensor's name to (pointer, size). `host` maps it to page-locked or pageable bytes.
    """

    def __init__(self, cuda: Runtime) -> None:
        self.cuda = cuda
        self.device: dict[str, tuple[int, int]] = {}
        self.host: dict[str, Array] = {}
        self._pinned: list[int] = []
        self.stream: int | None = cuda.stream()

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
            if pointer:
                del self.device[name]
                self.cuda.free(pointer)
            pointer = self.cuda.malloc(max(1, size))
            self.device[name] = (pointer, max(1, size))
        return pointer

    def close(self) -> None:
        """Free everything, even if some of it fails; safe to call twice."""
        first: StageFailed | None = None
        todo: list[tuple[Callable[[int], None], int]] = []
        if self.stream is not None:
            todo += [(self.cuda.synchronize, self.stream), (self.cuda.destroy_stream, self.stream)]
        todo += [(self.cuda.free, pointer) for pointer, _ in self.device.values()]
        todo += [(self.cuda.free_host, pointer) for pointer in self._pinned]
        self.stream, self.device, self.host, self._pinned = None, {}, {}, []
        for call, handle in todo:
            try:
                call(handle)
            except StageFailed as error:
                first = first or error
        if first is not None:
            raise first


class TrtSession:
    """See trtpipe.backends.Session. A bfloat16 tensor is float32 on this side; int64 feeds fit int32 inputs."""

    def __init__(
        self,
        backend: TrtBackend,
        plan: Path,
        manifest: Mapping[str, Any],
        buffers: Mapping[str, Any],
        note: Callable[[str], None],
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
        self._allocators: dict[str, Any] = {}
        self._slots: list[Slot] = []
        bindings: list[Binding] = []
        self.bindings: Sequence[Binding] = bindings
        try:
            self._load(plan, manifest, bindings)
            self._allocate({entry["name"]: entry for entry in buffers["bindings"]})
        except BaseException:
            self.close()
            raise
        gpu = environment.gpus()[0]
        self.info: Mapping[str, Any] = {
            "runtime": backend.name,
            "runtime_version": backend.version,
            "device": gpu.name,
            "compute_capability": gpu.compute_capability,
            "slots": len(self._slots),
            "activation_bytes": self._activation_bytes(),
        }

    # -- loading -------------------------------------------------------------------------------------------------

    def _load(self, plan: Path, manifest: Mapping[str, Any], bindings: list[Binding]) -> None:
        from polygraphy.backend.trt import EngineFromBytes

        from trtpipe.backends import Binding
        from trtpipe.backends.trt import DTYPES

        trt = self._trt
        self._runtime = trt.Runtime(self._backend.logger)
        self._engine = EngineFromBytes(plan.read_bytes(), runtime=self._runtime)()
        engine = self._engine
        known = {entry["name"]: tuple(entry["dims"]) for entry in manifest["bindings"]}
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
        self._on_host = {
            b.name for b in self.bindings if engine.get_tensor_location(b.name) == trt.TensorLocation.HOST
        }

    def _activation_bytes(self) -> int:
        engine = self._engine
        size = getattr(engine, "device_memory_size_v2", None)
        return int(size if size is not None else getattr(engine, "device_memory_size", 0))

    def _allocate(self, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        missing = [b.name for b in self.bindings if b.name not in wanted]
        if missing:
            raise StageFailed(
                f"the buffers have none for {', '.join(missing)}; they have {', '.join(wanted)}: allocate again "
                "for this engine"
            )
        buffers = sum(int(wanted[b.name]["bytes"] or 0) for b in self.bindings if b.name not in self._on_host)
        activations = self._activation_bytes()
        free, total = self._cuda.free_memory()
        if buffers + activations > free:
            raise StageFailed(
                f"not enough device memory: {buffers} bytes of buffers and {activations} of activations, "
                f"{free} of {total} are free; use smaller shapes or a smaller profile"
            )
        # Outputs whose size nobody could tell from the inputs' dims: the engine tells it once a batch is set.
        self._elastic = {b.name for b in self.bindings if b.mode == "output" and wanted[b.name]["bytes"] is None}
        slot = Slot(self._cuda)
        self._slots.append(slot)
        for b in self.bindings:
            entry = wanted[b.name]
            slot.reserve(
                b.name,
                int(entry["bytes"] or 0),
                pinned=entry.get("host") == "pinned",
                on_device=b.name not in self._on_host,
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise StageFailed(self._native(f"no execution context ({activations} bytes of activations)"))
        if self._engine.num_optimization_profiles > 1:
            if not self._context.set_optimization_profile_async(self._profile, slot.stream):
                raise StageFailed(self._native(f"profile {self._profile} cannot be chosen"))
            self._cuda.synchronize(slot.stream or 0)

    def _native(self, what: str) -> str:
        return self._backend._native(what)  # noqa: SLF001 - session and backend are one thing in two files

    # -- running -------------------------------------------------------------------------------------------------

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch; the arrays given back are valid until the next call (and not after `close`).

        Raises StageFailed for a wrong name, dtype or shape, naming tensor, found and expected, and with
        TensorRT's own words if it refuses.
        """
        slot = self._slots[0] if self._slots else None
        if slot is None or slot.stream is None:
            raise StageFailed("the session is closed")
        self._backend.errors.clear()
        alive = self._copy_in(slot, feed)
        try:
            lacking = self._context.infer_shapes()
        except RuntimeError as error:
            raise StageFailed(self._native(f"shapes cannot be inferred ({error})")) from error
        if lacking:
            raise StageFailed(self._native(f"shapes cannot be inferred: {', '.join(lacking)} not set"))
        shapes = self._bind_outputs(slot)
        if not self._context.execute_async_v3(slot.stream):
            raise StageFailed(self._native("the engine refused to run"))
        result = self._copy_out(slot, shapes)
        del alive  # what the copies and shape tensors read from had to live until the stream was done
        return result

    def stream(self, feeds: Iterable[Mapping[str, Array]]) -> Iterator[dict[str, Array]]:
        """Run batches in order; each result is valid until the next one is asked for."""
        for feed in feeds:
            yield self.run(feed)

    def _copy_in(self, slot: Slot, feed: Mapping[str, Array]) -> list[Array]:
        inputs = [b for b in self.bindings if b.mode == "input"]
        if set(feed) != {b.name for b in inputs}:
            raise StageFailed(
                f"found data for {', '.join(sorted(feed)) or 'nothing'}, expected {', '.join(b.name for b in inputs)}"
            )
        alive: list[Array] = []
        for b in inputs:
            array = np.ascontiguousarray(_to_engine(b, np.asarray(feed[b.name])))
            shape = np.asarray(feed[b.name]).shape
            self._check_shape(b, shape)
            alive.append(array)
            if b.name in self._on_host:
                if array.size == 0:
                    array = np.zeros(1, array.dtype)
                    alive.append(array)
                address = array.ctypes.data
            else:
                address, capacity = slot.device[b.name]
                if array.nbytes > capacity:
                    raise StageFailed(
                        f"{b.name}: a batch of shape {list(shape)} takes {array.nbytes} bytes, the buffers hold "
                        f"{capacity}; allocate for this shape"
                    )
                source = array
                if slot.host[b.name].size >= array.nbytes and self._is_pinned(slot, b.name):
                    source = slot.host[b.name][: array.nbytes]
                    source[:] = array.reshape(-1).view(np.uint8)
                if array.nbytes:
                    self._cuda.to_device(address, source.ctypes.data, array.nbytes, slot.stream or 0)
            if -1 in b.shape and not self._context.set_input_shape(b.name, tuple(shape)):
                raise StageFailed(self._native(f"{b.name}: the engine refuses the shape {list(shape)}"))
            if not self._context.set_tensor_address(b.name, address):
                raise StageFailed(self._native(f"{b.name}: the engine refuses the input's buffer"))
        return alive

    @staticmethod
    def _is_pinned(slot: Slot, name: str) -> bool:
        return not slot.host[name].flags.owndata

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

    def _bind_outputs(self, slot: Slot) -> dict[str, tuple[int, ...] | None]:
        """Set each output's address; give its shape, or None where only running tells it."""
        shapes: dict[str, tuple[int, ...] | None] = {}
        for b in self.bindings:
            if b.mode != "output":
                continue
            shape = tuple(int(d) for d in self._context.get_tensor_shape(b.name))
            if any(d < 0 for d in shape):
                self._allocator(b.name, slot)
                shapes[b.name] = None
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
            shapes[b.name] = shape
        return shapes

    def _allocator(self, name: str, slot: Slot) -> None:
        """Let TensorRT ask for an output's memory when its size is known: it depends on the data."""
        if name not in self._allocators:
            self._allocators[name] = _output_allocator(self._trt, slot)
        allocator = self._allocators[name]
        allocator.shape = None
        if not self._context.set_output_allocator(name, allocator):
            raise StageFailed(self._native(f"{name}: its size depends on the data, and no allocator can be set for it"))

    def _copy_out(self, slot: Slot, shapes: Mapping[str, tuple[int, ...] | None]) -> dict[str, Array]:
        stream = slot.stream or 0
        if any(shape is None for shape in shapes.values()):
            self._cuda.synchronize(stream)  # only then is the size known
        final: dict[str, tuple[int, ...]] = {}
        for b in self.bindings:
            if b.mode != "output":
                continue
            shape = shapes[b.name]
            if shape is None:
                allocator = self._allocators[b.name]
                if allocator.error is not None:
                    raise StageFailed(f"{b.name}: {allocator.error}")
                if allocator.shape is None:
                    raise StageFailed(self._native(f"{b.name}: the engine did not say the output's shape"))
                shape = allocator.shape
            final[b.name] = shape
            size = math.prod(shape) * _itemsize(b.dtype)
            if slot.host[b.name].size < size:
                slot.host[b.name] = np.empty(size, np.uint8)
            if b.name not in self._on_host and size:
                self._cuda.to_host(slot.host[b.name].ctypes.data, slot.device[b.name][0], size, stream)
        self._cuda.synchronize(stream)
        return {
            b.name: _from_engine(b, slot.host[b.name], final[b.name]) for b in self.bindings if b.mode == "output"
        }

    def measure(self, feed: Mapping[str, Array], settings: Settings) -> Measured:
        """Time one batch again and again by trtexec's definitions."""
        raise NotImplementedError

    def close(self) -> None:
        """Free all memory, in an order that TensorRT allows; safe to call twice."""
        # The context goes before the engine, and that before the runtime.
        self._context = None
        self._allocators = {}
        self._engine = None
        self._runtime = None
        slots, self._slots = self._slots, []
        for slot in slots:
            slot.close()


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


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _to_engine(b: Binding, array: Array) -> Array:
    """Give a feed in the engine's type. Raises StageFailed unless it is that type, or fits it exactly."""
    if b.dtype == "bfloat16":
        if array.dtype == np.float32:
            from trtpipe.precision import round_bfloat16

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
        from trtpipe.precision import from_bfloat16

        return from_bfloat16(data.view(np.uint16)).reshape(shape)
    return data.view(np.dtype(b.dtype)).reshape(shape)
