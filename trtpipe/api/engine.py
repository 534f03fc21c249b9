"""An engine from Python: opened from a plan or its folder, called by name, closed."""

from __future__ import annotations

import os
import queue
from typing import TYPE_CHECKING, Any

from trtpipe import backends
from trtpipe.api import calls
from trtpipe.backends import preflight
from trtpipe.deploy import reading
from trtpipe.documents.manifest import Manifest
from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.stages.allocate import AllocateParams, plan_buffers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    import numpy as np

    from trtpipe.documents.buffers import Buffers
    from trtpipe.documents.manifest import Binding
    from trtpipe.runtime import Session


class Engine:
    """An engine that is ready to run. A context manager; threads may call it at the same time.

    A call takes a session (an execution context with its buffers) from a pool of `sessions`, or waits for one.
    """

    def __init__(self, manifest: Manifest, sessions: Sequence[Session], *, profile: int, shared: bool) -> None:
        self.manifest = manifest
        self._sessions = list(sessions)
        self._calls = calls.Calls(manifest, profile)
        self._free: queue.SimpleQueue[Session] = queue.SimpleQueue()
        for one in self._sessions:
            self._free.put(one)
        self._alone = None if not shared else self._sessions[0]
        """A session that many threads may use at the same time."""
        self._closed = False

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        backend: str | None = None,
        gpu: int = 0,
        verify: bool = True,
        trust: Mapping[str, str] | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        profile: int = 0,
        sessions: int = 1,
        note: Callable[[str], None] = lambda _: None,
    ) -> Engine:
        """Open an engine: a folder that `build` or `deploy` made, or the plan in it, with its `manifest.json`.

        `backend` refuses an engine of another runtime. `shapes` is the largest shape of each input with dynamic axes,
        batch included; by default the largest that the profile takes. `sessions` is how many calls can run on a GPU at
        the same time, each with memory of its own. With `verify`, each file of a deployed folder must be the one that
        its `bundle.json` names; with `trust`, names and public keys, one of these keys must have signed it.

        All of this is checked before anything is deserialised. Raises StageFailed for a plan that is damaged or does
        not fit, GateFailed for a file that was changed, EnvironmentMissing if its runtime, or a GPU that it needs, is
        not here.
        """
        if trust is not None and not verify:
            raise StageFailed("trust: found verify=False beside it, expected one of them: nothing would be checked")
        found = os.path.join(folder, reading.CURRENT)  # a folder of versions
        plan, manifest = preflight.open_plan(found if os.path.isdir(found) else os.fspath(folder))
        if manifest is None:
            raise StageFailed(f"{folder}: there is no {Manifest.file} beside the plan, so nothing tells how to feed it")
        if backend not in (None, "auto", manifest.runtime):
            raise StageFailed(f"{folder}: found an engine of {manifest.runtime}, expected one of {backend}")
        if verify:
            reading.verify(plan.parent, trust)
        preflight.require(plan, manifest)
        if gpu:
            raise EnvironmentMissing(
                f"gpu: found {gpu}, expected 0: a process uses the first GPU that it sees; say which it sees before it "
                f"starts: CUDA_VISIBLE_DEVICES={gpu}"
            )
        if sessions < 1:
            raise StageFailed(f"sessions: found {sessions}, expected at least 1")
        runtime = backends.load(manifest.runtime)
        shared = manifest.runtime == "onnxruntime"
        buffers = _buffers(manifest, shapes, profile, without=shared)
        opened: list[Session] = []
        try:
            while len(opened) < (1 if shared else sessions):
                opened.append(runtime.open(plan, manifest, buffers, note))
        except BaseException:
            for one in opened:
                one.close()
            raise
        return cls(manifest, opened, profile=profile, shared=shared)

    @property
    def inputs(self) -> tuple[Binding, ...]:
        """The bindings that are fed, with names, dtypes and shapes."""
        return tuple(self.manifest.side("input"))

    @property
    def outputs(self) -> tuple[Binding, ...]:
        """The bindings that are given back."""
        return tuple(self.manifest.side("output"))

    def __call__(self, feed: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, np.ndarray]:
        """Run what is given by name, as `run` does: `engine(image=images)`."""
        return self.run({**(feed or {}), **named})

    def run(
        self, feed: Mapping[str, Any], *, out: Mapping[str, Any] | None = None, stream: int | None = None
    ) -> dict[str, Any]:
        """Run an array for each input by name; gives an array for each output, the caller's to keep.

        Inputs are NumPy arrays, or what NumPy reads through DLPack from host memory. More samples than the profile
        takes are run in several batches. With `out`, outputs of these names are written into these arrays.

        On TensorRT and TensorRT-RTX, inputs may all lie in the GPU's memory, with DLPack or `__cuda_array_interface__`:
        then outputs lie there too (`out` as well), as DeviceArray, in the order of `stream`, by default the current
        stream of the arrays' library; nothing waits on the host.

        Raises StageFailed for names, dtypes or shapes that do not fit, with what was found and expected.
        """
        if self._closed:
            raise StageFailed("found a closed engine, expected one that is open")
        if self._alone is None and calls.on_device(feed):
            return self._on_device(feed, out or {}, stream)
        if stream is not None:
            raise StageFailed("stream: found one with arrays in host memory, expected it with arrays on a GPU only")
        parts = self._calls.batches(feed)
        if len(parts) == 1:
            made = self._one(parts[0])
        else:
            made = self._calls.joined([self._one(part) for part in parts], [calls.rows(p, self._calls) for p in parts])
        return made if out is None else calls.into(made, out)

    def _on_device(self, feed: Mapping[str, Any], out: Mapping[str, Any], stream: int | None) -> dict[str, Any]:
        self._calls.check_names(feed)
        session = self._free.get()
        try:
            made: dict[str, Any] = session.run_on_device(feed, stream=stream, out=out)  # type: ignore[attr-defined]
        finally:
            self._free.put(session)
        return made

    def _one(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._alone is not None:  # its outputs are new arrays, and nothing of the session is shared
            return self._alone.run(feed)
        session = self._free.get()
        try:
            return {name: array.copy() for name, array in session.run(feed).items()}
        finally:
            self._free.put(session)

    def close(self) -> None:
        """Free all memory; safe to call twice. Calls in other threads must have ended."""
        self._closed = True
        while self._sessions:
            self._sessions.pop().close()

    def __enter__(self) -> Engine:  # noqa: PYI034 — Self came with 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _buffers(manifest: Manifest, shapes: Mapping[str, Sequence[int]] | None, profile: int, *, without: bool) -> Buffers:
    """Plan the buffers for the largest shapes; `without` any for outputs, where a runtime makes new arrays itself."""
    import msgspec

    inputs = manifest.side("input")
    largest = manifest.profiles[profile] if 0 <= profile < len(manifest.profiles) else {}
    asked = {name: list(one.max) for name, one in largest.items()}
    asked.update({name: list(shape) for name, shape in (shapes or {}).items()})
    if without:
        # ONNX Runtime takes any length of an axis that no profile limits, and its buffers are never used.
        for b in inputs:
            if b.name not in asked and any(isinstance(d, str) for d in b.dims):
                asked[b.name] = [d if isinstance(d, int) else 1 for d in b.dims]
    planned = plan_buffers(manifest, AllocateParams(shapes=asked, profile=profile), whole=True)
    if not without:
        return planned
    loose = [
        b if b.mode == "input" else msgspec.structs.replace(b, bytes=None, size="data-dependent")
        for b in planned.bindings
    ]
    return msgspec.structs.replace(planned, bindings=tuple(loose))
