"""ONNX Runtime on the CPU: the runtime for machines without a GPU.

Its "plan" is the optimised model that ONNX Runtime itself serialises, and the manifest says so. Nothing here claims
to be TensorRT: settings that only TensorRT knows are refused, or listed as not applicable where nothing is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from trtpipe.backends.trt.rules import half_types
from trtpipe.documents.benchmark import RuntimeInfo
from trtpipe.documents.manifest import Binding, Proof, Target
from trtpipe.errors import EnvironmentMissing, StageFailed
from trtpipe.models import (
    custom_ops,
    dtypes,
    external_data,
    onnxfile,
    onnxgraph,
    ort_cpu,
    ort_values,
    shape_inputs,
    signature,
)
from trtpipe.runtime import Built, Measured, Parsed, Pending, Query, Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from trtpipe.documents.base import Runtime
    from trtpipe.documents.benchmark import Settings
    from trtpipe.documents.buffers import Buffers
    from trtpipe.documents.config import Asked, Config, Hold
    from trtpipe.documents.manifest import Manifest
    from trtpipe.documents.network import Network

try:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as native
except ImportError as error:
    raise EnvironmentMissing(
        f"the backend onnxruntime needs the package onnxruntime ({error}); install it with: pip install 'trtpipe[cpu]'"
    ) from None

THREADS = "TRTPIPE_ORT_THREADS"
Level = Literal["disabled", "basic", "extended"]
LEVELS: dict[int, Level] = {0: "disabled", 1: "basic", 2: "extended", 3: "extended", 4: "extended", 5: "extended"}
"""TensorRT's builder levels on ONNX Runtime's graph levels; above extended a saved model would fit one CPU only."""

_ORT_LEVEL = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
PROFILED = 25
"""Runs of a profile; the first fifth warms up."""
_ONNX_NAME = {"float": "FLOAT", "double": "DOUBLE"}
_ALTERNATIVES = "tensorrt or tensorrt_rtx"


def load(name: str) -> OnnxRuntime:
    """Give the backend. Raises EnvironmentMissing if ONNX Runtime has no CPU provider."""
    if name != "onnxruntime":
        raise ValueError(name)
    if not set(ort_cpu.PROVIDERS) <= set(onnxruntime.get_available_providers()):
        raise EnvironmentMissing("this onnxruntime has no CPUExecutionProvider; pip install 'trtpipe[cpu]'")
    return OnnxRuntime()


def _options(level: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings concern authors of exporters, not users; errors are raised anyway
    options.graph_optimization_level = _ORT_LEVEL[level]
    if text := os.environ.get(THREADS):
        if not text.isdigit():
            raise EnvironmentMissing(f"{THREADS} is {text!r}; expected a number (0: ONNX Runtime's own choice)")
        options.intra_op_num_threads = int(text)
    return options


def _run_level(built: str) -> str:
    return "all" if built == "extended" else built


def _built_level(asked: Asked | Config) -> Level:
    return LEVELS[5 if asked.optimization_level is None else asked.optimization_level]


def _reason(error: BaseException) -> str:
    """Give ONNX Runtime's message without its status prefix and without the folders of its build or the model."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    words = [w.rsplit("/", 1)[-1] if w.startswith("/") and w.count("/") > 1 else w for w in text.split(" ")]
    return " ".join(words)


def _signature(model: onnx.ModelProto, session: Any) -> list[Binding]:
    """Join what the runtime says of inputs and outputs with the names that the ONNX file gives their axes."""
    inputs, outputs = signature.of(model)
    sizes = shape_inputs.find(model)

    def binding(arg: Any, mode: Literal["input", "output"]) -> Binding:
        entry = next((t for t in (inputs if mode == "input" else outputs) if t.name == arg.name), None)
        known, names = (None, ()) if entry is None else (entry.dims, entry.names)
        if known is None or (arg.shape and len(known) != len(arg.shape)):
            known = tuple(d if isinstance(d, (int, str)) else f"{arg.name}_{a}" for a, d in enumerate(arg.shape))
            # ONNX Runtime shows an unknown rank as no axes at all, which would be a scalar.
            known = known or (f"{arg.name}_0",)
        shape = tuple(d if isinstance(d, int) else -1 for d in known)
        names = names if len(names) == len(known) else ()
        return Binding(
            name=arg.name, mode=mode, dtype=ort_values.element(arg.type), shape=shape, dims=known, names=names,
            shape_input=mode == "input" and arg.name in sizes,
        )  # fmt: skip

    return [
        *(binding(arg, "input") for arg in session.get_inputs()),
        *(binding(arg, "output") for arg in session.get_outputs()),
    ]


class OnnxRuntime:
    """The backend `onnxruntime`; see trtpipe.runtime.Backend."""

    name: Runtime = "onnxruntime"
    version = str(onnxruntime.__version__)

    def parse(self, model: Path) -> Parsed:
        """Open the model in a session without optimisation, so that the runtime itself says what it reads."""
        proto = onnxfile.load(model)
        files = external_data.external_files(proto, model.parent, label=model.name, checked=True)
        options = _options("disabled")
        try:
            session = ort_cpu.load(model, options)
        except StageFailed:
            raise
        except Exception as error:
            raise StageFailed(_explain(proto, model, files, error)) from error
        layers = Counter(found.node.op_type for found in onnxgraph.walk(proto))
        return Parsed(_signature(proto, session), dict(sorted(layers.items())))

    def configure(self, asked: Asked, network: Network, hold: Hold | None = None) -> Settled:  # noqa: ARG002
        """Say how ONNX Runtime honours what is asked; everything that it cannot honour is refused at once."""
        problems = []
        rewrite: Literal["fp16"] | None = None
        precision = asked.precision
        if precision == "fp16":
            rewrite = "fp16"
        elif precision in ("tf32", "bf16"):
            problems.append(
                f"precision {precision}: its CPU kernels compute in no such format; "
                f"use model, fp32 or fp16 here, or build with {_ALTERNATIVES}"
            )
        elif precision == "fp32" and (half := half_types(network)):
            problems.append(
                f"precision fp32: the model itself holds {' and '.join(half)}; use model (types as the model says), or "
                "export the model in float32"
            )
        for name, neutral in (
            ("strip_plan", False), ("refit", False), ("weight_streaming", False), ("sparse_weights", False),
            ("version_compatible", False), ("hardware_compatibility", "none"), ("compute_capabilities", None),
        ):  # fmt: skip
            value = getattr(asked, name)
            if value != neutral:
                value = list(value) if isinstance(value, tuple) else value
                problems.append(
                    f"{name}: {value!r}: it has no such thing; leave the setting out, or build with {_ALTERNATIVES}"
                )
        if problems:
            raise StageFailed("\n".join(f"onnxruntime {self.version} cannot honour {p}" for p in problems))
        skipped = ["workspace"] if asked.workspace is not None else []
        skipped += ["timing_cache", "verbosity"]
        if asked.strongly_typed is False:
            skipped.append("strongly_typed")
        return Settled(
            strongly_typed=True,
            rewrite=rewrite,
            flags=(f"graph_optimization={_built_level(asked)}",),
            not_applicable=tuple(skipped),
        )

    def build(
        self,
        model: Path,
        config: Config,
        plan: Path,
        shared: Path,  # noqa: ARG002
        note: Callable[[str], None],
        *,
        pinned: Path | None = None,
        reproducible: bool = False,  # noqa: ARG002
        doing: Callable[[str], None] = lambda _: None,
        progress: Callable[[int, int | None, str], None] = lambda *_: None,  # noqa: ARG002
    ) -> Built:
        """Serialise ONNX Runtime's optimised model; weights above 1.5 GiB go to `<plan>.data` beside it.

        The same model gives the same bytes.
        """
        if pinned is not None:
            raise StageFailed(f"onnxruntime {self.version} takes no timing cache: it times nothing; leave it out")
        doing("optimising the model")
        proto = onnxfile.load(model)
        files = external_data.external_files(proto, model.parent, label=model.name)
        level = _built_level(config)
        options = _options(level)
        options.optimized_model_filepath = str(plan)
        weight = sum(dtypes.tensor_bytes(t) for t in onnxgraph.initializers(proto))
        if weight > onnxfile.INLINE_LIMIT:
            prefix = "session.optimized_model_external_initializers"
            options.add_session_config_entry(f"{prefix}_file_name", f"{plan.name}.data")
            options.add_session_config_entry(f"{prefix}_min_size_in_bytes", "1024")
        try:
            session = ort_cpu.load(model, options)
        except StageFailed:
            raise
        except Exception as error:
            raise StageFailed(_explain(proto, model, files, error)) from error
        if files:
            onnxfile.inline(plan, model.parent)
        bindings = _signature(proto, session)
        del session
        try:
            # Some that it has optimised it does not take back (a float16 weight that a body of an If shares).
            ort_cpu.load(plan, _options(_run_level(level)))
        except Exception as error:
            raise StageFailed(
                f"onnxruntime {self.version} cannot load what it made of {model.name}: {_reason(error)}; "
                "use precision: model here, or another backend"
            ) from error
        proof = precision_proof(onnxfile.load(plan))
        if proof.fp32_between_casts:
            note(
                f"onnxruntime has no float16 kernel on the CPU for {proof.fp32_between_casts} of {proof.nodes} "
                "nodes: they compute in float32 between casts"
            )
        target = Target(device="cpu", provider=ort_cpu.PROVIDERS[0], graph_optimization=level)
        return Built(bindings=tuple(bindings), target=target, proof=proof)

    def open(
        self,
        plan: Path,
        manifest: Manifest,
        buffers: Buffers,
        note: Callable[[str], None],  # noqa: ARG002
        shared: Path | None = None,  # noqa: ARG002
    ) -> OrtSession:
        """Load an optimised model; layouts for this machine's CPU are chosen now."""
        custom_ops.beside(plan, manifest.custom_ops)
        options = _options(_run_level(manifest.target.graph_optimization or "extended"))
        try:
            session = ort_cpu.load(plan, options)
        except StageFailed:
            raise
        except Exception as error:
            raise StageFailed(f"{plan.name}: onnxruntime {self.version} cannot load it: {_reason(error)}") from error
        return OrtSession(session, manifest, buffers, plan)


class OrtSession:
    """A loaded model with its buffers: outputs of known shape are written into arrays that are made once."""

    def __init__(self, session: Any, manifest: Manifest, buffers: Buffers, plan: Path) -> None:
        self._plan = plan
        self._level = _run_level(manifest.target.graph_optimization or "extended")
        self.bindings: Sequence[Binding] = manifest.bindings
        self.info = RuntimeInfo(
            runtime="onnxruntime",
            runtime_version=str(onnxruntime.__version__),
            provider=ort_cpu.PROVIDERS[0],
            threads=session.get_session_options().intra_op_num_threads,
        )
        self._session: Any = session
        self._inputs = [a.name for a in session.get_inputs()]
        self._outputs = [a.name for a in session.get_outputs()]
        self._shapes = {b.name: b.shape for b in buffers.side("input")}
        self._fixed: dict[str, NDArray[Any]] = {}
        self._lost = bool(ort_values.lost(session))
        for b in buffers.side("output"):
            # An output that is an input, which no node makes, ONNX Runtime does not write into a buffer of ours.
            if b.bytes is not None and not self._lost and b.name not in self._inputs:
                self._fixed[b.name] = np.empty(tuple(size or 0 for size in b.shape), np.dtype(b.dtype))
        self._binding: Any = None
        if set(self._fixed) == set(self._outputs) and all(a.size for a in self._fixed.values()):
            self._binding = session.io_binding()
            for name in self._outputs:
                array = self._fixed[name]
                self._binding.bind_output(
                    name, "cpu", 0, array.dtype.type, array.shape, array.__array_interface__["data"][0]
                )

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one batch. Raises StageFailed with the runtime's own message."""
        if self._session is None:
            raise ValueError("the session is closed")
        if self._binding is not None and all(feed[n].shape == s for n, s in self._shapes.items()):
            try:
                return self._run_bound(feed)
            except Exception:  # noqa: BLE001
                # An ONNX file may declare an output's shape wrongly. Then the run below succeeds; if the batch
                # itself is at fault, it fails again and says why.
                self._binding = None
        try:
            run = partial(ort_values.run, self._session) if self._lost else self._session.run
            return dict(zip(self._outputs, run(self._outputs, dict(feed)), strict=True))
        except Exception as error:
            version = onnxruntime.__version__
            raise StageFailed(f"onnxruntime {version} fails to run the batch: {_reason(error)}") from error

    def _run_bound(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for name in self._inputs:
            array = feed[name]
            assert array.flags.c_contiguous
            self._binding.bind_input(
                name, "cpu", 0, array.dtype.type, array.shape, array.__array_interface__["data"][0]
            )  # fmt: skip
        self._session.run_with_iobinding(self._binding)
        return self._fixed

    def stream(self, feeds: Iterable[Mapping[str, NDArray[Any] | Pending]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Run batches in order; the CPU is busy with one batch at a time, so more slots would gain nothing."""
        held: dict[str, NDArray[Any]] = {}
        for feed in feeds:
            ready: dict[str, NDArray[Any]] = {}
            for name, given in feed.items():
                if isinstance(given, Pending):
                    if name not in held or (held[name].shape, held[name].dtype) != (given.shape, given.dtype):
                        held[name] = np.empty(given.shape, given.dtype)
                    given.fill(held[name])
                    ready[name] = held[name]
                else:
                    ready[name] = given
            yield self.run(ready)

    def measure(self, feed: Mapping[str, NDArray[Any]], settings: Settings) -> Measured:
        """Time runs by the host's clock: there is nothing to transfer, and enqueueing is running."""
        feed = {name: np.ascontiguousarray(array) for name, array in feed.items()}
        queries: list[Query] = []
        begun = time.perf_counter()
        counted = 0
        while True:
            start = (time.perf_counter() - begun) * 1000
            self.run(feed)
            end = (time.perf_counter() - begun) * 1000
            queries.append(Query(start, end, start, start, start, end, end, end))
            counted += start >= settings.warm_up_ms
            if counted >= settings.iterations and end - settings.warm_up_ms >= settings.duration_ms:
                break
        layers, notes = self._profile(feed) if settings.profile else ((), ())
        return Measured(
            queries=queries, device="cpu", cuda_graph=False, transfers=False, layers=layers, notes=notes
        )  # fmt: skip

    def _profile(self, feed: Mapping[str, NDArray[Any]]) -> tuple[Sequence[tuple[str, Sequence[float]]], Sequence[str]]:
        """Time each node in a session of its own: ONNX Runtime chooses to profile when a session is made."""
        options = _options(self._level)
        with tempfile.TemporaryDirectory() as folder:
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(folder, "profile")
            session = ort_cpu.load(self._plan, options)
            for _ in range(PROFILED):
                if self._lost:
                    ort_values.run(session, self._outputs, feed)
                else:
                    session.run(self._outputs, dict(feed))
            with open(session.end_profiling(), encoding="utf-8") as stream:
                events = json.load(stream)
        layers: dict[str, list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                layers.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] / 1000)
        return [(name, runs[PROFILED // 5 :] or runs) for name, runs in layers.items()], ()

    def close(self) -> None:
        """Free the session and the buffers."""
        self._session = self._binding = None
        self._fixed = {}


def precision_proof(model: onnx.ModelProto) -> Proof:
    """Say in which dtype each node of an optimised model computes.

    A node's dtype is that of its first output of a floating type. ONNX Runtime marks the casts that it puts round
    nodes for which its CPU provider has no float16 kernel; the nodes inside are `fp32_between_casts`.
    """
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # noqa: BLE001  contrib operators can stop inference; then the proof says less
        inferred = model
    types = {t.name: t.data_type for t in inferred.graph.initializer}
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        types[value.name] = value.type.tensor_type.elem_type
    opset = onnxgraph.opsets(model).get("ai.onnx", 1)
    for node in model.graph.node:  # in order, so that types flow past operators that ONNX's inference does not know
        _infer_types(node, opset, types)
    up: set[str] = set()
    rows: dict[str, Counter[str]] = {}
    total = between = 0
    for node in model.graph.node:
        if node.op_type == "Cast" and node.name.startswith("InsertedPrecisionFreeCast"):
            to = next(a.i for a in node.attribute if a.name == "to")
            if to == onnx.TensorProto.FLOAT:
                up.update(node.output)
            continue
        total += 1
        inside = any(name in up for name in node.input)
        if inside:
            between += 1
            up.update(node.output)
        found = [dtypes.dtype_name(types[o]) for o in node.output if types.get(o)]
        kind = "float32" if inside else next((d for d in found if "float" in d), found[0] if found else "unknown")
        rows.setdefault(node.op_type, Counter())[kind] += 1
    return Proof(
        status="proven",
        source="the optimised graph that onnxruntime serialised",
        nodes=total,
        fp32_between_casts=between,
        rows={op: dict(sorted(kinds.items())) for op, kinds in sorted(rows.items())},
    )


def _infer_types(node: onnx.NodeProto, opset: int, types: dict[str, int]) -> None:
    """Fill in the types of a node's outputs where they follow from its inputs, or are the same always."""
    import onnx

    formal: list[str] = []
    wanted: list[str] = []
    if node.domain in ("", "ai.onnx"):
        # Its fusions may use an operator of ONNX before the opset that it came with.
        with contextlib.suppress(onnx.defs.SchemaError):
            schema = onnx.defs.get_schema(node.op_type, opset, "")
            formal = [p.type_str for p in schema.inputs]
            wanted = [p.type_str for p in schema.outputs]
    for index, name in enumerate(node.output):
        if not name or types.get(name):
            continue
        if node.op_type == "Cast":
            types[name] = next(a.i for a in node.attribute if a.name == "to")
            continue
        kind = wanted[index] if index < len(wanted) else None
        if kind is not None and kind.startswith("tensor("):
            types[name] = int(onnx.TensorProto.DataType.Value(_ONNX_NAME.get(kind[7:-1], kind[7:-1].upper())))
            continue
        # Contrib operators, which are ONNX Runtime's own fusions, give what their first input is.
        same = [i for i, f in enumerate(formal) if f == kind] if formal else [0]
        known = [types[node.input[i]] for i in same if i < len(node.input) and types.get(node.input[i])]
        if known:
            types[name] = known[0]


class Rejected(NamedTuple):
    """A node that the runtime will not take."""

    name: str
    op: str
    reason: str


def _explain(model: onnx.ModelProto, path: Path, files: Sequence[str], error: BaseException) -> str:
    head = f"{path.name}: onnxruntime {onnxruntime.__version__} rejects the model"
    found = rejected(model)
    if not found:
        data = f" (external data: {', '.join(files)})" if files else ""
        return f"{head}{data}: {_reason(error)}"
    lines = [f"  {r.name} ({r.op}): {r.reason}" for r in found]
    return f"{head}; {len(found)} node{'s' if len(found) > 1 else ''} rejected:\n" + "\n".join(lines)


def rejected(model: onnx.ModelProto) -> list[Rejected]:
    """List every node for which this build of ONNX Runtime has no operator, or no kernel for its types.

    Opening a session names only the first such node. Here each kind of node (operator, opset, types of inputs) is
    first looked up in the runtime's own tables, and one that is there is tried alone in a session of its own.
    """
    import onnx

    schemas: dict[tuple[str, str], list[int]] = {}
    for schema in native.get_all_operator_schema():
        schemas.setdefault((schema.domain, schema.name), []).append(schema.since_version)
    local = {(f.domain, f.name) for f in model.functions}
    versions = {("" if d == "ai.onnx" else d): v for d, v in onnxgraph.opsets(model).items()}
    try:
        typed = onnx.shape_inference.infer_shapes(model)
    except Exception:  # noqa: BLE001  then only what the file itself says of types is known
        typed = model
    types: dict[str, int] = {t.name: t.data_type for t in onnxgraph.initializers(typed)}
    for _, graph in onnxgraph.graphs(typed):
        if isinstance(graph, onnx.GraphProto):
            for value in [*graph.input, *graph.value_info, *graph.output]:
                if value.type.WhichOneof("value") == "tensor_type":
                    types[value.name] = value.type.tensor_type.elem_type
    verdicts: dict[Any, str | None] = {}
    found: list[Rejected] = []
    for located in onnxgraph.walk(model):
        node = located.node
        domain = "" if node.domain == "ai.onnx" else node.domain
        op = f"{domain}:{node.op_type}" if domain else node.op_type
        if (node.domain, node.op_type) in local:
            continue
        version = versions.get(domain)
        known = schemas.get((domain, node.op_type))
        kinds = tuple(types.get(name, 0) if name else None for name in node.input)
        signature = (domain, node.op_type, kinds)
        if signature not in verdicts:
            if known is None:
                where = f"domain {domain}" if domain else "ONNX"
                more = "; if a library has it, name that in parse: params: {custom_ops: [lib.so]}" if domain else ""
                verdicts[signature] = f"onnxruntime knows no operator {node.op_type} in {where}{more}"
            elif version is None:
                verdicts[signature] = f"the model imports no opset for domain {domain or 'ai.onnx'}"
            elif min(known) > version:
                verdicts[signature] = f"the operator came with opset {min(known)}, the model says {version}"
            else:
                verdicts[signature] = _try_alone(model, node, kinds)
        if reason := verdicts[signature]:
            found.append(Rejected(onnxgraph.node_label(located), op, reason))
    return found


def _try_alone(model: onnx.ModelProto, node: onnx.NodeProto, kinds: Sequence[int | None]) -> str | None:
    """Open a session with this node alone; give the runtime's reason if it has no kernel for it."""
    import onnx

    if any(k == 0 for k in kinds) or any(a.HasField("g") or a.graphs for a in node.attribute):
        return None  # of unknown type, or with a body whose nodes are tried by themselves
    single = onnx.ModelProto(ir_version=model.ir_version)
    single.opset_import.extend(model.opset_import)
    single.graph.name = "single"
    copy = single.graph.node.add()
    copy.CopyFrom(node)
    seen: set[str] = set()
    for name, kind in zip(node.input, kinds, strict=True):
        if kind and name not in seen:
            seen.add(name)
            value = single.graph.input.add(name=name)
            value.type.tensor_type.elem_type = kind
    for name in node.output:
        if name:
            single.graph.output.add(name=name)
    try:
        onnxruntime.InferenceSession(single.SerializeToString(), _options("disabled"), providers=ort_cpu.PROVIDERS)
    except Exception as error:  # noqa: BLE001  whatever it raises is its reason
        text = _reason(error)
        # Only what speaks of missing operators and kernels counts: a node alone may fail for want of a shape too.
        if "Could not find an implementation" in text or "is not a registered function" in text or "Type " in text:
            return text
    return None
