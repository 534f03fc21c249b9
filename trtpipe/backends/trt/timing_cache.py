"""TensorRT's timing cache: how long each tactic took on this GPU, so that the next build need not time it again.

Our own, because Polygraphy writes the file in place, and ends the build for a cache of another GPU.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from typing import TYPE_CHECKING, Any

from trtpipe import environment
from trtpipe.errors import StageFailed
from trtpipe.store.store import write_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trtpipe.backends.trt.library import Library


def place(library: Library, shared: Path) -> Path:
    """Give the place of the store's cache: timings hold for one runtime version and one kind of GPU."""
    gpu = environment.gpus()[0].name if environment.gpus() else "none"
    return shared / re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{library.name}-{library.version}-{gpu}") / "timing.cache"


class TimingCache:
    """The cache file of one build: the store's, which is merged and replaced after the build, or a pinned one.

    A pinned one is the user's own: it is used and never changed.
    """

    def __init__(self, library: Library, path: Path, note: Callable[[str], None], *, pinned: bool = False) -> None:
        self.library, self.path, self.note, self.pinned = library, path, note, pinned
        self.known = 0
        """Bytes of the cache when the builder got it."""

    def attach(self, builder_config: Any) -> None:
        """Give the cache to a builder config. A torn or foreign one of the store's is ignored, with a note.

        Raises StageFailed if a pinned one is torn or foreign.
        """
        data = self._read()
        # Polygraphy has given the config an empty one, and 8.6 takes no second: what is known goes into that.
        mine = builder_config.get_timing_cache()
        if mine is None:
            builder_config.set_timing_cache(builder_config.create_timing_cache(b""), False)
            mine = builder_config.get_timing_cache()
        empty = _serialised(mine)
        known = self._make(builder_config, data) if data else None
        if known is not None:
            # What combine returns is no reliable sign: going by it, this said "ignored" of timings that 8.6 then used.
            mine.combine(known, False)
            self.known = len(_serialised(mine))
            # A torn or foreign one becomes an empty one, and that is the only sign: 8.6 logs errors for good ones too.
            if self.known > len(empty) or data == empty:
                return
        self.known = len(empty)
        what = "torn, or of another TensorRT or GPU"
        if self.pinned:
            raise StageFailed(f"the timing cache {self.path.name} is {what}: {self.library.title} cannot use it here")
        if data:
            self.note(f"ignored the timing cache {self.path.name}: it is {what}")

    def finish(self, builder_config: Any, *, complete: bool) -> None:
        """Keep what the build learnt. Raises StageFailed if `complete` is asked for and it learnt anything."""
        learnt = builder_config.get_timing_cache()
        if learnt is None:
            return
        # A tactic that the cache did not know was timed, and is in the cache now.
        grown = len(_serialised(learnt)) - self.known
        if complete and grown > 0:
            raise StageFailed(
                f"reproducible: the build timed tactics that are not in the timing cache {self.path.name} "
                f"({grown} bytes of new timings), so another build may choose others; build once without reproducible "
                f"and pin the store's cache, {place(self.library, self.path.parent).parent.name}/timing.cache "
                "in artifacts/timing"
            )
        if not self.pinned:
            self._save(builder_config, learnt)

    def _save(self, builder_config: Any, learnt: Any) -> None:
        """Merge what the build learnt with what other builds wrote meanwhile, and replace the file."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path.parent / "lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                data = self._read()
                other = self._make(builder_config, data) if data else None
                if other is not None:
                    learnt.combine(other, False)
                write_file(str(self.path), _serialised(learnt))
        except OSError as error:
            self.note(f"the timing cache could not be saved ({error}); the plan is not affected")

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    @staticmethod
    def _make(builder_config: Any, data: bytes) -> Any:
        with contextlib.suppress(Exception):
            return builder_config.create_timing_cache(data)
        return None


def _serialised(cache: Any) -> bytes:
    return bytes(memoryview(cache.serialize()))
