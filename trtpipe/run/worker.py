"""Runs one stage in a process of its own, so that a crash of native code fails that stage alone.

The request comes as JSON on standard input, messages go as JSON lines to the file descriptor that the first
argument names, and whatever else is printed is the stage's log.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.errors import StoreError, TrtpipeError
from trtpipe.run.request import Request
from trtpipe.users_code import said

if TYPE_CHECKING:
    from trtpipe.runtime import Backend

_PR_SET_PDEATHSIG = 1
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main() -> None:
    """Run the stage that standard input describes; say `done` or `error` last."""
    # Native code writes to descriptor 1 too, so messages have a descriptor of their own.
    pipe = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8", buffering=1)
    os.set_inheritable(pipe.fileno(), False)
    _die_with_parent(int(sys.argv[2]))
    lock = threading.Lock()

    def say(kind: str, **fields: Any) -> None:
        # What is no UTF-8 (a file's name in an error, say) could be written nowhere further on.
        for name, value in fields.items():
            if isinstance(value, str):
                fields[name] = value.encode("utf-8", "backslashreplace").decode()
        with lock:
            pipe.write(json.dumps({"message": kind, **fields}) + "\n")

    try:
        _run(Request.from_json(sys.stdin.read()), say)
    except TrtpipeError as error:
        _log_error()
        say("error", error=type(error).__name__, text=str(error))
    except MemoryError as error:
        _log_error()
        say("error", error="StageFailed", text=f"out of memory: {error or 'an allocation failed'}")
    except OSError as error:
        _log_error()
        if error.errno in _DISK:
            where = error.filename or "the artifacts folder"
            say("error", error=StoreError.__name__, text=f"{error.strerror}: {where}")
        else:
            say("error", error="StageFailed", text=f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 — a body is also users' code: whatever it raises fails its stage
        _log_error()
        say("error", error="StageFailed", text=said(error))
    else:
        say("done")
    sys.stdout.flush()
    sys.stderr.flush()


def _log_error() -> None:
    """Write the exception to the log; a disk too full for that must not hide what is said of it."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the run dies, even by SIGKILL."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _run(request: Request, say: Any) -> None:
    if not request.watched:
        _run_stage(request, say)
        return
    import msgspec  # noqa: F401 — what we need ourselves is imported before: it is not what the code looks at

    from trtpipe import backends, stages
    from trtpipe.run import entrypoint, observer

    stages.get(request.type)
    assert backends
    # Before NumPy is imported: threads that run already could not be watched any more.
    observer.begin(
        request.watch_fd, readable=request.readable, ours=[os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    )
    entrypoint.probe(request.root)
    try:
        _run_stage(request, say)
    finally:
        observer.end()


def _run_stage(request: Request, say: Any) -> None:
    import msgspec

    from trtpipe import backends, stages
    from trtpipe.run import entrypoint
    from trtpipe.stage import Context, Input

    stage_type = stages.get(request.type)
    params = msgspec.convert(request.params, stage_type.Params)
    inputs = {
        name: Input(
            name=name, kind=i.kind, folder=Path(i.folder), files=i.files, label=i.label
        )
        for name, i in request.inputs.items()
    }  # fmt: skip
    sources = {name: Path(request.folder) / name for name in request.sources}
    loaded: list[Backend] = []

    def backend() -> Backend:
        if not loaded:
            loaded.append(backends.load(request.backend))
        return loaded[0]

    stage_type.run(
        Context(
            stage=request.stage,
            params=params,
            inputs=inputs,
            out=Path(request.out),
            scratch=Path(request.scratch),
            shared=Path(request.shared),
            sources=sources,
            key=request.key,
            backend_name=request.backend,
            backend=backend,
            load=lambda name: entrypoint.load(sources, name),
            progress=lambda done, total, unit: say("progress", done=done, total=total, unit=unit),
            note=lambda text: say("note", text=text),
            doing=lambda text: say("doing", text=text),
            figure=lambda name, value, rule, passed: say(
                "figure", name=name, value=value if math.isfinite(value) else str(value), rule=rule, passed=passed
            ),
            failed=request.failed,
        )
    )


if __name__ == "__main__":
    main()
