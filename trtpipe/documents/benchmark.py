"""benchmark.json: how long an engine takes, and what was measured on what."""

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part, Precision, Runtime


class Settings(Part, frozen=True, kw_only=True, omit_defaults=False):
    """What is measured: at least `iterations` queries and `duration_ms`, after `warm_up_ms`."""

    warm_up_ms: Annotated[float, Meta(description="Milliseconds of queries that are not counted.")] = 200.0
    iterations: Annotated[int, Meta(description="Queries to measure, at least.")] = 10
    duration_ms: Annotated[float, Meta(description="Milliseconds to measure, at least.")] = 3000.0
    transfers: Annotated[bool, Meta(description="Whether copies to and from the device are measured.")] = True
    cuda_graph: Annotated[bool, Meta(description="Whether queries are launched as a CUDA graph.")] = False
    spin_wait: Annotated[bool, Meta(description="Whether the host waits without sleeping.")] = False
    profile: Annotated[bool, Meta(description="Whether each layer is timed too, in runs of their own.")] = False


class MeasuredEngine(Part, frozen=True, kw_only=True):
    """The engine that was measured, as its manifest has it."""

    precision: Annotated[Precision, Meta(description="The precision that was asked for.")]
    precision_proof: Annotated[Literal["proven", "unproven"], Meta(description="Whether its types are known.")]
    plan_bytes: Annotated[Count, Meta(description="Bytes of the plan.")]


class Host(Part, frozen=True, kw_only=True):
    """The machine."""

    cpu: Annotated[str, Meta(description="The CPU's name, empty if it is not known. Source: /proc/cpuinfo.")]
    cpus: Annotated[int | None, Meta(description="How many CPUs the process may use.")]
    os: Annotated[str, Meta(description="The operating system and its release.")]
    python: Annotated[str, Meta(description="Python's version.")]
    driver: Annotated[str | None, Meta(description="The NVIDIA driver's version. Source: NVML.")]


class RuntimeInfo(Part, frozen=True, kw_only=True):
    """A runtime with an engine loaded, as it tells of itself. Which fields there are depends on the runtime."""

    runtime: Annotated[Runtime, Meta(description="The runtime.")]
    runtime_version: Annotated[str, Meta(description="Its full version.")]
    provider: Annotated[str | None, Meta(description="ONNX Runtime: the execution provider.")] = None
    threads: Annotated[int | None, Meta(description="ONNX Runtime: its threads; 0: its own choice.")] = None
    device: Annotated[str | None, Meta(description="TensorRT: the GPU's name. Source: NVML.")] = None
    compute_capability: Annotated[str | None, Meta(description="TensorRT: the GPU's compute capability.")] = None
    cuda: Annotated[str | None, Meta(description="TensorRT: the newest CUDA version that the driver serves.")] = None
    driver: Annotated[str | None, Meta(description="TensorRT: the driver's version.")] = None
    slots: Annotated[int | None, Meta(description="TensorRT: how many batches are in flight.")] = None
    activation_bytes: Annotated[
        int | None, Meta(description="TensorRT: bytes of device memory for what is computed in between.")
    ] = None


class Environment(RuntimeInfo, frozen=True, kw_only=True):
    """Where it was measured."""

    device_before: Annotated[
        dict[str, Any] | None,
        Meta(description="The GPU's clocks (MHz), temperature (°C) and power (W) before measuring. Source: NVML."),
    ]
    device_after: Annotated[dict[str, Any] | None, Meta(description="The same after measuring.")]
    host: Annotated[Host, Meta(description="The machine.")]


class Benchmark(Document, frozen=True, kw_only=True):
    """Figures of one engine, by trtexec's definitions."""

    file: ClassVar[str] = "benchmark.json"

    metrics: Annotated[
        dict[str, float],
        Meta(
            description="Figures by name. `…_ms` are milliseconds a query (a batch), `throughput_qps` queries a "
            "second, `throughput_samples` samples a second, `compute_cv` the standard deviation of computing over its "
            "mean."
        ),
    ]
    queries: Annotated[Count, Meta(description="How many queries were counted.")]
    warm_up_queries: Annotated[Count, Meta(description="How many ran before, and were not.")]
    warnings: Annotated[tuple[str, ...], Meta(description="What makes the figures doubtful, as trtexec warns.")]
    batch: Annotated[Count, Meta(description="Samples in a batch.")]
    shapes: Annotated[
        dict[str, tuple[Count | None, ...]], Meta(description="The shape of each binding; null where the data decides.")
    ]
    preset: Annotated[Literal["trtexec-10", "trtexec-11"], Meta(description="Whose defaults counted.")]
    settings: Annotated[Settings, Meta(description="What was measured, and how long.")]
    data: Annotated[str, Meta(description="What was fed: the input's name, or `random`.")]
    engine: Annotated[MeasuredEngine, Meta(description="The engine.")]
    environment: Annotated[Environment, Meta(description="Where it was measured.")]
