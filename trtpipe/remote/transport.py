"""Get and put at any address that fsspec can open, with three kinds of errors and bounded memory.

Big files are fetched in ranges, a few at a time and in order. The reader can digest and write one range while the next
ones arrive, and can continue an interrupted download.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import weakref
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe.errors import EnvironmentMissing

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

CHUNK = 8 * 2**20
AHEAD = 3
"""Chunks of one file that are transferred at a time."""
JOBS = 4
"""Files that are transferred at a time: at most JOBS × (AHEAD + 1) chunks are in memory, 128 MiB."""
CONNECT_SECONDS = 5.0
READ_ONLY = ("http", "https")

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_USER = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(\w+://[^\s?'\"]+)\?[^\s'\"]+")
_CREDENTIAL = re.compile(
    r"(?i)((?:signature|token|secret|password|credential|access_?key(?:_?id)?)['\"]?\s*[=:]\s*)\S+"
)


class TransportError(Exception):
    """A request failed; the text holds no credentials."""


class NotThere(TransportError):
    """The server says that the file does not exist."""


class NotAllowed(TransportError):
    """The server refuses access."""


class NotReachable(TransportError):
    """No answer, a wrong answer, or none in time."""


class Access(NamedTuple):
    """How to reach a remote store. `options` go to fsspec's file system unchanged and may hold credentials."""

    url: str
    endpoint: str | None
    region: str | None
    anonymous: bool
    timeout: float
    options: Mapping[str, Any]


def redact(text: str) -> str:
    """Remove possible credentials from a text: user and password in addresses, their queries, named secrets."""
    return _CREDENTIAL.sub(r"\1…", _QUERY.sub(r"\1?…", _USER.sub("…@", text)))


class Transport:
    """A remote folder. Paths are relative and posix; all methods raise subclasses of TransportError."""

    def __init__(self, access: Access) -> None:
        """Make the client; no request is sent yet. Raises EnvironmentMissing."""
        self.scheme = access.url.partition("://")[0]
        self._timeout = access.timeout
        self._secrets = [str(v) for v in _leaves(access.options) if len(str(v)) >= 4]
        self._ranges = True
        self._stopped = False
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        try:
            import fsspec
            from fsspec.core import url_to_fs

            if tuple(map(int, re.findall(r"\d+", fsspec.__version__)[:2])) < (2025, 3):
                raise EnvironmentMissing(f"found fsspec {fsspec.__version__}, expected 2025.3 or newer")
            if self.scheme != "file":
                _loop()
            self._fs, self._top = url_to_fs(access.url.rstrip("/"), **self._options(access))
        except ImportError as error:
            package = _PACKAGES.get(self.scheme, "fsspec")
            extra = "'trtpipe[remote]'" if package in ("s3fs", "fsspec") else package
            raise EnvironmentMissing(f"{redact(access.url)}: {self._text(error)}: pip install {extra}") from None
        except (ValueError, TypeError) as error:
            raise NotReachable(self._text(error)) from None
        if self.scheme == "s3":
            self._fs.retries = 1  # s3fs tries five times around botocore's two; blobs are tried again by our caller

    def _options(self, access: Access) -> dict[str, Any]:
        made: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if self.scheme == "s3":
            made["config_kwargs"] = {
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": access.timeout,
                "retries": {"total_max_attempts": 2, "mode": "standard"},
            }
            made["max_concurrency"] = AHEAD
            if access.anonymous:
                made["anon"] = True
            if access.endpoint:
                made["endpoint_url"] = access.endpoint
            if access.region:
                made["client_kwargs"] = {"region_name": access.region}
        elif self.scheme in READ_ONLY:
            from aiohttp import ClientTimeout

            # The whole transfer has no limit, because a plan may take an hour; the limit is for a time without a byte.
            limits = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=access.timeout)
            made["client_kwargs"] = {"timeout": limits}
        elif self.scheme == "file":
            made["auto_mkdir"] = True
        return {**made, **access.options}

    def _path(self, name: str) -> str:
        return f"{self._top}/{name}"

    def stop(self) -> None:
        """Stop all transfers now, so that no thread waits for a server until its time limit."""
        self._stopped = True
        if self.scheme != "file":
            loop = _loop()

            def cancel() -> None:
                # A task that is cancelled before its first step takes none, and then fsspec never tells the thread that
                # waits for it. Its first step is due already, so the next turn finds it begun.
                tasks = list(self._tasks)
                for task in filter(_has_begun, tasks):
                    task.cancel()
                if not all(map(_has_begun, tasks)):
                    loop.call_soon(cancel)

            loop.call_soon_threadsafe(cancel)

    # --- reading

    def get(self, name: str, limit: int) -> bytes:
        """Give a small file's content. Raises NotReachable if it has more than `limit` bytes."""
        data = b""
        with contextlib.suppress(_Beyond), self._errors(name):
            if self.scheme == "s3":  # one request, where a file object would take two
                data = self._fs.cat_file(self._path(name), start=0, end=limit + 1)
            else:
                with self._fs.open(self._path(name), "rb", **self._whole()) as stream:
                    data = stream.read(limit + 1)
        if len(data) > limit:
            raise NotReachable(f"{name}: found more than {limit} bytes")
        return data

    def _whole(self) -> dict[str, Any]:
        """Give the options with which `open` reads from the beginning without extra requests."""
        return {"block_size": 0} if self.scheme in READ_ONLY else {}

    def chunks(
        self, name: str, size: int, start: int, pool: Callable[..., Future[bytes]]
    ) -> Iterator[tuple[int, bytes]]:
        """Give a file of `size` bytes from `start` on as (offset, bytes), in order.

        If the server has no ranges, the offset starts at 0 again. `pool` runs a function in a thread.
        """
        if self._ranges:
            try:
                yield from self._ranged(name, size, start, pool)
            except _NoRanges:
                self._ranges = False
            else:
                return
        position = 0
        with self._errors(name), self._fs.open(self._path(name), "rb", **self._whole()) as stream:
            while data := stream.read(CHUNK):
                yield position, data
                position += len(data)
                if position > size:
                    return

    def _ranged(
        self, name: str, size: int, start: int, pool: Callable[..., Future[bytes]]
    ) -> Iterator[tuple[int, bytes]]:
        waiting: deque[tuple[int, Future[bytes]]] = deque()
        position = start
        try:
            while position < size or waiting:
                while position < size and len(waiting) < AHEAD:
                    end = min(size, position + CHUNK)
                    waiting.append((position, pool(self._range, name, position, end, size)))
                    position = end
                offset, future = waiting.popleft()
                yield offset, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

    def _range(self, name: str, start: int, end: int, size: int) -> bytes:
        path = self._path(name)
        with self._errors(name):
            if self.scheme not in READ_ONLY:
                data: bytes = self._fs.cat_file(path, start=start, end=end)
            else:
                # This way fsspec stops reading when it sees that the server sends the whole file instead of a range.
                with self._fs.open(path, "rb", block_size=CHUNK, cache_type="none", size=size) as stream:
                    stream.seek(start)
                    try:
                        data = stream.read(end - start)
                    except ValueError:
                        raise _NoRanges from None
        if len(data) != end - start:
            raise NotReachable(
                f"{name}: found {len(data)} bytes at {start}, expected {end - start}: the transfer was cut off"
            )
        return data

    def size(self, name: str) -> int | None:
        """Give a file's size in bytes, or None if it is not there."""
        try:
            with self._errors(name):
                found = self._fs.info(self._path(name))
                return int(found["size"]) if found.get("type") == "file" else None
        except NotThere:
            return None

    # --- writing

    def put(self, name: str, data: bytes) -> None:
        """Write a small file; a reader sees all of it or none."""
        with self._errors(name):
            path, final = self._target(name)
            self._fs.pipe_file(path, data)
            self._settle(path, final)

    def put_file(self, local: str, name: str) -> None:
        """Write a file, in bounded memory; a reader sees all of it or none."""
        with self._errors(name):
            path, final = self._target(name)
            more = {"chunksize": 2 * CHUNK} if self.scheme == "s3" else {}
            self._fs.put_file(local, path, **more)
            self._settle(path, final)

    def _target(self, name: str) -> tuple[str, str]:
        """Give the path to write and the final path; object stores need only one."""
        final = self._path(name)
        return (f"{final}.{os.getpid()}-{os.urandom(4).hex()}.tmp" if self.scheme == "file" else final), final

    def _settle(self, path: str, final: str) -> None:
        if path != final:
            try:
                os.chmod(path, 0o644)  # the local one was read-only
                os.replace(path, final)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                raise

    # --- errors

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Turn all errors of fsspec's file systems into one of three kinds."""
        _owner.set(self._tasks)
        try:
            yield
            if self._stopped:  # fsspec gives None for what was cancelled, as if it had been done
                raise NotReachable(f"{name}: stopped")
        except (TransportError, _NoRanges):
            raise
        except FileNotFoundError:
            raise NotThere(name) from None
        except Exception as error:  # noqa: BLE001 — fsspec's file systems raise any class of error
            if self._stopped:
                raise NotReachable(f"{name}: stopped") from None
            status = getattr(error, "status", None) or _status(error)
            text = self._text(error)
            if status == 416:
                raise _Beyond(f"{name}: the file ends before the requested range") from None
            if status == 404:
                raise NotThere(name) from None
            if isinstance(error, PermissionError) or status in (401, 403):
                raise NotAllowed(text) from None
            if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
                raise NotAllowed(f"{name}: no credentials: set them as for any client of {self.scheme}") from None
            raise NotReachable(text) from None

    def _text(self, error: BaseException) -> str:
        text = redact(str(error) or type(error).__name__)
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text.splitlines()[0][:300] if text else type(error).__name__


_owner: ContextVar[weakref.WeakSet[asyncio.Task[Any]] | None] = ContextVar("owner", default=None)
_starting = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """Give fsspec's event loop, changed so that it records the transport of each task.

    A request of a thread runs there in a copy of the thread's context, and so do the tasks that the request starts. It
    is not a loop of our own, because s3fs closes its connections in the loop that runs when it is collected.
    """
    from fsspec.asyn import get_loop

    with _starting:
        loop: asyncio.AbstractEventLoop = get_loop()
        if getattr(loop.get_task_factory(), "of_trtpipe", False):
            return loop
        import asyncio

        before = loop.get_task_factory()

        def make(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> Any:
            task: Any = before(loop, work, **more) if before else asyncio.Task(work, loop=loop, **more)
            if (tasks := _owner.get()) is not None:
                tasks.add(task)
            return task

        make.of_trtpipe = True  # type: ignore[attr-defined]
        loop.set_task_factory(make)
        return loop


def _has_begun(task: asyncio.Task[Any]) -> bool:
    import inspect

    work = task.get_coro()
    return not inspect.iscoroutine(work) or inspect.getcoroutinestate(work) != inspect.CORO_CREATED


class _Beyond(NotReachable):
    """A range begins after the end of the file, as every range of an empty file does."""


class _NoRanges(Exception):
    """The server sends whole files only."""


def _status(error: BaseException) -> int | None:
    """Give the HTTP status behind an error of S3, if there is one."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return code if isinstance(code, int) else None
    return None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, dict) or re.search(r"(?i)key|secret|token|password|user|pass", str(name)):
                yield from _leaves(item)
    elif isinstance(value, str):
        yield value
