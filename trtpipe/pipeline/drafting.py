"""Documents that trtpipe writes for people: the stages of a build, and their text as YAML.

The text is what `build` runs, what `--emit-yaml` writes and what `init` begins with, so it is read by the same strict
reader as any other document.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe.escaping import inline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.pipeline.ranges import Ranges

WIDTH = 110
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


class Wish(NamedTuple):
    """A build that somebody asks for; paths start from the document's folder.

    `params` are those of `configure`. `int8` names calibration data, from which `quantize` takes its ranges. `data`
    names samples: the check of half precision looks at them, and with `runs` the engine is run on them and compared.
    `batch_axis` says which axes are the batch, where names do not. With `measured`, the buffers of a run are planned,
    of its shapes or else the best ones, and `bench` can measure. `more` are the profiles after that of `ranges`, and a
    run uses `run_profile`. `check` has the build run the engine once.
    """

    name: str
    model: str
    backend: str
    ranges: Ranges
    params: dict[str, Any]
    int8: str | None = None
    quantize: dict[str, Any] = {}  # noqa: RUF012 — nobody changes a wish's fields
    data: str | None = None
    runs: bool = False
    measured: dict[str, tuple[int, ...]] | None = None
    batch_axis: dict[str, int] = {}  # noqa: RUF012
    more: Sequence[Ranges] = ()
    run_profile: int = 0
    plugins: tuple[str, ...] = ()
    optimize: dict[str, Any] = {}  # noqa: RUF012
    check: bool = False


def name_of(path: str) -> str:
    """Give a pipeline's name for a model's file: its name without the ending, in letters that names may have."""
    stem = os.path.splitext(os.path.basename(path))[0]
    return _NOT_IN_NAMES.sub("-", stem).strip("-.") or "model"


def stages(wish: Wish) -> dict[str, dict[str, Any]]:
    """Give the stages of a build, from the model to the engine, and its comparison if it runs here."""
    made: dict[str, dict[str, Any]] = {}
    model: Any = {"file": wish.model}
    if wish.optimize:
        made["optimized"] = {"type": "optimize", "inputs": {"model": model}, "params": wish.optimize}
        model = "optimized"
    original = model
    if wish.int8 is not None:
        inputs = {"model": model, "calibration": {"file": wish.int8}}
        made["quantized"] = {"type": "quantize", "inputs": inputs, "params": wish.quantize}
        model = "quantized"
    made["network"] = {"type": "parse", "inputs": {"model": model}, "params": _dims(wish)}
    every = (wish.ranges, *wish.more)
    profiles = [one.param() for one in every if one.profile]
    config: dict[str, Any] = {"network": "network"}
    params = {**wish.params, **({"profiles": profiles} if profiles else {})}
    if wish.data is not None and params.get("precision") in ("fp16", "bf16"):
        config["calibration"] = {"file": wish.data}
    made["config"] = {"type": "configure", "inputs": config, "params": params}
    check = {"check": "auto"} if wish.check else {}
    made["engine"] = {"type": "build", "inputs": {"config": "config"}, "params": check}
    compared = wish.data is not None and wish.runs
    if compared or wish.measured is not None:
        run = {
            **every[wish.run_profile].shapes("opt"),
            **{name: list(shape) for name, shape in (wish.measured or {}).items()},
        }
        made["buffers"] = {"type": "allocate", "inputs": {"engine": "engine"},
                           "params": {**({"shapes": run} if run else {}), **_batch(wish),
                                      **({"profile": wish.run_profile} if wish.run_profile else {})}}  # fmt: skip
    if compared:
        data = {"file": wish.data}
        made["outputs"] = {"type": "infer", "inputs": {"engine": "engine", "buffers": "buffers", "data": data}}
        made["closeness"] = {"type": "compare", "inputs": {"candidate": "outputs", "model": original, "data": data},
                             "params": _batch(wish)}  # fmt: skip
    return {name: {k: v for k, v in one.items() if v != {}} for name, one in made.items()}


def _batch(wish: Wish) -> dict[str, Any]:
    return {"batch_axis": wish.batch_axis} if wish.batch_axis else {}


def _dims(wish: Wish) -> dict[str, Any]:
    dims = {"dims": wish.ranges.dims} if wish.ranges.dims else {}
    return {**dims, **({"plugins": list(wish.plugins)} if wish.plugins else {})}


def text(name: str, backend: str, made: Mapping[str, Any], comments: Sequence[str] = ()) -> str:
    """Write a document. `comments` stand at its top, without their `#`."""
    lines = [f"# {inline(line)}".rstrip() for line in comments]
    lines += [f"name: {scalar(name)}", f"backend: {backend}", "stages:"]
    for stage, one in made.items():
        lines += _stage(stage, one)
    return "\n".join(lines) + "\n"


def _stage(name: str, one: Mapping[str, Any]) -> list[str]:
    short = f"  {quoted(name)}: {flow(one)}"
    if len(short) <= WIDTH:
        return [short]
    lines = [f"  {quoted(name)}:"]
    for key, value in one.items():
        line = f"    {key}: {flow(value)}"
        if len(line) <= WIDTH or not isinstance(value, dict):
            lines.append(line)
            continue
        lines.append(f"    {key}:")
        lines += [f"      {quoted(inner)}: {flow(item)}" for inner, item in value.items()]
    return lines


def flow(value: Any) -> str:
    """Write a value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value) if isinstance(value, str) else json.dumps(value)


def scalar(value: str) -> str:
    """Write a text so that it is read as this text, although `${` begins a variable."""
    return quoted(value.replace("${", "$${"))


def quoted(value: str) -> str:
    """Write a name, in which `${` has no meaning, so that it is read as this name; some words are no texts."""
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if char.isprintable() else f"\\U{ord(char):08x}"


def relative(path: str, folder: str) -> str:
    """Give a path as a document in `folder` names it, in posix form."""
    real = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
    return os.path.relpath(real, os.path.realpath(folder)).replace(os.sep, "/")
