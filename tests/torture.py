"""Kill, starve, damage and confuse trtpipe; print what was done, how often, and what was lost.

    python tests/torture.py            the short suite, a minute
    python tests/torture.py --long     what docs/reliability.md shows, a quarter of an hour

Every part is seeded (`--seed`), so that what fails can be done again. Exit code 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import builtins
import collections
import contextlib
import errno
import functools
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.helpers import PROJECT, project, python_stage
from trtpipe import environment, errors
from trtpipe import key as keys
from trtpipe.cli import caching, explaining, inspecting, locking, running  # noqa: F401 — loaded before forks
from trtpipe.cli import main as cli
from trtpipe.documents.action import About, parse
from trtpipe.key import Key
from trtpipe.pipeline import loading
from trtpipe.run import runner  # noqa: F401 — loaded before forks
from trtpipe.store import actions, gc, integrity, locks, workspace  # noqa: F401 — loaded before forks
from trtpipe.store.artifact import Hit, Miss
from trtpipe.store.state import State
from trtpipe.store.store import Store
from trtpipe.trust import lockfile

KNOWN = {0, 1, 2, 3, 4, 5, 10}
HANG_SECONDS = 10.0
MEMORY = 2 * 2**30
"""A child may map so much more than its parent had when it was forked."""
ENVIRONMENT = {"PYTHONPATH": str(PROJECT), "NO_COLOR": "1", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}


class Row(NamedTuple):
    """One line of the table."""

    what: str
    times: int
    seen: str
    lost: list[str]


# --- children


def child(function: Any) -> int:
    """Run a function in a forked child that prints into a file; give the child's process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        code = function()
    except BaseException:  # noqa: BLE001 — whatever it is, the child must end here
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def command(folder: Path, *arguments: str, log: Path | None = None) -> int:
    """Start the command in a child as a user would, but without the time that Python takes to start."""

    def body() -> int:
        os.chdir(folder)
        out = os.open(log or folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True)
        environment._distributions.cache_clear()
        return cli.main(list(arguments))

    return child(body)


def ended(pid: int, seconds: float) -> int | None:
    """Wait for a child; give its exit code (negative: the signal), or None if it hangs (it is killed then)."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.002)


def finish(folder: Path, *arguments: str, seconds: float = 60) -> tuple[int | None, str]:
    """Run the command to its end; give its exit code and what it printed."""
    code = ended(command(folder, *arguments), seconds)
    return code, (folder / "log").read_text(errors="replace")


# --- SIGKILL


KILLED = """\
name: p
vars: {seed: 0}
stages:
  a:
    type: postprocess
    inputs: {tensors: {file: data.npz}}
    params: {steps: [{op: python, entrypoint: "step.py:times", args: {by: "${seed}"}}]}
"""
TIMES = """\
import numpy as np
def times(arrays, samples, by):
    return {"made": (arrays["x"][:, 0] * by).astype(np.int64)}
"""


def kills(top: Path, count: int, rng: random.Random, seconds: float) -> Row:
    """SIGKILL two runs that want the same, so often or for so long; then a run must finish right, on a whole store."""
    stop = time.monotonic() + seconds
    lost: list[str] = []
    folder = top / "kills"
    project(folder, python_stage("x"), code=TIMES)
    (folder / "p.yaml").write_text(KILLED)
    arguments = ("run", "p.yaml", "--backend", "onnxruntime")
    finish(folder, *arguments)
    whole = 60.0
    for seed in (1, 2, 3):
        begun = time.monotonic()
        finish(folder, *arguments, "--set", f"vars.seed={seed}")
        whole = min(whole, time.monotonic() - begun)
    killed = early = 0
    finished = True
    while killed < count and time.monotonic() < stop:
        for _ in range(8):
            seed += finished  # what is there already takes no time to make
            finished = False
            pids = [command(folder, *arguments, "--set", f"vars.seed={seed}", log=folder / f"log{n}") for n in (0, 1)]
            started = time.monotonic()
            moments = sorted((rng.uniform(0, whole), pid) for pid in pids)
            for moment, pid in moments:
                time.sleep(max(0.0, started + moment - time.monotonic()))
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                finished = finished or not os.WIFSIGNALED(status)
                killed, early = (killed + 1, early) if os.WIFSIGNALED(status) else (killed, early + 1)
        problem = _after_kills(folder, arguments, seed)
        seed += 1
        if problem:
            lost.append(f"after {killed} kills: {problem}")
            break
    with State(str(folder / "artifacts")) as state:
        store = Store(str(folder / "artifacts"), state)
        gc.gc(store, gc.Budget(), lambda: lockfile.needed(store))
    left = [
        *os.listdir(folder / "artifacts" / "tmp"),
        *(n for n in os.listdir(folder / "artifacts" / "locks") if n != "gc"),
    ]
    if left:
        lost.append(f"left behind: {left[:5]}")
    seen = f"{early} runs ended before their kill; each next run finished right, the store was whole"
    return Row("SIGKILL at random moments of two runs at once that make the same key", killed, seen, lost)


def _after_kills(folder: Path, arguments: tuple[str, ...], seed: int) -> str | None:
    code, text = finish(folder, *arguments, "--set", f"vars.seed={seed}")
    if code != 0:
        return f"the next run ended with {code}: {text[-500:]}"
    rows = [json.loads(line) for line in (folder / "artifacts/view/p/a/results.jsonl").read_text().splitlines()]
    if [r["made"] for r in rows] != [n * seed for n in range(4)]:
        return f"the next run made {rows}"
    with State(str(folder / "artifacts")) as state:
        _, _, found = integrity.verify(Store(str(folder / "artifacts"), state))
    return f"cache verify: {found}" if found else None


# --- errors of the disk


CALLS = (
    "open",
    "replace",
    "rename",
    "mkdir",
    "chmod",
    "fsync",
    "link",
    "symlink",
    "stat",
    "lstat",
    "unlink",
    "rmdir",
    "scandir",
    "listdir",
    "readlink",
    "utime",
    "copy_file_range",
    "write",
    "pwrite",
    "ftruncate",
    "fstat",
)
ERRORS = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO)


class Faults:
    """Counts file operations, and lets one of them (and, if `lasting`, all after it) fail."""

    def __init__(self, number: int | None, code: int, *, lasting: bool) -> None:
        self.number, self.code, self.lasting, self.count = number, code, lasting, 0
        self.paused = False
        self._real = {name: getattr(os, name) for name in CALLS}
        self._open = builtins.open

    def _step(self, what: str, where: Any) -> None:
        if self.paused:
            return
        index, self.count = self.count, self.count + 1
        if self.number is not None and (index == self.number or (self.lasting and index > self.number)):
            raise OSError(self.code, os.strerror(self.code), where if isinstance(where, str) else what)

    def __enter__(self) -> Faults:  # noqa: PYI034 — Self came with 3.11
        for name, real in self._real.items():

            def wrapped(*args: Any, _name: str = name, _real: Any = real, **kw: Any) -> Any:
                self._step(_name, args[0] if args else None)
                return _real(*args, **kw)

            setattr(os, name, wrapped)

        def opened(path: Any, *args: Any, **kw: Any) -> Any:
            self._step("open", path)
            return _Stream(self._open(path, *args, **kw), self)

        builtins.open = opened  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)
        builtins.open = self._open

    def step(self, what: str) -> None:
        """Count an operation on an open file."""
        self._step(what, None)


class _Stream:
    def __init__(self, stream: Any, faults: Faults) -> None:
        self._stream, self._faults = stream, faults

    def __enter__(self) -> _Stream:  # noqa: PYI034
        self._stream.__enter__()
        return self

    def __exit__(self, *args: object) -> Any:
        return self._stream.__exit__(*args)

    def __getattr__(self, name: str) -> Any:
        if name in ("read", "readinto", "write", "flush"):
            self._faults.step(name)
        return getattr(self._stream, name)


FILES = {"model.onnx": b"graph", "model.data": b"weights" * 99, "sub/export.json": b"{}"}
KEY = Key("export", 1, {"name": "x"}, {}, {}, {})


def _commit(store: Store, during: Faults | None = None) -> None:
    with store.in_use(), store.workspace() as folder:
        if during:
            during.paused = True  # what the stage itself writes is not the store's doing
        for name, content in FILES.items():
            path = os.path.join(folder, "out", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as stream:
                stream.write(content)
        if during:
            during.paused = False
        held = store.lock(KEY.digest, "x")
        about = About(seconds=1.0, stage="s", pipeline="p")
        artifact = store.commit(KEY, "model", os.path.join(folder, "out"), about)
        store.tree(artifact)
        store.show("p", "s", artifact)
        if held:
            held.release()


def _content(folder: str) -> dict[str, bytes]:
    found = {}
    for path in Path(folder).rglob("*"):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def faults(top: Path, codes: tuple[int, ...]) -> Row:
    """Let each file operation of a commit fail in turn, once and for good; with each error, or each with the next."""
    lost: list[str] = []
    how: collections.Counter[str] = collections.Counter()
    with _a_store(top / "count") as store, Faults(None, 0, lasting=False) as counting:
        _commit(store, counting)
    done = 0
    for turn in range(len(codes)):
        for lasting in (False, True):
            for number in range(counting.count):
                code = codes[turn] if len(codes) > 1 else ERRORS[(number + lasting) % len(ERRORS)]
                folder = top / "fault"
                problem = _one_fault(folder, number, code, lasting, how)
                if problem:
                    lost.append(
                        f"{errno.errorcode[code]} at operation {number}{' and on' if lasting else ''}: {problem}"
                    )
                shutil.rmtree(folder, ignore_errors=True)
                done += 1
    names = "/".join(errno.errorcode[c] for c in ERRORS)
    seen = ", ".join(f"{n} {what}" for what, n in how.most_common())
    return Row(
        f"{names} at each of the {counting.count} file operations of a commit, once and lasting", done, seen, lost
    )


@contextlib.contextmanager
def _a_store(folder: Path) -> Any:
    folder.mkdir(parents=True)
    with State(str(folder)) as state:
        yield Store(str(folder), state)


def _one_fault(folder: Path, number: int, code: int, lasting: bool, how: collections.Counter[str]) -> str | None:
    with _a_store(folder) as store:
        try:
            with Faults(number, code, lasting=lasting) as during:
                _commit(store, during)
            how["went on without it"] += 1
        except errors.StoreError:
            how["exit 4"] += 1
        except Exception as error:  # noqa: BLE001 — just this must not be
            return f"{type(error).__name__}: {error}\n{traceback.format_exc()[-900:]}"
        result = store.lookup(KEY.digest)
        if isinstance(result, Miss) and result.damage:
            return f"half-written: {result}"
        if isinstance(result, Hit) and _content(store.tree(result.artifact)) != FILES:
            return "a hit has other content"
        try:
            _commit(store)
        except errors.TrtpipeError as error:
            return f"the next commit fails: {error}"
        view = store.view_path("p", "s")
        if _content(os.path.realpath(view)) != FILES:
            return f"the next commit shows {sorted(_content(view))}"
        _, _, found = integrity.verify(store)
        return f"verify: {found}" if found else None


MINE = {"mine.txt": b"a file of mine", "model.onnx": b"a version of mine"}


def mends(top: Path, codes: tuple[int, ...]) -> Row:
    """Let each file operation fail by which a tree that people changed is mended: nothing of theirs may be lost."""
    lost: list[str] = []
    how: collections.Counter[str] = collections.Counter()
    with _a_store(top / "count-mend") as store:
        artifact = _changed_by_people(store)
        with Faults(None, 0, lasting=False) as counting:
            store.tree(artifact)
    done = 0
    for turn in range(len(codes)):
        for lasting in (False, True):
            for number in range(counting.count):
                code = codes[turn] if len(codes) > 1 else ERRORS[(number + lasting) % len(ERRORS)]
                with _a_store(top / "mend") as store:
                    artifact = _changed_by_people(store)
                    try:
                        with Faults(number, code, lasting=lasting):
                            store.tree(artifact)
                        how["went on without it"] += 1
                    except errors.StoreError:
                        how["exit 4"] += 1
                    right = _content(store.tree(artifact)) == FILES
                    kept = {p.name: p.read_bytes() for p in (top / "mend" / "edited").rglob("*") if p.is_file()}
                    if not right or kept != MINE:
                        where = f"{errno.errorcode[code]} at operation {number}{' and on' if lasting else ''}"
                        lost.append(f"{where}: the tree is {'right' if right else 'wrong'}, kept is {kept}")
                shutil.rmtree(top / "mend")
                done += 1
    seen = ", ".join(f"{n} {what}" for what, n in how.most_common())
    return Row(f"the same at each of the {counting.count} that mend what people changed in the view", done, seen, lost)


def _changed_by_people(store: Store) -> Any:
    _commit(store)
    artifact = store.lookup(KEY.digest).artifact  # type: ignore[union-attr]
    for name, content in MINE.items():
        path = Path(store.tree(artifact), name)
        path.with_name("new").write_bytes(content)
        path.with_name("new").replace(path)
    return artifact


# --- flipped bytes


def flips(top: Path, count: int, rng: random.Random) -> list[Row]:
    """Flip one bit in every kind of stored file, with and without putting its time back."""
    folder = top / "flips"
    network = "  n: {type: parse, inputs: {model: {file: m.onnx}}}\n"
    reads_it = python_stage("a", "times", by=2).replace("{tensors:", "{network: n, tensors:")
    project(folder, network + reads_it, code="print('a line for the log')\n" + TIMES)
    from tests.onnx_models import conv, with_external

    with_external(folder / "m.onnx", conv())
    backend = ("--backend", "onnxruntime")
    for step in (("run", "p.yaml", *backend), ("lock", "p.yaml", *backend), ("cache", "pin", "p.yaml", "a", *backend)):
        code, text = finish(folder, *step)
        if code:
            return [Row("flips", 0, "", [f"{step}: {code}: {text}"])]
    store = folder / "artifacts"
    right = {name: _content(str(store / "view" / "p" / name)) for name in ("a", "n")}
    rows = []
    for kind, pattern, rebuilds in (
        ("content (blobs)", "blobs/sha256/*/*", True),
        ("action records", "actions/*/*.json", True),
        ("logs", "actions/*/*.log", False),
        ("what people see (trees)", "trees/*/*", True),
        ("what people see, saved anew (trees)", "trees/*/*", True),
        ("the state's database", "state.sqlite", False),
        ("pins", "pins/*", False),
        ("known documents", "roots/*", False),
        ("the lock beside the document", "../p.lock", False),
    ):
        lost: list[str] = []
        how: collections.Counter[str] = collections.Counter()
        times = count if rebuilds or "state" in kind or "lock" in kind else max(2, count // 3)
        for number in range(times):
            found = sorted(p for p in store.glob(pattern) if p.is_file() and p.stat().st_size)
            path = rng.choice(found)
            before = path.read_bytes()
            if "anew" in kind:  # as editors do that write a new file and rename it
                shutil.copy2(path, f"{path}.new")
                os.replace(f"{path}.new", path)
            at = _flip(path, rng, quiet=bool(number % 2))
            problem = _after_flip(folder, kind, backend, right, how)
            if problem:
                lost.append(f"{path.relative_to(folder)} at {at}: {problem}")
            if kind.startswith(("the lock", "pins", "known")):
                path.write_bytes(before)
        seen = ", ".join(f"{n} {what}" for what, n in how.most_common())
        rows.append(Row(f"one flipped bit: {kind}", times, seen, lost))
    return rows


def _flip(path: Path, rng: random.Random, *, quiet: bool) -> int:
    status = path.stat()
    path.chmod(0o644)
    at = rng.randrange(status.st_size)
    with path.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ (1 << rng.randrange(8))]))
    path.chmod(status.st_mode)
    if quiet:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return at


def _after_flip(
    folder: Path, kind: str, backend: tuple[str, ...], right: dict[str, dict[str, bytes]], how: collections.Counter[str]
) -> str | None:
    if kind.startswith("the lock"):
        code, text = finish(folder, "run", "p.yaml", "--frozen", *backend)
        how[f"exit {code}"] += 1
        if code not in (0, 2, 5) or "Traceback" in text:
            return f"run --frozen ended with {code}: {text[-400:]}"
    code, text = finish(folder, "run", "p.yaml", *backend)
    if code != 0 or "Traceback" in text:
        return f"the next run ended with {code}: {text[-400:]}"
    if not kind.startswith("the lock"):
        how["made again" if ", 0 ran" not in text else "restored" if "it is restored" in text else "no harm"] += 1
    for name, files in right.items():
        if _content(str(folder / "artifacts" / "view" / "p" / name)) != files:
            return f"the view of {name} is wrong"
    code, text = finish(folder, "cache", "verify")
    return f"cache verify ended with {code}: {text}" if code else None


# --- mutations


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """Change bytes as accidents and enemies do: bits, bytes, slices, numbers, lengths."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        how = rng.randrange(8)
        at = rng.randrange(len(out) + 1)
        if how == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif how == 1 and out:
            out[at % len(out)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 10, 34, 123))
        elif how == 2:
            del out[at : at + rng.choice((1, 2, 8, 64))]
        elif how == 3:
            out[at:at] = out[at : at + rng.choice((1, 4, 32))]
        elif how == 4:
            out[at:at] = rng.choice(TOKENS)
        elif how == 5:
            del out[at:]
        elif how == 6:
            digits = [i for i, c in enumerate(out) if 48 <= c <= 57]
            if digits:
                i = rng.choice(digits)
                out[i : i + 1] = rng.choice((b"-1", b"0", b"99999999999999999999", b"1e308", b"2147483648"))
        else:
            other = rng.randrange(len(out) + 1)
            size = rng.choice((4, 16))
            out[at : at + size] = out[other : other + size]
    return bytes(out)


TOKENS = (
    b"\0",
    b"\xff\xfe",
    b"{",
    b"}",
    b"[",
    b"]",
    b": ",
    b"\n",
    b"  ",
    b"- ",
    b"null",
    b"true",
    b"&a ",
    b"*a",
    b"!!x ",
    b"<<: ",
    b"${vars.x}",
    b"../" * 3,
    b"/etc/passwd",
    "\u2028é".encode(),
    b"A" * 5000,
    b"\xff" * 9,
    b"'",
    b'"',
    b"[" * 40,
    b"{a: " * 40,
    b"9" * 400,
    b".inf",
    b".nan",
)


class Subject(NamedTuple):
    """What is mutated, and what reads it: the reader may raise TrtpipeError, whose exit code is known."""

    name: str
    seeds: list[bytes]
    read: Any


def subjects(top: Path) -> list[Subject]:
    """Make what is to be mutated, from real files."""
    import numpy as np

    from tests import made
    from tests import onnx_models as models
    from tests.helpers import run_stage
    from trtpipe.backends import plan_header
    from trtpipe.data import tensors
    from trtpipe.models import onnxfile
    from trtpipe.pipeline import checking, document, schema, variables
    from trtpipe.stage import Input

    work = top / "mutations"
    work.mkdir()
    documents = [p.read_bytes() for p in sorted((PROJECT / "pipelines").glob("*.yaml"))]
    wanted = schema.pipeline_schema()

    def read_document(data: bytes, place: Path) -> None:
        path = place / "p.yaml"
        path.write_bytes(data)
        parsed = variables.substitute(document.parse(document.read(str(path)), "p.yaml"))
        checking.check(parsed, wanted)
        loading.load(str(path), [], None)

    def read_onnx(data: bytes, place: Path) -> None:
        path = place / "m.onnx"
        path.write_bytes(data)
        onnxfile.external_locations(path)
        with contextlib.suppress(errors.StageFailed):
            made.described(onnxfile.load(path))
        run_stage("parse", {}, {"model": path}, place)

    np.savez(work / "a.npz", x=np.arange(12, dtype=np.float32).reshape(4, 3), y=np.arange(4))
    np.savez_compressed(work / "b.npz", x=np.zeros((4, 100), np.float16))

    def read_npz(data: bytes, place: Path) -> None:
        path = place / "d.npz"
        path.write_bytes(data)
        given = Input(name="data", kind="file", folder=place, files=("d.npz",), label="d.npz")
        found = {name: tensors.fixed(one) for name, one in tensors.open_input(given).items()}
        for batch in tensors.batches(found, 2):
            for value in batch.values():
                value.sum(dtype=np.float64)

    with _a_store(work / "store") as store:
        _commit(store)
        record = Path(store.action_path(KEY.digest)).read_bytes()

    def read_record(data: bytes, place: Path) -> str:
        with State(str(place)) as state:
            one = Store(str(place), state)
            path = Path(one.action_path(KEY.digest))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            if not isinstance(one.lookup(KEY.digest), Miss):
                raise AssertionError("a hit without content")  # noqa: TRY004
            actions.read_all(one.layout)
        return "a miss"

    onnx = [models.conv().SerializeToString(), models.doubling(["n", 4]).SerializeToString()]
    models.with_external(work / "ext.onnx", models.conv())
    onnx.append((work / "ext.onnx").read_bytes())
    save = models.save(models.conv(2), work / "m.onnx")
    profiles = [{"image": {"min": [2, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [2, 3, 8, 8]}}]
    parsed = run_stage("parse", {}, {"model": save}, work)
    config = run_stage(
        "configure", {"precision": "model", "profiles": profiles}, {"network": _as(parsed, "network")}, work
    )
    engine = run_stage("build", {}, {"config": _as(config, "config")}, work)
    buffers = run_stage("allocate", {"shapes": {"image": [2, 3, 8, 8]}}, {"engine": _as(engine, "engine")}, work)
    np.savez(work / "image.npz", image=np.ones((2, 3, 8, 8), np.float32))
    plan = (engine / "engine.onnx").read_bytes()
    rtx = b"vtrt" + bytes(12) + (1 << 20).to_bytes(8, "little") + bytes([1, 7, 1, 116]) + bytes(64)

    def read_plan(data: bytes, place: Path) -> None:
        with contextlib.suppress(errors.StageFailed):
            path = place / "engine.plan"
            path.write_bytes(data)
            plan_header.read_header(path)
        target = place / "engine"
        shutil.copytree(engine, target)
        (target / "engine.onnx").chmod(0o644)
        (target / "engine.onnx").write_bytes(data)
        given = {"engine": _as(target, "engine"), "buffers": _as(buffers, "buffers"), "data": work / "image.npz"}
        run_stage("infer", {}, given, place)

    def read_lock(data: bytes, place: Path) -> None:
        path = place / "p.lock"
        path.write_bytes(data)
        lockfile.read(str(path))

    entry = lockfile.Entry(("here",), KEY, _artifact(record))
    return [
        Subject("documents", documents, read_document),
        Subject("ONNX files", onnx, read_onnx),
        Subject("npz files", [(work / "a.npz").read_bytes(), (work / "b.npz").read_bytes()], read_npz),
        Subject("action records", [record], read_record),
        Subject("lock files", [lockfile.text(lockfile.Lock("p", {"s": (entry,)}), "p.yaml").encode()], read_lock),
        Subject("plans", [plan, rtx], read_plan),
    ]


def _artifact(record: bytes) -> Any:
    value = json.loads(record)
    return actions.artifact_of(parse(value, keys.digest(value["key"])))


def _as(folder: Path, kind: str) -> Any:
    from trtpipe.stage import Input

    files = tuple(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()))
    return Input(name=kind, kind=kind, folder=folder, files=files, label=folder.name)


def mutations(top: Path, counts: dict[str, int], seed: int) -> list[Row]:
    """Read mutated files in children that may take so much memory and time; collect how they end."""
    return [_mutations(subject, counts[subject.name], seed, top) for subject in subjects(top) if counts[subject.name]]


def _mutations(subject: Subject, count: int, seed: int, top: Path) -> Row:
    how: collections.Counter[str] = collections.Counter()
    lost: list[str] = []
    done = 0
    peak = 0
    while done < count:
        reading, writing = os.pipe()
        place = top / "place"
        pid = child(functools.partial(_read_many, subject, range(done, count), seed, place, writing))
        os.close(writing)
        data = b""
        while True:
            ready, _, _ = select.select([reading], [], [], HANG_SECONDS)
            more = os.read(reading, 65536) if ready else b""
            data += more
            if not more:
                break
        if not ready:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(reading)
        shutil.rmtree(place, ignore_errors=True)
        answers = [json.loads(line) for line in data.splitlines()]
        for answer in answers:
            how[answer["how"]] += 1
            peak = max(peak, answer["memory"])
            if answer["lost"]:
                lost.append(f"{subject.name} {answer['number']} (seed {seed}): {answer['lost']}")
        done += len(answers)
        if done < count:
            # The child died or hung over the next one. Death is what the worker process is there for.
            if not ready:
                lost.append(f"{subject.name} {done} (seed {seed}): hangs for more than {HANG_SECONDS:.0f} s")
            elif subject.name in ("ONNX files", "plans") and os.WIFSIGNALED(status):
                how["exit 1 (native code ended the worker)"] += 1
            else:
                lost.append(f"{subject.name} {done} (seed {seed}): the process ended with {status}")
            done += 1
    seen = ", ".join(f"{n} {what}" for what, n in how.most_common())
    return Row(f"mutated {subject.name}", count, f"{seen}; at most {peak >> 20} MiB more", lost)


def _read_many(subject: Subject, numbers: range, seed: int, place: Path, writing: int) -> int:
    import warnings

    warnings.simplefilter("ignore")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        rng = random.Random(f"{seed} {subject.name} {number}")
        data = _mutated(rng.choice(subject.seeds), rng)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        lost = ""
        how = "read as if whole"
        try:
            how = subject.read(data, place) or how
        except errors.TrtpipeError as error:
            how = f"exit {error.exit_code}"
            lost = "" if error.exit_code in KNOWN else f"exit {error.exit_code}"
        except MemoryError:
            how = "exit 1 (out of memory, said so)"
        except Exception as error:  # noqa: BLE001 — what the worker turns into StageFailed, the command into a bug
            what = f"{type(error).__name__}: {error}"
            if subject.name in ("ONNX files", "plans", "npz files"):
                how = "exit 1 (in the library's words)"
            else:
                lost = f"{what} {traceback.format_exc()[-600:]}"
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
        line = json.dumps({"number": number, "how": how, "lost": lost, "memory": memory})
        os.write(writing, line.encode() + b"\n")
    return 0


# --- all of it


SHORT = {"documents": 150, "ONNX files": 80, "npz files": 150, "action records": 80, "lock files": 80, "plans": 40}
LONG = {
    "documents": 2500,
    "ONNX files": 2000,
    "npz files": 2500,
    "action records": 1000,
    "lock files": 1000,
    "plans": 1000,
}


def main() -> int:
    """Do all of it and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--long", action="store_true")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--only", choices=("kills", "faults", "flips", "mutations"), action="append")
    args = options.parse_args()
    parts = args.only or ["kills", "faults", "flips", "mutations"]
    os.environ.update(ENVIRONMENT)
    rng = random.Random(args.seed)
    rows: list[Row] = []
    times = []
    # Where a disk would only cost time, memory serves.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="torture-") as name,
        tempfile.TemporaryDirectory(prefix="torture-", dir=memory) as other,
    ):
        top, fast = Path(name), Path(other)
        for part in parts:
            begun = time.monotonic()
            if part == "kills":
                rows.append(kills(top, 1000 if args.long else 20, rng, 480 if args.long else 60))
            elif part == "faults":
                codes = ERRORS if args.long else (0,)
                rows += [faults(fast, codes), mends(fast, codes)]
            elif part == "flips":
                rows += flips(top, 30 if args.long else 6, rng)
            else:
                rows += mutations(fast, LONG if args.long else SHORT, args.seed)
            times.append(f"{part} {time.monotonic() - begun:.0f} s")
    print("| what was done | times | how it ended | lost |\n| --- | ---: | --- | --- |")
    for row in rows:
        print(f"| {row.what} | {row.times:,} | {row.seen} | {len(row.lost) or 'nothing'} |")
    print(f"\nSeed {args.seed}; {', '.join(times)}.")
    for row in rows:
        for one in row.lost[:5]:
            print(f"\nLOST: {row.what}: {one}")
    return 1 if any(row.lost for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
