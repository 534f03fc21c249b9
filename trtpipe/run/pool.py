"""Worker processes: started, watched, ended. What a worker says comes as messages; how it ended becomes a verdict."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from trtpipe import errors, interrupts
from trtpipe.formatting import seconds_text
from trtpipe.run import surroundings
from trtpipe.store.locks import TELL_SECONDS

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from queue import SimpleQueue

    from trtpipe.run.limits import Limit
    from trtpipe.run.request import Request
    from trtpipe.run.watching import Watch

    _Held = tuple[Limit, Watch | None]

LOG_LINES = 12
_GRACE_SECONDS = 3.0


class Pool:
    """Worker processes, each watched by a thread that puts (stage, message) into `messages`."""

    def __init__(self) -> None:
        from queue import SimpleQueue

        self.messages: SimpleQueue[tuple[str, dict[str, Any]]] = SimpleQueue()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def next(self, seconds: float | None) -> tuple[str, dict[str, Any]] | None:
        """Wait for a message, or for so many seconds."""
        from queue import Empty

        try:
            return self.messages.get(timeout=seconds)
        except Empty:
            return None

    def start(self, request: Request, folder: str) -> None:
        """Start a worker for a stage; its output goes to the file `log` in the folder."""
        import subprocess
        import threading

        from trtpipe.run.limits import Limit

        watch = None
        if request.watched:
            from trtpipe.run.watching import Watch

            watch = Watch(request)
            request = watch.request()
        settings = surroundings.of_worker(folder, request.env, network=request.network)
        reading, writing = os.pipe()
        log = os.path.join(folder, "log")
        command = [sys.executable, "-m", "trtpipe.run.worker", str(writing), str(os.getpid())]
        try:
            with open(log, "wb") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=os.path.join(folder, "scratch"),
                    env=settings,
                    pass_fds=(writing, *([request.watch_fd] if watch else [])),
                    start_new_session=True,  # Ctrl-C is this process's to handle
                )
        except BaseException:
            os.close(reading)
            if watch is not None:
                watch.supervisor.stop()
            raise
        finally:
            os.close(writing)
        if watch is not None:
            watch.supervisor.start()
        self._processes[request.stage] = process
        limit = Limit(process.pid, request.timeout, request.memory)
        threading.Thread(target=self._watch, args=(request, process, reading, log, (limit, watch)), daemon=True).start()
        threading.Thread(target=_end_rest, args=(process.pid,), daemon=True).start()

    def _watch(self, request: Request, process: subprocess.Popen[bytes], reading: int, log: str, held: _Held) -> None:
        limit, watch = held
        name = request.stage
        last: dict[str, Any] | None = None
        assert process.stdin is not None
        try:
            with contextlib.suppress(OSError), process.stdin as stream:
                stream.write(request.to_json())
            with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
                for line in pipe:
                    try:
                        message = json.loads(line)
                    except ValueError:
                        continue  # the last line of a worker that died while it wrote
                    if message["message"] in ("done", "error"):
                        last = message
                    else:
                        self.messages.put((name, message))
            code = process.wait()
            limit.over()
            verdict = _verdict(code, last, log, limit.why)
            self.messages.put((name, {"message": "end", **(watch.end(verdict) if watch is not None else verdict)}))
        except BaseException as error:  # noqa: BLE001 — a watcher that dies silently would hang the run
            self.messages.put(
                (name, {"message": "end", "error": "TrtpipeError", "text": f"the watcher died: {error!r}"})
            )

    def end(self) -> None:
        """Ask the workers to end, then make them; returns when none is left. A second interrupt ends them at once."""
        import signal

        left = [process for process in self._processes.values() if process.poll() is None]
        try:
            for signal_number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, 30.0)):
                for process in left:
                    if process.poll() is None:
                        _end_group(process.pid, signal_number)
                deadline = time.monotonic() + patience
                while any(process.poll() is None for process in left) and time.monotonic() < deadline:
                    if signal_number == signal.SIGTERM and interrupts.again():
                        break
                    time.sleep(0.02)
        finally:
            for process in left:
                _end_group(process.pid, signal.SIGKILL)


def _end_group(pid: int, signal_number: int) -> None:
    """Send a signal to a worker and to all that it started, if any of it is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal_number)


def _end_rest(pid: int) -> None:
    """Wait for a worker's end, then end what it started: that would go on unseen, and may hold the messages' pipe."""
    import signal

    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    _end_group(pid, signal.SIGKILL)


def _verdict(code: int, last: dict[str, Any] | None, log: str, limit: str | None) -> dict[str, Any]:
    """Turn a worker's end into an error's class and text, or none. A result counts only if the end was clean.

    `limit` says which one the worker was ended for, if it was.
    """
    if last is not None and last["message"] == "error":
        return {"error": last["error"], "text": last["text"]}
    if code == 0 and last is not None:
        return {"error": None, "text": ""}
    import signal

    if limit is not None:
        how = limit
    elif code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (often: the machine is out of memory)" if name == "SIGKILL" else ""
        how = f"the worker was ended by {name}{hint}"
    else:
        how = f"the worker ended with exit code {code} before it was done"
    lines = tail(log, LOG_LINES)
    return {
        "error": "StageFailed" if limit is None else "LimitExceeded",
        "text": how + ("; last lines of its log:\n  " + "\n  ".join(lines) if lines else ""),
    }


def tail(path: str, count: int) -> list[str]:
    """Give the last lines of a log, of which at most 64 KiB are read."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 65536))
            text = stream.read().decode("utf-8", "replace")
    except OSError as error:
        return [] if error.errno == errno.ENOENT else [f"({error})"]
    return [line for line in text.splitlines() if line.strip()][-count:]


def run_one(request: Request, folder: str, tell: Callable[[str], None]) -> None:
    """Run one stage in a worker and wait for it; notes go to `tell`, and each minute that it still runs.

    Raises what the stage failed with.
    """
    pool, begun = Pool(), time.monotonic()
    try:
        pool.start(request, folder)
        while True:
            got = pool.next(TELL_SECONDS)
            if got is None:
                tell(f"{request.stage}: still running, {seconds_text(time.monotonic() - begun)}")
                continue
            message = got[1]
            if message["message"] == "note":
                tell(message["text"])
            elif message["message"] == "end":
                if message["error"] is not None:
                    raise errors.CLASSES[message["error"]](message["text"])
                return
    finally:
        pool.end()
