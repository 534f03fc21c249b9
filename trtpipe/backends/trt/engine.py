"""An engine: a plan that TensorRT has loaded, with its bindings, its profiles and the contexts that it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from trtpipe.backends.trt import dtypes
from trtpipe.backends.trt.runtime_cache import RuntimeCache
from trtpipe.data import elements
from trtpipe.documents.manifest import Binding
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trtpipe.backends.trt.cuda import Runtime
    from trtpipe.backends.trt.library import Library
    from trtpipe.documents.manifest import Manifest


class Engine:
    """A plan that is loaded. `on_host` names the tensors that live in host memory, on both flavours: shape tensors.

    `profile` is the optimization profile that is used, by its number. `shared` is the folder of runtime caches, or
    None for no such cache. Raises StageFailed if the plan has no such profile, or a type that NumPy lacks.
    """

    def __init__(
        self,
        library: Library,
        cuda: Runtime,
        plan: Path,
        manifest: Manifest,
        note: Callable[[str], None],
        *,
        profile: int,
        shared: Path | None,
    ) -> None:
        self.library = library
        self.profile = profile
        self._manifest = manifest
        self._profiles = manifest.profiles
        self._runtime: Any = None
        self._native: Any = None
        self._config: Any = None
        self._cache: RuntimeCache | None = None
        self.bindings: Sequence[Binding] = []
        try:
            self.bindings = self._load(plan, manifest)
            self.inputs = [b for b in self.bindings if b.mode == "input"]
            self.outputs = [b for b in self.bindings if b.mode == "output"]
            if library.rtx and shared is not None:
                self._cache = RuntimeCache(library, cuda, shared, manifest.key, note)
        except BaseException:
            self.close()
            raise

    def _load(self, plan: Path, manifest: Manifest) -> list[Binding]:
        from polygraphy.backend.trt import EngineFromBytes

        trt = self.library.trt
        self._runtime = trt.Runtime(self.library.logger)
        if manifest.version_compatible:
            self._runtime.engine_host_code_allowed = True
        self._native = EngineFromBytes(plan.read_bytes(), runtime=self._runtime)()
        engine = self._native
        known = {b.name: b.dims for b in manifest.bindings}
        bindings: list[Binding] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            dtype = dtypes.dtype_name(engine.get_tensor_dtype(name))
            shape = tuple(int(d) for d in engine.get_tensor_shape(name))
            if dtype in elements.LOST and elements.per_byte(dtype) > 1:
                raise StageFailed(
                    f"{name} is {dtype}, of which several are in a byte: trtpipe cannot feed or read it on TensorRT; "
                    "put a Cast to int8 or float32 at this end of the model"
                )
            mode: Literal["input", "output"] = (
                "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
            )
            bindings.append(Binding(name=name, mode=mode, dtype=dtype, shape=shape, dims=known.get(name, shape)))
        if not 0 <= self.profile < engine.num_optimization_profiles:
            count = engine.num_optimization_profiles
            raise StageFailed(f"profile {self.profile} is asked for; the engine has {count}")
        host = trt.TensorLocation.HOST
        self.on_host = {b.name for b in bindings if engine.get_tensor_location(b.name) == host}
        return bindings

    @property
    def profile_count(self) -> int:
        """How many optimization profiles the engine has."""
        return int(self._native.num_optimization_profiles)

    def activation_bytes(self) -> int:
        """Give the bytes of device memory that a context takes for activations."""
        size = getattr(self._native, "device_memory_size_v2", None)
        return int(size if size is not None else getattr(self._native, "device_memory_size", 0))

    def check_shape(self, b: Binding, shape: tuple[int, ...]) -> None:
        """Raise StageFailed for an input's shape that does not fit the binding, or lies outside the profile."""
        text = f"[{', '.join(map(str, b.dims))}]"
        if len(shape) != len(b.shape) or any(want not in (-1, have) for want, have in zip(b.shape, shape, strict=True)):
            raise StageFailed(f"{b.name}: found the shape {list(shape)}, expected {text}")
        profile = self._profiles[self.profile].get(b.name) if self.profile < len(self._profiles) else None
        if profile is not None and not all(
            low <= have <= high for low, have, high in zip(profile.min, shape, profile.max, strict=True)
        ):
            raise StageFailed(
                f"{b.name}: the shape {list(shape)} lies outside profile {self.profile}, "
                f"min {list(profile.min)} to max {list(profile.max)}"
            )

    def check_values(self, b: Binding, values: Sequence[int]) -> None:
        """Raise StageFailed for values of a shape input that lie outside the profile: the engine would be wrong."""
        if problem := self._manifest.values_outside(self.profile, b.name, values):
            raise StageFailed(f"{b.name}: {problem}")

    def create_context(self, *, runtime_graphs: bool) -> Any:
        """Create an execution context, which takes the memory of activations; None if TensorRT refuses.

        `runtime_graphs` asks TensorRT-RTX to capture and launch CUDA graphs by itself.
        """
        # Kept while there may be a context: TensorRT-RTX 1.4 reads it when a profile is chosen, and ends the process if
        # Python has freed it by then.
        self._config = self._runtime_config(runtime_graphs=runtime_graphs)
        make = self._native.create_execution_context
        return make() if self._config is None else make(self._config)

    def _runtime_config(self, *, runtime_graphs: bool) -> Any:
        """Give TensorRT-RTX's settings of a context; None for TensorRT, which needs none."""
        if not (self.library.rtx and hasattr(self._native, "create_runtime_config")):
            return None
        trt, config = self.library.trt, self._native.create_runtime_config()
        kernels = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
        if kernels is not None:
            # The default compiles in the background and changes kernels on the way, and so the results' last bits.
            config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        if runtime_graphs and hasattr(trt, "CudaGraphStrategy"):
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self._cache is not None and hasattr(config, "create_runtime_cache"):
            self._cache.attach(config)
        return config

    def release_cache(self, *, save: bool) -> None:
        """Let go of the runtime cache; `save` keeps what was compiled for the next start."""
        if self._cache is not None and save:
            self._cache.save()
        self._cache = None

    def close(self) -> None:
        """Free the engine, then the runtime; contexts must be gone. Safe to call twice."""
        self._config = None
        self._cache = None
        self._native = None
        self._runtime = None
