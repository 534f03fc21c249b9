"""Lines for trtexec: every flag is translated or told, and what is no such line is refused."""

from __future__ import annotations

import pytest

from trtpipe.errors import PipelineInvalid
from trtpipe.pipeline import trtexec
from trtpipe.pipeline.ranges import Range
from trtpipe.pipeline.trtexec_flags import FLAGS


def words(text):
    return text.split()


# What sampleOptions.cpp of each release reads.
COMMON = words("""
--onnx --minShapes --optShapes --maxShapes --inputIOFormats --outputIOFormats --memPoolSize --profilingVerbosity
--avgTiming --refit --versionCompatible --vc --excludeLeanRuntime --sparsity --noTF32 --directIO --layerDeviceTypes
--safe --consistency --saveEngine --loadEngine --getPlanVersionOnly --tacticSources --noBuilderCache --timingCacheFile
--preview --builderOptimizationLevel --hardwareCompatibilityLevel --tempdir --tempfileControls --maxAuxStreams
--useRuntime --leanDLLPath --skipInference --shapes --loadInputs --iterations --warmUp --duration --sleepTime --idleTime
--infStreams --streams --exposeDMA --useManagedMemory --threads --timeDeserialize --timeRefit --persistentCacheRatio
--verbose --avgRuns --percentile --dumpRefit --dumpOutput --dumpRawBindingsToFile --dumpProfile --dumpLayerInfo
--exportTimes --exportOutput --exportProfile --exportLayerInfo --device --useDLACore --allowGPUFallback --plugins
--staticPlugins --dynamicPlugins --setPluginsToSerialize --ignoreParsedPluginLibs --help -h
""")
UNTIL_10 = words("""
--fp16 --int8 --fp8 --best --calib --precisionConstraints --layerPrecisions --layerOutputTypes --minShapesCalib
--optShapesCalib --maxShapesCalib --restricted --noDataTransfers --useSpinWait --useCudaGraph --separateProfileRun
""")
ONLY_8 = words("""
--uff --model --deploy --output --uffInput --uffNHWC --maxBatch --batch --workspace --minTiming --heuristic
--explicitBatch --buildOnly
""")
SINCE_10 = words("""
--stronglyTyped --stripWeights --stripAllWeights --allowWeightStreaming --weightStreamingBudget --profile
--useProfile --errorOnTimingCacheMiss --maxTactics --tilingOptimizationLevel --l2LimitForTiling --runtimePlatform
--pluginInstanceNorm --pi --uint8AsymmetricQuantizationDLA --buildDLAStandalone --noCompilationCache --monitorMemory
--distributiveIndependence --decomposableAttentions --markDebug --markUnfusedTensorsAsDebugTensors --asyncFileReader
--allocationStrategy --saveDebugTensors --saveAllDebugTensors --refitFromOnnx --dumpOptimizationProfile
--dumpKernelText --remoteAutoTuningConfig --safetyPlugins
""")
ONLY_10 = words("--bf16 --int4 --weightless --calibProfile")
SINCE_11 = words("""
--includeDataTransfers --noSpinWait --noCudaGraph --loadRefOutputs --refPair --accuracyAlgorithm --accuracyThreshold
--atol --rtol --tuneBuildRoutes --tuneBuildRouteFile --tuningSearch --tuningTimeOut --tuningCacheFile --continue
--dryRun --helpBuildRoute --greenContext --saveAllEngines --reference --loadCheckerBlob --dumpCheckerBlob
--enablePluginOverride --reportCapabilityDLA --adjustForDLA --dlaWorkspaceAllocationStrategy --cpuOnly --remoteConfig
--saveEngineSo --loadEngineSo --independentWeightLayouts
""")


@pytest.mark.parametrize("name", [*COMMON, *UNTIL_10, *ONLY_8, *SINCE_10, *ONLY_10, *SINCE_11])
def test_every_flag_of_every_trtexec_is_translated_or_told(name):
    flag = FLAGS[name]
    assert bool(flag.becomes) is not bool(flag.why)
    if flag.becomes:
        does_something = name in trtexec._APPLY or name in trtexec.TOGETHER
        assert does_something or flag.becomes.startswith("nothing: ")
        return
    made = trtexec.translate(f"trtexec --onnx=m.onnx {name}{'=1' if flag.value else ''}")
    assert any(told.startswith(f"{name}: ") and flag.why in told for told in made.told)


@pytest.mark.parametrize("name", [*UNTIL_10, *ONLY_8, *ONLY_10])
def test_what_tensorrt_11_dropped_is_known_to_be_dropped(name):
    assert FLAGS[name].is_dropped


@pytest.mark.parametrize("name", [*COMMON, *SINCE_10, *SINCE_11])
def test_what_tensorrt_11_has_is_not_told_as_dropped(name):
    assert not FLAGS[name].is_dropped


def translated(flags):
    return trtexec.translate(f"trtexec --onnx=m.onnx {flags}")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--workspace=4096", {"workspace": "4GiB"}),
        ("--memPoolSize=workspace:1024", {"workspace": "1GiB"}),
        ("--memPoolSize=workspace:0.5G,tacticSharedMem:32K", {"workspace": "512MiB"}),
        ("--memPoolSize=workspace:100B", {"workspace": "100B"}),
        ("--builderOptimizationLevel=5", {"optimization_level": 5}),
        ("--sparsity=enable", {"sparse_weights": True}),
        ("--sparsity=disable", {"sparse_weights": False}),
        ("--stripAllWeights", {"strip_plan": True, "refit": True}),
        ("--vc", {"version_compatible": True}),
        ("--hardwareCompatibilityLevel=sameComputeCapability", {"hardware_compatibility": "same_compute_capability"}),
        ("--profilingVerbosity=layer_names_only", {"verbosity": "names_only"}),
        ("--noBuilderCache", {"timing_cache": "off"}),
        ("--allowWeightStreaming", {"weight_streaming": True}),
        ('--fp16 --layerPrecisions="*:fp16",head:fp32', {"keep_fp32": ["head"]}),
        ("--layerPrecisions=head:fp32", {}),
        ("--computeCapabilities=89,120", {"compute_capabilities": [89, 120]}),
    ],
)
def test_settings_of_the_builder_are_params_of_configure(flags, expected):
    assert translated(flags).params == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--iterations=100 --duration=0 --warmUp=500", {"iterations": 100, "duration": 0.0, "warm_up": 500.0}),
        ("--noDataTransfers --useCudaGraph --useSpinWait", {"transfers": False, "cuda_graph": True, "spin_wait": True}),
        (
            "--includeDataTransfers --noCudaGraph --noSpinWait",
            {"transfers": True, "cuda_graph": False, "spin_wait": False},
        ),
        ("--percentile=90,99 --dumpProfile", {"percentiles": [90.0, 99.0], "profile": True}),
    ],
)
def test_how_it_measures_is_params_of_benchmark(flags, expected):
    assert translated(flags).bench == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--minShapes=x:1x3 --optShapes=x:4x3 --maxShapes=x:8x3", {"x": (Range(1, 4, 8), Range(3, 3, 3))}),
        ("--optShapes=x:4", {"x": (Range(4, 4, 4),)}),
        ("--minShapes=x:1 --maxShapes=x:8", {"x": (Range(1, 8, 8),)}),
        ("--maxShapes=x:8 --optShapes=x:2", {"x": (Range(2, 2, 8),)}),
        ("--shapes=x:2,'a:b':3", {"x": (Range(2, 2, 2),), "a:b": (Range(3, 3, 3),)}),
        ("--minShapes=x:1 --optShapes=x:2 --maxShapes=x:4 --shapes=x:3", {"x": (Range(1, 2, 4),)}),
        ("--shapes=s:scalar,t:", {"s": (), "t": ()}),
    ],
)
def test_shapes_are_ranges_and_what_is_missing_is_as_trtexec_has_it(flags, expected):
    assert translated(flags.replace("'", "\\'")).shapes == expected


@pytest.mark.parametrize(
    ("flags", "precision"), [("--fp16", "fp16"), ("--best", "fp16"), ("--bf16", "bf16"), ("", None)]
)
def test_precision_flags_are_a_precision(flags, precision):
    assert translated(flags).precision == precision


def test_libraries_of_plugins_are_named_for_parse():
    made = translated("--plugins=a.so --staticPlugins=b.so --plugins=c.so --setPluginsToSerialize=b.so")
    assert sorted(made.plugins) == ["a.so", "b.so", "c.so"]
    assert any(one.startswith("--setPluginsToSerialize: a plugin's library travels") for one in made.told)


def test_int8_says_what_it_needs():
    made = translated("--int8 --calib=c.cache")
    assert made.int8
    assert any("--int8 DATA" in one for one in made.told)
    assert any(one.startswith("--calib: TensorRT 11 dropped it; ranges come from samples") for one in made.told)


def test_tf32_is_told_unless_it_is_ruled_out():
    assert any("TF32" in one for one in translated("").told)
    assert not any("rounds float32" in one for one in translated("--noTF32").told)
    assert not any("rounds float32" in one for one in translated("--fp16").told)


@pytest.mark.parametrize(
    "line",
    [
        "trtexec --onnx=m.onnx --fp16",
        "  /usr/src/tensorrt/bin/trtexec  --onnx=m.onnx  --fp16  ",
        "CUDA_VISIBLE_DEVICES=0 sudo time ./trtexec --onnx='m.onnx' --fp16 2>&1 | tee log.txt",
        'docker run --rm -v /a:/b image trtexec --onnx="m.onnx" --fp16 && echo done',
        "trtexec --onnx=m.onnx \\\n  --fp16  # half\n",
        "#!/bin/bash\nset -e\nMODEL=m.onnx\n# trtexec --onnx=old.onnx\ntrtexec --onnx=$MODEL \\\n --fp16 > log\n",
        "export NAME=m\ntrtexec --onnx=${NAME}.onnx --fp16",
        "for one in $(ls); do echo $one; done\ntrtexec --onnx=m.onnx --fp16",
    ],
)
def test_a_line_is_found_among_what_a_shell_has_around_it(line):
    made = trtexec.translate(line)
    assert (made.model, made.precision) == ("m.onnx", "fp16")


def test_a_script_is_read_from_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trtexec.sh").write_text("trtexec --onnx=m.onnx --saveEngine='a b.plan'\n")
    assert trtexec.translate("trtexec.sh").output == "a b.plan"


def test_the_program_of_tensorrt_rtx_names_its_backend():
    assert trtexec.translate("tensorrt_rtx --onnx=m.onnx").backend == "tensorrt_rtx"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("trtexec --onnx=m --fp17", 'found --fp17, which no trtexec of 8.6, 10 or 11 knows, did you mean "--fp16"?'),
        ("trtexec --onnx m", "found --onnx without a value, and trtexec takes it with an equals sign: --onnx=m"),
        ("trtexec m.onnx", "found the word m.onnx, expected flags such as --onnx=model.onnx"),
        ("trtexec --onnx='m.onnx", "in which a quote is not closed"),
        ("trtexec --onnx=$MODEL", "found the variable $MODEL, and no shell is run here; write its value"),
        ("MODEL=$1\ntrtexec --onnx=$MODEL", "line 2: found the variable $MODEL"),
        ("trtexec --onnx=$(ls)", "which only a shell can work out; write the values"),
        ("trtexec --onnx=`ls`", "which only a shell can work out"),
        ("trtexec --onnx=${M:-m}.onnx", "which only a shell can work out"),
        ("trtexec --onnx=a\ntrtexec --onnx=b", "found 2 lines with trtexec (1, 2), expected one line"),
        ("trtexec --onnx=a --onnx=b", "found --onnx with a and with b, expected it once"),
        ("trtexec --onnx=a --fp16 --bf16", "--bf16=: found with fp16, expected one of them"),
        ("trtexec --onnx=a --iterations=many", "--iterations=many: found many, expected a whole number"),
        ("trtexec --onnx=a --builderOptimizationLevel=9", "found 9, expected 0 to 5"),
        ("trtexec --onnx=a --workspace=1X", "found 1X, expected a size such as 1024 (MiB) or 2G"),
        ("trtexec --onnx=a --memPoolSize=ram:1", "found the pool ram, expected workspace"),
        ("trtexec --onnx=a --sparsity=some", "found some, expected enable or disable"),
        ("trtexec --onnx=a --profilingVerbosity=loud", "found loud, expected layer_names_only"),
        ("trtexec --onnx=a --shapes=1x3", "--shapes=1x3: expected an input and its shape"),
        ("trtexec --onnx=a --profile=one --optShapes=x:1", "--profile=one: found one, expected the number of a"),
        (
            "trtexec --onnx=a --optShapes=x:1 --profile=2 --optShapes=x:2",
            "found the profiles 0, 2; expected each number from 0 on",
        ),
        ("trtexec --onnx=a --profile=1", "found the profiles 0, 1 without shapes; expected each number"),
        (
            "trtexec --onnx=a --profile=1 --optShapes=x:1 --optShapes=x:2",
            "found --optShapes of profile 1 twice, expected it once",
        ),
        ("trtexec --onnx=a --profile=1 --minShapes=x:2 --maxShapes=x:1", "expected min ≤ opt ≤ max"),
        ("trtexec --onnx=a --useProfile=1", "--useProfile=1: the line has one profile"),
        ("trtexec --onnx=a --minShapes=x:2 --maxShapes=x:1", "expected min ≤ opt ≤ max"),
        ("trtexec --onnx=a --minShapes=x:2 --maxShapes=x:2x1", "x: found shapes with 1, 2 and 2 axes"),
        ("not a line", "found not a line, which is no line with trtexec, and cannot be read as a script"),
        ("", "found nothing, expected one line with trtexec"),
    ],
)  # fmt: skip
def test_what_cannot_be_translated_is_refused_with_what_to_write(line, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineInvalid) as caught:
        trtexec.translate(line)
    assert problem in str(caught.value)


def test_ranges_belong_to_the_profile_that_is_named_before_them():
    made = translated(
        "--profile=0 --optShapes=x:1 --profile=1 --minShapes=x:2 --maxShapes=x:8 --profile=0 --maxShapes=x:4 "
        "--useProfile=1"
    )
    assert made.shapes == {"x": (Range(1, 1, 4),)}
    assert made.more == [{"x": (Range(2, 8, 8),)}]
    assert made.run_profile == 1


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(PipelineInvalid) as caught:
        trtexec.translate("trtexec --onnx=a --a --b=1 --iterations=x")
    assert len(caught.value.problems) == 3


def test_what_is_no_text_is_no_script(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PipelineInvalid, match="found no text, expected a script"):
        trtexec.translate(str(tmp_path / "m.onnx"))
