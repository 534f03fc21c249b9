"""A line for trtexec, in trtpipe's words: what it asks for, and a sentence for what has no counterpart.

No shell is run. A line may be quoted, may stand in a script beside other commands, and may use variables that the
script sets to plain values; everything else that only a shell could work out is refused.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trtpipe.errors import PipelineInvalid
from trtpipe.pipeline.ranges import Range
from trtpipe.pipeline.trtexec_flags import FLAGS
from trtpipe.texts import plain_size
from trtpipe.words import suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROGRAMS = {"trtexec": None, "trtexec.exe": None, "tensorrt_rtx": "tensorrt_rtx", "tensorrt_rtx.exe": "tensorrt_rtx"}
"""Names of the program, and the backend that they stand for, if any."""
LARGEST = 2**20
"""Bytes of a script that is read."""
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")
_OPERATORS = frozenset("();<>|&")
_VERBOSITY = {"layer_names_only": "names_only", "default": "names_only", "none": "none", "detailed": "detailed",
              "verbose": "detailed"}  # fmt: skip
_HARDWARE = {"none": "none", "ampere+": "ampere+", "samecomputecapability": "same_compute_capability"}
_REPEATED = ("--plugins", "--staticPlugins", "--dynamicPlugins", "--setPluginsToSerialize", "--safetyPlugins",
             "--profile", "--greenContext")  # fmt: skip
_RANGES = ("--minShapes", "--optShapes", "--maxShapes")
"""Flags that belong to the profile that the last `--profile=` before them names."""
_PLUGINS = ("--plugins", "--staticPlugins", "--dynamicPlugins")
_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(kw_only=True)
class Translated:
    """What a line asks for. `params` are those of `configure`, `bench` those of `benchmark`; `told` are sentences.

    `shapes` are the ranges of profile 0, `more` those of the profiles after it; a run takes those of `run_profile`.
    """

    model: str | None = None
    backend: str | None = None
    precision: str | None = None
    int8: bool = False
    output: str | None = None
    shapes: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    more: list[dict[str, tuple[Range, ...]]] = field(default_factory=list)
    run_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    run_profile: int = 0
    params: dict[str, Any] = field(default_factory=dict)
    bench: dict[str, Any] = field(default_factory=dict)
    plugins: list[str] = field(default_factory=list)
    measures: bool = True
    told: list[str] = field(default_factory=list)


def translate(given: str) -> Translated:
    """Translate a line, or the only one in a script whose path is given.

    Raises PipelineInvalid with every flag that trtexec does not know and every value that does not fit.
    """
    words, program = _words(given)
    flags, more, problems = _read(words)
    made = Translated(backend=PROGRAMS[program])
    for name, value in flags.items():
        flag = FLAGS[name]
        dropped = "TensorRT 11 dropped it; " if flag.is_dropped else ""
        if not flag.becomes:
            made.told.append(f"{name}: {dropped}{flag.why}")
            continue
        apply = _APPLY.get(name)
        try:
            if apply is not None:
                apply(made, value)
        except ValueError as error:
            problems.append(f"{name}={value}: {error}")
            continue
        if dropped:
            made.told.append(f"{name}: {dropped}here it is {flag.becomes.replace('`', '')}")
    try:
        _shapes(made, flags)
        made.more = [_ranges(own) for own in more]
        if made.run_profile > len(more):
            have = "one profile" if not more else f"the profiles 0 to {len(more)}"
            problems.append(f"--useProfile={made.run_profile}: the line has {have}")
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise PipelineInvalid([f"--from: {one}" for one in problems])
    _tell(made, flags)
    return made


# --- from a text to words


def _words(given: str) -> tuple[list[str], str]:
    """Give the words after the program's name, and that name."""
    text = given
    where = ""
    if not given.strip():
        raise PipelineInvalid("--from: found nothing, expected one line with trtexec, or a script that holds one")
    if not any(name in given for name in PROGRAMS) or (os.path.isfile(given) and "\n" not in given):
        text, where = _script(given), f"{given}: "
    found = []
    values: dict[str, str] = {}
    for number, line in _logical(text):
        try:
            words = _split(line, values)
        except ValueError as error:
            if any(name in line for name in PROGRAMS):
                raise PipelineInvalid(f"--from: {where}line {number}: {error}") from None
            continue
        place = next((i for i, word in enumerate(words) if os.path.basename(word) in PROGRAMS), None)
        if place is None:
            values |= _assignments(words)
        else:
            found.append((number, words[place + 1 :], os.path.basename(words[place])))
    if len(found) != 1:
        lines = f"{len(found)} lines with trtexec ({', '.join(str(n) for n, _, _ in found)})" if found else "none"
        example = "--from 'trtexec --onnx=model.onnx --fp16'"
        raise PipelineInvalid(f"--from: {where}found {lines}, expected one line with trtexec: {example}")
    _, words, program = found[0]
    end = next((i for i, word in enumerate(words) if set(word) <= _OPERATORS), len(words))
    cut = words[:end]
    if end < len(words) and words[end].startswith(">") and cut and cut[-1].isdigit():
        cut.pop()  # 2>&1
    return cut, program


def _script(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise PipelineInvalid(f"--from: {path}: found more than 1 MiB, expected a script with a line for trtexec")
        return data.decode()
    except UnicodeDecodeError:
        raise PipelineInvalid(f"--from: {path}: found no text, expected a script with a line for trtexec") from None
    except OSError as error:
        raise PipelineInvalid(
            f"--from: found {path}, which is no line with trtexec, and cannot be read as a script: {error.strerror}"
        ) from None


def _logical(text: str) -> list[tuple[int, str]]:
    """Give each line with its number; a line that ends in a backslash goes on in the next one."""
    lines: list[tuple[int, str]] = []
    goes_on = False
    for number, line in enumerate(text.splitlines(), 1):
        plain = line[:-1] + " " if line.endswith("\\") else line
        if goes_on:
            lines[-1] = (lines[-1][0], lines[-1][1] + plain)
        else:
            lines.append((number, plain))
        goes_on = line.endswith("\\")
    return lines


def _split(line: str, values: Mapping[str, str]) -> list[str]:
    """Split a line as a shell does, with variables replaced. Raises ValueError for what only a shell can work out."""
    if line.lstrip().startswith("#"):
        return []
    lexer = shlex.shlex(_expanded(line, values), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise ValueError(f"found {line.strip()}, in which a quote is not closed ({error})") from None
    return words[: next((i for i, word in enumerate(words) if word.startswith("#")), len(words))]


def _expanded(line: str, values: Mapping[str, str]) -> str:
    """Replace variables, but not within single quotes."""
    parts = re.split(r"('[^']*')", line) if line.count("'") % 2 == 0 and '"' not in line else [line]
    return "".join(part if part.startswith("'") and part.endswith("'") else _filled(part, values) for part in parts)


def _filled(text: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in values:
            raise ValueError(f"found the variable ${name}, and no shell is run here; write its value")
        return values[name]

    filled = _VARIABLE.sub(value, text)
    if "$" in re.sub(r"\\\$", "", _VARIABLE.sub("", text)) or "`" in text:
        raise ValueError(f"found {text.strip()}, which only a shell can work out; write the values")
    return filled


def _assignments(words: list[str]) -> dict[str, str]:
    """Give the variables that a line sets, if it does nothing else."""
    rest = words[1:] if words[:1] in (["export"], ["set"]) else words
    matches = [_ASSIGNMENT.fullmatch(word) for word in rest]
    return {m[1]: m[2] for m in matches if m} if all(matches) else {}


def _read(words: list[str]) -> tuple[dict[str, str], list[dict[str, str]], list[str]]:
    """Give the flags with their values, the ranges of each profile after the first, and what is wrong with the line."""
    flags: dict[str, str] = {}
    problems = []
    profiles: dict[int, dict[str, str]] = {0: flags}
    now = 0
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        flag = FLAGS.get(name)
        if flag is None:
            if not word.startswith("-") and index and words[index - 1].startswith("--"):
                continue  # told with the flag before it
            if word.startswith("-"):
                problems.append(f"found {word}, which no trtexec of 8.6, 10 or 11 knows{suggest(name, FLAGS)}")
            else:
                problems.append(f"found the word {word}, expected flags such as --onnx=model.onnx")
        elif flag.value and not equals:
            more = words[index + 1] if index + 1 < len(words) and not words[index + 1].startswith("-") else "…"
            problems.append(f"found {name} without a value, and trtexec takes it with an equals sign: {name}={more}")
        elif name == "--profile":
            now = int(value) if value.isdigit() else -1
            if now < 0:
                problems.append(f"{name}={value}: found {value or 'nothing'}, expected the number of a profile, from 0")
            profiles.setdefault(now, {})
        elif name in _RANGES and now and profiles[now].get(name, value) == value:
            profiles[now][name] = value
        elif name in _RANGES and now:
            problems.append(f"found {name} of profile {now} twice, expected it once")
        elif flags.get(name, value) != value and name not in _REPEATED:
            problems.append(f"found {name} with {flags[name]} and with {value}, expected it once")
        elif name in _PLUGINS and name in flags:
            flags[name] += f",{value}"
        else:
            flags.setdefault(name, value)
    further = [profiles[number] for number in sorted(profiles) if number > 0]
    if -1 not in profiles and (len(profiles) != max(profiles) + 1 or not all(further)):
        found = ", ".join(f"{number}{'' if own else ' without shapes'}" for number, own in sorted(profiles.items()))
        problems.append(f"--profile: found the profiles {found}; expected each number from 0 on, with shapes")
    return flags, further, problems


# --- from words to wishes


def _set(made: Translated, name: str, value: Any) -> None:
    made.params[name] = value


def _precision(name: str) -> Callable[[Translated, str], None]:
    def apply(made: Translated, _: str) -> None:
        if made.precision in ("fp16", "bf16") and made.precision != name:
            raise ValueError(
                f"found with {made.precision}, expected one of them: an engine has one half precision here"
            )
        made.precision = name

    return apply


def _best(made: Translated, _: str) -> None:
    made.precision = made.precision or "fp16"
    made.told.append("--best: the rest is float16 here; 8-bit products need samples: --int8 DATA")


def _memory(made: Translated, value: str) -> None:
    for one in filter(None, value.split(",")):
        pool, _, size = one.partition(":")
        if pool == "workspace":
            _set(made, "workspace", _size(size))
        elif pool in ("dlaSRAM", "dlaLocalDRAM", "dlaGlobalDRAM", "tacticSharedMem"):
            what = "engines are built for GPUs, not for DLA" if pool.startswith("dla") else "the builder chooses it"
            made.told.append(f"--memPoolSize={pool}: {what}")
        else:
            raise ValueError(f"found the pool {pool}, expected workspace")


def _size(text: str) -> str:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([BKMG])?(?:i?B)?", text.strip())
    if not match:
        raise ValueError(f"found {text or 'nothing'}, expected a size such as 1024 (MiB) or 2G")
    return plain_size(f"{int(float(match[1]) * _UNITS[match[2] or 'M'])}B")


def _sparsity(made: Translated, value: str) -> None:
    if value == "force":
        made.told.append("--sparsity=force: it overwrites weights, so the engine would be another model; enable is set")
    elif value not in ("enable", "disable"):
        raise ValueError(f"found {value}, expected enable or disable")
    _set(made, "sparse_weights", value != "disable")


def _one_of(name: str, known: Mapping[str, str]) -> Callable[[Translated, str], None]:
    def apply(made: Translated, value: str) -> None:
        if value.lower() not in known:
            raise ValueError(f"found {value}, expected {', '.join(known)}")
        _set(made, name, known[value.lower()])

    return apply


def _number(text: str, *, whole: bool = True) -> Any:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise ValueError(f"found {text or 'nothing'}, expected a {'whole ' if whole else ''}number") from None


def _level(made: Translated, value: str) -> None:
    level = _number(value)
    if not 0 <= level <= 5:
        raise ValueError(f"found {value}, expected 0 to 5")
    _set(made, "optimization_level", level)


def _layers(made: Translated, value: str) -> None:
    kept = []
    for one in re.findall(r'(?:"[^"]*"|[^,])+', value):
        name, _, kind = one.strip('"').rpartition(":")
        kinds = set(re.split("[;+]", kind))
        if kinds == {"fp32"}:
            kept.append(name)
        else:
            made.told.append(f"--layerPrecisions: {name} is {kind} there; here only fp32 can be said, with keep_fp32")
    if kept:
        _set(made, "keep_fp32", kept)


def _capabilities(made: Translated, value: str) -> None:
    _set(made, "compute_capabilities", [_number(one) for one in value.split(",")])


def _bench(name: str, value: Any = None) -> Callable[[Translated, str], None]:
    def apply(made: Translated, text: str) -> None:
        if value is not None:
            made.bench[name] = value
        elif name == "percentiles":
            made.bench[name] = [_number(one, whole=False) for one in text.split(",")]
        else:
            made.bench[name] = _number(text, whole=name == "iterations")

    return apply


def _no_measuring(made: Translated, _: str) -> None:
    made.measures = False


def _param(*names: str) -> Callable[[Translated, str], None]:
    return lambda made, _: made.params.update(dict.fromkeys(names, True))


_APPLY: dict[str, Callable[[Translated, str], None]] = {
    "--onnx": lambda made, value: setattr(made, "model", os.path.expanduser(value)),
    "--saveEngine": lambda made, value: setattr(made, "output", value),
    "--fp16": _precision("fp16"),
    "--bf16": _precision("bf16"),
    "--best": _best,
    "--int8": lambda made, _: setattr(made, "int8", True),
    "--stronglyTyped": _precision("model"),
    "--workspace": lambda made, value: _set(made, "workspace", _size(value)),
    "--memPoolSize": _memory,
    "--builderOptimizationLevel": _level,
    "--sparsity": _sparsity,
    "--refit": _param("refit"),
    "--stripWeights": _param("strip_plan"),
    "--weightless": _param("strip_plan"),
    "--stripAllWeights": _param("strip_plan", "refit"),
    "--allowWeightStreaming": _param("weight_streaming"),
    "--versionCompatible": _param("version_compatible"),
    "--vc": _param("version_compatible"),
    "--hardwareCompatibilityLevel": _one_of("hardware_compatibility", _HARDWARE),
    "--profilingVerbosity": _one_of("verbosity", _VERBOSITY),
    "--noBuilderCache": lambda made, _: _set(made, "timing_cache", "off"),
    "--layerPrecisions": _layers,
    "--computeCapabilities": _capabilities,
    **dict.fromkeys(_PLUGINS, lambda made, value: made.plugins.extend(filter(None, value.split(",")))),
    "--useProfile": lambda made, value: setattr(made, "run_profile", _number(value)),
    "--skipInference": _no_measuring,
    "--buildOnly": _no_measuring,
    "--iterations": _bench("iterations"),
    "--duration": _bench("duration"),
    "--warmUp": _bench("warm_up"),
    "--noDataTransfers": _bench("transfers", value=False),
    "--includeDataTransfers": _bench("transfers", value=True),
    "--useCudaGraph": _bench("cuda_graph", value=True),
    "--noCudaGraph": _bench("cuda_graph", value=False),
    "--useSpinWait": _bench("spin_wait", value=True),
    "--noSpinWait": _bench("spin_wait", value=False),
    "--percentile": _bench("percentiles"),
    "--dumpProfile": _bench("profile", value=True),
    "--exportProfile": _bench("profile", value=True),
}
"""What a flag does; a flag that becomes nothing, and those of shapes, which belong together, are not here."""
TOGETHER = (*_RANGES, "--shapes", "--profile")


def _shapes(made: Translated, flags: Mapping[str, str]) -> None:
    """Join the three flags of ranges; what is missing is the best shape, and that is otherwise the largest."""
    made.run_shapes = _spec("--shapes", flags.get("--shapes", ""))
    made.shapes = _ranges(flags)
    for name, shape in made.run_shapes.items():
        made.shapes.setdefault(name, tuple(Range(size, size, size) for size in shape))


def _ranges(flags: Mapping[str, str]) -> dict[str, tuple[Range, ...]]:
    """Give the ranges of one profile by input."""
    found = {}
    low, best, high = (_spec(name, flags.get(name, "")) for name in _RANGES)
    for name in dict.fromkeys([*low, *best, *high]):
        middle = best.get(name) or high.get(name) or low[name]
        smallest, largest = low.get(name, middle), high.get(name, middle)
        if not len(smallest) == len(middle) == len(largest):
            raise ValueError(f"{name}: found shapes with {len(smallest)}, {len(middle)} and {len(largest)} axes")
        if not all(a <= b <= c for a, b, c in zip(smallest, middle, largest, strict=True)):
            raise ValueError(f"{name}: found min {smallest}, opt {middle}, max {largest}; expected min ≤ opt ≤ max")
        found[name] = tuple(Range(*sizes) for sizes in zip(smallest, middle, largest, strict=True))
    return found


def _spec(flag: str, text: str) -> dict[str, tuple[int, ...]]:
    found = {}
    for one in filter(None, re.findall(r"(?:'[^']*'|[^,])+", text)):
        name, _, dims = one.rpartition(":")
        if not name or not re.fullmatch(r"(\d+(x\d+)*|scalar)?", dims):
            raise ValueError(f"{flag}={one}: expected an input and its shape, such as input:1x3x224x224")
        sizes = tuple(int(n) for n in dims.split("x")) if dims and dims != "scalar" else ()
        found[name.strip("'\"")] = sizes
    return found


def _tell(made: Translated, flags: Mapping[str, str]) -> None:
    if "keep_fp32" in made.params and made.precision not in ("fp16", "bf16"):
        del made.params["keep_fp32"]
        made.told.append("--layerPrecisions: without --fp16 or --bf16 every layer is as the model says")
    if "--int8" in flags:
        made.told.append("--int8: products are of 8 bits where the model has Q/DQ nodes; for a model without, give "
                         "samples: --int8 DATA")  # fmt: skip
    if "--noTF32" not in flags and made.precision in (None, "model"):
        made.told.append("without --noTF32, trtexec rounds float32 to TF32 in products; here it stays float32, unless "
                         "--precision tf32 is given")  # fmt: skip
