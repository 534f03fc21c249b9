"""One execution context with its slots and streams: the steps that a batch takes through the device.

Three streams share the work: copy in, compute, copy out. A slot holds what one batch in flight needs, so that
while one batch is computed the next is copied in, and the last is copied out. There is one context, so batches are
computed one after the other, by the same kernels whatever the number of slots: results do not depend on it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.backends.trt import dtypes
from trtpipe.backends.trt.device import DeviceArray
from trtpipe.backends.trt.slots import Loaded, Slot, output_allocator
from trtpipe.data import parallel
from trtpipe.errors import StageFailed
from trtpipe.runtime import Pending

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trtpipe.backends.trt.cuda import Runtime
    from trtpipe.backends.trt.device import Given
    from trtpipe.backends.trt.dtypes import Array
    from trtpipe.backends.trt.engine import Engine
    from trtpipe.backends.trt.library import Library
    from trtpipe.backends.trt.slots import Feed, Shapes
    from trtpipe.documents.buffers import Buffer, Buffers
    from trtpipe.documents.manifest import Binding


class Execution:
    """Runs batches: each goes through `fill`, `send`, `launch` and `finish`, in this order.

    `buffers` says what is allocated. An Execution owns the engine that it is given, and closes it
    too. `copy_in`, `compute` and `copy_out` are the streams. Raises StageFailed if the buffers are of another
    engine, or do not fit into the free device memory.
    """

    def __init__(
        self,
        library: Library,
        cuda: Runtime,
        engine: Engine,
        buffers: Buffers,
        note: Callable[[str], None],
    ) -> None:
        self.library = library
        self.cuda = cuda
        self.engine = engine
        self.context: Any = None
        self.slots: list[Slot] = []
        self.streams: list[int] = []
        self.out: dict[str, tuple[int, ...] | None] = {}
        """The outputs' shapes for the context's shapes; None where only running tells it."""
        self._note = note
        self._shapes: Shapes | None = None
        """The shapes that the context has now."""
        self._bound: Slot | None = None
        """The slot whose addresses the context has now."""
        # The values of a shape tensor are part of what a graph would freeze.
        self._fixed = not any(b.name in engine.on_host for b in engine.inputs)
        self.own_graphs = library.rtx and hasattr(library.trt, "CudaGraphStrategy")
        """TensorRT-RTX captures and launches graphs by itself, shape by shape."""
        self._capturable = self._fixed and not self.own_graphs
        try:
            self._allocate({b.name: b for b in buffers.bindings}, buffers.slots)
        except BaseException:
            self.close()
            raise

    def _allocate(self, wanted: dict[str, Buffer], slots: int) -> None:
        missing = [b.name for b in self.engine.bindings if b.name not in wanted]
        if missing:
            raise StageFailed(
                f"the buffers have none for {', '.join(missing)}; they have {', '.join(wanted)}: allocate again "
                "for this engine"
            )
        on_device = [b.name for b in self.engine.bindings if b.name not in self.engine.on_host]
        one_slot = sum(wanted[name].bytes or 0 for name in on_device)
        activations = self.engine.activation_bytes()
        free, total = self.cuda.free_memory()
        if one_slot * slots + activations > free:
            raise StageFailed(
                f"not enough device memory: {one_slot * slots} bytes of buffers ({slots} slots) and {activations} of "
                f"activations, {free} of {total} are free; use smaller shapes, fewer slots or a smaller profile"
            )
        # Outputs whose size does not follow from the inputs' dims: the engine tells it once a batch is set.
        self._elastic = {b.name for b in self.engine.bindings if b.mode == "output" and wanted[b.name].bytes is None}
        for _ in range(3):
            self.streams.append(self.cuda.stream())
        self.copy_in, self.compute, self.copy_out = self.streams
        for _ in range(slots):
            slot = Slot(self.cuda)
            self.slots.append(slot)
            for b in self.engine.bindings:
                one = wanted[b.name]
                pinned = one.host == "pinned"
                slot.reserve(b.name, one.bytes or 0, pinned=pinned, on_device=b.name in on_device)
        self.make_context(runtime_graphs=self.own_graphs and self._fixed)

    def make_context(self, *, runtime_graphs: bool = False) -> None:
        """Make the execution context anew; see Engine.create_context. Raises StageFailed if TensorRT refuses."""
        for slot in self.slots:
            slot.drop_graph()
        self.context = None  # its memory is given back before the next one takes its own
        self.context = self.engine.create_context(runtime_graphs=runtime_graphs)
        self._shapes = self._bound = None
        if self.context is None:
            size = self.engine.activation_bytes()
            raise StageFailed(self.library.explain(f"no execution context ({size} bytes of activations)"))
        if self.engine.profile_count > 1:
            if not self.context.set_optimization_profile_async(self.engine.profile, self.compute):
                raise StageFailed(self.library.explain(f"profile {self.engine.profile} cannot be chosen"))
            self.cuda.synchronize(self.compute)

    def fill(self, slot: Slot, feed: Feed) -> Loaded:
        """Check a batch and put it into a slot's host memory. The slot's last batch must have left it.

        Raises StageFailed for a wrong name, dtype or shape, naming tensor, found and expected.
        """
        if set(feed) != {b.name for b in self.engine.inputs}:
            found = ", ".join(sorted(feed)) or "nothing"
            raise StageFailed(f"found data for {found}, expected {', '.join(b.name for b in self.engine.inputs)}")
        shapes = []
        for b in self.engine.inputs:
            given = feed[b.name]
            shape = tuple(int(n) for n in given.shape)
            self.engine.check_shape(b, shape)
            shapes.append(shape)
            size = math.prod(shape) * dtypes.itemsize(b.dtype)
            host = slot.host[b.name]
            capacity = host.size if b.name in self.engine.on_host else slot.device[b.name][1]
            if size > capacity:
                raise StageFailed(
                    f"{b.name}: a batch of shape {list(shape)} takes {size} bytes, the buffers hold {capacity}; "
                    "allocate for this shape"
                )
            self._fill_one(b, host[:size], given, shape)
        return Loaded(slot, tuple(shapes))

    def _fill_one(self, b: Binding, host: Array, given: Array | Pending, shape: tuple[int, ...]) -> None:
        if isinstance(given, Pending) and given.dtype == dtypes.numpy_dtype(b.dtype):
            given.fill(host.view(given.dtype).reshape(shape))
        else:
            if isinstance(given, Pending):
                array = np.empty(shape, given.dtype)
                given.fill(array)
            else:
                array = np.asarray(given)
            whole = np.ascontiguousarray(dtypes.to_engine(b, array))
            parallel.copy(host, whole.reshape(-1).view(np.uint8))
        if b.name in self.engine.on_host:
            self.engine.check_values(b, host.view(np.dtype(b.dtype)).tolist())

    def send(self, loaded: Loaded) -> None:
        """Start the copy to the device; it waits on the stream until the slot's last batch was computed there."""
        slot = loaded.slot
        self.cuda.wait(self.copy_in, slot.computed)
        for b, shape in zip(self.engine.inputs, loaded.shapes, strict=True):
            size = math.prod(shape) * dtypes.itemsize(b.dtype)
            if size and b.name not in self.engine.on_host:
                self.cuda.to_device(slot.device[b.name][0], slot.host[b.name].ctypes.data, size, self.copy_in)
        self.cuda.record(slot.arrived, self.copy_in)

    def launch(self, loaded: Loaded, *, graphs: bool = True) -> None:
        """Enqueue computing and the copy back; nothing here waits, unless an output's size depends on the data.

        One such batch is computed at a time, with its inputs in place: on an H200, TensorRT 8.6 told the number of
        boxes of the batch before, when the next one was enqueued while that was still to be computed.
        """
        slot = loaded.slot
        self.cuda.wait(self.compute, slot.arrived)
        self.prepare(loaded)
        open_ended = any(shape is None for shape in self.out.values())
        if open_ended:
            self.cuda.wait_host(slot.arrived)
        self.enqueue(loaded, graphs=graphs)
        self.cuda.record(slot.computed, self.compute)
        if open_ended:
            self.cuda.wait_host(slot.computed)  # only then is the size known
            self._bound = None  # an allocator is told for each run anew
        slot.out = {b.name: self._shape_of(b, slot) for b in self.engine.outputs}
        self._fetch(slot, slot.out)

    def _shape_of(self, b: Binding, slot: Slot) -> tuple[int, ...]:
        """Give the shape of an output of the batch that was enqueued, or computed if the data decides on it."""
        shape = self.out[b.name]
        if shape is not None:
            return shape
        allocator = slot.allocators[b.name]
        if allocator.error is not None:
            raise StageFailed(f"{b.name}: {allocator.error}")
        if allocator.shape is None:
            raise StageFailed(self.library.explain(f"{b.name}: the engine did not say the output's shape"))
        found: tuple[int, ...] = allocator.shape
        return found

    def prepare(self, loaded: Loaded) -> None:
        """Tell the context shapes and addresses, where it does not have them yet."""
        slot = loaded.slot
        if loaded.shapes != self._shapes or not self._fixed:
            # A graph holds the context's state at its capture, and that changes here.
            for other in self.slots:
                other.drop_graph()
            self._shapes = self._bound = None
            for b, shape in zip(self.engine.inputs, loaded.shapes, strict=True):
                if -1 in b.shape and not self.context.set_input_shape(b.name, shape):
                    raise StageFailed(self.library.explain(f"{b.name}: the engine refuses the shape {list(shape)}"))
            self._bind_inputs(slot)
            try:
                lacking = self.context.infer_shapes()
            except RuntimeError as error:
                raise StageFailed(self.library.explain(f"shapes cannot be inferred ({error})")) from error
            if lacking:
                raise StageFailed(self.library.explain(f"shapes cannot be inferred: {', '.join(lacking)} not set"))
            self.out = {}
            for b in self.engine.outputs:
                shape = tuple(int(d) for d in self.context.get_tensor_shape(b.name))
                self.out[b.name] = None if any(d < 0 for d in shape) else shape
        if self._bound is not slot and (slot.graph is None or slot.graph[0] != loaded.shapes):
            self._bound = None
            self._bind_inputs(slot)
            self._bind_outputs(slot)
            self._bound = slot
        self._shapes = loaded.shapes

    def _bind_inputs(self, slot: Slot) -> None:
        for b in self.engine.inputs:
            address = slot.host[b.name].ctypes.data if b.name in self.engine.on_host else slot.device[b.name][0]
            if not self.context.set_tensor_address(b.name, address):
                raise StageFailed(self.library.explain(f"{b.name}: the engine refuses the input's buffer"))

    def _bind_outputs(self, slot: Slot) -> None:
        for b in self.engine.outputs:
            shape = self.out[b.name]
            if shape is None:
                self._allocator(b.name, slot)
                continue
            size = math.prod(shape) * dtypes.itemsize(b.dtype)
            if b.name in self.engine.on_host:
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
            if not self.context.set_tensor_address(b.name, address):
                raise StageFailed(self.library.explain(f"{b.name}: the engine refuses the output's buffer"))

    def _allocator(self, name: str, slot: Slot) -> None:
        """Let TensorRT ask for an output's memory during the run: its size depends on the data."""
        if name not in slot.allocators:
            slot.allocators[name] = output_allocator(self.library.trt, slot)
        allocator = slot.allocators[name]
        allocator.shape = None
        if not self.context.set_output_allocator(name, allocator):
            what = f"{name}: its size depends on the data, and no allocator can be set for it"
            raise StageFailed(self.library.explain(what))

    def enqueue(self, loaded: Loaded, *, graphs: bool) -> None:
        """Enqueue computing.

        Where a graph can be captured, a slot's second run with the same shapes captures it, and later runs launch it.
        """
        slot = loaded.slot
        if slot.graph is not None and slot.graph[0] == loaded.shapes:
            self.cuda.launch(slot.graph[1], self.compute)
            return
        fixed = self._capturable and not any(shape is None for shape in self.out.values())
        if graphs and fixed and slot.seen == loaded.shapes and self._capture(loaded):
            assert slot.graph is not None
            self.cuda.launch(slot.graph[1], self.compute)
            return
        if not self.context.execute_async_v3(self.compute):
            raise StageFailed(self.library.explain("the engine refused to run"))
        slot.seen = loaded.shapes

    def _capture(self, loaded: Loaded) -> bool:
        """Capture the enqueue of a slot as a graph; False if this engine cannot be captured: it is not tried again."""
        graph = self.cuda.capture(self.compute, lambda: bool(self.context.execute_async_v3(self.compute)))
        if graph is None:
            self._capturable = False
            self.library.errors.clear()
            self._note("this engine cannot be captured as a CUDA graph; its kernels are launched one by one")
            return False
        loaded.slot.graph = (loaded.shapes, graph)
        return True

    def pass_through(
        self, given: Mapping[str, Given], stream: int, into: Mapping[str, Given]
    ) -> dict[str, DeviceArray]:
        """Run a batch that lies on the device; what comes out lies there too, and `stream` waits for it, not the host.

        Inputs are copied within the device to the addresses that a captured graph has. Outputs that `into` names are
        written there; the others are new. Raises StageFailed for what does not fit, and for outputs whose size only
        running tells.
        """
        slot = self.slots[0]
        shapes = []
        for b in self.engine.inputs:
            one = given[b.name]
            if b.name in self.engine.on_host:
                raise StageFailed(
                    f"{b.name}: its values are sizes, which TensorRT reads on the host; feed NumPy arrays"
                )
            if one.dtype != b.dtype:
                raise StageFailed(f"{b.name}: found {one.dtype}, expected {b.dtype}")
            self.engine.check_shape(b, one.shape)
            size = math.prod(one.shape) * dtypes.itemsize(b.dtype)
            if size > slot.device[b.name][1]:
                raise StageFailed(
                    f"{b.name}: a batch of shape {list(one.shape)} takes {size} bytes, the buffers hold "
                    f"{slot.device[b.name][1]}; open the engine with larger shapes"
                )
            shapes.append(one.shape)
        loaded = Loaded(slot, tuple(shapes))
        ready, done = self.cuda.event(), self.cuda.event()
        try:
            self.cuda.record(ready, stream)
            self.cuda.wait(self.compute, ready)
            for b in self.engine.inputs:
                size = math.prod(given[b.name].shape) * dtypes.itemsize(b.dtype)
                if size:
                    self.cuda.on_device(slot.device[b.name][0], given[b.name].pointer, size, self.compute)
            self.prepare(loaded)
            if unknown := [name for name, shape in self.out.items() if shape is None or name in self.engine.on_host]:
                raise StageFailed(f"the size of {', '.join(unknown)} depends on the data; feed NumPy arrays instead")
            made = self._new_outputs(stream, into)
            self.cuda.record(ready, stream)  # the new memory is there from here on
            self.cuda.wait(self.compute, ready)
            self.enqueue(loaded, graphs=True)
            self.cuda.record(slot.computed, self.compute)
            for b in self.engine.outputs:
                target = into[b.name].pointer if b.name in into else made[b.name].pointer
                size = math.prod(self.out[b.name] or ()) * dtypes.itemsize(b.dtype)
                if size:
                    self.cuda.on_device(target, slot.device[b.name][0], size, self.compute)
            self.cuda.record(done, self.compute)
            self.cuda.wait(stream, done)
        finally:
            # CUDA keeps what an event stands for until the waits that were enqueued are over.
            self.cuda.destroy_event(ready)
            self.cuda.destroy_event(done)
        return made

    def _new_outputs(self, stream: int, into: Mapping[str, Given]) -> dict[str, DeviceArray]:
        made = {}
        for b in self.engine.outputs:
            shape = self.out[b.name]
            assert shape is not None
            if b.name not in into:
                made[b.name] = DeviceArray(self.cuda, b.name, shape, b.dtype, stream)
            elif (into[b.name].shape, into[b.name].dtype) != (shape, b.dtype):
                found = into[b.name]
                raise StageFailed(
                    f"out: {b.name}: found {found.dtype} {list(found.shape)}, expected {b.dtype} {list(shape)}"
                )
        return made

    def _fetch(self, slot: Slot, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Start the copy of the results to the host."""
        self.cuda.wait(self.copy_out, slot.computed)
        for b in self.engine.outputs:
            size = math.prod(shapes[b.name]) * dtypes.itemsize(b.dtype)
            if slot.host[b.name].size < size:
                slot.host[b.name] = np.empty(size, np.uint8)
            if b.name not in self.engine.on_host and size:
                self.cuda.to_host(slot.host[b.name].ctypes.data, slot.device[b.name][0], size, self.copy_out)
        self.cuda.record(slot.left, self.copy_out)

    def finish(self, loaded: Loaded) -> dict[str, Array]:
        """Wait for a batch's results; they lie in the slot's host memory."""
        slot = loaded.slot
        self.cuda.wait_host(slot.left)
        return {b.name: dtypes.from_engine(b, slot.host[b.name], slot.out[b.name]) for b in self.engine.outputs}

    def close(self) -> None:
        """Free all memory, in an order that TensorRT allows; safe to call twice."""
        first: StageFailed | None = None
        streams, self.streams = self.streams, []
        for stream in streams:
            try:
                self.cuda.synchronize(stream)
            except StageFailed as error:
                first = first or error
        self.engine.release_cache(save=first is None)
        # The graphs go before the context, that before the engine, and that before the runtime.
        slots, self.slots = self.slots, []
        for slot in slots:
            try:
                slot.drop_graph()
            except StageFailed as error:
                first = first or error
        self.context = None
        self.engine.close()
        for slot in slots:
            try:
                slot.close()
            except StageFailed as error:
                first = first or error
        for stream in streams:
            try:
                self.cuda.destroy_stream(stream)
            except StageFailed as error:
                first = first or error
        if first is not None:
            raise first
