"""What many tests need: run one stage's body in this process, run the command as users do."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec

from trtpipe import backends, stages
from trtpipe.run import entrypoint
from trtpipe.stage import Context, Input
from trtpipe.texts import is_file, split_entrypoint

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = Path(__file__).resolve().parent.parent
PATHS = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])


def as_input(name: str, given: Input | Path) -> Input:
    """Make a stage's input of a folder (an artifact) or a file."""
    if isinstance(given, Input):
        return given
    if given.is_dir():
        files = tuple(sorted(p.relative_to(given).as_posix() for p in given.rglob("*") if p.is_file()))
        return Input(name=name, kind="folder", folder=given, files=files, label=given.name)
    return Input(name=name, kind="file", folder=given.parent, files=(given.name,), label=given.name)


def apart(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a module's function in a process of its own, as stages run: some libraries change others for good."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **named).result()


def run_stage(
    type_name: str,
    params: dict[str, Any],
    inputs: dict[str, Input | Path],
    tmp_path: Path,
    *,
    backend: str = "onnxruntime",
    root: Path | None = None,
    notes: list[str] | None = None,
    failed: dict[str, str] | None = None,
    shared: Path | None = None,
) -> Path:
    """Run one stage's body; give the folder of its artifact. Raises what the body raises.

    `shared` is the folder of what outlives a run; without it, each stage has its own.
    """
    stage_type = stages.get(type_name)
    typed = msgspec.convert(params, stage_type.Params)
    problems = list(typed.problems())
    if problems:
        raise ValueError(problems)
    number = sum(1 for _ in tmp_path.glob("stage-*"))
    folder = tmp_path / f"stage-{number}-{type_name}"
    for part in ("out", "scratch", "shared"):
        (folder / part).mkdir(parents=True)
    root = root or tmp_path
    names = [*typed.files(), *(split_entrypoint(e)[0] for e in typed.entrypoints() if is_file(e))]
    stage_type.run(
        Context(
            stage=type_name,
            params=typed,
            inputs={name: as_input(name, given) for name, given in inputs.items()},
            out=folder / "out",
            scratch=folder / "scratch",
            shared=shared or folder / "shared",
            sources={name: root / name for name in names},
            key="0" * 64,
            backend_name=backend,
            backend=lambda: backends.load(backend),
            load=lambda name: entrypoint.load({n: root / n for n in names}, name),
            progress=lambda *_: None,
            note=(notes if notes is not None else []).append,
            failed=failed or {},
        )
    )
    return folder / "out"


def surroundings() -> dict[str, str]:
    """Give the environment without what would send a test's artifacts elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRTPIPE_ARTIFACTS")}


def trtpipe(*args: str | Path, cwd: Path, env: dict[str, str] | None = None, timeout: float = 600) -> Any:
    """Run the command in a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "trtpipe", *map(str, args)],
        cwd=cwd,
        env={**surroundings(), "PYTHONPATH": PATHS, "COLUMNS": "120", "NO_COLOR": "1", **(env or {})},
        capture_output=True,
        encoding="utf-8",  # whatever the locale is
        timeout=timeout,
        check=False,
    )


def within(*args: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Any:
    """Run the command in this process: as `trtpipe` above, without a start of Python. Stages have their own anyway."""
    from trtpipe.cli import main

    told, complained, before = io.StringIO(), io.StringIO(), os.getcwd()
    settings = {**surroundings(), "COLUMNS": "120", "NO_COLOR": "1", "PYTHONPATH": PATHS, **(env or {})}
    os.chdir(cwd)
    try:
        with (
            mock.patch.dict(os.environ, settings, clear=True),
            contextlib.redirect_stdout(told),
            contextlib.redirect_stderr(complained),
        ):
            code = main.main([str(one) for one in args])
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(args, code, told.getvalue(), complained.getvalue())


def events(result: Any) -> list[dict[str, Any]]:
    """Give the JSON lines that `run --json` printed."""
    return [json.loads(line) for line in result.stdout.splitlines()]


STEP = """\
import os, sys, time
import numpy as np

def double(arrays, samples):
    return {"twice": (arrays["x"][:, 0] * 2).astype(np.int64)}

def die(arrays, samples, how):
    print("about to die", flush=True)
    os.kill(os.getpid(), how)
    time.sleep(60)

def fail(arrays, samples):
    raise ValueError("no such luck")

def slow(arrays, samples, mark, seconds=60):
    open(mark, "w").close()
    time.sleep(seconds)
    return {"twice": arrays["x"][:, 0].astype(np.int64)}

def peek(arrays, samples, name):
    try:
        open(os.path.join(os.path.dirname(__file__), name)).read()
    except BaseException:
        pass
    return {"twice": arrays["x"][:, 0].astype(np.int64)}
"""


def project(tmp_path: Path, stages: str, *, code: str = STEP, name: str = "p") -> Path:
    """Make a folder with a document, four numbers in data.npz and users' code in step.py; give the document."""
    import numpy as np

    tmp_path.mkdir(parents=True, exist_ok=True)
    np.savez(tmp_path / "data.npz", x=np.arange(4, dtype=np.float32).reshape(4, 1))
    (tmp_path / "step.py").write_text(code)
    document = tmp_path / f"{name}.yaml"
    document.write_text(f"name: {name}\nstages:\n{stages}")
    return document


def copied(made: Path, tmp_path: Path) -> Path:
    """Copy a project that was run once for many tests, times and hard links as they are; give the copy."""
    subprocess.run(["cp", "-a", f"{made}/.", str(tmp_path)], check=True)
    return tmp_path


def threads_get_the_same_answers(call: Any, feeds: list[Any], threads: int) -> None:
    """Check that calls from several threads are answered as calls one after the other."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    wanted = [call(feed) for feed in feeds]
    with ThreadPoolExecutor(threads) as pool:
        for one, other in zip(wanted, pool.map(call, feeds), strict=True):
            np.testing.assert_array_equal(one, other)


def further(*values: Any) -> list[Any]:
    """Give parameters of a test that only `make test-all` tries."""
    import pytest

    return [pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=pytest.mark.slow) for one in values]


def python_stage(stage: str, function: str = "double", data: str = "{file: data.npz}", **args: Any) -> str:
    """Write a stage that runs one of STEP's functions: the cheapest real stage."""
    step = {"op": "python", "entrypoint": f"step.py:{function}", "args": args}
    return f"  {stage}: {{type: postprocess, inputs: {{tensors: {data}}}, params: {{steps: [{json.dumps(step)}]}}}}\n"


def inference(configure: str = "{}", allocate: str = "{batch_axis: {image: 0, logits: 0}}") -> str:
    """Write the stages that feed image.npy to the model m.onnx, whose batch is fixed and has no name."""
    return f"""\
  network: {{type: parse, inputs: {{model: {{file: m.onnx}}}}}}
  config: {{type: configure, inputs: {{network: network}}, params: {configure}}}
  engine: {{type: build, inputs: {{config: config}}}}
  buffers: {{type: allocate, inputs: {{engine: engine}}, params: {allocate}}}
  scores: {{type: infer, inputs: {{engine: engine, buffers: buffers, data: {{file: image.npy}}}}}}
"""


def flip_everywhere(folder: Path, content: bytes) -> bytes:
    """Flip a bit in every file below a folder that has this content, in place; give what they hold now."""
    torn = bytearray(content)
    torn[len(torn) // 2] ^= 1
    copies = [p for p in folder.rglob("*") if p.is_file() and p.read_bytes() == content]
    assert len(copies) >= 2
    for copy in copies:
        copy.chmod(0o644)
        with copy.open("r+b") as stream:
            stream.write(torn)
    return bytes(torn)
