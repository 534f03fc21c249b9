"""Device and page-locked memory, streams and copies, through cuda-bindings (no PyTorch, no pycuda)."""

from __future__ import annotations

from typing import Any

from trtpipe.errors import EnvironmentMissing, StageFailed


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

    def _call(self, what: str, *args: Any) -> Any:
        code, *values = getattr(self._api, what)(*args)
        if int(code) != 0:
            _, text = self._api.cudaGetErrorString(code)
            words = text.decode() if isinstance(text, bytes) else str(text)
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

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes from host to device in stream order."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes from device to host in stream order."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)
