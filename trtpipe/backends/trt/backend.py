"""TensorRT and TensorRT-RTX through Polygraphy: one backend for both flavours, 8.6 to 11.

Polygraphy does the network, config, profile, build and deserialising. Where it does not fit, our own code stands
beside it with the reason: the parser's errors (Polygraphy logs them and gives up the parser), the logger
(Polygraphy's goes to stdout and forgets), timing caches (its file is not replaced atomically, and a cache of
another GPU ends the build), and running (see trtsession).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import logging
import os
import re
import sys
import warnings
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from trtpipe import environment
from trtpipe.backends import plan_header
from trtpipe.backends.trt import rules
from trtpipe.backends.trt.rules import OBEY
from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.runtime import Binding
from trtpipe.store.store import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from trtpipe.runtime import Session

DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "BOOL": "bool", "FP8": "float8e4m3fn", "INT4": "int4", "FP4": "float4e2m1",
    "E8M0": "float8e8m0",
}  # fmt: skip
"""TensorRT's names of data types → NumPy's."""
KEPT = 12  # the native errors of one call that a message shows
LONGEST = 600  # characters of one of them
VERBOSITY = {"names_only": "LAYER_NAMES_ONLY", "none": "NONE", "detailed": "DETAILED"}
EXTERNAL_TACTICS = ("CUBLAS", "CUBLAS_LT", "CUDNN")

_loaded: TrtBackend | None = None


class _Stderr(logging.Handler):
    """Write to whatever sys.stderr is now: a worker's goes to the stage's log."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"[{record.levelname.lower()}] {record.name}: {record.getMessage()}\n")


def load(name: str) -> TrtBackend:
    """Import a flavour of TensorRT and give its backend; the second call gives the same one.

    Raises EnvironmentMissing if it is not installed, if it is `tensorrt` and there is no GPU (its builder needs
    one even to parse), or if this process has already loaded the other flavour: Polygraphy reads the choice at
    import.
    """
    global _loaded  # noqa: PLW0603 - one flavour a process, and that is a fact of the process
    if _loaded is not None:
        if _loaded.name != name:
            raise EnvironmentMissing(_other(name, _loaded.name))
        return _loaded
    rtx = name == rules.RTX
    if rtx:
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
    else:
        os.environ.pop("POLYGRAPHY_USE_TENSORRT_RTX", None)
    config = sys.modules.get("polygraphy.config")
    if config is not None and bool(config.USE_TENSORRT_RTX) != rtx:
        raise EnvironmentMissing(_other(name, "tensorrt_rtx" if config.USE_TENSORRT_RTX else "tensorrt"))
    trt = _import(name)
    rules.typing(name, rules.parse_version(trt.__version__))
    if not rtx and not environment.gpus():
        raise EnvironmentMissing(
            "tensorrt needs a GPU even to build, and there is none here (or CUDA_VISIBLE_DEVICES hides it); without "
            "one, --backend tensorrt_rtx --target engine builds a real plan (pip install 'trtpipe[rtx]'), and "
            "--backend onnxruntime runs"
        )
    _loaded = TrtBackend(name, trt)
    return _loaded


def _other(name: str, loaded: str) -> str:
    return (
        f"this process has already loaded {loaded}, and Polygraphy serves one flavour of TensorRT a process; "
        f"use {name} in a process of its own"
    )


def _import(name: str) -> Any:
    hint = environment.HELP[name]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The RTX wheels hold `tensorrt_rtx_bindings`; only a small package on top makes `tensorrt_rtx` of it.
        if name == rules.RTX and error.name == name:
            try:
                module = importlib.import_module("tensorrt_rtx_bindings")
            except ImportError as inner:
                raise EnvironmentMissing(f"tensorrt_rtx is not installed ({inner}): {hint}") from inner
            sys.modules[name] = module
            return module
        raise EnvironmentMissing(f"{name} is not installed ({error}): {hint}") from error
    except ImportError as error:
        raise EnvironmentMissing(f"{name} is installed, but fails to import ({error}); try {hint}") from error


class TrtBackend:
    """One flavour of TensorRT. `version` is the bindings' full version."""

    def __init__(self, name: str, trt: Any) -> None:
        self.name = name
        self.version: str = trt.__version__
        self.trt = trt
        self.errors: deque[str] = deque(maxlen=KEPT)
        self.warnings = 0
        """How many warnings and errors the runtime has logged: some failures are only told there."""
        self.logger = self._make_logger()
        self.rtx = name == rules.RTX
        self.title = f"{rules.TITLES[name]} {self.version}"

    def _make_logger(self) -> Any:
        with contextlib.redirect_stdout(sys.stderr):  # it prints as it is imported, too
            from polygraphy.backend.trt import util
            from polygraphy.logger import G_LOGGER

        G_LOGGER.use_python_logging_system = True  # it would print to stdout
        python = logging.getLogger("Polygraphy")
        if not any(isinstance(h, _Stderr) for h in python.handlers):
            python.addHandler(_Stderr())
        python.propagate = False
        python.setLevel(logging.INFO)
        trt, backend = self.trt, self
        severity = trt.ILogger.Severity
        worst = (severity.INTERNAL_ERROR, severity.ERROR)
        names = {severity.INTERNAL_ERROR: "internal error", severity.ERROR: "error", severity.WARNING: "warning"}

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, message: str) -> None:
                # Called from native code, also from its threads: nothing may escape.
                with contextlib.suppress(Exception):
                    if level in names:
                        backend.warnings += 1
                    if level in worst:
                        backend.errors.append(message)
                    if level != severity.VERBOSE:
                        sys.stderr.write(f"[{names.get(level, 'info')}] {message}\n")

        logger = Logger()
        # TensorRT wants one logger a process; Polygraphy makes its own unless it finds one here.
        util.TRT_LOGGER = logger
        return logger

    def _native(self, what: str) -> str:
        """Give the runtime's own last errors as text that ends a message."""
        said = []
        for message in self.errors:
            text = " ".join(message.split())
            if text not in said:
                said.append(text if len(text) <= LONGEST else text[:LONGEST] + " …")
        if not said:
            return f"{what}; {self.title} said nothing"
        return f"{what}; {self.title} says:\n  " + "\n  ".join(said)

    @contextlib.contextmanager
    def _calls(self, what: str) -> Iterator[None]:
        """Turn a Polygraphy or TensorRT exception into a StageFailed with the native errors of these calls."""
        self.errors.clear()
        try:
            with warnings.catch_warnings():
                # Polygraphy serves every version, and so calls what newer ones deprecate.
                warnings.simplefilter("ignore", DeprecationWarning)
                yield
        except (StageFailed, EnvironmentMissing):
            raise
        except Exception as error:
            from polygraphy.exception import PolygraphyException

            if isinstance(error, MemoryError | OSError):
                raise
            if not isinstance(error, PolygraphyException):
                self.errors.append(f"{type(error).__name__}: {error}")
            elif not self.errors:
                self.errors.append(str(error))
            raise StageFailed(self._native(what)) from error

    def _has(self, enum: str, member: str) -> bool:
        return hasattr(getattr(self.trt, enum, None), member)

    # -- parse ---------------------------------------------------------------------------------------------------

    def parse(self, model: Path) -> dict[str, Any]:
        """Parse an ONNX file (external data is found beside it) with this TensorRT's own parser.

        Gives `inputs` and `outputs` (name, dtype, shape with -1, dims) and `layers` (type → count). Raises
        StageFailed that lists every rejected node with its name, op and reason.
        """
        from polygraphy.backend.trt import create_network

        strong = rules.typing(self.name, rules.parse_version(self.version)) != "weak"
        with self._calls(f"{model.name} cannot be parsed"):
            _builder, network = create_network(strongly_typed=strong)
            self._plugins()
            # Our own parser object: Polygraphy's loader logs the errors and drops the parser.
            parser = self.trt.OnnxParser(network, self.logger)
            ok = parser.parse_from_file(str(model))
            rejected = self._rejected(parser, model) if not ok or parser.num_errors else []
            if rejected:
                lines = "\n  ".join(rejected)
                many = f"{len(rejected)} node{'s' if len(rejected) > 1 else ''}"
                raise StageFailed(f"{self.title} rejects {many} of {model.name}:\n  {lines}")
            if not ok:
                raise StageFailed(self._native(f"{model.name} cannot be parsed"))
            if not network.num_outputs:
                # The parser reads a torn or foreign file as an empty model, without a word.
                raise StageFailed(f"{model.name} holds no network: it is torn, or no ONNX model")
            layers = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
            return {**self._io(network), "layers": dict(sorted(layers.items()))}

    def _plugins(self) -> None:
        self.trt.init_libnvinfer_plugins(self.logger, "")

    def _rejected(self, parser: Any, model: Path) -> list[str]:
        found = {}
        names = _node_names(model)
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            number = error.node()
            name, op = names.get(number, ("", ""))
            if hasattr(error, "node_name"):  # since TensorRT 10
                name, op = error.node_name() or name, error.node_operator() or op
            code = str(error.code()).rpartition(".")[2].lower().replace("_", " ")  # 8.6: `name` is a method there
            text = " ".join(error.desc().split())
            why = f"{code}: {text}" if text not in ("", "false") else code
            where = f" ({error.func()})" if error.func() else ""
            found[number if number >= 0 else -1 - index] = (name, op, why + where)
        if not hasattr(self.trt.ParserError, "node_name") and hasattr(parser, "supports_model"):
            # 8.6 stops at its first error; its support query leaves out all that it rejects, without reasons.
            with contextlib.suppress(Exception):
                parser.clear_errors()
                _, parts = parser.supports_model(model.read_bytes(), str(model))
                taken = {number for nodes, _ in parts for number in nodes}
                for number in names.keys() - taken:
                    found.setdefault(number, (*names[number], "not supported by this version's parser"))
        lines = []
        for number, (name, op, why) in sorted(found.items()):
            where = f"node {number} {name or '(unnamed)'} [{op or 'unknown op'}]" if number >= 0 else "the model"
            lines.append(f"{where}: {why}")
        return lines

    def _io(self, network: Any) -> dict[str, Any]:
        def describe(tensor: Any) -> dict[str, Any]:
            shape = _shape(tensor.shape)
            named = [_dim(tensor, axis) for axis in range(len(shape))]
            dims = [name if size < 0 else size for size, name in zip(shape, named, strict=True)]
            return {"name": tensor.name, "dtype": _dtype(tensor.dtype), "shape": shape, "dims": dims}

        return {
            "inputs": [describe(network.get_input(i)) for i in range(network.num_inputs)],
            "outputs": [describe(network.get_output(i)) for i in range(network.num_outputs)],
        }

    # -- configure -----------------------------------------------------------------------------------------------

    def configure(self, config: dict[str, Any], network: Mapping[str, Any]) -> dict[str, Any]:
        """Decide how this TensorRT honours a config; see trtrules.settle. Raises StageFailed for what it cannot."""
        part = rules.settle(self.name, self.version, config, network, self._has)
        if not config["profiles"]:
            dynamic = [
                f"{i['name']} [{', '.join(map(str, i['dims']))}]"
                for i in network["inputs"]
                if any(isinstance(d, str) for d in i["dims"])
            ]
            if dynamic:
                # Without one, Polygraphy would fill in a profile in which every dynamic axis is 1, for good.
                raise StageFailed(
                    f"{self.title} needs a profile for dynamic inputs, and params.profiles is empty: "
                    f"{', '.join(dynamic)}; give min, opt and max for each"
                )
        return part

    # -- build ---------------------------------------------------------------------------------------------------

    def build(
        self,
        model: Path,
        config: Mapping[str, Any],
        plan: Path,
        shared: Path,
        note: Callable[[str], None],
        *,
        pinned: Path | None = None,
        reproducible: bool = False,
    ) -> dict[str, Any]:
        """Build and serialise a plan into the file `plan`.

        Gives `bindings`, `target` and `precision_proof` for the manifest, and `layers` where the inspector told them
        (see trtproof). `pinned` is a timing cache that is used and never changed; with `reproducible` every timing
        must be in it. Raises StageFailed with the runtime's own last errors. On RTX this needs no GPU.
        """
        from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath

        strong = bool(config["strongly_typed"])
        cache: _TimingCache | None = None
        if self.rtx:
            self._check_reproducible(config, pinned, reproducible=reproducible)
        elif pinned is not None:
            cache = _TimingCache(self, pinned, note, pinned=True)
        elif config["timing_cache"] != "off":
            cache = _TimingCache(self, _TimingCache.place(self, shared), note)
        with self._calls(f"{model.name} cannot be built"):
            parts = NetworkFromOnnxPath(str(model), strongly_typed=strong)()
            network = parts[1]
            if self._asks_for_half(config):
                self._ask_for_half(network, config["precision"], obeyed=OBEY in config["flags"])
            if OBEY in config["flags"]:
                self._keep_fp32(network, config["keep_fp32"], rules.held_nodes(config))
            io = self._io(network)
            self._check_shape_tensors(network)
        with self._calls(self._failed_build(model, config, network)):
            builder_config = self._builder_config(config)(parts[0], network)
            if cache is not None:
                cache.attach(builder_config)
                if reproducible and self._has("BuilderFlag", "ERROR_ON_TIMING_CACHE_MISS"):
                    builder_config.set_flag(self.trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
            # EngineFromNetwork would deserialise too, which RTX cannot do without a GPU.
            serialised = EngineBytesFromNetwork(parts, lambda *_: builder_config)()
            with open(plan, "wb") as stream:
                stream.write(memoryview(serialised))
            del serialised
        if cache is not None:
            cache.finish(builder_config, complete=reproducible)
        bindings = [
            {"name": t["name"], "mode": mode, "dtype": t["dtype"], "shape": t["shape"], "dims": t["dims"]}
            for mode in ("input", "output")
            for t in io[f"{mode}s"]
        ]
        return {"bindings": bindings, "target": self._target(config), **self._inspected(plan)}

    def _check_reproducible(self, config: Mapping[str, Any], pinned: Path | None, *, reproducible: bool) -> None:
        if pinned is not None:
            raise StageFailed(
                f"{self.title} takes no timing cache: it compiles for the GPU when it loads; leave it out"
            )
        ranges = [
            name for profile in config["profiles"] for name, shapes in profile.items() if shapes["min"] != shapes["max"]
        ]
        if reproducible and ranges:
            raise StageFailed(
                f"{self.title} builds the same plan again for fixed shapes only, and {', '.join(sorted(set(ranges)))} "
                "has a range; give it one shape (min = opt = max), or leave reproducible out"
            )

    def _failed_build(self, model: Path, config: Mapping[str, Any], network: Any) -> str:
        asked = f"{model.name} cannot be built (precision {config['precision']}"
        if config["workspace"] is not None:
            asked += f"; workspace {config['workspace']} bytes: if that is too little for it, give more"
        if OBEY in config["flags"] and self._asks_for_half(config):
            asked += "; where it has no half kernel for a product, name that in keep_fp32"
        if self.rtx and "REFIT" in config["flags"] and not environment.gpus():
            asked += "; refit and strip_plan are known to fail on TensorRT-RTX where there is no GPU"
        if self.rtx and rules.parse_version(self.version) < rules.RTX_INT8:
            kinds = self.trt.LayerType
            if any(network.get_layer(i).type == kinds.QUANTIZE for i in range(network.num_layers)):
                asked += "; TensorRT-RTX before 1.7 has no int8 convolution: leave those out in quantize, or take fp16"
        return asked + ")"

    def _builder_config(self, config: Mapping[str, Any]) -> Callable[[Any, Any], Any]:
        """Give a function (builder, network) → IBuilderConfig for a config record."""
        from polygraphy.backend.trt import CreateConfig, Profile

        trt = self.trt
        flags = set(config["flags"])
        profiles = []
        for shapes in config["profiles"]:
            profile = Profile()
            for name, s in shapes.items():
                profile.add(name, min=tuple(s["min"]), opt=tuple(s["opt"]), max=tuple(s["max"]))
            profiles.append(profile)
        common: dict[str, Any] = {
            "profiles": profiles or None,
            "sparse_weights": "SPARSE_WEIGHTS" in flags,
            "refittable": "REFIT" in flags,
            "strip_plan": "STRIP_PLAN" in flags,
            "version_compatible": "VERSION_COMPATIBLE" in flags,
            "weight_streaming": "WEIGHT_STREAMING" in flags,
            "profiling_verbosity": getattr(trt.ProfilingVerbosity, VERBOSITY[config["verbosity"]]),
        }
        if config["workspace"] is not None:
            common["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: config["workspace"]}
        if config["optimization_level"] is not None and "optimization_level" not in config["not_applicable"]:
            common["builder_optimization_level"] = config["optimization_level"]
        if self.rtx:
            from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

            capabilities = config["compute_capabilities"]
            pairs = [divmod(c, 10) for c in capabilities] if capabilities else None
            create: Any = CreateConfigRTX(compute_capabilities=pairs, **common)
        else:
            level = {"ampere+": "AMPERE_PLUS", "same_compute_capability": "SAME_COMPUTE_CAPABILITY"}.get(
                config["hardware_compatibility"]
            )
            if level:
                common["hardware_compatibility_level"] = getattr(trt.HardwareCompatibilityLevel, level)
            if rules.parse_version(self.version) < (11,):
                # As TensorRT 11 does it: no cuBLAS, cuDNN tactics, so that a plan needs nothing but TensorRT.
                common["tactic_sources"] = [
                    member for name, member in trt.TacticSource.__members__.items() if name not in EXTERNAL_TACTICS
                ]
            create = CreateConfig(
                tf32="TF32" in flags,
                fp16="FP16" in flags,
                bf16="BF16" in flags,
                int8="INT8" in flags,
                fp8="FP8" in flags,
                precision_constraints="obey" if OBEY in flags else "prefer" if self._asks_for_half(config) else None,
                **common,
            )

        def configured(builder: Any, network: Any) -> Any:
            built = create(builder, network)
            if self.rtx:
                # CreateConfigRTX leaves TF32 as the library's default, which is on.
                (built.set_flag if "TF32" in flags else built.clear_flag)(trt.BuilderFlag.TF32)
            return built

        return configured

    @staticmethod
    def _asks_for_half(config: Mapping[str, Any]) -> bool:
        return not {"INT8", "FP8"} & {*config["flags"]} and bool({"FP16", "BF16"} & {*config["flags"]})

    def _ask_for_half(self, network: Any, precision: str, *, obeyed: bool) -> None:
        """Ask for half precision where the products are (weakly typed networks only).

        A flag alone lets the builder take float32 where that is a little faster, so that fp16 would not mean what
        it means where networks are strongly typed. Where nodes are held in float32, all that is asked for is obeyed;
        else it may take float32 where it has no half kernel.
        """
        half = self.trt.float16 if precision == "fp16" else self.trt.bfloat16
        kinds = self.trt.LayerType.__members__
        products = [
            kinds[k] for k in ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED") if k in kinds
        ]
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if layer.type not in products or (obeyed and layer.name.startswith("(Unnamed")):
                continue  # one without its node's name (in an LSTM, say) could not be held in float32 if it must
            made = layer.get_output(0)
            if made.dtype in (self.trt.float32, half) and not made.is_shape_tensor:
                layer.precision = half

    def _keep_fp32(self, network: Any, names: Iterable[str], held: Iterable[str] = ()) -> None:
        """Hold the layers of named ONNX nodes in float32 (weakly typed networks only).

        Raises StageFailed for one of `names` that has none. `held` was found rather than asked for: some of it may be
        of shapes, or be folded away.
        """
        asked, seen = set(names), set()
        wanted = asked | set(held)
        floating = (self.trt.float32, self.trt.float16)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            # The parser names a node's first layer after the node, and further ones with a suffix.
            node = next((n for n in (layer.name, re.sub(r"_\d+$", "", layer.name)) if n in wanted), None)
            outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
            if node is None or not outputs or any(o.dtype not in floating or o.is_shape_tensor for o in outputs):
                continue
            layer.precision = self.trt.float32
            for i in range(len(outputs)):
                layer.set_output_type(i, self.trt.float32)
            seen.add(node)
        missing = sorted(asked - seen)
        if missing:
            raise StageFailed(f"{self.title}: no layer could be kept in float32 for the nodes {', '.join(missing)}")

    def _check_shape_tensors(self, network: Any) -> None:
        shapes = [network.get_input(i).name for i in range(network.num_inputs) if network.get_input(i).is_shape_tensor]
        dynamic = [
            network.get_input(i).name
            for i in range(network.num_inputs)
            if network.get_input(i).name in shapes and -1 in _shape(network.get_input(i).shape)
        ]
        if dynamic:
            raise StageFailed(
                f"{self.title} takes the values of {', '.join(dynamic)} as shapes, and its length is dynamic; "
                "fix its length in the model"
            )

    def _target(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if self.rtx:
            # What the default means was measured: Turing must be asked for, everything later is in.
            return {"compute_capabilities": config["compute_capabilities"] or "8.0+"}
        gpu = environment.gpus()[0]
        return {
            "gpu": gpu.name,
            "compute_capability": gpu.compute_capability,
            "hardware_compatibility": config["hardware_compatibility"],
        }

    def _inspected(self, plan: Path) -> dict[str, Any]:
        """Give `precision_proof`, the engine's layers by type of what they make or why that cannot be told here.

        Where it can be told, `layers` too: what each layer is, and by which tactic it computes.
        """
        if self.rtx:
            # The plan is the same whether or not a GPU is here, and its manifest shall be too.
            why = "a TensorRT-RTX plan is compiled for the GPU when it is loaded; its network is strongly typed"
            return {"precision_proof": {"status": "unproven", "why": why}}
        from polygraphy.backend.trt import EngineFromBytes

        from trtpipe.backends.trt import proof

        try:
            with self._calls("the new plan cannot be inspected"):
                runtime = self.trt.Runtime(self.logger)
                engine = EngineFromBytes(plan.read_bytes(), runtime=runtime)()
                inspector = engine.create_engine_inspector()
                text = inspector.get_engine_information(self.trt.LayerInformationFormat.JSON)
                # Within the calls: what the inspector writes is not always JSON, and that is no reason to fail.
                return {"precision_proof": proof.table(text), "layers": proof.layers(text)}
        except StageFailed as error:
            return {"precision_proof": {"status": "unproven", "why": str(error)}}

    # -- run -----------------------------------------------------------------------------------------------------

    def open(
        self,
        plan: Path,
        manifest: Mapping[str, Any],
        buffers: Mapping[str, Any],
        note: Callable[[str], None],
        shared: Path | None = None,
    ) -> Session:
        """Load a plan and allocate what the buffers record says.

        Raises EnvironmentMissing without a GPU, or with one that this runtime does not support, and StageFailed
        if the plan belongs to another runtime or version, is torn, or does not fit into device memory.
        """
        plan_header.check(plan, self.name, self.version, version_compatible=bool(manifest.get("version_compatible")))
        gpus = environment.gpus()
        if not gpus:
            raise EnvironmentMissing(
                f"{self.title} builds here, but running a plan needs a GPU and there is none; `--target engine` ends "
                "with the plan, and --backend onnxruntime runs without a GPU"
            )
        gpu = gpus[0]
        if self.rtx and not environment.rtx_supports(self.version, gpu.compute_capability):
            raise EnvironmentMissing(
                f"{self.title} does not run on {gpu.name} (compute capability {gpu.compute_capability}); "
                "TensorRT-RTX 1.4 does on Hopper: pip install 'tensorrt-rtx-cu13-libs==1.4.*' "
                "'tensorrt-rtx-cu13-bindings==1.4.*', or use --backend tensorrt"
            )
        from trtpipe.backends.trt.session import TrtSession

        with self._calls(f"{plan.name} cannot be loaded on {gpu.name}"):
            return TrtSession(self, plan, manifest, buffers, note, shared=shared)


class _TimingCache:
    """A timing cache: the store's, of this runtime and GPU, merged and replaced after each build; or a pinned one.

    Our own, because Polygraphy writes the file in place, and ends the build for a cache of another GPU.
    """

    def __init__(self, backend: TrtBackend, path: Path, note: Callable[[str], None], *, pinned: bool = False) -> None:
        self.backend, self.path, self.note, self.pinned = backend, path, note, pinned
        self.known = 0
        """Bytes of the cache as the builder was given it."""

    @staticmethod
    def place(backend: TrtBackend, shared: Path) -> Path:
        """Give the place of the store's cache: timings hold for one runtime version and one kind of GPU."""
        gpu = environment.gpus()[0].name if environment.gpus() else "none"
        return shared / re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{backend.name}-{backend.version}-{gpu}") / "timing.cache"

    def attach(self, builder_config: Any) -> None:
        """Give the cache to a builder config; a torn or foreign one of the store's is ignored, loudly.

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
            # What combine gives back is no help: 8.6 was seen to use timings after it, and this to say "ignored".
            mine.combine(known, False)
            self.known = len(_serialised(mine))
            # A torn or foreign one is made into an empty one, with no other sign: 8.6 logs errors for good ones too.
            if self.known > len(empty) or data == empty:
                return
        self.known = len(empty)
        what = "torn, or of another TensorRT or GPU"
        if self.pinned:
            raise StageFailed(f"the timing cache {self.path.name} is {what}: {self.backend.title} cannot use it here")
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
                f"and pin the store's cache, {self.place(self.backend, self.path.parent).parent.name}/timing.cache "
                "in artifacts/timing"
            )
        if not self.pinned:
            self._save(builder_config, learnt)

    def _save(self, builder_config: Any, learnt: Any) -> None:
        """Merge what the build learnt with what others wrote meanwhile, and replace the file."""
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


def _dtype(native: Any) -> str:
    name: str = native.name
    return DTYPES.get(name, name.lower())


def _shape(dims: Any) -> list[int]:
    try:
        return [int(d) for d in dims]
    except ValueError:  # an unknown rank has a negative length
        return []


def _dim(tensor: Any, axis: int) -> str:
    """Give the ONNX name of an axis, or a made-up one."""
    get = getattr(tensor, "get_dimension_name", None)
    return (get(axis) if get is not None else None) or f"{tensor.name}_{axis}"


def _node_names(model: Path) -> dict[int, tuple[str, str]]:
    """Give (name, op) of each node of the main graph, by its place."""
    from trtpipe.models import onnxfile

    return {i: (n.name, n.op_type) for i, n in enumerate(onnxfile.load(model).graph.node)}


def binding(record: Mapping[str, Any]) -> Binding:
    """Make a Binding of its record in a manifest."""
    return Binding(
        name=record["name"],
        mode=record["mode"],
        dtype=record["dtype"],
        shape=tuple(record["shape"]),
        dims=tuple(record["dims"]),
    )
