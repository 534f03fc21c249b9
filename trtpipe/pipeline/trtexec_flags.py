"""Every flag of trtexec for building, measuring and reporting, and what becomes of it here.

The names are those that trtexec 8.6, 10.16 and 11.5 read (NVIDIA/TensorRT, samples, sampleOptions.cpp of each release),
with those of TensorRT-RTX's `tensorrt_rtx`. What TensorRT 11 only accepts and ignores counts as dropped.
"""

# ruff: noqa: E501 — a table is read by its rows

from __future__ import annotations

from typing import NamedTuple

ALL = ("8.6", "10", "11")
OLD = ("8.6", "10")
NEW = ("10", "11")
RTX = ("rtx",)


class Flag(NamedTuple):
    """A flag: the versions of trtexec that read it, and what it becomes here, or why it becomes nothing.

    A flag that `becomes` something is translated. All others are told with `why`.
    """

    name: str
    group: str
    versions: tuple[str, ...]
    becomes: str = ""
    why: str = ""
    value: bool = True

    @property
    def is_dropped(self) -> bool:
        """Whether TensorRT 11 has not got it, or ignores it."""
        return "11" not in self.versions and self.versions != RTX


def _flags(group: str, *rows: tuple[str, tuple[str, ...], str, str]) -> list[Flag]:
    """Make flags of (names with `=` for a value, versions, becomes, why)."""
    return [
        Flag(name.rstrip("="), group, versions, becomes, why, value=name.endswith("="))
        for names, versions, becomes, why in rows
        for name in names.split()
    ]


_NO_ONNX = "trtpipe reads ONNX models only; convert the model to ONNX first"
_IMPLICIT = "an ONNX model has an explicit batch: it is the first number of --shapes"
_CALIBRATION = "ranges come from samples, in the model and before the build: --int8 DATA"
_TYPES = "types are in the model: precision, keep_fp32 and quantize set them there, where they are checked"
_IO = "inputs and outputs keep the model's types, in plain memory order; cast inside the model"
_DLA = "engines are built for GPUs, not for DLA"
_SAFE = "the safety runtime is not supported"
_DEBUG = "inner tensors are compared in ONNX Runtime by a stage `compare` with bisect: true"
_SEARCH = "how the builder searches is set by optimization_level alone"
_RUNTIME = "it concerns the process that loads an engine, not the build"
_MANIFEST = "it is in the engine's folder, in"
_REFERENCE = "a stage `compare` compares outputs, with rules in `require`"
_TUNE = "trtexec's search over build routes is not offered; a matrix with `select` compares engines"
_BENCH = "`benchmark`: "

FLAGS: dict[str, Flag] = {
    flag.name: flag
    for flag in (
        *_flags(
            "model",
            ("--onnx=", ALL, "the model", ""),
            ("--uff= --uffInput= --uffNHWC --model= --deploy= --output=", ("8.6",), "", _NO_ONNX),
        ),
        *_flags(
            "build",
            ("--minShapes= --optShapes= --maxShapes=", ALL, "`configure`: profiles", ""),
            ("--fp16", OLD, "`configure`: precision: fp16", ""),
            ("--bf16", ("10",), "`configure`: precision: bf16", ""),
            ("--best", OLD, "`configure`: precision: fp16", ""),
            ("--int8", OLD, "`quantize` with --int8 DATA; without data, int8 where the model has Q/DQ nodes", ""),
            ("--fp8 --int4", OLD, "", "it needs Q/DQ nodes in the model: a stage `quantize` with mode fp8 or int4_weights"),
            ("--noTF32", ALL, "nothing: float32 is not rounded to TF32 here, unless precision is tf32", ""),
            ("--stronglyTyped", NEW, "`configure`: precision: model", ""),
            ("--workspace=", ("8.6",), "`configure`: workspace", ""),
            ("--memPoolSize=", ALL, "`configure`: workspace; the other pools are DLA's, or the builder's own choice", ""),
            ("--builderOptimizationLevel=", ALL, "`configure`: optimization_level", ""),
            ("--sparsity=", ALL, "`configure`: sparse_weights; `force` changes weights, and is not done", ""),
            ("--refit", ALL, "`configure`: refit", ""),
            ("--stripWeights", NEW, "`configure`: strip_plan", ""),
            ("--weightless", ("10",), "`configure`: strip_plan", ""),
            ("--stripAllWeights", NEW, "`configure`: strip_plan, refit", ""),
            ("--allowWeightStreaming", NEW, "`configure`: weight_streaming", ""),
            ("--versionCompatible --vc", ALL, "`configure`: version_compatible", ""),
            ("--hardwareCompatibilityLevel=", ALL, "`configure`: hardware_compatibility", ""),
            ("--profilingVerbosity=", ALL, "`configure`: verbosity", ""),
            ("--noBuilderCache", ALL, "`configure`: timing_cache: off", ""),
            ("--layerPrecisions=", OLD, "`configure`: keep_fp32, for layers of fp32", ""),
            ("--saveEngine=", ALL, "--output", ""),
            ("--loadEngine=", ALL, "", "there is nothing to build; an engine is measured by the benchmarks of its pipeline"),
            ("--profile=", NEW, "`configure`: profiles, one for each number; the ranges after it are its", ""),
            ("--precisionConstraints=", OLD, "", "what keep_fp32 names is held in float32 on every TensorRT"),
            ("--layerOutputTypes=", OLD, "", _TYPES),
            ("--layerDeviceTypes=", ALL, "", _DLA),
            ("--calib= --calibProfile= --minShapesCalib= --optShapesCalib= --maxShapesCalib=", OLD, "", _CALIBRATION),
            ("--inputIOFormats= --outputIOFormats=", ALL, "", _IO),
            ("--directIO", ALL, "", _IO),
            ("--timingCacheFile=", ALL, "", "the store keeps timings by itself; to pin a file, give it to the stage `build` as the input timing_cache"),
            ("--errorOnTimingCacheMiss", NEW, "", "`build` does so with reproducible: true and a pinned timing_cache"),
            ("--minTiming=", ("8.6",), "", _SEARCH),
            ("--avgTiming=", ALL, "", _SEARCH),
            ("--heuristic", ("8.6",), "", "the builder's heuristic is at optimization_level 2 and below"),
            ("--tacticSources=", ALL, "", "TensorRT chooses its sources of kernels; 11 has no cuBLAS and cuDNN any more"),
            ("--maxTactics= --tilingOptimizationLevel= --l2LimitForTiling=", NEW, "", _SEARCH),
            ("--maxAuxStreams=", ALL, "", "TensorRT chooses the number of streams beside the main one"),
            ("--preview=", ALL, "", "preview features change from version to version, and are not switched on"),
            ("--maxBatch=", ("8.6",), "", _IMPLICIT),
            ("--explicitBatch", ("8.6",), "nothing: every ONNX model has an explicit batch", ""),
            ("--buildOnly", ("8.6",), "as --skipInference", ""),
            ("--excludeLeanRuntime", ALL, "", "a version compatible plan holds the lean runtime"),
            ("--useRuntime= --leanDLLPath=", ALL, "", _RUNTIME),
            ("--tempdir= --tempfileControls=", ALL, "", _RUNTIME),
            ("--runtimePlatform=", NEW, "", "plans are built for the platform of the build"),
            ("--safe --consistency", ALL, "", _SAFE),
            ("--restricted", OLD, "", _SAFE),
            ("--dumpKernelText --remoteAutoTuningConfig= --safetyPlugins=", NEW, "", _SAFE),
            ("--dumpCheckerBlob --loadCheckerBlob= --reference --cpuOnly --remoteConfig= --saveEngineSo= --loadEngineSo=",
             ("11",), "", _SAFE),
            ("--buildDLAStandalone --uint8AsymmetricQuantizationDLA", NEW, "", _DLA),
            ("--reportCapabilityDLA --adjustForDLA --dlaWorkspaceAllocationStrategy=", ("11",), "", _DLA),
            ("--pluginInstanceNorm --pi", NEW, "", "InstanceNormalization is TensorRT's own layer"),
            ("--enablePluginOverride", ("11",), "", "only the libraries that `parse` names are loaded"),
            ("--noCompilationCache", NEW, "", "the builder's compilation cache lives only as long as the build"),
            ("--monitorMemory", NEW, "", "the record of a stage has its figures; run: memory limits it"),
            ("--distributiveIndependence --decomposableAttentions= --independentWeightLayouts", NEW, "",
             "how layers are fused is TensorRT's choice"),
            ("--markDebug= --markUnfusedTensorsAsDebugTensors", NEW, "", _DEBUG),
            ("--asyncFileReader", NEW, "", _RUNTIME),
            ("--getPlanVersionOnly", ALL, "", "`trtpipe inspect engine.plan` tells the version of a plan"),
            ("--greenContext= --saveAllEngines", ("11",), "", _TUNE),
            ("--tuneBuildRoutes= --tuneBuildRouteFile= --tuningSearch= --tuningTimeOut= --tuningCacheFile=", ("11",), "", _TUNE),
            ("--continue --dryRun --helpBuildRoute", ("11",), "", _TUNE),
            ("--computeCapabilities=", RTX, "`configure`: compute_capabilities", ""),
            ("--useGpu", RTX, "", "plans of TensorRT-RTX are built for all GPUs, or for compute_capabilities"),
            ("--deferWeightsLoading", RTX, "", _RUNTIME),
        ),
        *_flags(
            "inference",
            ("--shapes=", ALL, "`configure`: profiles, for inputs without a range; `allocate`: shapes", ""),
            ("--iterations=", ALL, _BENCH + "iterations", ""),
            ("--duration=", ALL, _BENCH + "duration", ""),
            ("--warmUp=", ALL, _BENCH + "warm_up", ""),
            ("--noDataTransfers", OLD, _BENCH + "transfers: false", ""),
            ("--includeDataTransfers", ("11",), _BENCH + "transfers: true", ""),
            ("--useCudaGraph", OLD, _BENCH + "cuda_graph: true", ""),
            ("--noCudaGraph", ("11",), _BENCH + "cuda_graph: false", ""),
            ("--useSpinWait", OLD, _BENCH + "spin_wait: true", ""),
            ("--noSpinWait", ("11",), _BENCH + "spin_wait: false", ""),
            ("--skipInference", ALL, "nothing is measured, as `build` never does", ""),
            ("--batch=", ("8.6",), "", _IMPLICIT),
            ("--loadInputs=", ALL, "", "raw files have no shapes and types: save them as .npz, and give --data"),
            ("--loadRefOutputs= --refPair= --accuracyAlgorithm= --accuracyThreshold= --atol= --rtol=", ("11",), "", _REFERENCE),
            ("--infStreams= --streams=", ALL, "", "one query runs at a time; `infer` overlaps copies by its slots"),
            ("--threads", ALL, "", "one thread drives the engine"),
            ("--sleepTime= --idleTime=", ALL, "", "queries follow each other without a pause"),
            ("--exposeDMA", ALL, "", "copies and computing overlap, as in trtexec's default"),
            ("--useManagedMemory", ALL, "", "buffers are pinned on the host, and plain on the device"),
            ("--separateProfileRun", OLD, "nothing: layers are always timed in runs of their own", ""),
            ("--timeDeserialize --timeRefit", ALL, "", "only running an engine is measured"),
            ("--persistentCacheRatio=", ALL, "", _RUNTIME),
            ("--useProfile=", NEW, "`allocate`: profile", ""),
            ("--allocationStrategy= --weightStreamingBudget=", NEW, "", _RUNTIME),
            ("--saveDebugTensors= --saveAllDebugTensors=", NEW, "", _DEBUG),
            ("--refitFromOnnx=", NEW, "", "an engine with other weights is another engine: build it; the timings are kept"),
            ("--runtimeCacheFile= --specializeStrategyDS= --rtxCudaGraphStrategy=", RTX, "",
             "the store keeps the kernels that TensorRT-RTX compiles, and `benchmark` waits for them"),
        ),
        *_flags(
            "reporting",
            ("--percentile=", ALL, _BENCH + "percentiles", ""),
            ("--dumpProfile", ALL, _BENCH + "profile: true", ""),
            ("--exportProfile=", ALL, _BENCH + "profile: true, in profile.json", ""),
            ("--verbose", ALL, "", "a stage's whole log is kept: trtpipe show PIPELINE engine --log"),
            ("--avgRuns=", ALL, "", "`benchmark` gives median, mean and percentiles over all queries"),
            ("--dumpRefit", ALL, "", "refittable weights are not listed"),
            ("--dumpOutput --dumpRawBindingsToFile --exportOutput=", ALL, "", "a stage `infer` writes outputs as .npy files"),
            ("--exportTimes=", ALL, "", "benchmark.json has the figures"),
            ("--dumpLayerInfo --exportLayerInfo=", ALL, "", _MANIFEST + " layers.json"),
            ("--dumpOptimizationProfile", NEW, "", _MANIFEST + " manifest.json"),
        ),
        *_flags(
            "system",
            ("--device=", ALL, "", "choose the GPU with CUDA_VISIBLE_DEVICES"),
            ("--useDLACore= --allowGPUFallback", ALL, "", _DLA),
            ("--plugins= --staticPlugins= --dynamicPlugins=", ALL, "`parse`: plugins", ""),
            ("--setPluginsToSerialize=", ALL, "", "a plugin's library travels with the model, beside the plan"),
            ("--ignoreParsedPluginLibs", ALL, "", "only the libraries that `parse` names are loaded"),
            ("--help -h", ALL, "", "trtpipe build --help"),
        ),
    )
}  # fmt: skip
