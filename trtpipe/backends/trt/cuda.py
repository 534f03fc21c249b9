"""Device and page-locked memory, streams and copies, through cuda-bindings (no PyTorch, no pycuda)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtpipe.errors import EnvironmentMissing, StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable


class Runtime:
    """The few calls of the CUDA runtime that a session needs, each checked.

    Pointers and streams are plain integers. Raises EnvironmentMissing at construction if cuda-bindings is
    absent, and StageFailed with CUDA's own words when a call fails.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise EnvironmentMissing(
                f"running a plan needs cuda-bindings ({error}); pip install cuda-bindings, or the whole of it: "
                "pip install 'trtpipe[rtx]' or 'trtpipe[tensorrt]'"
            ) from error
        self._api: Any = runtime
        self._done = runtime.cudaError_t.cudaSuccess

    def _call(self, what: str, *args: Any) -> Any:
        code, *values = getattr(self._api, what)(*args)
        if code != self._done:
            _, text = self._api.cudaGetErrorString(code)
            words = text.decode() if isinstance(text, bytes) else str(text)
            if code in (self._api.cudaError_t.cudaErrorNoDevice, self._api.cudaError_t.cudaErrorInsufficientDriver):
                raise EnvironmentMissing(
                    f"{what} failed: {words}; is the NVIDIA driver there, and does it see the GPU?"
                )
            raise StageFailed(f"{what} failed: CUDA error {int(code)}, {words}")
        return values[0] if len(values) == 1 else tuple(values)

    def free_memory(self) -> tuple[int, int]:
        """Give the (free, total) bytes of device memory."""
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def malloc(self, size: int) -> int:
        """Allocate device memory; `size` in bytes."""
        return int(self._call("cudaMalloc", size))

    def free(self, pointer: int) -> None:
        """Free device memory."""
        self._call("cudaFree", pointer)

    def malloc_async(self, size: int, stream: int) -> int:
        """Allocate device memory in stream order, from the device's pool; `size` in bytes."""
        return int(self._call("cudaMallocAsync", size, stream))

    def free_async(self, pointer: int, stream: int) -> None:
        """Free what `malloc_async` gave, after all work that the stream has been given so far."""
        self._call("cudaFreeAsync", pointer, stream)

    def malloc_host(self, size: int) -> int:
        """Allocate page-locked host memory; `size` in bytes."""
        return int(self._call("cudaMallocHost", size))

    def free_host(self, pointer: int) -> None:
        """Free page-locked host memory."""
        self._call("cudaFreeHost", pointer)

    def stream(self) -> int:
        """Create a stream that does not wait for the default stream."""
        return int(self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all work of a stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def clear_error(self) -> None:
        """Forget the last error of a call that was allowed to fail."""
        self._api.cudaGetLastError()

    def version(self) -> str:
        """Give the CUDA version that the driver serves, such as "13.0"."""
        number = int(self._call("cudaDriverGetVersion"))
        return f"{number // 1000}.{number % 1000 // 10}"

    def event(self, *, timing: bool = False, blocking: bool = False) -> Any:
        """Create an event; `blocking` lets the host sleep while it waits for it."""
        flags = 0 if timing else int(self._api.cudaEventDisableTiming)
        return self._call("cudaEventCreateWithFlags", flags | (int(self._api.cudaEventBlockingSync) if blocking else 0))

    def destroy_event(self, event: Any) -> None:
        """Destroy an event."""
        self._call("cudaEventDestroy", event)

    def record(self, event: Any, stream: int) -> None:
        """Mark the end of all work that a stream has been given so far."""
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: int, event: Any) -> None:
        """Let a stream's later work wait for an event; the host does not wait."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def wait_host(self, event: Any) -> None:
        """Wait for an event on the host; one that was never recorded is passed already."""
        self._call("cudaEventSynchronize", event)

    def elapsed(self, start: Any, end: Any) -> float:
        """Give the milliseconds between two events that have passed."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def capture(self, stream: int, work: Callable[[], bool]) -> Any:
        """Capture what `work` enqueues on a stream as a graph that can be launched; None if it cannot be captured."""
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        worked = False
        try:
            worked = work()
        finally:
            code, graph = self._api.cudaStreamEndCapture(stream)
        if int(code) != 0 or not worked:
            self.clear_error()
            return None
        code, made = self._api.cudaGraphInstantiate(graph, 0)
        self._call("cudaGraphDestroy", graph)
        if int(code) != 0:
            self.clear_error()
            return None
        return made

    def launch(self, graph: Any, stream: int) -> None:
        """Launch a captured graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Destroy a captured graph."""
        self._call("cudaGraphExecDestroy", graph)

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes from host to device in stream order."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes within the device in stream order."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes from device to host in stream order."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)
