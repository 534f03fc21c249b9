"""Slots: the buffers of one batch in flight, on the host and on the device."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trtpipe.backends.trt.cuda import Runtime
    from trtpipe.backends.trt.dtypes import Array
    from trtpipe.runtime import Pending

    Feed = Mapping[str, Array | Pending]
    """One batch: each input's values, or what reads them."""

Shapes = tuple[tuple[int, ...], ...]
"""The shapes of all inputs, in the engine's order."""


class Slot:
    """The buffers and events of one batch in flight; sizes in bytes.

    `device` maps a tensor's name to (pointer, size). `host` maps it to page-locked or pageable bytes. Three CUDA
    events: `arrived` when the batch is on the device, `computed` when its results are there, `left` when they are
    on the host.
    """

    def __init__(self, cuda: Runtime) -> None:
        self.cuda = cuda
        self.device: dict[str, tuple[int, int]] = {}
        self.host: dict[str, Array] = {}
        self.graph: tuple[Shapes, Any] | None = None
        self.seen: Shapes | None = None
        """The shapes with which the slot was last enqueued, without a change of the context since."""
        self.out: dict[str, tuple[int, ...]] = {}
        """The outputs' shapes of the batch in flight."""
        self.allocators: dict[str, Any] = {}
        self._pinned: list[int] = []
        self._events: list[Any] = []
        self.arrived, self.computed, self.left = (self._event() for _ in range(3))

    def _event(self) -> Any:
        event = self.cuda.event()
        self._events.append(event)
        return event

    def reserve(self, name: str, size: int, *, pinned: bool, on_device: bool) -> None:
        """Allocate a tensor's buffers of `size` bytes. TensorRT wants an address even for an empty tensor."""
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
        """Give the address of at least `size` bytes on the device, for an output whose size only the engine knows."""
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
        """Destroy the captured graph: the addresses or shapes in it are no longer right."""
        self.seen = None
        if self.graph is not None:
            graph, self.graph = self.graph[1], None
            self.cuda.destroy_graph(graph)

    def close(self) -> None:
        """Free everything, then raise the first StageFailed, if some of it failed; safe to call twice."""
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


def output_allocator(trt: Any, slot: Slot) -> Any:
    """Make an IOutputAllocator that takes memory from a slot, for an output whose size depends on the data.

    After a run `shape` is the output's shape, or `error` says why there was no memory.
    """

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
