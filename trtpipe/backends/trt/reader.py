"""The threads that read batches into a session's slots, ahead of what is computed."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from trtpipe.data import parallel
from trtpipe.runtime import Pending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trtpipe.backends.trt.slots import Feed, Loaded, Slot
    from trtpipe.documents.manifest import Binding


def how_many(slots: Sequence[Slot], inputs: Iterable[Binding]) -> int:
    """Give how many batches are read at a time, by the bytes of the largest input in host memory.

    Two, if a batch is shared out to several threads: one is begun while the last pieces of the other are still
    being read. Smaller ones are read by one thread each, up to four at a time, and the smallest by one for four
    slots: more of them wait for Python's lock (docs/benchmarks/h100.md).
    """
    largest = max((slots[0].host[b.name].size for b in inputs), default=0)
    if parallel.shares(largest) > 1:
        return 2
    return max(1, len(slots) // 4) if largest < parallel.PIECE else max(2, min(4, parallel.threads()))


class Reader:
    """Takes feeds, in order, and loads each into the next slot in turn.

    `load` fills a slot with a feed and starts its way to the device; it waits until the slot's last batch is out of
    the way. There are `threads` of them, but no more than slots: each fills one.
    """

    def __init__(
        self, slots: Sequence[Slot], feeds: Iterable[Feed], load: Callable[[Slot, Feed], Loaded], threads: int
    ) -> None:
        self._feeds = feeds
        self._iterator = iter(feeds)
        self._slots = slots
        self._load = load
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
            for n in range(min(threads, len(self._slots)))
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while self._one():
            pass

    def _one(self) -> bool:
        """Take a feed and load it; False after the last."""
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
                    made = self._load(slot, feed)
        except BaseException as error:  # noqa: BLE001 - next() raises it in its turn
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
        """Give the next batch, or None after the last. Raises what taking or loading it raised."""
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
        """End the threads; a batch that is being filled is finished first."""
        self._stopped.set()
        for _ in self._threads:
            self._free.release()
        for thread in self._threads:
            thread.join()
        close = getattr(self._iterator, "close", None)
        if close is not None:
            with contextlib.suppress(Exception):
                close()
