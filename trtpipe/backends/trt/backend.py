"""TensorRT and TensorRT-RTX through Polygraphy: one backend for both flavours, 8.6 to 11.

Polygraphy does the network, config, profile, build and deserialising. Where it does not fit, our own code stands
beside it, and says why: the parser (Polygraphy logs its errors and gives it up), the logger (Polygraphy's goes to
stdout and forgets), the timing cache, and running (the session).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe import environment
from trtpipe.backends import plan_header
from trtpipe.backends.trt import builder, library, parser, profiles, rules
from trtpipe.backends.trt.session import TrtSession
from trtpipe.errors import EnvironmentMissing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trtpipe.backends.trt.library import Library
    from trtpipe.documents.base import Runtime
    from trtpipe.documents.buffers import Buffers
    from trtpipe.documents.config import Asked, Config, Hold
    from trtpipe.documents.manifest import Manifest
    from trtpipe.documents.network import Network
    from trtpipe.runtime import Built, Parsed, Session, Settled

_loaded: TrtBackend | None = None


def load(name: Runtime) -> TrtBackend:
    """Import a flavour of TensorRT and give its backend; the second call gives the same one.

    Raises EnvironmentMissing if it is not installed, if it is `tensorrt` and there is no GPU, or if this process has
    already loaded the other flavour.
    """
    global _loaded  # noqa: PLW0603 - one flavour a process, and that is a fact of the process
    if _loaded is not None:
        if _loaded.name != name:
            raise EnvironmentMissing(library.other_flavour(name, _loaded.name))
        return _loaded
    _loaded = TrtBackend(library.load(name))
    return _loaded


class TrtBackend:
    """See trtpipe.runtime.Backend. `version` is the bindings' full version."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.name: Runtime = library.name
        self.version = library.version

    def parse(self, model: Path) -> Parsed:
        """Parse an ONNX file; see parser.parse. Raises StageFailed that lists every rejected node."""
        return parser.parse(self.library, model)

    def configure(self, asked: Asked, network: Network, hold: Hold | None = None) -> Settled:
        """Decide how this TensorRT honours what is asked; see rules.settle. Raises StageFailed for what it cannot."""
        part = rules.settle(self.name, self.version, asked, network, self.library.has, hold=hold)
        profiles.check(self.library.title, asked, network)
        return part

    def build(
        self,
        model: Path,
        config: Config,
        plan: Path,
        shared: Path,
        note: Callable[[str], None],
        *,
        pinned: Path | None = None,
        reproducible: bool = False,
        doing: Callable[[str], None] = lambda _: None,
        progress: Callable[[int, int | None, str], None] = lambda *_: None,
    ) -> Built:
        """Build and serialise a plan into the file `plan`; see builder.build. Raises StageFailed."""
        return builder.build(
            self.library,
            model,
            config,
            plan,
            shared=shared,
            note=note,
            pinned=pinned,
            reproducible=reproducible,
            doing=doing,
            progress=progress,
        )

    def open(
        self,
        plan: Path,
        manifest: Manifest,
        buffers: Buffers,
        note: Callable[[str], None],
        shared: Path | None = None,
    ) -> Session:
        """Load a plan and allocate its buffers.

        Raises EnvironmentMissing without a GPU, or with one that this runtime does not support, and StageFailed
        if the plan belongs to another runtime or version, is torn, or does not fit into device memory.
        """
        plan_header.check(plan, self.name, self.version, version_compatible=manifest.version_compatible)
        gpus = environment.gpus()
        if not gpus:
            raise EnvironmentMissing(
                f"{self.library.title} builds here, but running a plan needs a GPU and there is none; "
                "`--target engine` ends with the plan, and --backend onnxruntime runs without a GPU"
            )
        gpu = gpus[0]
        if self.library.rtx and not environment.rtx_supports(self.version, gpu.compute_capability):
            raise EnvironmentMissing(
                f"{self.library.title} does not run on {gpu.name} (compute capability {gpu.compute_capability}); "
                "TensorRT-RTX 1.4 does on Hopper: pip install 'tensorrt-rtx-cu13-libs==1.4.*' "
                "'tensorrt-rtx-cu13-bindings==1.4.*', or use --backend tensorrt"
            )
        self.library.load_plugins(plan.parent / "plugins")
        with self.library.calls(f"{plan.name} cannot be loaded on {gpu.name}"):
            return TrtSession(self.library, plan, manifest, buffers, note, shared=shared)
