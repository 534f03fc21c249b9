"""Says what this machine can do, what is missing, and which command installs it."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from trtpipe import __version__, environment, errors
from trtpipe.cli.printing import out
from trtpipe.run import watching
from trtpipe.runtime import NAMES

if TYPE_CHECKING:
    import argparse


def doctor(args: argparse.Namespace) -> int:
    """Say what this machine can do, or whether a plan can load here."""
    if args.plan is not None:
        return plan(args.plan, as_json=args.json)
    return run(args.artifacts, as_json=args.json)


def run(artifacts: str, *, as_json: bool) -> int:
    """Print what was found; give 0 if a runtime can be chosen, else EnvironmentMissing's exit code."""
    found = examine(artifacts)
    if as_json:
        out(json.dumps(found))
    else:
        out("\n".join(_text(found)))
    return 0 if found["choice"] else errors.EnvironmentMissing.exit_code


def plan(given: str, *, as_json: bool) -> int:
    """Say whether a plan can load here, and what to do if not; give 0 or EnvironmentMissing's exit code."""
    from trtpipe.backends import preflight
    from trtpipe.formatting import table

    path, manifest = preflight.open_plan(given)
    found = preflight.check(path, manifest)
    can = all(c.good is not False for c in found)
    if as_json:
        out(json.dumps({"plan": str(path), "loads": can, "checks": [c._asdict() for c in found]}))
    else:
        words = {True: "yes", False: "NO", None: "?"}
        out("\n".join(table([[words[c.good], c.what, c.found] for c in found])))
        for one in found:
            if one.good is False and one.help:
                out(f"{one.what}: {one.help}")
        out(f"{path.name} {'can' if can else 'cannot'} load here")
    return 0 if can else errors.EnvironmentMissing.exit_code


def examine(artifacts: str) -> dict[str, object]:
    """Give what was found as a JSON object: versions, GPUs, what each runtime can do here, and the store."""
    gpus = environment.gpus()
    try:
        choice: dict[str, str] | None = environment.choose("auto")._asdict()
    except errors.EnvironmentMissing:
        choice = None
    runtimes = {}
    for name in NAMES:
        version = environment.runtime_version(name)
        can, note = _abilities(name, version, gpus)
        runtimes[name] = {"version": version, "can": can, "note": note}
    packages = ("onnx", "numpy", "polygraphy", "torch", "onnxscript", "pillow", "fsspec", "cuda-bindings")
    return {
        "trtpipe": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "driver": environment.driver(),
        "gpus": [g._asdict() for g in gpus],
        "runtimes": runtimes,
        "packages": {name: environment.version(name) for name in packages},
        "choice": choice,
        "watching": watching.way(),
        "artifacts": {"path": os.path.abspath(artifacts), "writable": _writable(artifacts)},
    }


def _abilities(name: str, version: str | None, gpus: tuple[environment.Gpu, ...]) -> tuple[list[str], str]:
    if version is None:
        return [], f"not installed: {environment.HELP[name]}"
    if name == "onnxruntime":
        return ["parse", "build", "run"], "on the CPU"
    if name == "tensorrt":
        if gpus:
            return ["parse", "build", "run"], f"on {gpus[0].name}"
        return [], "needs an NVIDIA GPU and driver, and there is none here"
    if not gpus:
        return ["parse", "build"], "builds plans here; running one needs a GPU, and there is none here"
    if environment.rtx_supports(version, gpus[0].compute_capability):
        return ["parse", "build", "run"], f"on {gpus[0].name}"
    return ["parse", "build"], f"{version} does not run on {gpus[0].name} ({gpus[0].compute_capability})"


def _writable(folder: str) -> bool:
    while not os.path.exists(folder):
        folder = os.path.dirname(os.path.abspath(folder))
    return os.path.isdir(folder) and os.access(folder, os.W_OK)


def _text(found: dict[str, object]) -> list[str]:
    from trtpipe.formatting import size_text, table

    lines = [f"trtpipe {found['trtpipe']}, Python {found['python']}", ""]
    gpus = found["gpus"]
    assert isinstance(gpus, list)
    for gpu in gpus:
        what = f"{gpu['name']}, compute capability {gpu['compute_capability']}, {size_text(gpu['memory'])}"
        lines.append(f"GPU {gpu['number']}: {what}, driver {found['driver']}")
    lines += [] if gpus else ["GPU: none here"]
    runtimes = found["runtimes"]
    packages = found["packages"]
    artifacts = found["artifacts"]
    assert isinstance(runtimes, dict)
    assert isinstance(packages, dict)
    assert isinstance(artifacts, dict)
    rows = [["runtime", "version", "can", ""]]
    rows += [[n, r["version"] or "–", ", ".join(r["can"]) or "–", r["note"]] for n, r in runtimes.items()]
    lines += ["", *table(rows), ""]
    lines += table([["package", "version"], *([n, v or "– not installed"] for n, v in packages.items())])
    choice = found["choice"]
    if isinstance(choice, dict):
        lines += ["", f"auto takes {choice['backend']} {choice['version']}: {choice['reason']}"]
    else:
        lines += ["", f"no runtime is installed: {environment.HELP['onnxruntime']}"]
    lines.append(f"users' code is watched {found['watching']}")
    lines.append(f"artifacts: {artifacts['path']} ({'writable' if artifacts['writable'] else 'NOT writable'})")
    return lines
