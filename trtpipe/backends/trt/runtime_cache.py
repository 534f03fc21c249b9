"""TensorRT-RTX's runtime cache: what it compiled for this GPU, kept from one start to the next.

It saves time only, and is never part of a result or of a key.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from typing import TYPE_CHECKING, Any

from trtpipe import environment
from trtpipe.store.store import write_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trtpipe.backends.trt.cuda import Runtime
    from trtpipe.backends.trt.library import Library


class RuntimeCache:
    """The cache file of one engine.

    It lies in a folder named after what the compiled code depends on: the version of RTX, the GPU and CUDA.
    """

    def __init__(self, library: Library, cuda: Runtime, shared: Path, key: str, note: Callable[[str], None]) -> None:
        gpu = environment.gpus()[0]
        name = f"{library.name}-{library.version}-{gpu.name}-cuda{cuda.version()}"
        self.path = shared / re.sub(r"[^A-Za-z0-9.+-]+", "_", name) / f"{key[:16]}.runtime"
        self._note = note
        self._cache: Any = None
        self._before = b""

    def attach(self, config: Any) -> None:
        """Give the cache to a context's settings; a torn or foreign one is ignored, with a note."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            with contextlib.suppress(OSError):
                self._before = self.path.read_bytes()
            if self._before and not self._cache.deserialize(self._before):
                self._note(f"ignored the runtime cache {self.path.name}: it is torn, or of another TensorRT-RTX or GPU")
                self._before = b""
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Replace the file if something new was compiled; if that fails, there is a note and no error."""
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
